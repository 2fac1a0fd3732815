// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/http2/hpack"
)

// exportVersion changes when the format does. A process that does not know a
// version lets the connection drain where it is.
const exportVersion = 1

// most is the largest table that an imported connection may have.
const mostTable = 1 << 16

// Export appends all of the connection's state to dst, so that Import can go
// on with it in another process. What Feed has not consumed, bodies that the
// owner holds, and heads are the owner's to carry. A connection that failed
// must not be exported. The connection must not be used after.
func (c *Conn) Export(dst []byte) []byte {
	p := putter(dst)
	p.u8(exportVersion)
	p.u8(uint8(c.role))
	o := &c.o
	p.u32(o.MaxStreams, o.StreamWindow, o.ConnWindow, o.MaxFrame, o.TableSize, o.MaxList)
	p.flags(o.AllowConnect, o.NoTable, c.peerConnect, c.awaySent, c.awayGot, c.ending)
	p.u8(uint8(c.phase))
	p.u8(c.unacked)
	p.u8(c.pings)
	p.u32(c.lastPeer, c.nextID, c.lastServed, c.peerFrame, c.peerStreams)
	p.i64(c.recvWin, c.credit, c.sendWin, c.peerWindow)
	p.i64(int64(c.budget.idle), int64(c.budget.resets), int64(c.budget.provoked), int64(c.budget.passed))
	d := &c.data
	p.flags(d.on, d.end, d.lost)
	p.u8(d.pad)
	p.u32(d.id, d.left)
	k := &c.block
	p.flags(k.on, k.end, k.self)
	p.u8(k.frames)
	if k.on {
		p.u32(k.id, uint32(len(k.buf)))
		p = append(p, k.buf...)
	}
	p = c.exportGone(p)
	p = c.exportStreams(p)
	return c.enc.Export(c.dec.Export(p))
}

func (c *Conn) exportGone(p putter) putter {
	p.u32(uint32(len(c.gone)), uint32(c.goneAt), uint32(c.endedAt))
	for _, g := range c.gone {
		p.u32(g.id)
		p.u8(uint8(g.how))
		p.u8(g.heads)
		p.i64(g.left)
	}
	p.u32(c.ended[:]...)
	return p
}

func (c *Conn) exportStreams(p putter) putter {
	p.u32(uint32(c.streams.n))
	for s := c.oldest; s != nil; s = s.younger {
		p.u32(s.id, uint32(s.state))
		p.flags(s.Incremental)
		p.u8(s.Urgency)
		p.i64(s.sendWin, s.recvWin, s.credit, s.owed, s.want)
	}
	for i := range c.waiting { // in their order
		n := uint32(0)
		for s := c.waiting[i].head; s != nil; s = s.next {
			n++
		}
		p.u32(n)
		for s := c.waiting[i].head; s != nil; s = s.next {
			p.u32(s.id)
		}
	}
	return p
}

