// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"strconv"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/http2/hpack"
	"redoubt.dev/proxy/message"
)

// Made once: they are met on the hot path.
var (
	errFull      = &errs.Error{Kind: errs.Unavailable, Subject: "HTTP/2 connection", Expected: "room for another stream", Fix: "ask CanOpen before, or open another connection"}
	errNoConnect = &errs.Error{Kind: errs.Unsupported, Subject: "HTTP/2 connection", Expected: "a peer that takes extended CONNECT", Fix: "ask PeerConnect before"}
)

// NewStream gives a stream for WriteRequest.
func (c *Conn) NewStream() *Stream { return c.o.Pool.get() }

// WriteRequest opens a stream (client role). s is from NewStream. When it
// returns an error, nothing was written and s is gone, without Owner.Closed.
// A Scheme that m does not say is "http".
func (c *Conn) WriteRequest(m *message.Request, s *Stream, end bool) error {
	if !c.CanOpen() {
		c.o.Pool.put(s)
		return errFull
	}
	method := m.In(m.Method)
	connect := m.Upgrade.Len() > 0 || string(method) == "CONNECT"
	if m.Upgrade.Len() > 0 && !c.peerConnect {
		c.o.Pool.put(s)
		return errNoConnect
	}
	urgency, incremental := s.Urgency, s.Incremental
	c.enter(s, c.nextID)
	if urgency != 0 || incremental {
		s.Urgency, s.Incremental = urgency, incremental
	}
	c.nextID += 2
	s.state |= sentHead
	switch {
	case connect:
		s.state |= connects
	case string(method) == "HEAD":
		s.state |= headOnly
	}
	c.writeHead(s, c.appendRequest(c.begin(), m, connect), end)
	return nil
}

// begin opens a block in the scratch buffer, behind room for the frame's head.
func (c *Conn) begin() []byte {
	var head [frameHead]byte
	return c.enc.Begin(append(c.buf[:0], head[:]...))
}

var (
	nameProtocol  = []byte(":protocol")
	nameTE        = []byte("te")
	valueHTTP     = []byte("http")
	valueTrailers = []byte("trailers")
	valueConnect  = []byte("CONNECT")
	valueContinue = []byte("100-continue")
)

func (c *Conn) appendRequest(b []byte, m *message.Request, connect bool) []byte {
	e := &c.enc
	method, scheme := m.In(m.Method), m.In(m.Scheme)
	if connect {
		method = valueConnect
	}
	if len(scheme) == 0 {
		scheme = valueHTTP
	}
	tunnel := connect && m.Upgrade.Len() == 0
	b = e.AppendStatic(b, hpack.NameMethod, method, hpack.Index)
	if !tunnel {
		b = e.AppendStatic(b, hpack.NameScheme, scheme, hpack.Index)
	}
	b = e.AppendStatic(b, hpack.NameAuthority, m.In(m.Authority), hpack.Index)
	if !tunnel {
		b = e.AppendStatic(b, hpack.NamePath, m.In(m.Path), hpack.Plain)
	}
	if m.Upgrade.Len() > 0 {
		b = e.Append(b, nameProtocol, m.In(m.Upgrade), hpack.Index)
	}
	b = c.appendFields(b, &m.Head, false)
	if m.Length > 0 || m.Length == 0 && !connect && wantsLength(method) {
		b = c.appendLength(b, m.Length)
	}
	if m.Continue {
		b = e.AppendStatic(b, hpack.NameExpect, valueContinue, hpack.Index)
	}
	if m.Trailers {
		b = e.Append(b, nameTE, valueTrailers, hpack.Index)
	}
	return b
}

// wantsLength tells the methods for which an empty body is worth saying (RFC
// 9110, 8.6).
func wantsLength(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

func (c *Conn) appendLength(b []byte, n int64) []byte {
	var digits [20]byte
	return c.enc.AppendStatic(b, hpack.NameContentLength, strconv.AppendInt(digits[:0], n, 10), hpack.Learn)
}

func (c *Conn) appendFields(b []byte, h *message.Head, trailer bool) []byte {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Drop || f.Known.Hop() || trailer && !f.Known.TrailerAllowed() {
			continue
		}
		if name := staticName[f.Known]; name != 0 {
			b = c.enc.AppendStatic(b, name, h.In(f.Value), policy(h, f))
		} else {
			b = c.enc.Append(b, h.In(f.Name), h.In(f.Value), policy(h, f))
		}
	}
	return b
}

// staticName spares known fields the search by name.
var staticName = [256]int{
	message.Expect: hpack.NameExpect, message.Authorization: hpack.NameAuthorization, message.Cookie: hpack.NameCookie,
	message.ContentType: hpack.NameContentType, message.ContentEncoding: hpack.NameContentEncoding,
	message.ContentRange: hpack.NameContentRange, message.SetCookie: hpack.NameSetCookie,
}

// policy says how a field meets the table. A connection is shared by many
// users upstream: what is theirs alone must neither fill the table nor be
// guessed by its help (RFC 7541, 7.1).
func policy(h *message.Head, f *message.Field) hpack.Policy {
	switch f.Known {
	case message.Authorization, message.SetCookie:
		return hpack.Never
	case message.Cookie:
		if f.Value.Len() < 20 {
			return hpack.Never // short enough to be guessed
		}
		return hpack.Plain
	case message.ContentType, message.ContentEncoding, message.Trailer:
		return repeats(f.Never)
	case message.ContentRange, message.ForwardedFor:
		return plain(f.Never)
	}
	if f.Never {
		return hpack.Never
	}
	switch name := h.In(f.Name); len(name) {
	case 6:
		if message.EqualFold(name, "server") || message.EqualFold(name, "accept") {
			return hpack.Index
		}
	case 10:
		if message.EqualFold(name, "user-agent") {
			return hpack.Index
		}
	case 15:
		if message.EqualFold(name, "accept-encoding") {
			return hpack.Index
		}
	case 19:
		if message.EqualFold(name, "proxy-authorization") {
			return hpack.Never
		}
	}
	return hpack.Learn
}

