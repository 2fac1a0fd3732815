// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"net/netip"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/handover/wire"
)

// cargo is connections that move together: an *exchange.Bundle, a TCP stream,
// or an arrival. All its methods run on the loop.
type cargo interface {
	Conns() []*engine.Conn
	Freeze() bool
	Export(w *wire.Writer)
	Thaw()
	Yield()
}

// Kinds of cargo, as written.
const (
	cargoHTTP uint8 = 1 + iota
	cargoTCP
	cargoArrival
)

// mostTogether bounds the connections of one cargo. All of them stand still
// while they move, so more would be felt.
const mostTogether = 1024

// load finds what moves together with the connection whose handler is h. nil:
// it cannot move now, and why says the reason; "" for one that ends anyway.
func (w *worker) load(c *engine.Conn, h engine.Handler) (g cargo, kind uint8, why string) {
	switch h := h.(type) {
	case *arrival:
		if h.stage == securing || h.stage == arrived || !c.Movable() {
			return nil, 0, "TLS handshake"
		}
		return &arrivalCargo{a: h}, cargoArrival, ""
	case *stream:
		if h.ended || h.up == nil || !h.up.Movable() || !h.down.Movable() {
			return nil, 0, "TCP stream begins or ends"
		}
		return &streamCargo{s: h}, cargoTCP, ""
	}
	b, ours, why := w.x.Gather(h, mostTogether)
	if b == nil {
		if !ours {
			why = "connection is being made or ended"
		}
		return nil, 0, why
	}
	return b, cargoHTTP, ""
}

// settle finds where a connection belongs in this process.
func (w *worker) settle(in *Inheritance, info *filter.ConnInfo, secure bool) (ln *listener, ch *chain) {
	ln = in.byName[info.Listener]
	if ln == nil || ln.gone.Load() {
		return nil, nil
	}
	for _, c := range ln.state.Load().all() {
		if c.cfg.Name != info.Chain || (c.tls != nil) != secure {
			continue
		}
		if ch != nil {
			return nil, nil // two that cannot be told apart
		}
		ch = c
	}
	if ch == nil || !ch.authorise(w, info) { // policy may have changed
		return nil, nil
	}
	return ln, ch
}

// unpack adopts one cargo.
func (w *worker) unpack(in *Inheritance, kind uint8, r *wire.Reader, fds []int) (cargo, error) {
	switch {
	case kind == cargoHTTP:
		b, err := w.x.Adopt(r, fds, *w.s.clusters.Load(), func(info *filter.ConnInfo, c *engine.Conn) (p exchange.Place, ok bool) {
			ln, ch := w.settle(in, info, c.Secure())
			if ch == nil || ch.http == nil {
				return p, false
			}
			a := &arrival{w: w, ln: ln, st: ln.state.Load(), ch: ch, c: c, info: info, stage: arrived}
			return exchange.Place{Manager: ch.http, Enter: a.enter, Over: a.over}, true
		})
		if err != nil {
			return nil, err
		}
		return b, nil
	case kind == cargoTCP && len(fds) == 2:
		return w.unpackStream(in, r, fds)
	case kind == cargoArrival && len(fds) == 1:
		return w.unpackArrival(in, r, fds[0])
	}
	r.Bad("kind")
	closeAll(fds)
	return nil, r.Err()
}

// enter counts a connection that has come from another process.
func (a *arrival) enter() {
	a.ln.conns.Add(1)
	if a.ch != nil {
		a.ch.conns.Add(1)
	}
}

// streamCargo is a TCP stream: both its connections.
type streamCargo struct {
	s   *stream
	due int64
}

func (g *streamCargo) Conns() []*engine.Conn { return []*engine.Conn{g.s.down, g.s.up} }

func (g *streamCargo) Freeze() bool {
	s := g.s
	if !s.toUp.spill(s.up) || !s.toDown.spill(s.down) || !s.down.Freeze() {
		return false
	}
	if !s.up.Freeze() {
		s.down.Thaw(s)
		return false
	}
	g.due = s.t.At()
	s.w.l.StopTimer(&s.t)
	return true
}

// spill empties the pipe of one direction.
func (y *way) spill(dst *engine.Conn) bool {
	if y.pipe == nil {
		return true
	}
	if !y.pipe.Spill(dst) {
		return false
	}
	y.pipe = nil
	return true
}

func (g *streamCargo) Export(w *wire.Writer) {
	s := g.s
	s.down.Export(w, exchange.Seal)
	s.up.Export(w, exchange.Seal)
	exchange.ExportInfo(w, s.a.info)
	exchange.ExportContext(w, &s.c)
	w.String(s.cl.Cfg.Name)
	w.Addr(s.host.Addr)
	w.String(s.host.Name)
	w.I64(s.last)
	w.I64(s.quiet)
	w.I64(s.most)
	w.Int(s.attempts)
	w.I64(g.due)
}

