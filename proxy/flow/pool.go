// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/route"
)

// Bounds of a pool. The idle time is below what servers commonly allow, so
// that it is this side that ends idle connections, without a race. An idle
// connection holds no buffer, while a handshake costs as much as forty
// requests: a tight bound would have 512 clients shake hands all the time.
const (
	poolIdle = 4096 // idle connections per backend, site and loop
	poolTime = 55 * time.Second
)

// margin is how long before its certificate's end a connection takes no new
// request: the other side ends it at the end.
const margin = 10 * time.Second

// poolKey keeps one pod's connections from carrying another's requests.
type poolKey struct {
	site *Site
	addr netip.AddrPort
}

func (u *upstream) key() poolKey { return poolKey{u.site, u.backend.Addr} }

// pool holds idle connections, last in, first out.
type pool struct{ idle []*upstream }

// put keeps u for the next request.
func (u *upstream) put() {
	w := u.w
	p := w.pools[u.key()]
	if p == nil {
		p = &pool{}
		w.pools[u.key()] = p
	}
	if len(p.idle) >= poolIdle || w.draining || u.site.gone.Load() {
		u.finish()
		return
	}
	u.state, u.owner = idle, nil
	u.reused = true
	u.load.active--
	p.idle = append(p.idle, u)
	w.l.SetTimer(&u.timer, poolTime, u)
}

// take gives an idle connection to b, or nil.
func (w *Worker) take(s *Site, b route.Backend) *upstream {
	p := w.pools[poolKey{s, b.Addr}]
	if p == nil {
		return nil
	}
	for len(p.idle) > 0 {
		u := p.idle[len(p.idle)-1]
		// The address may have passed to another workload since.
		if u.c.Dead() || u.peer.ID != b.ID || u.expiring() {
			u.finish()
			continue
		}
		p.idle[len(p.idle)-1] = nil
		p.idle = p.idle[:len(p.idle)-1]
		u.state = ready
		u.load.active++
		return u // its timer stays armed: pushing it back later costs less than moving it twice
	}
	return nil
}

func (u *upstream) expiring() bool {
	return u.until != 0 && u.until-u.w.l.Now() < int64(margin)
}

func (p *pool) remove(u *upstream) {
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i] == u {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			return
		}
	}
}

// drop closes the idle connections that match.
func (p *pool) drop(match func(*upstream) bool) {
	for i := len(p.idle) - 1; i >= 0; i-- {
		if u := p.idle[i]; match(u) {
			u.finish()
		}
	}
}

// load is what this loop knows of one backend.
type load struct {
	active   int // requests and streams under way, and connections being made
	failures int
	until    int64 // not chosen before, by Mono, unless nothing else is left
}

func (w *Worker) loadOf(a netip.AddrPort) *load {
	l := w.loads[a]
	if l == nil {
		l = &load{}
		w.loads[a] = l
	}
	return l
}

// fail has a backend that could not be reached rest: 0.5 s, doubling to 16.
func (l *load) fail(now int64) {
	l.until = now + int64(500*time.Millisecond)<<min(l.failures, 5)
	l.failures++
}

// pick chooses a backend that e has not tried: the less loaded of two at
// random. ok is false when none is left.
func (e *session) pick() (b route.Backend, ok bool) {
	w, bs := e.w, e.target.Backends
	if len(bs) == 0 { // a service may lose its last endpoint under a connection that is kept
		return b, false
	}
	one, other := -1, -1
	start := w.random(len(bs))
	step := 1
	if n := len(bs); n > 2 {
		step = 1 + w.random(n-1)
	}
	for pass := 0; pass < 2 && one < 0; pass++ {
		for k := range bs {
			i := (start + k) % len(bs)
			if one >= 0 { // the second choice begins elsewhere
				i = (start + step + k) % len(bs)
			}
			if i == one || !e.eligible(&bs[i], pass == 0) {
				continue
			}
			if one < 0 {
				one = i
				if len(bs) == 1 {
					break
				}
				continue
			}
			other = i
			break
		}
	}
	if one < 0 {
		return b, false
	}
	if other >= 0 && w.loadOf(bs[other].Addr).active < w.loadOf(bs[one].Addr).active {
		one = other
	}
	return bs[one], true
}

func (e *session) eligible(b *route.Backend, rested bool) bool {
	for _, t := range e.tried {
		if t == b.Addr {
			return false
		}
	}
	if rested && e.w.loadOf(b.Addr).until > e.w.l.Now() {
		return false
	}
	if pod := e.site.pod.Load(); pod != nil {
		return pod.Egress.Decide(b.Addr.Addr(), b.Addr.Port()).Valid()
	}
	return true
}