func repeats(never bool) hpack.Policy {
	if never {
		return hpack.Never
	}
	return hpack.Index
}

func plain(never bool) hpack.Policy {
	if never {
		return hpack.Never
	}
	return hpack.Plain
}

// statuses are written once, so that none is formatted per response.
var statuses = func() (t [1000][3]byte) {
	for i := range t {
		t[i] = [3]byte{byte('0' + i/100), byte('0' + i/10%10), byte('0' + i%10)}
	}
	return
}()

// WriteResponse writes a response's head, interim or final (server role).
// Nothing happens when s is over, or was answered already.
func (c *Conn) WriteResponse(s *Stream, m *message.Response, end bool) {
	if s.c != c || c.fault != nil || s.state&(sendEnd|sentHead) != 0 {
		return
	}
	status := min(max(m.Status, 100), 999)
	if status == 101 {
		status = 200 // RFC 8441, 5: what HTTP/1.1 calls switching, a tunnel calls success
	}
	interim := status < 200
	b := c.enc.AppendStatic(c.begin(), hpack.NameStatus, statuses[status][:], hpack.Index)
	b = c.appendFields(b, &m.Head, false)
	if m.Length >= 0 && !interim && status != 204 {
		b = c.appendLength(b, m.Length)
	}
	if !interim {
		s.state |= sentHead
	}
	c.writeHead(s, b, end && !interim)
}

// WriteTrailers ends our side of the stream with trailers. All data must have
// been written.
func (c *Conn) WriteTrailers(s *Stream, t *message.Head) {
	if s.c != c || c.fault != nil || s.state&sendEnd != 0 || s.state&sentHead == 0 {
		return
	}
	b := c.appendFields(c.begin(), t, true)
	if len(b) == frameHead {
		c.WriteData(s, nil, true) // an empty block says the same and costs more
		return
	}
	c.writeHead(s, b, true)
}

// writeHead sends the block b, which begins with room for a frame's head, in
// as many frames as the peer's limit asks for.
func (c *Conn) writeHead(s *Stream, b []byte, end bool) {
	flags := byte(0)
	if end {
		flags = flagEndStream
	}
	most := int(c.peerFrame)
	n := min(len(b)-frameHead, most)
	if n == len(b)-frameHead {
		flags |= flagEndHeaders
	}
	appendFrame(b[:0], n, frameHeaders, flags, s.id)
	c.w.Append(b[:frameHead+n])
	for rest := b[frameHead+n:]; len(rest) > 0; rest = rest[n:] {
		n, flags = min(len(rest), most), 0
		if n == len(rest) {
			flags = flagEndHeaders
		}
		var head [frameHead]byte
		c.small(appendFrame(head[:0], n, frameContinuation, flags, s.id))
		c.w.Append(rest[:n])
	}
	c.buf = b[:0]
	if cap(c.buf) > keepBlock {
		c.buf = nil
	}
	if end {
		c.endSend(s)
	}
}

func (c *Conn) endSend(s *Stream) {
	c.unqueue(s)
	s.state = s.state&^wantsRoom | sendEnd
	c.settle(s)
}

// small sends a few bytes from memory of the connection's own, so that they do
// not have to move to the heap.
func (c *Conn) small(p []byte) {
	n := copy(c.tiny[:], p)
	c.w.Append(c.tiny[:n])
}

// WriteData writes as much of p as windows, room and a fair share allow; when
// that is all of it and end is set, our side of the stream ends. When it is
// less, Handler.Window follows: as soon as the peer widens its windows, and
// after the next Writable if room was what lacked.
func (c *Conn) WriteData(s *Stream, p []byte, end bool) (n int) {
	if s.c != c || c.fault != nil || s.state&sendEnd != 0 || s.state&sentHead == 0 {
		return 0
	}
	left := int64(len(p))
	room := min(c.sendWin, s.sendWin, c.room)
	if c.resuming && room > quantum && c.first() != nil {
		room = quantum
	}
	take := min(left, max(0, room))
	last := take == left
	for rest := p[:take]; len(rest) > 0; {
		k := min(len(rest), int(c.peerFrame))
		flags := byte(0)
		if end && last && k == len(rest) {
			flags = flagEndStream
		}
		c.frameOf(s, rest[:k], flags)
		c.budget.sent(k, !last)
		rest = rest[k:]
	}
	c.sendWin -= take
	c.widen(s, -take)
	if c.room != unbounded {
		c.room -= take
	}
	if !last {
		c.short(s)
		return int(take)
	}
	if end && take == 0 {
		c.frameOf(s, nil, flagEndStream)
	}
	if end {
		c.endSend(s)
	}
	return int(take)
}

func (c *Conn) frameOf(s *Stream, p []byte, flags byte) {
	appendFrame(c.tiny[:0], len(p), frameData, flags, s.id)
	c.w.Append(c.tiny[:])
	if len(p) > 0 {
		c.w.Append(p)
	}
}

// ResetStream ends a stream at once. Handler.Reset is not called, Owner.Closed
// is. Nothing happens when s is over already, or is just being told of its end:
// RST_STREAM must not answer RST_STREAM (RFC 9113, 5.4.2).
func (c *Conn) ResetStream(s *Stream, code Code) {
	if s.c != c || c.fault != nil || s.state&(recvEnd|sendEnd) == recvEnd|sendEnd {
		return
	}
	c.writeReset(s.id, code)
	s.state |= recvEnd | sendEnd
	c.close(s, byUs)
}
