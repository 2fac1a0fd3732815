// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"maps"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/exchange"
)

// commit puts the configuration in force. New clusters come first and old ones
// go last: no route leads to one that is not there.
func (n *next) commit() {
	s := n.s
	for _, prev := range n.replaced {
		c := n.cfg.Clusters[prev.Cfg.Name]
		cl, e, err := n.cluster(c, prev)
		if err != nil { // it went well a moment ago: files may have changed since
			s.log.Error("cluster not replaced; the last good one stays", "cluster", c.Name, "err", err)
			cl = prev
		}
		n.take(c.Name, cl)
		if e != nil {
			n.duties[cl] = e
		}
	}
	both := maps.Clone(*s.clusters.Load())
	maps.Copy(both, n.dir)
	s.clusters.Store(&both)
	for cl, e := range n.duties {
		s.begin(cl, e)
	}
	for _, f := range n.updates {
		if err := f(); err != nil {
			s.log.Error("endpoints not taken", "err", err)
		}
	}
	drained := false
	for ln, st := range n.states {
		if old := ln.state.Load(); old != nil && s.supersede(old, st) {
			drained = true
		}
		ln.state.Store(st)
	}
	var gone []*listener
	for name, ln := range s.listeners {
		replaced := false
		for _, o := range n.opened {
			replaced = replaced || o.name == name
		}
		if n.cfg.Listeners[name] == nil || replaced {
			ln.gone.Store(true)
			gone = append(gone, ln)
			delete(s.listeners, name)
		}
	}
	for _, ln := range n.opened {
		s.listeners[ln.name] = ln
	}
	live := map[*balance.Set]bool{}
	for _, cl := range n.dir {
		live[cl.Set] = true
	}
	s.each(func(w *worker) {
		for _, ln := range gone {
			w.unlisten(ln)
		}
		for _, ln := range n.opened {
			w.listen(ln)
		}
		w.x.Review(live)
	})
	s.clusters.Store(&n.dir) // each loop has begun a turn since the routes changed
	for _, ln := range gone {
		drained = true
		for _, ch := range ln.state.Load().all() {
			if ch.http != nil {
				s.depart(ch.http)
			}
		}
		s.takeRest(ln)
		unix.Close(ln.fd)
	}
	if drained {
		s.each(func(w *worker) { w.x.Depart() })
	}
	for cl, stop := range s.duties {
		if n.dir[cl.Cfg.Name] != cl {
			stop()
			delete(s.duties, cl)
		}
	}
	s.cfg = n.cfg
	s.version++
	s.poke()
}

func (w *worker) listen(ln *listener) {
	if w.s.heir.waiting.Load() {
		return // the predecessor accepts still
	}
	if ln.state.Load().cfg.UDP != nil {
		w.listenUDP(ln)
		return
	}
	a := &acceptor{w: w, ln: ln}
	if err := a.listen(); err != nil {
		w.s.log.Error("cannot accept", "listener", ln.name, "err", err)
		return
	}
	w.accepts[ln] = a
}

func (w *worker) unlisten(ln *listener) {
	if a := w.accepts[ln]; a != nil {
		a.stop()
		delete(w.accepts, ln)
	}
	if d := w.udp[ln]; d != nil {
		d.stop()
		delete(w.udp, ln)
	}
}

// Check tells whether a configuration could be put in force: all but opening
// its listeners and logs.
func Check(cfg *config.Config) error {
	s, err := New(Options{Loops: 1})
	if err != nil {
		return err
	}
	defer s.Discard()
	n := &next{s: s, cfg: cfg, dir: exchange.Directory{}, states: map[*listener]*listening{}, duties: map[*exchange.Cluster]*errands{}, dry: true}
	n.clusters()
	n.listeners()
	return errors.Join(n.problems...)
}