// Import makes a connection of what Export wrote. adopt is called for each
// open stream, oldest first, and must set what Handler.Open or the caller of
// WriteRequest would. What was announced to the peer overrides o. Room is
// unbounded until Writable is called. An error is an *errs.Error: nothing was
// adopted.
func Import(b []byte, o Options, h Handler, w Writer, adopt func(s *Stream)) (*Conn, error) {
	p := cut{b: b}
	if v := p.u8(); v != exportVersion {
		return nil, stateError("version")
	}
	role := Role(p.u8())
	p.into(&o.MaxStreams, &o.StreamWindow, &o.ConnWindow, &o.MaxFrame, &o.TableSize, &o.MaxList)
	var peerConnect, awaySent, awayGot, ending bool
	p.flags(&o.AllowConnect, &o.NoTable, &peerConnect, &awaySent, &awayGot, &ending)
	said := o
	o.fill()
	if p.bad || role > Client || said.MaxStreams != o.MaxStreams || said.StreamWindow != o.StreamWindow ||
		said.ConnWindow != o.ConnWindow || said.MaxFrame != o.MaxFrame || said.TableSize != o.TableSize || said.MaxList != o.MaxList {
		return nil, stateError("options")
	}
	c := New(role, o, h, w)
	c.peerConnect, c.awaySent, c.awayGot, c.ending = peerConnect, awaySent, awayGot, ending
	c.phase = phase(p.u8())
	c.unacked, c.pings = p.u8(), p.u8()
	p.into(&c.lastPeer, &c.nextID, &c.lastServed, &c.peerFrame, &c.peerStreams)
	p.window(&c.recvWin, &c.credit, &c.sendWin, &c.peerWindow)
	c.importBudget(&p)
	d := &c.data
	p.flags(&d.on, &d.end, &d.lost)
	d.pad = p.u8()
	p.into(&d.id, &d.left)
	c.importBlock(&p)
	if p.bad || !c.sound() {
		return nil, stateError("connection")
	}
	c.importGone(&p)
	if p.bad {
		return nil, stateError("streams that were reset")
	}
	c.importStreams(&p)
	if p.bad {
		return nil, stateError("streams")
	}
	if err := importTables(&c.dec, &c.enc, p.b, &c.o); err != nil {
		return nil, err
	}
	for s := c.oldest; s != nil; {
		next := s.younger
		adopt(s)
		s = next
	}
	return c, nil
}

func importTables(d *hpack.Decoder, e *hpack.Encoder, b []byte, o *Options) error {
	b, err := d.Import(b, o.TableSize)
	if err == nil {
		b, err = e.Import(b, mostTable)
	}
	if err != nil {
		return stateError("tables")
	}
	if len(b) > 0 {
		return stateError("end")
	}
	return nil
}

func stateError(what string) error {
	return &errs.Error{Kind: errs.Invalid, Subject: "exported HTTP/2 connection", Field: what, Expected: "state that Export of this version wrote"}
}

// sound holds what the protocol and this package keep true.
func (c *Conn) sound() bool {
	d := &c.data
	odd := c.role == Client && c.nextID&1 == 1 && c.lastPeer == 0 || c.role == Server && c.nextID == 0 && (c.lastPeer == 0 || c.lastPeer&1 == 1)
	return c.phase <= running && (c.role == Server || c.phase != wantPreface) && odd &&
		c.lastPeer <= maxID && c.nextID <= maxID+2 && c.lastServed <= maxID &&
		c.peerFrame >= defaultMaxFrame && c.peerFrame <= largestFrame && c.peerWindow >= 0 && c.credit >= 0 && c.recvWin >= 0 &&
		d.left <= c.o.MaxFrame && d.id <= maxID && !(d.on && c.block.on) && (!d.on || d.id&1 == 1 && !c.idle(d.id)) &&
		(!d.on || d.left > 0 || d.pad > 0)
}

func (c *Conn) importBudget(p *cut) {
	b := &c.budget
	var idle, resets, provoked, passed int64
	p.window(&idle, &resets, &provoked)
	p.i64(&passed)
	b.idle = int(min(idle, int64(b.maxIdle)))
	b.resets = int(min(resets, int64(b.maxResets)))
	b.provoked = int(min(provoked, int64(b.maxResets)))
	b.passed = time.Duration(passed)
	p.bad = p.bad || b.passed < 0 || b.passed > time.Second
}

func (c *Conn) importBlock(p *cut) {
	k := &c.block
	p.flags(&k.on, &k.end, &k.self)
	k.frames = p.u8()
	if !k.on {
		return
	}
	var n uint32
	p.into(&k.id, &n)
	p.bad = p.bad || k.frames > maxContinuations || int(n) > max(c.o.maxBlock(), int(c.o.MaxFrame)) || k.id&1 == 0
	k.buf = append(k.buf[:0], p.take(int(n))...)
}

