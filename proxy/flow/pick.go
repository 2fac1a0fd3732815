// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/route"
)

// load is what this loop knows of one backend.
type load struct {
	active   int // requests and streams under way, and connections being made
	dests    int // that count here
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
