// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http2"
)

// h2body is what has come of a body on an HTTP/2 stream. A run is passed on
// straight from the connection's buffer when the other side takes it; what it
// does not take is kept, at most the stream's window.
type h2body struct {
	b     []byte // kept
	off   int
	cur   []byte // the run that is arriving; only within arrive
	used  int    // of it
	last  bool   // nothing follows
	inRun bool
}

// arrive takes a run, has x pass on what it can, and gives how much that was.
func (d *h2body) arrive(x *Stream, p []byte, end bool) int {
	d.last = d.last || end
	if d.off < len(d.b) || len(p) == 0 {
		d.b = after(d.b, &d.off, p)
		x.pump()
		return 0
	}
	d.cur, d.used, d.inRun = p, 0, true
	gen := x.gen
	x.pump()
	if x.gen != gen { // the exchange ended: nobody wants the rest
		return len(p)
	}
	used := d.used
	d.b = append(d.b[:0], p[used:]...)
	d.off = 0
	d.cur, d.inRun = nil, false
	return used
}

// after appends p to what of b is unread from off on. What was read goes
// first: one who is always a little behind would make b as long as the body.
func after(b []byte, off *int, p []byte) []byte {
	if *off > 0 && len(b)+len(p) > cap(b) {
		b = b[:copy(b, b[*off:])]
		*off = 0
	}
	return append(b, p...)
}

func (d *h2body) peek(trailers bool) (p []byte, last bool) {
	if d.inRun {
		p = d.cur[d.used:]
	} else {
		p = d.b[d.off:]
	}
	if len(p) == 0 {
		return nil, d.last
	}
	return p, d.last && !trailers
}

// consume tells whether the window is given back by who calls: within arrive
// the codec does it.
func (d *h2body) consume(n int) bool {
	if d.inRun {
		d.used += n
		return false
	}
	d.off += n
	if d.off == len(d.b) {
		d.b, d.off = d.b[:0], 0
		if cap(d.b) > largeArena {
			d.b = nil
		}
	}
	return true
}

func (d *h2body) reset() {
	b := d.b[:0]
	if cap(b) > largeArena {
		b = nil
	}
	*d = h2body{b: b}
}

// feed gives the codec what has arrived.
func feed(c *engine.Conn, h *http2.Conn) error {
	for spent := 0; spent < turnBytes; {
		if c.Room() == 0 {
			return nil // a peer that does not read gets no more answers to hold
		}
		if b := c.Bytes(); len(b) > 0 {
			n, err := h.Feed(b)
			c.Discard(n)
			spent += n
			if err != nil {
				return err
			}
		}
		if !c.Fill(frameAhead) {
			return nil
		}
	}
	c.Again()
	return nil
}

// frameAhead is what is read of frames at once: the largest that is taken, its
// header, and some.
const frameAhead = 64 << 10

// write sends a part of a body. Frames go into memory until the turn's end, so
// that what was full may have drained without an event to tell: the connection
// is looked at again then.
func write(c *engine.Conn, h *http2.Conn, s *http2.Stream, p []byte, last bool) int {
	n := h.WriteData(s, p, last)
	if n < len(p) && h.Full() {
		c.Again()
	}
	return n
}