func (c *Conn) importGone(p *cut) {
	var n, at, endedAt uint32
	p.into(&n, &at, &endedAt)
	if p.bad || n > goneLen || at >= goneLen || at > 0 && n < goneLen || int(endedAt) >= len(c.ended) {
		p.bad = true
		return
	}
	c.goneAt, c.endedAt = int(at), int(endedAt)
	for range n {
		var g gone
		p.into(&g.id)
		g.how, g.heads = how(p.u8()), p.u8()
		p.window(&g.left)
		p.bad = p.bad || g.how < byPeer || g.how > byUs || g.heads > 2
		c.gone = append(c.gone, g)
	}
	for i := range c.ended {
		p.into(&c.ended[i])
	}
}

func (c *Conn) importStreams(p *cut) {
	var n uint32
	p.into(&n)
	if n > c.o.MaxStreams {
		p.bad = true
	}
	last := uint32(0)
	for range n {
		var id, st uint32
		p.into(&id, &st)
		// An id that is not above the last would stand in the table twice.
		if p.bad || id <= last || id&1 == 0 || c.idle(id) || st >= uint32(wantsRoom)<<1 ||
			state(st)&(recvEnd|sendEnd) == recvEnd|sendEnd {
			p.bad = true
			return
		}
		last = id
		s := c.o.Pool.get()
		c.enter(s, id)
		s.state = state(st)
		p.flags(&s.Incremental)
		s.Urgency = p.u8()
		p.window(&s.sendWin, &s.recvWin, &s.credit, &s.owed)
		p.i64(&s.want)
		p.bad = p.bad || s.Urgency > 7 || s.credit < 0 || s.owed < 0 || s.want < -1 || s.state&sendEnd != 0 && s.state&wantsRoom != 0
	}
	for i := range c.waiting {
		var n uint32
		p.into(&n)
		for range n {
			var id uint32
			p.into(&id)
			s := c.streams.find(id)
			if p.bad || s == nil || s.line != 0 || s.state&wantsRoom == 0 || s.sendWin <= 0 {
				p.bad = true
				return
			}
			u := s.Urgency // PRIORITY_UPDATE may have come after it took its place
			s.Urgency = uint8(i)
			c.queue(s)
			s.Urgency = u
		}
	}
	for s := c.oldest; s != nil; s = s.younger {
		p.bad = p.bad || s.line == 0 && s.state&wantsRoom != 0 && s.sendWin > 0
	}
}

// putter appends exported state.
type putter []byte

func (p *putter) u8(v uint8) { *p = append(*p, v) }

func (p *putter) u32(v ...uint32) {
	for _, v := range v {
		*p = binary.BigEndian.AppendUint32(*p, v)
	}
}

func (p *putter) i64(v ...int64) {
	for _, v := range v {
		*p = binary.BigEndian.AppendUint64(*p, uint64(v))
	}
}

func (p *putter) flags(f ...bool) {
	v := uint8(0)
	for i, on := range f {
		if on {
			v |= 1 << i
		}
	}
	p.u8(v)
}

// cut reads exported state. After the first fault it gives zeros.
type cut struct {
	b   []byte
	bad bool
}

func (c *cut) take(n int) []byte {
	if c.bad || n > len(c.b) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cut) u8() uint8 {
	if p := c.take(1); p != nil {
		return p[0]
	}
	return 0
}

func (c *cut) into(v ...*uint32) {
	for _, v := range v {
		if p := c.take(4); p != nil {
			*v = binary.BigEndian.Uint32(p)
		}
	}
}

func (c *cut) i64(v ...*int64) {
	for _, v := range v {
		if p := c.take(8); p != nil {
			*v = int64(binary.BigEndian.Uint64(p))
		}
	}
}

// window reads numbers that stay within 2^31-1 either way.
func (c *cut) window(v ...*int64) {
	c.i64(v...)
	for _, v := range v {
		c.bad = c.bad || *v > maxWindow || *v < -maxWindow
	}
}

func (c *cut) flags(f ...*bool) {
	v := c.u8()
	for i, f := range f {
		*f = v>>i&1 == 1
	}
	c.bad = c.bad || v>>len(f) != 0
}
