// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"reflect"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/exchange"
)

// leaver is a manager that takes no more connections, and drains. Until its
// own have ended, their last requests go by the routes in force.
type leaver struct {
	m     *exchange.Manager
	until time.Time
}

// supersede has the managers of st take over the connections of those of old:
// a change of routes or filters ends none of them. Where the client must prove
// something else than before, they drain instead, and prove it anew.
func (s *Server) supersede(old, st *listening) (drained bool) {
	now := st.all()
	for _, was := range old.all() {
		if was.http == nil {
			continue
		}
		next := successor(was, now)
		switch {
		case next == was:
		case next != nil && sameTerms(was.cfg, next.cfg):
			next.http.Succeed(was.http)
		default:
			s.depart(was.http)
			drained = true
		}
	}
	return drained
}

// successor is the chain that stands where was stood; nil for none.
func successor(was *chain, now []*chain) *chain {
	for _, ch := range now {
		if ch == was {
			return ch
		}
	}
	for _, ch := range now {
		if ch.http != nil && ch.cfg.Name == was.cfg.Name && reflect.DeepEqual(ch.cfg.Match, was.cfg.Match) {
			return ch
		}
	}
	return nil
}

// sameTerms tells that whoever b lets in it would let in as a did. What is
// shown to clients, certificates above all, may differ.
func sameTerms(a, b *config.FilterChain) bool {
	if !reflect.DeepEqual(a.RBAC, b.RBAC) || (a.TLS == nil) != (b.TLS == nil) {
		return false
	}
	return a.TLS == nil || a.TLS.RequireClientCert == b.TLS.RequireClientCert && reflect.DeepEqual(a.TLS.Common.Validation, b.TLS.Common.Validation)
}

// depart has a manager's connections end in good order. Server.mu is held.
func (s *Server) depart(m *exchange.Manager) {
	m.Drain()
	s.leavers = append(s.leavers, leaver{m, time.Now().Add(m.DrainTimeout() + time.Second)})
}

// leavers gives those that drain still the routes in force.
func (n *next) leavers() {
	s := n.s
	left, now := s.leavers[:0], time.Now()
	for _, l := range s.leavers {
		if now.Before(l.until) {
			left = append(left, l)
			_ = n.routing(l.m) // routes that do not fit their filters leave them the last
		}
	}
	clear(s.leavers[len(left):])
	s.leavers = left
	for name, ln := range s.listeners { // those that begin to drain with this configuration
		st := n.states[ln]
		if st == nil && n.cfg.Listeners[name] != nil && !slices.ContainsFunc(n.opened, func(o *listener) bool { return o.name == name }) {
			continue
		}
		var now []*chain
		if st != nil {
			now = st.all()
		}
		for _, ch := range ln.state.Load().all() {
			if ch.http != nil && !slices.Contains(now, ch) {
				_ = n.routing(ch.http)
			}
		}
	}
}

// takeRest accepts what has connected to a socket that is about to close: it
// is answered, and told to go, rather than reset. Other threads do not accept
// any more.
func (s *Server) takeRest(ln *listener) {
	if st := ln.state.Load(); st.cfg.UDP != nil {
		return
	}
	for i := range restMost {
		fd, from, err := sys.Accept(ln.fd)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return
		}
		w := s.workers[i%len(s.workers)]
		if !w.l.Post(func() { w.place(ln, fd, addrPort(from)) }) {
			unix.Close(fd)
		}
	}
}

// restMost bounds what takeRest accepts: a backlog.
const restMost = 4096

// hangUp closes the listening sockets: whoever connects while the others
// drain is refused at once, and tries elsewhere, instead of waiting for the
// end of the process. A successor has sockets of its own.
func (s *Server) hangUp() {
	if s.heir.leaving.Load() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ln := range s.listeners {
		if ln.state.Load().cfg.UDP == nil {
			s.takeRest(ln)
			unix.Close(ln.fd)
			ln.fd = -1
		}
	}
	s.each(func(*worker) {})
	s.each(func(*worker) {}) // behind what one loop has accepted for another
}
