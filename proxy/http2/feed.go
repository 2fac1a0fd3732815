// SPDX-License-Identifier: Apache-2.0

package http2

import "encoding/binary"

// Made once: a flood of bad connections must not make garbage.
var (
	errClosed       = fault(NoError, "connection is closed")
	errPreface      = fault(ProtocolError, "not a client's preface")
	errFirst        = fault(ProtocolError, "first frame is not SETTINGS")
	errFrameSize    = fault(FrameSizeError, "frame above the maximum size")
	errFixedSize    = fault(FrameSizeError, "frame of the wrong size for its type")
	errStreamZero   = fault(ProtocolError, "frame on stream 0 that belongs to a stream")
	errNotZero      = fault(ProtocolError, "frame on a stream that belongs to the connection")
	errIdleStream   = fault(ProtocolError, "frame on a stream that is not open yet")
	errPadding      = fault(ProtocolError, "padding longer than the frame")
	errInterleaved  = fault(ProtocolError, "frame inside a field block")
	errContinuation = fault(ProtocolError, "CONTINUATION without a field block")
	errConnWindow   = fault(FlowControlError, "more data than the connection's window")
	errStreamID     = fault(ProtocolError, "stream identifier out of order, or of the wrong side")
	errReopened     = fault(StreamClosed, "HEADERS on a closed stream")
	errPush         = fault(ProtocolError, "PUSH_PROMISE, which is not enabled")
	errCompression  = fault(CompressionError, "malformed field block")
	errBlockSize    = fault(EnhanceYourCalm, "field block too large")
	errBlockFrames  = fault(EnhanceYourCalm, "field block in too many frames")
	errIdle         = fault(EnhanceYourCalm, "too many frames that serve no request")
	errResets       = fault(EnhanceYourCalm, "too many requests reset before they were answered")
	errProvoked     = fault(EnhanceYourCalm, "too many streams in error")
	errSettings     = fault(ProtocolError, "setting out of range")
	errSettingsAck  = fault(ProtocolError, "acknowledgement of settings that were not sent")
	errWindowStep   = fault(ProtocolError, "WINDOW_UPDATE of 0")
	errWindowSum    = fault(FlowControlError, "window above 2^31-1")
	errSelf         = fault(ProtocolError, "stream that depends on itself")
	errUpdate       = fault(ProtocolError, "PRIORITY_UPDATE from a server or without a stream")
)

// dataFrame is a DATA frame that is being read.
type dataFrame struct {
	on   bool
	end  bool // END_STREAM
	lost bool // its stream is gone, or was when the frame began
	pad  uint8
	id   uint32
	left uint32 // without padding
}

// Feed reads what is whole in b and returns how many bytes that was; DATA is
// read in pieces as it comes. The rest of b, and more, must be given again:
// at most MaxFrame and 9 bytes. An error is a *Fault and ends the connection:
// GOAWAY was written, and Feed reads nothing more; the owner sends that and
// calls Close.
//
// Frames are answered as they are read. An owner whose transport is full must
// not feed, or a peer that does not read makes it hold the answers.
func (c *Conn) Feed(b []byte) (n int, err error) {
	for c.fault == nil {
		m, f := c.step(b[n:])
		if f != nil && c.fault == nil {
			c.fail(f)
		}
		if m == 0 {
			break
		}
		n += m
	}
	if c.fault != nil {
		return len(b), c.fault
	}
	return n, nil
}

// step reads one frame, or a piece of DATA. It gives 0 when that is not whole.
func (c *Conn) step(b []byte) (int, *Fault) {
	if c.data.on {
		return c.piece(b)
	}
	if c.phase == wantPreface {
		k := min(len(b), len(preface))
		if string(b[:k]) != preface[:k] {
			return 0, errPreface
		}
		if k < len(preface) {
			return 0, nil
		}
		c.phase = wantSettings
		return k, nil
	}
	if len(b) < frameHead {
		return 0, nil
	}
	length := int(b[0])<<16 | int(b[1])<<8 | int(b[2])
	typ, flags, id := b[3], b[4], binary.BigEndian.Uint32(b[5:])&maxID
	switch {
	case length > int(c.o.MaxFrame):
		return 0, errFrameSize
	case c.phase == wantSettings && (typ != frameSettings || flags&flagAck != 0):
		return 0, errFirst
	case c.block.on && (typ != frameContinuation || id != c.block.id):
		return 0, errInterleaved
	case typ == frameData:
		return c.beginData(b, length, flags, id)
	case len(b) < frameHead+length:
		return 0, nil
	}
	return frameHead + length, c.frame(typ, flags, id, b[frameHead:frameHead+length])
}

func (c *Conn) frame(typ, flags byte, id uint32, p []byte) *Fault {
	switch typ {
	case frameHeaders:
		return c.headers(flags, id, p)
	case frameContinuation:
		return c.continuation(flags, id, p)
	case framePriority:
		return c.priority(id, p)
	case frameReset:
		return c.resetByPeer(id, p)
	case frameSettings:
		return c.settings(flags, id, p)
	case framePush:
		return errPush
	case framePing:
		return c.pinged(flags, id, p)
	case frameGoAway:
		return c.goneAway(id, p)
	case frameWindow:
		return c.windowUpdate(id, p)
	case framePriorityUpdate:
		return c.priorityUpdate(id, p)
	}
	return c.budget.spend(1) // RFC 9113, 5.5: ignored
}

