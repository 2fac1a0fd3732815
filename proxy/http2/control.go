// SPDX-License-Identifier: Apache-2.0

package http2

import "encoding/binary"

// priority reads a PRIORITY frame. What it says is deprecated (RFC 9113,
// 5.3.2); that a stream must not depend on itself still tells a broken peer.
func (c *Conn) priority(id uint32, p []byte) *Fault {
	if id == 0 {
		return errStreamZero
	}
	if f := c.budget.spend(1); f != nil {
		return f
	}
	s := c.streams.find(id)
	self := len(p) == 5 && binary.BigEndian.Uint32(p)&maxID == id
	switch {
	case len(p) != 5 && s != nil:
		return c.streamError(s, FrameSizeError)
	case len(p) != 5:
		return errFixedSize // no stream to reset
	case self && s != nil:
		return c.streamError(s, ProtocolError)
	case self && c.idle(id):
		return errSelf
	}
	return nil
}

// priorityUpdate reads a PRIORITY_UPDATE frame (RFC 9218, 7.1).
func (c *Conn) priorityUpdate(id uint32, p []byte) *Fault {
	if id != 0 {
		return errNotZero
	}
	if len(p) < 4 {
		return errFixedSize
	}
	about := binary.BigEndian.Uint32(p) & maxID
	if c.role == Client || about == 0 {
		return errUpdate
	}
	if s := c.streams.find(about); s != nil {
		s.Urgency, s.Incremental = parsePriority(p[4:])
	}
	return c.budget.spend(1)
}

// parsePriority reads the two parameters of a priority field (RFC 9218, 4): a
// dictionary, of which what is not understood is passed over.
func parsePriority(v []byte) (urgency uint8, incremental bool) {
	urgency = 3
	if len(v) > maxPriority {
		return 3, true
	}
	for i := 0; i < len(v); {
		for i < len(v) && (v[i] == ' ' || v[i] == '\t' || v[i] == ',') {
			i++
		}
		from := i
		for i < len(v) && v[i] != ',' {
			i++
		}
		m := v[from:i]
		for len(m) > 0 && (m[len(m)-1] == ' ' || m[len(m)-1] == '\t') {
			m = m[:len(m)-1]
		}
		switch {
		case len(m) == 3 && m[0] == 'u' && m[1] == '=' && '0' <= m[2] && m[2] <= '7':
			urgency = m[2] - '0'
		case string(m) == "i", string(m) == "i=?1":
			incremental = true
		case string(m) == "i=?0":
			incremental = false
		}
	}
	return urgency, incremental
}

// maxPriority bounds a priority field that is read.
const maxPriority = 64

// resetByPeer reads RST_STREAM (RFC 9113, 6.4).
func (c *Conn) resetByPeer(id uint32, p []byte) *Fault {
	switch {
	case id == 0:
		return errStreamZero
	case len(p) != 4:
		return errFixedSize
	case c.idle(id):
		return errIdleStream
	}
	s := c.streams.find(id)
	if s == nil {
		return c.budget.spend(1)
	}
	code := Code(binary.BigEndian.Uint32(p))
	early := c.role == Server && s.state&sentHead == 0
	s.Unprocessed = c.role == Client && code == RefusedStream && s.state&gotHead == 0
	s.state |= recvEnd | sendEnd
	c.drop(s, code)
	if early {
		return c.budget.reset()
	}
	return nil
}

// settings reads SETTINGS (RFC 9113, 6.5).
func (c *Conn) settings(flags byte, id uint32, p []byte) *Fault {
	switch {
	case id != 0:
		return errNotZero
	case flags&flagAck != 0:
		return c.settingsAck(p)
	case len(p)%6 != 0:
		return errFixedSize
	}
	if c.phase == running {
		if f := c.budget.spend(1 + len(p)/60); f != nil {
			return f
		}
	} else {
		c.phase = running
		if c.role == Client {
			c.peerStreams = maxID // until it says otherwise
		}
	}
	for ; len(p) > 0; p = p[6:] {
		if f := c.set(binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[2:])); f != nil {
			return f
		}
	}
	c.write(appendFrame(c.buf[:0], 0, frameSettings, flagAck, 0))
	c.h.Settled()
	c.resume()
	return nil
}

