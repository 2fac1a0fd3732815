// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"encoding/binary"
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/handover"
	"redoubt.dev/proxy/handover/wire"
	"redoubt.dev/proxy/secure"
)

// The steps of an upgrade, by the frames that end them. The old process is on
// the left:
//
//	welcome →   listening sockets, the clock
//	        ←   ready: the successor's configuration is in force, its hosts are known
//	        ←   beats: its loops turn; for Options.Prove
//	commit  →   from here on the successor accepts; until here nothing has changed
//	batch   →   connections, frozen here
//	        ←   verdict: which of them it has adopted, still frozen
//	go      →   those are its own now; the others go on here
//	            … as many as there are
//	done    →   what is left drains here
//	        ←   taken: the sockets of operators are the successor's
//	bye     →   the last counters
//
// Whoever holds a connection before go holds it after a crash of the other: no
// two processes ever write to one socket, or seal with one key.
const (
	frameReady handover.Kind = handover.KindFirst + iota
	frameBeat
	frameCommit
	frameBatch
	frameVerdict
	frameGo
	frameDone
	frameTaken
	frameBye
)

// moveVersion changes with what any of the frames holds. Processes that differ
// do not exchange connections: the old one goes on.
const moveVersion = 1

// Deadlines. While verdicts are awaited connections stand still.
const (
	readyTime   = 60 * time.Second // for the successor's configuration and first health checks
	commitTime  = 60 * time.Second
	verdictTime = 500 * time.Millisecond
	sendTime    = 5 * time.Second
	beatEvery   = 20 * time.Millisecond
	beatMost    = 500 * time.Millisecond // between beats; a loop that hangs longer is not fit
	takenTime   = 5 * time.Second
	batchTime   = 30 * time.Second
	moveTime    = 5 * time.Second // connections that cannot move are looked at again for so long
	proveTime   = time.Second
	warmTime    = 15 * time.Second // waits for health checks and discovery end here
)

// Bounds of a batch: what stands still together.
const (
	batchConns = 64
	batchBytes = 4 << 20
	cargoBytes = 16 << 20
	batchSpend = 2 * time.Millisecond
)

// inherited is a listening socket of the predecessor.
type inherited struct {
	name      string
	asked, at netip.AddrPort // as configured, as bound
	udp, tran bool
	fd        int // -1 once taken
}

// Inheritance is what a successor was given with its welcome, and its side of
// what follows.
type Inheritance struct {
	p      *handover.Session
	base   int64
	open   uint64 // connections of the predecessor
	socks  []inherited
	byName map[string]*listener // once committed
}

// heir is a Server's part in upgrades.
type heir struct {
	in      *Inheritance
	waiting atomic.Bool // successor: nothing is accepted before commit
	leaving atomic.Bool // predecessor: after commit
	counts  atomic.Pointer[gathered]
	last    *handover.Session // predecessor: owed the last counters
}

// Inherit reads the welcome. The descriptors are taken over.
func Inherit(p *handover.Session, f *handover.Frame) (*Inheritance, error) {
	defer f.Close()
	r := wire.NewReader(f.Body)
	if v := r.U32(); v != moveVersion {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "upgrade", Field: "version", Expected: "the serving proxy's version of connection state", Fix: "upgrade by a restart with drain"}
	}
	in := &Inheritance{p: p, base: r.I64(), open: r.U64(), byName: map[string]*listener{}}
	for i := range r.Count(4) {
		in.socks = append(in.socks, inherited{name: r.String(), asked: r.Addr(), at: r.Addr(), udp: r.Bool(), tran: r.Bool(), fd: f.Take(i)})
	}
	if err := r.Done(); err != nil {
		in.Close()
		return nil, err
	}
	return in, nil
}

// Base is the predecessor's engine.Base.
func (in *Inheritance) Base() int64 { return in.base }

// Close closes the sockets that nobody took.
func (in *Inheritance) Close() {
	for i := range in.socks {
		if fd := in.socks[i].fd; fd >= 0 {
			unix.Close(fd)
			in.socks[i].fd = -1
		}
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		unix.Close(fd)
	}
}

// welcome writes the listening sockets.
func (s *Server) welcome(base int64) (body []byte, fds []int, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w := wire.Writer{}
	w.U32(moveVersion)
	w.I64(base)
	open := int64(0)
	for _, l := range s.loops {
		open += l.Load()
	}
	w.I64(open)
	w.U32(uint32(len(s.listeners)))
	for _, name := range slices.Sorted(maps.Keys(s.listeners)) {
		ln := s.listeners[name]
		cfg := ln.state.Load().cfg
		w.String(name)
		w.Addr(cfg.Addr)
		w.Addr(ln.addr)
		w.Bool(cfg.UDP != nil)
		w.Bool(cfg.Transparent)
		fds = append(fds, ln.fd)
	}
	return w.B, fds, s.version
}

