// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"redoubt.dev/proxy/http2/hpack"
	"redoubt.dev/proxy/message"
)

// fieldBlock is a field block that came in more than one frame.
type fieldBlock struct {
	on     bool
	end    bool // END_STREAM
	self   bool // the stream depends on itself
	frames uint8
	id     uint32
	buf    []byte
}

// keepBlock is the largest buffer that is kept for the next such block.
const keepBlock = 16 << 10

// headers reads HEADERS (RFC 9113, 6.2).
func (c *Conn) headers(flags byte, id uint32, p []byte) *Fault {
	if id == 0 {
		return errStreamZero
	}
	if flags&flagPadded != 0 {
		if len(p) == 0 {
			return errFixedSize
		}
		pad := int(p[0])
		if pad > len(p)-1 {
			return errPadding
		}
		p = p[1 : len(p)-pad]
	}
	self := false
	if flags&flagPriority != 0 {
		if len(p) < 5 {
			return errFixedSize
		}
		self = binary.BigEndian.Uint32(p)&maxID == id
		p = p[5:]
	}
	if f := c.mayHead(id); f != nil {
		return f
	}
	end := flags&flagEndStream != 0
	if flags&flagEndHeaders != 0 {
		return c.headed(id, end, self, p)
	}
	c.block = fieldBlock{on: true, id: id, end: end, self: self, buf: append(c.block.buf[:0], p...)}
	return nil
}

// mayHead checks that HEADERS may stand on the stream at all.
func (c *Conn) mayHead(id uint32) *Fault {
	if c.role == Client {
		if id&1 == 0 || c.idle(id) {
			return errStreamID
		}
		return nil
	}
	if id&1 == 0 {
		return errStreamID
	}
	if c.idle(id) || c.streams.find(id) != nil {
		return nil
	}
	switch c.recall(id) {
	case byUs:
		return nil
	case unknown:
		return errStreamID // skipped, or long over
	}
	return errReopened
}

// continuation reads CONTINUATION (RFC 9113, 6.10). Size and number are
// bounded while nothing is decoded yet (CVE-2024-27316 and its kin).
func (c *Conn) continuation(flags byte, id uint32, p []byte) *Fault {
	k := &c.block
	switch {
	case !k.on:
		return errContinuation
	case len(k.buf)+len(p) > c.o.maxBlock():
		return errBlockSize
	case k.frames == maxContinuations:
		return errBlockFrames
	}
	k.frames++
	k.buf = append(k.buf, p...)
	if flags&flagEndHeaders == 0 {
		return nil
	}
	k.on = false
	f := c.headed(id, k.end, k.self, k.buf)
	if cap(k.buf) > keepBlock {
		k.buf = nil
	}
	return f
}

// headed meets a whole field block. Whatever becomes of it, it is decoded: the
// tables of both sides must agree.
func (c *Conn) headed(id uint32, end, self bool, b []byte) *Fault {
	s := c.streams.find(id)
	if s == nil {
		if c.role == Server && c.idle(id) {
			return c.opened(id, end, self, b)
		}
		if f := c.skip(b); f != nil {
			return f
		}
		if g := c.reset(id); g != nil && g.how == byUs && g.heads > 0 {
			g.heads-- // it crossed our RST_STREAM
			return nil
		}
		return c.budget.spend(1)
	}
	code := NoError
	switch {
	case s.state&recvEnd != 0:
		code = StreamClosed
	case self, s.state&gotHead != 0 && !end:
		code = ProtocolError // trailers end the stream
	}
	if code != NoError {
		if f := c.skip(b); f != nil {
			return f
		}
		return c.streamError(s, code)
	}
	if s.state&gotHead != 0 {
		return c.trailers(s, b)
	}
	return c.response(s, end, b)
}

// skip decodes a block for nobody.
func (c *Conn) skip(b []byte) *Fault {
	r := reading{limit: 0}
	c.void.Reset()
	f := c.decode(&r, &c.void, b)
	c.emptyVoid()
	return f
}

// emptyVoid keeps no more memory than a normal block needs.
func (c *Conn) emptyVoid() {
	c.void.Reset()
	if cap(c.void.Buf) > keepBlock {
		c.void.Buf = nil
	}
	if cap(c.void.Fields) > 256 {
		c.void.Fields = nil
	}
}