func (c *Conn) settingsAck(p []byte) *Fault {
	if len(p) != 0 {
		return errFixedSize
	}
	if c.unacked == 0 {
		return errSettingsAck
	}
	c.unacked--
	c.dec.Allow(c.o.TableSize)
	if less := defaultWindow - int64(c.o.StreamWindow); less > 0 {
		for s := c.oldest; s != nil; s = s.younger {
			s.recvWin -= less
		}
	}
	return nil
}

func (c *Conn) set(id uint16, v uint32) *Fault {
	switch id {
	case setTableSize:
		c.enc.Allow(v)
	case setEnablePush:
		if v > 1 || v == 1 && c.role == Client {
			return errSettings
		}
	case setMaxStreams:
		c.peerStreams = v
	case setWindow:
		return c.setPeerWindow(v)
	case setMaxFrame:
		if v < defaultMaxFrame || v > largestFrame {
			return errSettings
		}
		c.peerFrame = v
	case setConnect:
		if v > 1 || v == 0 && c.peerConnect {
			return errSettings
		}
		c.peerConnect = v == 1
	case setNoPriorities:
		if v > 1 {
			return errSettings
		}
	}
	return nil
}

// setPeerWindow changes the send windows of all streams (RFC 9113, 6.9.2).
func (c *Conn) setPeerWindow(v uint32) *Fault {
	if v > maxWindow {
		return errWindowSum
	}
	more := int64(v) - c.peerWindow
	c.peerWindow = int64(v)
	for s := c.oldest; s != nil; s = s.younger {
		if s.sendWin+more > maxWindow {
			return errWindowSum
		}
		c.widen(s, more)
	}
	return nil
}

// pinged reads PING (RFC 9113, 6.7).
func (c *Conn) pinged(flags byte, id uint32, p []byte) *Fault {
	if id != 0 {
		return errNotZero
	}
	if len(p) != 8 {
		return errFixedSize
	}
	if flags&flagAck == 0 {
		if f := c.budget.spend(1); f != nil {
			return f
		}
		c.write(append(appendFrame(c.buf[:0], 8, framePing, flagAck, 0), p...))
		return nil
	}
	if c.pings == 0 {
		return c.budget.spend(1)
	}
	c.pings--
	if string(p) == string(shutdownPing[:]) {
		c.Finish()
	}
	return nil
}

// goneAway reads GOAWAY (RFC 9113, 6.8).
func (c *Conn) goneAway(id uint32, p []byte) *Fault {
	if id != 0 {
		return errNotZero
	}
	if len(p) < 8 {
		return errFixedSize
	}
	if c.awayGot {
		if f := c.budget.spend(1); f != nil {
			return f
		}
	}
	c.awayGot = true
	last, code := binary.BigEndian.Uint32(p)&maxID, Code(binary.BigEndian.Uint32(p[4:]))
	c.h.GoAway(last, code)
	if c.role == Server {
		return nil
	}
	for c.youngest != nil && c.youngest.id > last {
		s := c.youngest
		s.Unprocessed = true
		s.state |= recvEnd | sendEnd
		c.drop(s, RefusedStream)
	}
	return nil
}

// windowUpdate reads WINDOW_UPDATE (RFC 9113, 6.9).
func (c *Conn) windowUpdate(id uint32, p []byte) *Fault {
	if len(p) != 4 {
		return errFixedSize
	}
	if f := c.budget.spend(1); f != nil {
		return f
	}
	step := int64(binary.BigEndian.Uint32(p) & maxWindow)
	if id == 0 {
		switch {
		case step == 0:
			return errWindowStep
		case c.sendWin+step > maxWindow:
			return errWindowSum
		}
		c.sendWin += step
		c.resume()
		return nil
	}
	if c.idle(id) {
		return errIdleStream
	}
	s := c.streams.find(id)
	switch {
	case s == nil:
		return nil
	case step == 0:
		return c.streamError(s, ProtocolError)
	case s.sendWin+step > maxWindow:
		return c.streamError(s, FlowControlError)
	}
	c.widen(s, step)
	c.resume()
	return nil
}
