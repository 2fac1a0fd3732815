// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/mtls"
)

// Shared is what all workers of a proxy use. It is set up before the first
// worker and not changed.
type Shared struct {
	Handshakes *mtls.Handshaker
	Audit      *Auditor
	Access     *AccessLog
	MaxConns   int64 // connections per worker, both sides counted; more are refused
	SiteConns  int64 // sessions per site
	SiteShakes int64 // handshakes under way per site
	Workers    []*Worker
}

// Worker is one loop's share of the proxy. Except for New, its methods run
// on the loop.
type Worker struct {
	l        *engine.Loop
	sh       *Shared
	n        int // own index in Shared.Workers
	watches  map[*Site][]*acceptor
	sessions session // ring head
	x        *exchange.Worker
	m        *exchange.Manager
	dests    map[destKey]*dest
	total    *exchange.Cluster // whose counters are all dests'; nil before the first
	loads    map[netip.AddrPort]*load
	buf      []byte // empty between calls
	path     []byte
	rng      uint64
	log      logBuf
	draining bool

	Count Counters
}

// NewWorker makes the worker of l.
func NewWorker(l *engine.Loop, sh *Shared, n int) *Worker {
	w := &Worker{l: l, sh: sh, n: n, watches: map[*Site][]*acceptor{}, dests: map[destKey]*dest{}, m: manager(), loads: map[netip.AddrPort]*load{},
		buf: make([]byte, 0, 4<<10), rng: uint64(engine.Mono())*2654435761 + uint64(n) + 1}
	w.sessions.next, w.sessions.prev = &w.sessions, &w.sessions
	w.log.w = w
	w.x = exchange.NewWorker(l, &exchange.Shared{Handshakes: sh.Handshakes.Handshaker}, 0)
	return w
}

// Loop gives the worker's loop.
func (w *Worker) Loop() *engine.Loop { return w.l }

// Index is the worker's place in Shared.Workers.
func (w *Worker) Index() int { return w.n }

// Add begins to accept at a site.
func (w *Worker) Add(s *Site) error {
	for _, l := range s.edge.Listeners() {
		a := &acceptor{w: w, site: s, kind: l.Kind, fd: l.FD}
		if err := a.listen(); err != nil {
			w.Remove(s)
			return err
		}
		w.watches[s] = append(w.watches[s], a)
	}
	return nil
}

// Remove stops accepting at a site and cuts its connections when it is gone.
func (w *Worker) Remove(s *Site) {
	for _, a := range w.watches[s] {
		w.l.Unwatch(a.watch)
		w.l.StopTimer(&a.rest)
	}
	delete(w.watches, s)
	if !s.gone.Load() {
		return
	}
	for e := w.sessions.next; e != &w.sessions; {
		next := e.next
		if e.site == s {
			e.cut("the pod has left")
		}
		e = next
	}
	for k, d := range w.dests {
		if k.site == s {
			w.drop(d)
		}
	}
}

// acceptor is one listener on one loop.
type acceptor struct {
	w     *Worker
	site  *Site
	kind  Kind
	fd    int
	watch engine.Watch // zero while it rests
	rest  engine.Timer
	buf   []byte // DNS only
}

// acceptRest is how long a listener is left alone when there are no
// descriptors left.
const acceptRest = 100 * time.Millisecond

// listen begins, or goes on, to accept. Exclusive: one connection wakes one
// loop, not all. Level-triggered, so that a turn may leave connections for
// the next.
func (a *acceptor) listen() (err error) {
	a.watch, err = a.w.l.Watch(a.fd, engine.Shared, a)
	return err
}

// Expire goes on to accept after a rest.
func (a *acceptor) Expire(t *engine.Timer) {
	if a.listen() != nil {
		a.w.l.SetTimer(t, acceptRest, a)
	}
}

const acceptBatch = 32 // per turn, so that a flood of connections does not starve those that are there

// Ready accepts what waits.
func (a *acceptor) Ready(uint32) {
	if a.kind == DNS {
		a.w.serveDNS(a)
		return
	}
	for range acceptBatch {
		fd, sa, err := sys.Accept(a.fd)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			// Asking again at once would find the same, at full speed.
			a.w.Count.Shed++
			a.w.l.Unwatch(a.watch)
			a.watch = engine.Watch{}
			a.w.l.SetTimer(&a.rest, acceptRest, a)
			return
		default:
			return
		}
		a.w.place(a.site, a.kind, fd, addrPort(sa))
	}
}

// imbalance is how many connections a loop may have more than another before
// it gives new ones away. Whoever wakes first accepts; without this a quiet
// machine would load one core only.
const imbalance = 4

func (w *Worker) place(s *Site, k Kind, fd int, from netip.AddrPort) {
	to := w
	for _, o := range w.sh.Workers {
		if o.l.Load()+imbalance < to.l.Load() {
			to = o
		}
	}
	if to.l.Load() >= w.sh.MaxConns || s.conns.Load() >= w.sh.SiteConns {
		w.Count.Shed++
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
		unix.Close(fd)
		return
	}
	if to == w {
		w.accept(s, k, fd, from)
		return
	}
	if !to.l.Post(func() { to.accept(s, k, fd, from) }) {
		unix.Close(fd)
	}
}

// accept begins a session.
func (w *Worker) accept(s *Site, k Kind, fd int, from netip.AddrPort) {
	if s.gone.Load() || w.draining {
		unix.Close(fd)
		return
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return
	}
	e := &session{w: w, site: s, kind: k, from: from, dst: addrPort(sa), began: w.l.Now()}
	if e.down, err = w.l.Add(fd, false, e); err != nil {
		w.Count.Shed++
		return
	}
	e.link()
	w.Count.Conns[k]++
	switch k {
	case Outbound:
		e.startOutbound()
	case Inbound:
		e.startInbound()
	case Gateway:
		e.startGateway()
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// Drain stops accepting everywhere, ends idle connections, and has the others
// end with their request. Streams go on until Abort.
func (w *Worker) Drain() {
	w.draining = true
	for s := range w.watches {
		w.Remove(s)
	}
	for e := w.sessions.next; e != &w.sessions; {
		next := e.next
		e.retire()
		e = next
	}
	w.x.Drain()
	w.log.flush()
}

// random is xorshift64*: the choice between two backends needs no secrecy.
func (w *Worker) random(n int) int {
	w.rng ^= w.rng >> 12
	w.rng ^= w.rng << 25
	w.rng ^= w.rng >> 27
	return int((w.rng * 2685821657736338717 >> 33) % uint64(n))
}

// Deadlines.
const (
	sniffTime   = 100 * time.Millisecond // silence after which the server is taken to speak first
	sniffLong   = 5 * time.Second        // for a start that looks like a request line
	sniffLate   = 2 * time.Second        // for a client for which no stream could be made
	clearTime   = 500 * time.Millisecond // the same for a client in clear; a gateway's late TLS must not be taken for one
	firstTime   = 10 * time.Second       // for the first byte where only TLS is taken
	headTime    = 30 * time.Second       // for a head, from its first byte to its last
	idleTime    = 10 * time.Minute       // for the next request; far above the pools' idle time, so that a mesh client closes first
	connectTime = 3 * time.Second
)