// exportTickets writes the ticket keys of all chains that make their own.
func (s *Server) exportTickets(w *wire.Writer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := w.Hole()
	for name, ln := range s.listeners {
		for _, ch := range ln.state.Load().all() {
			if ch.tls == nil {
				continue
			}
			w.String(name)
			w.String(ch.cfg.Name)
			ch.tls.ExportTicketKeys(w)
		}
	}
	w.Fill(at)
}

// importTicketsLocked gives them to the chains of the same names.
func (s *Server) importTicketsLocked(r *wire.Reader) {
	p := r.Part()
	for p.Left() > 0 && p.Err() == nil {
		name, chain := p.String(), p.String()
		var to *secure.Server
		if ln := s.listeners[name]; ln != nil {
			for _, ch := range ln.state.Load().all() {
				if ch.cfg.Name == chain && ch.tls != nil {
					to = ch.tls
				}
			}
		}
		to.ImportTicketKeys(p)
	}
	if p.Err() != nil {
		r.Bad("ticket keys")
	}
}

// export writes the counters that go on in the successor.
func (g *gathered) export() []byte {
	w := &wire.Writer{}
	for _, m := range g.managers {
		m.Active = 0 // a gauge: what is under way is counted where it is
	}
	putCounts(w, g.listeners)
	putCounts(w, g.managers)
	putCounts(w, g.tcp)
	putCounts(w, g.clusters)
	for _, m := range [...]map[string]uint64{g.dropped, g.routes, g.peers} {
		w.U32(uint32(len(m)))
		for k, v := range m {
			w.String(k)
			w.U64(v)
		}
	}
	return w.B
}

func importCounts(b []byte) (*gathered, error) {
	r := wire.NewReader(b)
	g := newGathered()
	takeCounts(r, g.listeners)
	takeCounts(r, g.managers)
	takeCounts(r, g.tcp)
	takeCounts(r, g.clusters)
	for _, m := range [...]map[string]uint64{g.dropped, g.routes, g.peers} {
		for range r.Count(12) {
			k := r.String()
			m[k] = r.U64()
		}
	}
	return g, r.Done()
}

func putCounts[T any](w *wire.Writer, m map[string]*T) {
	w.U32(uint32(len(m)))
	for k, c := range m {
		w.String(k)
		at := w.Hole()
		w.B, _ = binary.Append(w.B, binary.BigEndian, c) // fails for no struct of numbers
		w.Fill(at)
	}
}

func takeCounts[T any](r *wire.Reader, m map[string]*T) {
	for range r.Count(8) {
		k, b, c := r.String(), r.Bytes(), new(T)
		if n, err := binary.Decode(b, binary.BigEndian, c); err != nil || n != len(b) {
			r.Bad("counters")
			return
		}
		m[k] = c
	}
}

func newGathered() *gathered {
	return &gathered{listeners: map[string]*listenerCount{}, managers: map[string]*exchange.ManagerCount{}, tcp: map[string]*chainCount{},
		clusters: map[string]*exchange.ClusterCount{}, dropped: map[string]uint64{}, routes: map[string]uint64{}, peers: map[string]uint64{}}
}

// merge adds what the predecessors have counted.
func (h *heir) merge(g *gathered) {
	o := h.counts.Load()
	if o == nil {
		return
	}
	for k, c := range o.listeners {
		n := at(g.listeners, k)
		n.Conns += c.Conns
		n.Shed += c.Shed
		n.NoChain += c.NoChain
		n.Refused += c.Refused
		n.Unshaken += c.Unshaken
	}
	for k, c := range o.managers {
		at(g.managers, k).Add(c)
	}
	for k, c := range o.tcp {
		n := at(g.tcp, k)
		n.Streams += c.Streams
		n.BytesIn += c.BytesIn
		n.BytesOut += c.BytesOut
		n.Limited += c.Limited
		n.Denied += c.Denied
	}
	for k, c := range o.clusters {
		at(g.clusters, k).Add(c)
	}
	for k, v := range o.dropped {
		g.dropped[k] += v
	}
	for k, v := range o.routes {
		g.routes[k] += v
	}
	for k, v := range o.peers {
		g.peers[k] += v
	}
}