func (g *streamCargo) Thaw() {
	s := g.s
	s.w.l.RestoreTimer(&s.t, g.due, s)
	s.down.Thaw(s)
	s.up.Thaw(s)
}

// Yield takes the stream off the accounts. Its bytes are counted where it
// ends.
func (g *streamCargo) Yield() {
	s := g.s
	s.down.Yield()
	s.up.Yield()
	s.ended = true
	s.prev.next, s.next.prev = s.next, s.prev
	s.host.End(balance.Cancelled, 0, s.w.l.Now())
	s.w.x.Disconnected(s.cl, s.host)
	s.a.over()
}

func (w *worker) unpackStream(in *Inheritance, r *wire.Reader, fds []int) (cargo, error) {
	down, up := w.l.Adopt(fds[0], r, exchange.Open), w.l.Adopt(fds[1], r, exchange.Open)
	s := &stream{w: w, down: down, up: up}
	info := exchange.ImportInfo(r)
	exchange.ImportContext(r, &s.c)
	cl, at, name := r.String(), r.Addr(), r.String()
	s.last, s.quiet, s.most, s.attempts = r.I64(), r.I64(), r.I64(), r.Int()
	g := &streamCargo{s: s, due: r.I64()}
	if r.Done() == nil {
		g.settle(in, info, cl, at, name, r)
	}
	if err := r.Err(); err != nil {
		down.Yield()
		up.Yield()
		return nil, err
	}
	return g, nil
}

// arrivalCargo is a connection that has not said what it is.
type arrivalCargo struct {
	a   *arrival
	due int64
}

func (g *arrivalCargo) Conns() []*engine.Conn { return []*engine.Conn{g.a.c} }

func (g *arrivalCargo) Freeze() bool {
	if !g.a.c.Freeze() {
		return false
	}
	g.due = g.a.t.At()
	g.a.w.l.StopTimer(&g.a.t)
	return true
}

func (g *arrivalCargo) Export(w *wire.Writer) {
	g.a.c.Export(w, exchange.Seal)
	exchange.ExportInfo(w, g.a.info)
	w.U8(uint8(g.a.stage))
	w.I64(g.due)
}

func (g *arrivalCargo) Thaw() {
	g.a.w.l.RestoreTimer(&g.a.t, g.due, g.a)
	g.a.c.Thaw(g.a)
}

func (g *arrivalCargo) Yield() {
	g.a.c.Yield()
	g.a.over()
}

func (w *worker) unpackArrival(in *Inheritance, r *wire.Reader, fd int) (cargo, error) {
	c := w.l.Adopt(fd, r, exchange.Open)
	a := &arrival{w: w, c: c, info: exchange.ImportInfo(r), stage: stage(r.U8())}
	g := &arrivalCargo{a: a, due: r.I64()}
	if a.stage == securing || a.stage >= arrived {
		r.Bad("stage")
	}
	if r.Done() == nil {
		if a.stage == detecting {
			a.ln, a.ch = w.settle(in, a.info, c.Secure())
			if a.ch == nil || a.ch.http == nil {
				r.Bad("filter chain that this configuration has")
			}
		} else if a.ln = in.byName[a.info.Listener]; a.ln == nil || a.ln.gone.Load() {
			r.Bad("listener that this configuration has")
		}
	}
	if err := r.Err(); err != nil {
		c.Yield()
		return nil, err
	}
	a.st = a.ln.state.Load()
	a.enter()
	return g, nil
}

// settle finds the stream's places and counts it.
func (g *streamCargo) settle(in *Inheritance, info *filter.ConnInfo, cluster string, at netip.AddrPort, name string, r *wire.Reader) {
	s := g.s
	w := s.w
	ln, ch := w.settle(in, info, s.down.Secure())
	if ch == nil || ch.cfg.TCP == nil {
		r.Bad("TCP filter chain that this configuration has")
		return
	}
	if s.cl = (*w.s.clusters.Load())[cluster]; s.cl == nil {
		r.Bad("cluster that this configuration has")
		return
	}
	for _, h := range s.cl.Set.Hosts() {
		if h.Addr == at && h.Name == name {
			s.host = h
		}
	}
	if s.host == nil || !s.cl.Set.Admit(balance.Connections, false) {
		r.Bad("host that this configuration has, with room")
		return
	}
	s.host.Conns.Add(1)
	s.host.Active.Add(1)
	s.ch = ch
	s.a = &arrival{w: w, ln: ln, st: ln.state.Load(), ch: ch, c: s.down, info: info, stage: arrived}
	s.a.enter()
	s.c.Conn, s.c.Rand = info, w.x.Rand
	s.ask = balance.Ask{Dest: info.Local, Subset: ch.subset}
	s.link()
}
