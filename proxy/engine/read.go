// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// StartTLS puts rec between the wire and the handler. rest is ciphertext that
// was read already; unread bytes are taken as following it.
func (c *Conn) StartTLS(rec Records, rest []byte) {
	tail := c.in
	c.in = buffer{}
	c.rec = rec
	if n := len(rest) + tail.len(); n > 0 {
		c.raw.room(&c.l.bufs, n)
		c.raw.w += copy(c.raw.free(), rest)
		c.raw.w += copy(c.raw.free(), tail.bytes())
	}
	tail.release(&c.l.bufs)
}

// Bytes are the unread bytes, valid until the next call of Fill or Discard.
func (c *Conn) Bytes() []byte { return c.in.bytes() }

// Discard consumes n bytes.
func (c *Conn) Discard(n int) { c.in.discard(&c.l.bufs, n) }

// Fill reads once, unless limit bytes are unread already, and reports
// whether anything became of it: bytes, the end, or a failure. After false
// the handler will be called when there is more.
func (c *Conn) Fill(limit int) bool {
	if c.connecting || c.fd < 0 || c.eof || c.err != nil || c.in.len() >= limit {
		return false
	}
	if c.rec != nil {
		return c.fillSecure(limit)
	}
	if !c.readable {
		return false
	}
	if c.in.b == nil {
		c.in.b = c.l.bufs.get(min(classes[c.class], limit))
	}
	if len(c.in.free()) == 0 {
		c.in.room(&c.l.bufs, min(limit-c.in.len(), max(c.in.len(), classes[0])))
	}
	free := c.in.free()
	n := c.read(free)
	if n > 0 {
		c.in.w += n
		c.adapt(n, len(free))
		return true
	}
	if c.in.len() == 0 {
		c.in.release(&c.l.bufs)
	}
	return c.eof || c.err != nil
}

// adapt lets bulk traffic have larger buffers: a read of 64 KiB costs half of
// four of 16 KiB.
func (c *Conn) adapt(n, free int) {
	if n == free && c.class < len(classes)-1 {
		c.class++
	} else if c.class > 0 && n < classes[c.class-1]/2 {
		c.class--
	}
}

// read reads into p and keeps the edge-triggered state. 0 means nothing now,
// the end, or a failure.
func (c *Conn) read(p []byte) int {
	for {
		n, e := sys.Recv(c.fd, p)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			c.readable = false
			return 0
		case e != 0:
			c.fail("read", e)
			return 0
		case n == 0:
			c.ended()
			return 0
		}
		// A short read emptied the socket; more will raise a new edge. Not so
		// when the end was signalled already: it raises none again.
		if n < len(p) && !c.peerShut {
			c.readable = false
		}
		return n
	}
}

// ended takes in that reading gave nothing more.
func (c *Conn) ended() {
	c.readable = false
	// A reset that a write was told of makes reads end too. It is EPIPE when
	// the peer's FIN had come before it.
	c.fin = c.werr == nil || errors.Is(c.werr, unix.EPIPE)
	switch {
	case c.werr != nil:
		c.err = c.werr // the reset was told to the writer; this is no proper end
	case c.rec != nil:
		c.err = ErrTruncated
	default:
		c.eof = true
	}
}

func (c *Conn) fillSecure(limit int) bool {
	for {
		if c.raw.len() > 0 {
			n, got := c.openRecords(c.raw.bytes(), limit)
			c.raw.discard(&c.l.bufs, n)
			if got {
				return true
			}
		}
		if !c.readable || c.in.len() >= limit {
			return false
		}
		want := min(max(limit-c.in.len(), MaxCipher+HeaderLen), len(c.l.scratch))
		if c.raw.len() == 0 {
			b := c.l.scratch[:min(want, max(classes[c.class], classes[1]))]
			n := c.read(b)
			if n == 0 {
				return c.err != nil
			}
			c.adapt(n, len(b))
			used, got := c.openRecords(b[:n], limit)
			if used < n {
				c.raw.room(&c.l.bufs, max(n-used, recordLen(b[used:n])))
				c.raw.w += copy(c.raw.free(), b[used:n])
			}
			if got {
				return true
			}
			continue
		}
		c.raw.room(&c.l.bufs, max(classes[0], recordLen(c.raw.bytes())-c.raw.len()))
		n := c.read(c.raw.free())
		if n == 0 {
			return c.err != nil
		}
		c.raw.w += n
	}
}

// recordLen is the length of the record at the start of b as far as its
// header is known.
func recordLen(b []byte) int {
	if len(b) < HeaderLen {
		return HeaderLen
	}
	return HeaderLen + min(int(b[3])<<8|int(b[4]), MaxCipher)
}

// openRecords opens the whole records at the start of src that in may take.
// It gives the bytes used and whether the handler has something to look at.
func (c *Conn) openRecords(src []byte, limit int) (used int, got bool) {
	for len(src)-used >= HeaderLen && c.in.len() < limit {
		rec := src[used:]
		n := int(rec[3])<<8 | int(rec[4])
		if n > MaxCipher {
			c.err = fmt.Errorf("record of %d bytes", n) // RFC 8446, 5.2: record_overflow
			return len(src), true
		}
		if len(rec) < HeaderLen+n {
			break
		}
		c.in.room(&c.l.bufs, n)
		out, kind, err := c.rec.Open(c.in.b[:c.in.w], rec[:HeaderLen+n])
		used += HeaderLen + n
		if err != nil {
			c.err = fmt.Errorf("open record: %w", err)
			return len(src), true
		}
		switch kind {
		case Data:
			got = got || len(out) > c.in.w
			c.in.w = len(out)
		case Control:
			c.say(c.rec.Pending)
			if c.out.len() > 2*OutHigh { // a peer that asks for key updates and never reads
				c.err = errFlood
				return len(src), true
			}
		case Closed:
			c.eof = true
			c.peerShut = true
			return len(src), true // RFC 8446, 6.1: what follows is ignored
		}
	}
	if c.in.len() == 0 {
		c.in.release(&c.l.bufs)
	}
	return used, got
}
