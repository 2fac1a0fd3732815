// SPDX-License-Identifier: Apache-2.0

package http2

// quantum is what a stream may send per turn when others wait too.
const quantum = 16 << 10

// line is a queue of streams that WriteData left short and that have window of
// their own; they wait for the connection's window or for room.
type line struct{ head, tail *Stream }

// Consumed gives window back for n bytes that Body delivered and did not
// report as consumed. For a stream that is over it does nothing.
func (c *Conn) Consumed(s *Stream, n int) {
	if s.c != c || c.fault != nil {
		return
	}
	k := min(int64(n), s.owed)
	if k <= 0 {
		return
	}
	s.owed -= k
	c.give(s, k)
}

// give returns window of a stream and of the connection.
func (c *Conn) give(s *Stream, n int64) {
	if s.state&recvEnd == 0 {
		s.credit += n
		if s.credit >= (int64(c.o.StreamWindow)+1)/2 {
			s.recvWin += s.credit
			c.write(appendWindow(c.buf[:0], s.id, s.credit))
			s.credit = 0
		}
	}
	c.giveConn(n)
}

func (c *Conn) giveConn(n int64) {
	c.credit += n
	if c.credit >= int64(c.o.ConnWindow)/2 {
		c.recvWin += c.credit
		c.write(appendWindow(c.buf[:0], 0, c.credit))
		c.credit = 0
	}
}

// short notes that s has more to send.
func (c *Conn) short(s *Stream) {
	s.state |= wantsRoom
	if s.sendWin > 0 {
		c.queue(s)
	}
}

// queue puts s in its line. A stream that is not incremental keeps its turn
// until it is done (RFC 9218, 4.2).
func (c *Conn) queue(s *Stream) {
	if s.line != 0 {
		return
	}
	l := &c.waiting[s.Urgency&7]
	s.line = s.Urgency&7 + 1
	switch {
	case l.head == nil:
		l.head, l.tail = s, s
	case c.resuming && !s.Incremental:
		s.next, l.head.prev, l.head = l.head, s, s
	default:
		s.prev, l.tail.next, l.tail = l.tail, s, s
	}
}

func (c *Conn) unqueue(s *Stream) {
	if s.line == 0 {
		return
	}
	l := &c.waiting[s.line-1]
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		l.head = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	} else {
		l.tail = s.prev
	}
	s.prev, s.next, s.line = nil, nil, 0
}

func (c *Conn) first() *Stream {
	for i := range c.waiting {
		if s := c.waiting[i].head; s != nil {
			return s
		}
	}
	return nil
}

// resume lets those that wait go on, most urgent first, in turns. Each turn
// sends something or leaves the line, so that it ends.
func (c *Conn) resume() {
	if c.resuming {
		return
	}
	c.resuming = true
	for c.sendWin > 0 && c.room > 0 && c.fault == nil {
		s := c.first()
		if s == nil {
			break
		}
		c.unqueue(s)
		s.state &^= wantsRoom
		c.h.Window(s)
	}
	c.resuming = false
}

// widen changes a stream's send window.
func (c *Conn) widen(s *Stream, n int64) {
	s.sendWin += n
	switch {
	case s.sendWin <= 0:
		c.unqueue(s)
	case s.state&wantsRoom != 0:
		c.queue(s)
	}
}

// Full tells that WriteData has used up what Writable gave. No frame of the
// peer may be due that would have the owner call it again: once its transport
// has drained, the owner must do so by itself.
func (c *Conn) Full() bool { return c.room == 0 }

// Writable bounds WriteData to room bytes, over all streams, until it is
// called again, and lets those that wait go on. Without any call there is no
// bound; an owner calls it whenever its transport has drained.
func (c *Conn) Writable(room int) {
	c.room = int64(max(0, room))
	c.resume()
}
