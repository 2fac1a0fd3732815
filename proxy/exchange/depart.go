// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sync/atomic"
	"time"
)

// line is what managers share that follow one another.
type line struct{ newest atomic.Pointer[Manager] }

// Succeed has the connections that old took, or any before it, begin their
// next requests under m: a change of routes or filters holds for all requests
// from then on, and ends no connection. Call it before m serves.
func (m *Manager) Succeed(old *Manager) {
	m.line = old.line
	m.line.newest.Store(m)
}

// newest is the manager in force of those that have followed m.
func (m *Manager) newest() *Manager {
	if m.line == nil {
		return m
	}
	return m.line.newest.Load()
}

// DrainTimeout is how long a connection may take to end once its listener
// has gone.
func (m *Manager) DrainTimeout() time.Duration { return m.drainTime }

// asksAgain is how long a client that has asked is expected to ask again: its
// connection ends with that request rather than under it.
const asksAgain = time.Second

// departing is a connection that can end after its client was told.
type departing interface{ depart(grace time.Duration) }

// Depart has the connections end whose managers drain.
func (w *Worker) Depart() {
	for s := w.servers.next; s != &w.servers; {
		next := s.next
		if m := s.m.newest(); m.draining.Load() {
			s.who.depart(m.drainTime)
		}
		s = next
	}
}

// depart has the connection end with its next response, which says so. When
// none has been asked for since it fell idle grace ago, it ends without.
func (h *h1server) depart(grace time.Duration) {
	if h.ended {
		return
	}
	h.last = true
	if h.grace == 0 || grace < h.grace {
		h.grace = grace
	}
	if h.x == nil && !h.partial {
		h.arm(max(0, time.Duration(h.since-h.w.l.Now())+h.grace))
	}
}

// depart has the connection take no more streams; those under way end.
func (h *h2server) depart(time.Duration) { h.retire() }