// opened begins a request.
func (c *Conn) opened(id uint32, end, self bool, b []byte) *Fault {
	refuse := c.streams.n >= int(c.o.MaxStreams)
	late := c.awaySent && id > c.lastServed
	if refuse || late || self {
		if f := c.skip(b); f != nil {
			return f
		}
		c.lastPeer = id
		c.remember(id, byUs, int64(c.o.StreamWindow))
		switch {
		case late: // RFC 9113, 6.8: the peer knows that it is not served
			return c.budget.spend(1)
		case self:
			c.writeReset(id, ProtocolError)
		default:
			c.writeReset(id, RefusedStream)
		}
		return c.budget.provoke()
	}
	c.lastPeer = id
	s := c.o.Pool.get()
	c.enter(s, id)
	c.h.Open(s)
	if !c.has(s, id) {
		return c.skip(b)
	}
	if s.Req == nil {
		if f := c.skip(b); f != nil {
			return f
		}
		return c.streamError(s, InternalError)
	}
	return c.request(s, end, b)
}

func (c *Conn) request(s *Stream, end bool, b []byte) *Fault {
	m := s.Req
	m.Reset()
	m.Proto = message.HTTP2
	r := reading{limit: int(c.o.MaxList), fields: c.o.MaxFields, pseudo: kinds(hpack.Authority, hpack.Method, hpack.Path, hpack.Scheme, hpack.Protocol), length: -1}
	if f := c.decode(&r, &m.Head, b); f != nil {
		return f
	}
	r.joinCookies(&m.Head)
	if r.bad || !r.over && !r.finishRequest(m, end, c.o.AllowConnect) {
		return c.streamError(s, ProtocolError)
	}
	if r.priority {
		s.Urgency, s.Incremental = r.urgency, r.incremental
	}
	s.state |= gotHead
	if end {
		s.state |= recvEnd
	}
	id := s.id
	if r.over {
		c.h.Refuse(s, 431, end)
	} else {
		s.want = r.length
		if string(m.In(m.Method)) == "HEAD" {
			s.state |= headOnly
		}
		c.h.Head(s, end)
	}
	if c.has(s, id) && end {
		c.settle(s)
	}
	return nil
}

func (c *Conn) response(s *Stream, end bool, b []byte) *Fault {
	m := s.Resp
	if m == nil {
		if f := c.skip(b); f != nil {
			return f
		}
		return c.streamError(s, InternalError)
	}
	m.Reset()
	m.Proto = message.HTTP2
	r := reading{limit: int(c.o.MaxList), fields: c.o.MaxFields, pseudo: kinds(hpack.Status), length: -1}
	if f := c.decode(&r, &m.Head, b); f != nil {
		return f
	}
	switch {
	case r.bad || !r.over && !r.finishResponse(m, s.state, end):
		return c.streamError(s, ProtocolError)
	case r.over:
		return c.streamError(s, EnhanceYourCalm)
	}
	id := s.id
	if m.Interim() {
		if f := c.budget.spend(1); f != nil {
			return f
		}
		c.h.Head(s, false)
		return nil
	}
	s.want = r.length
	s.state |= gotHead
	if end {
		s.state |= recvEnd
	}
	c.h.Head(s, end)
	if c.has(s, id) && end {
		c.settle(s)
	}
	return nil
}

// trailers reads the fields that end a body. What may not stand there is left
// out, since a lenient receiver would merge it into the head.
func (c *Conn) trailers(s *Stream, b []byte) *Fault {
	h, nobody := s.Trailers, s.Trailers == nil
	if nobody {
		h = &c.void
	}
	h.Reset()
	r := reading{limit: int(c.o.MaxList), fields: c.o.MaxFields, length: -1, trailer: true}
	if f := c.decode(&r, h, b); f != nil {
		return f
	}
	if nobody {
		c.emptyVoid()
	}
	switch {
	case r.bad, s.want > 0: // RFC 9113, 8.1.1
		return c.streamError(s, ProtocolError)
	case r.over:
		return c.streamError(s, EnhanceYourCalm)
	}
	s.state |= recvEnd
	id := s.id
	c.h.Trailers(s)
	if c.has(s, id) {
		c.settle(s)
	}
	return nil
}