// beginData reads the head of a DATA frame (RFC 9113, 6.1), with the length of
// its padding. All of it counts against the windows at once.
func (c *Conn) beginData(b []byte, length int, flags byte, id uint32) (int, *Fault) {
	head, pad := frameHead, 0
	if flags&flagPadded != 0 {
		if length == 0 {
			return 0, errFixedSize
		}
		if len(b) == frameHead {
			return 0, nil
		}
		pad = int(b[frameHead])
		head++
		if pad >= length {
			return 0, errPadding
		}
	}
	switch {
	case id == 0:
		return 0, errStreamZero
	case c.idle(id):
		return 0, errIdleStream
	case int64(length) > c.recvWin:
		return 0, errConnWindow
	}
	c.recvWin -= int64(length)
	overhead := head - frameHead + pad
	c.data = dataFrame{on: true, id: id, pad: uint8(pad), end: flags&flagEndStream != 0, left: uint32(length - overhead)}
	s := c.streams.find(id)
	f := c.admit(s, length)
	if f == nil && c.data.left == 0 && !c.data.end {
		f = c.budget.spend(1)
	}
	if f != nil {
		return head, f
	}
	c.budget.got(int(c.data.left))
	if c.data.lost {
		c.giveConn(int64(overhead))
	} else {
		c.give(s, int64(overhead))
	}
	if c.data.left == 0 && pad == 0 {
		c.endData(nil)
	}
	return head, nil
}

// admit decides whether the frame that began is its stream's, and charges the
// stream.
func (c *Conn) admit(s *Stream, length int) *Fault {
	d := &c.data
	if s == nil {
		d.lost = true
		return c.staleData(d.id, length)
	}
	code := NoError
	left := int64(d.left)
	switch {
	case s.state&recvEnd != 0:
		code = StreamClosed
	case s.state&gotHead == 0:
		code = ProtocolError // before a final response
	case int64(length) > s.recvWin:
		code = FlowControlError
	case s.want >= 0 && (left > s.want || d.end && left < s.want):
		code = ProtocolError // RFC 9113, 8.1.1
	}
	if code != NoError {
		d.lost = true
		return c.streamError(s, code)
	}
	s.recvWin -= int64(length)
	if s.want >= 0 {
		s.want -= left
	}
	return nil
}

// piece delivers what has come of a DATA frame.
func (c *Conn) piece(b []byte) (int, *Fault) {
	d := &c.data
	k := min(len(b), int(d.left))
	d.left -= uint32(k)
	p := b[:k]
	if d.left == 0 {
		// Padding that is here already goes along, so that the end comes with
		// the last bytes.
		m := min(len(b)-k, int(d.pad))
		d.pad -= uint8(m)
		k += m
		if d.pad == 0 {
			c.endData(p)
			return k, nil
		}
	}
	if len(p) > 0 {
		c.deliver(p, false)
	}
	return k, nil
}

func (c *Conn) endData(p []byte) {
	c.data.on = false
	if len(p) > 0 || c.data.end {
		c.deliver(p, c.data.end)
	}
}

// deliver gives body bytes to the owner, who may end the stream meanwhile.
func (c *Conn) deliver(p []byte, end bool) {
	var s *Stream
	if !c.data.lost {
		s = c.streams.find(c.data.id)
	}
	if s == nil {
		c.giveConn(int64(len(p)))
		return
	}
	if end {
		s.state |= recvEnd
	}
	// Owed before it is told: an owner that keeps what came may pass all of it
	// on within Body, by Consumed.
	id := s.id
	s.owed += int64(len(p))
	used := c.h.Body(s, p, end)
	if !c.has(s, id) {
		return // close gave back what was owed
	}
	if k := min(int64(max(0, used)), int64(len(p)), s.owed); k > 0 {
		s.owed -= k
		c.give(s, k)
	}
	if end {
		c.settle(s)
	}
}

// staleData meets DATA on a stream that is over. What may have crossed our
// RST_STREAM is free, but for crumbs; the rest is the peer's mistake.
func (c *Conn) staleData(id uint32, n int) *Fault {
	g := c.reset(id)
	switch {
	case g != nil && g.how == byUs && n >= smallData && int64(n) <= g.left:
		g.left -= int64(n)
		return nil
	case g != nil && g.how == byUs, g == nil && c.role == Client:
		return c.budget.spend(1)
	}
	c.writeReset(id, StreamClosed)
	c.remember(id, byUs, 0)
	return c.budget.provoke()
}

// streamError resets a stream for the peer's mistake.
func (c *Conn) streamError(s *Stream, code Code) *Fault {
	id := s.id
	c.writeReset(id, code)
	s.state |= recvEnd | sendEnd
	c.h.Reset(s, code)
	if c.has(s, id) {
		c.close(s, byUs)
	}
	return c.budget.provoke()
}

func (c *Conn) writeReset(id uint32, code Code) {
	c.write(binary.BigEndian.AppendUint32(appendFrame(c.buf[:0], 4, frameReset, 0, id), uint32(code)))
}
