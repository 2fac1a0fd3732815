// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/handover/wire"
	"redoubt.dev/proxy/http2"
)

// Export writes the state of all connections of a frozen bundle. Their
// descriptors travel beside, in the order of Conns.
func (b *Bundle) Export(w *wire.Writer) {
	for _, n := range [...]int{len(b.s1), len(b.s2), len(b.u1), len(b.u2), len(b.xs)} {
		w.U32(uint32(n))
	}
	for _, c := range b.Conns() {
		c.Export(w, Seal)
	}
	for _, u := range b.u1 {
		b.client1Out(w, u)
	}
	for _, u := range b.u2 {
		b.client2Out(w, u)
	}
	for _, h := range b.s1 {
		b.server1Out(w, h)
	}
	for _, h := range b.s2 {
		b.server2Out(w, h)
	}
	for _, x := range b.xs {
		b.streamOut(w, x)
	}
}

func (b *Bundle) poolOut(w *wire.Writer, p *pool) {
	w.String(p.cl.Cfg.Name)
	w.Addr(p.host.Addr)
	w.String(p.host.Name)
	w.Bool(p.two)
	w.Bool(p.asked)
}

func (b *Bundle) client1Out(w *wire.Writer, u *h1client) {
	b.poolOut(w, u.p)
	exportTLS(w, u.tls)
	w.I64(b.due[&u.t])
	w.I64(u.made)
	w.U64(u.mark)
	w.U32(u.count)
	for _, f := range [...]bool{u.high, u.reused, u.resting, u.persist, u.headed} {
		w.Bool(f)
	}
	u.src.export(w)
	u.dst.export(w)
}

func (b *Bundle) client2Out(w *wire.Writer, u *h2client) {
	b.poolOut(w, u.p)
	exportTLS(w, u.tls)
	w.I64(b.due[&u.t])
	w.I64(u.made)
	w.I64(u.turn)
	w.I64(u.since)
	w.U32(u.count)
	for _, f := range [...]bool{u.high, u.settled, u.leaving} {
		w.Bool(f)
	}
	codecOut(w, u.h)
}

func codecOut(w *wire.Writer, h *http2.Conn) {
	at := w.Hole()
	w.B = h.Export(w.B)
	w.Fill(at)
}

func (b *Bundle) server1Out(w *wire.Writer, h *h1server) {
	ExportInfo(w, h.info)
	w.I64(b.due[&h.t])
	w.I64(h.began)
	w.I64(h.since)
	w.U32(h.count)
	for _, f := range [...]bool{h.partial, h.persist, h.modern, h.last} {
		w.Bool(f)
	}
	h.src.export(w)
	h.dst.export(w)
}

func (b *Bundle) server2Out(w *wire.Writer, h *h2server) {
	ExportInfo(w, h.info)
	w.I64(b.due[&h.t])
	w.I64(h.began)
	w.I64(h.since)
	w.I64(h.turn)
	w.U32(h.count)
	w.Bool(h.last)
	w.Bool(h.halfway)
	codecOut(w, h.h)
}

// Sides of a stream.
const (
	overHTTP1 uint8 = 1
	overHTTP2 uint8 = 2
)

func idOf(s *http2.Stream) uint32 {
	if s == nil {
		return 0
	}
	return s.ID()
}

func (b *Bundle) streamOut(w *wire.Writer, x *Stream) {
	switch d := x.down.(type) {
	case *h1server:
		w.U8(overHTTP1)
		w.U32(uint32(b.index[d]))
	case *h2side:
		w.U8(overHTTP2)
		w.U32(uint32(b.index[d.h]))
		w.U32(idOf(d.s))
		d.in.export(w)
		w.Bool(d.reset)
	}
	switch u := x.up.(type) {
	case *h1client:
		w.U8(overHTTP1)
		w.U32(uint32(b.index[u]))
	case *h2call:
		w.U8(overHTTP2)
		w.U32(uint32(b.index[u.u]))
		w.U32(idOf(u.s))
		u.in.export(w)
		w.U32(uint32(u.code))
		for _, f := range [...]bool{u.got, u.end, u.headed, u.reset, u.unprocessed} {
			w.Bool(f)
		}
	}
	exportRequest(w, &x.req)
	exportResponse(w, &x.resp)
	exportHead(w, &x.reqT)
	exportHead(w, &x.respT)
	ExportContext(w, &x.c)
	w.U32(uint32(x.m.chain.Len()))
	for _, f := range x.flags() {
		w.Bool(*f)
	}
	w.Bool(x.parent.Valid)
	w.B = append(w.B, x.parent.Span[:]...)
	x.routeOut(w)
	w.Bytes(x.kept)
	for _, v := range x.ints() {
		w.Int(*v)
	}
	w.I64(b.due[&x.t])
	for _, v := range x.times() {
		w.I64(*v)
	}
}

// flags, ints and times are the plain fields that move as they are.

func (x *Stream) flags() [18]*bool {
	return [...]*bool{&x.isHead, &x.isGRPC, &x.sent, &x.reqDone, &x.stopped, &x.headDone, &x.respDone, &x.tunnelled, &x.noFilters,
		&x.closeAfter, &x.retryable, &x.avoiding, &x.admitted, &x.retrying, &x.keeping, &x.keptAll, &x.lost, &x.ask.HasHash}
}

func (x *Stream) ints() [6]*int {
	return [...]*int{&x.filterAt, &x.conns, &x.retries, &x.replays, &x.replayAt, &x.interims}
}

func (x *Stream) times() [9]*int64 {
	return [...]*int64{&x.timeout, &x.most, &x.rateFrom, &x.total, &x.try, &x.tryBegan, &x.again, &x.lastByte, &x.idle}
}

// routeOut names what the importer looks up again.
func (x *Stream) routeOut(w *wire.Writer) {
	rt := x.c.Route
	w.Int(rt.Index)
	w.String(rt.VHost.Name)
	w.String(rt.Name)
	weighted := -1
	for i := range x.fwd.Weighted {
		if &x.fwd.Weighted[i] == x.c.Weighted {
			weighted = i
		}
	}
	w.Int(weighted)
	w.U32(uint32(x.retry.On))
	w.U32(x.retry.Max)
	w.I64(int64(x.limits.Total))
	w.I64(int64(x.limits.PerTry))
	w.String(x.cluster.Cfg.Name)
	w.Addr(x.host.Addr)
	w.String(x.host.Name)
	w.U64(x.ask.Hash)
	w.Addr(x.ask.Dest)
	w.U32(uint32(len(x.tried)))
	for _, h := range x.tried {
		w.Addr(h.Addr)
		w.String(h.Name)
	}
}
