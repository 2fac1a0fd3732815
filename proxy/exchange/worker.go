// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/secure"
)

// Shared is what all workers of a proxy use. It is set up before the first
// worker and not changed.
type Shared struct {
	Handshakes *secure.Handshaker
	Workers    []*Worker
}

// Worker is one loop's share of the exchanges. Its methods run on the loop.
type Worker struct {
	l  *engine.Loop
	sh *Shared
	n  int // own index

	streams Stream // ring head of all that are under way
	free    []*Stream
	servers server // ring head of downstream connections
	pools   map[poolKey]*pool
	pickers map[*balance.Set]*balance.Picker
	h2      http2.Pool
	req     http1.Request // parsers: a head is parsed and decoded in one go
	resp    http1.Response
	buf     []byte // for a head being written; empty between calls
	keeps   [][]byte
	rng     uint64
	peers   map[string]*PeerCount

	ready    []later
	later    []later // streams to go on with in the next turn
	dateAt   int64
	dateText []byte
	draining bool
}

// later is a stream that gave others their turn, if it still is the same.
type later struct {
	x   *Stream
	gen uint32
}

func (w *Worker) runLater() {
	for _, l := range w.later {
		if l.x.gen == l.gen {
			w.ready = append(w.ready, l)
		}
	}
	w.later = w.later[:0]
	for _, l := range w.ready {
		if l.x.gen == l.gen {
			l.x.pump()
		}
	}
	w.ready = w.ready[:0]
}

// NewWorker makes the worker of l.
func NewWorker(l *engine.Loop, sh *Shared, n int) *Worker {
	w := &Worker{l: l, sh: sh, n: n, pools: map[poolKey]*pool{}, pickers: map[*balance.Set]*balance.Picker{}, peers: map[string]*PeerCount{},
		buf: make([]byte, 0, 72<<10), rng: uint64(engine.Mono())*2654435761 + uint64(n) + 1}
	w.streams.next, w.streams.prev = &w.streams, &w.streams
	w.servers.next, w.servers.prev = &w.servers, &w.servers
	return w
}

// Loop gives the worker's loop.
func (w *Worker) Loop() *engine.Loop { return w.l }

// Index is the worker's place among all.
func (w *Worker) Index() int { return w.n }

// Rand is xorshift64*: choices between hosts need no secrecy.
func (w *Worker) Rand() uint64 {
	w.rng ^= w.rng >> 12
	w.rng ^= w.rng << 25
	w.rng ^= w.rng >> 27
	return w.rng * 2685821657736338717
}

// maxFree bounds the streams that are kept for reuse, about 4 KiB each with
// their arenas.
const maxFree = 1024

// newStream gives a stream for a request that begins on down.
func (w *Worker) newStream(m *Manager, down downstream) *Stream {
	var x *Stream
	if n := len(w.free); n > 0 {
		x = w.free[n-1]
		w.free = w.free[:n-1]
	} else {
		x = &Stream{w: w}
		x.c.Rand = w.Rand
		x.c.Post = w.l.Post
	}
	x.m, x.down = m, down
	x.phase = judging
	h := &w.streams
	x.prev, x.next = h.prev, h
	h.prev.next, h.prev = x, x
	return x
}

// largeArena is the size from which a stream's memory is not kept.
const largeArena = 16 << 10

// recycle forgets x, which has ended.
func (w *Worker) recycle(x *Stream) {
	x.prev.next, x.next.prev = x.next, x.prev
	w.l.StopTimer(&x.t)
	if cap(x.kept) > 0 && len(w.keeps) < 64 {
		w.keeps = append(w.keeps, x.kept[:0])
	}
	y := Stream{w: w, gen: x.gen + 1, phase: ended} // who called what ended it sees that
	y.c.Rand, y.c.Post = x.c.Rand, x.c.Post
	clear(x.c.Slots)
	y.c.Slots = x.c.Slots
	if cap(x.req.Buf) <= largeArena && cap(x.resp.Buf) <= largeArena {
		y.req.Head, y.resp.Head, y.reqT, y.respT = x.req.Head, x.resp.Head, x.reqT, x.respT
		y.req.Head.Reset()
		y.resp.Head.Reset()
		y.reqT.Reset()
		y.respT.Reset()
	}
	clear(x.tried)
	y.tried = x.tried[:0]
	y.local = x.local[:0]
	*x = y
	if len(w.free) < maxFree {
		w.free = append(w.free, x)
	}
}

// date is the time as HTTP has it (RFC 9110, 5.6.7), made once a second.
func (w *Worker) date() []byte {
	if now := w.l.Now() / int64(time.Second); now != w.dateAt || len(w.dateText) == 0 {
		w.dateAt = now
		w.dateText = engine.Wall(w.l.Now()).UTC().AppendFormat(w.dateText[:0], "Mon, 02 Jan 2006 15:04:05 GMT")
	}
	return w.dateText
}

func (w *Worker) picker(s *balance.Set) *balance.Picker {
	p := w.pickers[s]
	if p == nil {
		p = s.Picker(w.Rand())
		w.pickers[s] = p
	}
	return p
}

// Review drops what belongs to clusters and hosts that are gone. It runs
// after a new configuration is in force.
func (w *Worker) Review(live map[*balance.Set]bool) {
	for s := range w.pickers {
		if !live[s] {
			delete(w.pickers, s)
		}
	}
	for _, p := range w.pools {
		if p.host.Removed() || !live[p.cl.Set] {
			p.retire()
		}
	}
}

// Drain has connections end with their next response, and the idle ones soon.
func (w *Worker) Drain() {
	w.draining = true
	for s := w.servers.next; s != &w.servers; {
		next := s.next
		s.who.depart(min(asksAgain, s.m.drainTime))
		s = next
	}
	for _, p := range w.pools {
		p.retire()
	}
}

// server is a downstream connection in its worker's ring.
type server struct {
	next, prev *server
	who        departing
	m          *Manager
}

func (w *Worker) link(s *server) {
	h := &w.servers
	s.prev, s.next = h.prev, h
	h.prev.next, h.prev = s, s
}

func (s *server) unlink() {
	if s.next != nil {
		s.prev.next, s.next.prev = s.next, s.prev
		s.next, s.prev = nil, nil
	}
}
