// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// say appends records of the record layer's own.
func (c *Conn) say(f func([]byte) []byte) {
	c.closeRecord()
	c.out.room(&c.l.bufs, 256)
	b := f(c.out.b[:c.out.w])
	if len(b) > c.out.w {
		c.out.w = len(b)
		c.mark()
	}
}

// Send takes as many bytes of p as there is room for and gives their number.
// When it is less than len(p), the handler will be called when there is room
// again.
func (c *Conn) Send(p []byte) int {
	if c.fd < 0 || c.shut || c.Broken() || len(p) == 0 {
		return 0
	}
	if c.rec != nil {
		return c.sendSecure(p)
	}
	n := 0
	if len(p) >= direct {
		if c.out.len() > 0 && !c.flush() {
			return 0
		}
		n = c.write(p)
		if n == len(p) || c.Broken() || !c.writable {
			return n
		}
		p = p[n:]
	}
	if room := OutHigh - c.out.len(); room < len(p) {
		if !c.flush() {
			p = p[:max(0, min(len(p), OutHigh-c.out.len()))]
		}
	}
	c.put(p)
	return n + len(p)
}

// Append takes all of p, however much waits already: for heads and frames,
// whose size the caller bounds.
func (c *Conn) Append(p []byte) {
	if c.fd < 0 || c.shut || c.Broken() || len(p) == 0 {
		return
	}
	if c.rec != nil {
		c.sealAll(p)
		return
	}
	c.put(p)
}

// Room is how many bytes Append may be given without exceeding OutHigh. When
// it is small, the handler will be called when there is more.
func (c *Conn) Room() int {
	if c.out.len() > OutHigh/2 {
		c.flush()
	}
	return max(0, OutHigh-c.out.len())
}

// Blocked tells that the peer takes nothing at the moment.
func (c *Conn) Blocked() bool { return !c.writable }

// Idle tells that nothing waits to be written.
func (c *Conn) Idle() bool { return c.out.len() == 0 }

func (c *Conn) put(p []byte) {
	if len(p) == 0 {
		return
	}
	c.out.room(&c.l.bufs, len(p))
	c.out.w += copy(c.out.free(), p)
	c.mark()
}

func (c *Conn) sendSecure(p []byte) int {
	total := len(p)
	for len(p) > 0 {
		if c.out.len() >= OutHigh && !c.flush() {
			break
		}
		n := min(len(p), max(MaxPlain, OutHigh-c.out.len()))
		c.sealAll(p[:n])
		p = p[n:]
	}
	return total - len(p)
}

// sealAll seals whole records straight from p and leaves the rest in an open
// record, where what follows in this turn may join it: fewer records, fewer
// tags, one write.
func (c *Conn) sealAll(p []byte) {
	for len(p) > 0 {
		if c.open < 0 && len(p) >= MaxPlain {
			c.out.room(&c.l.bufs, MaxPlain+maxOverhead)
			c.out.w = len(c.rec.Seal(c.out.b[:c.out.w], p[:MaxPlain]))
			p = p[MaxPlain:]
			continue
		}
		if c.open < 0 {
			c.out.room(&c.l.bufs, min(len(p), MaxPlain)+maxOverhead)
			c.open = c.out.w - c.out.r
			c.out.w += HeaderLen
		}
		have := c.out.len() - c.open - HeaderLen
		n := min(len(p), MaxPlain-have)
		c.out.room(&c.l.bufs, n+maxOverhead)
		c.out.w += copy(c.out.free(), p[:n])
		p = p[n:]
		if have+n == MaxPlain {
			c.closeRecord()
		}
	}
	c.mark()
}

// closeRecord seals the open record. open counts from out.r, since room may
// move the bytes.
func (c *Conn) closeRecord() {
	if c.open < 0 {
		return
	}
	off := c.open
	c.open = -1
	c.out.room(&c.l.bufs, maxOverhead)
	c.out.w = len(c.rec.SealInPlace(c.out.b[:c.out.w], c.out.r+off))
}

func (c *Conn) mark() {
	if !c.dirty {
		c.dirty = true
		c.l.dirty = append(c.l.dirty, c)
	}
}

// flush writes what waits; true when nothing waits any more.
func (c *Conn) flush() bool {
	if c.open >= 0 {
		c.closeRecord()
	}
	for c.out.len() > 0 && !c.Broken() {
		if !c.writable {
			return false
		}
		n := c.write(c.out.bytes())
		c.out.discard(&c.l.bufs, n)
	}
	if c.Broken() {
		c.out.release(&c.l.bufs)
		return false
	}
	if c.shut && !c.shutDone && !c.connecting {
		c.shutDone = true
		unix.Shutdown(c.fd, unix.SHUT_WR)
	}
	return true
}

func (c *Conn) write(p []byte) int {
	if !c.writable {
		return 0
	}
	for {
		n, e := sys.Send(c.fd, p)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			c.writable = false
			c.l.poll.blocked(c.w)
			return 0
		case e != 0:
			c.failWrite(e)
			return 0
		}
		c.sent += uint64(n)
		return n
	}
}

// failWrite takes in that nothing can be sent any more. What the peer sent
// before can still be read.
func (c *Conn) failWrite(e unix.Errno) {
	c.werr = fmt.Errorf("write: %w", e)
	c.readable = true
	c.Again()
}
