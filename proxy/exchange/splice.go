// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
)

// bulk is what must be left of a body, and have been moved of it, for it to
// bypass user space.
const bulk = 256 << 10

// bulkSource is what a source adds whose body can bypass user space.
type bulkSource interface {
	// bulk gives the connection and how many bytes of the body are still to
	// come from it, none of which is in a buffer; nil when it cannot.
	bulk() (c *engine.Conn, left int64)
	// took says that n of them have left the connection.
	took(n int64)
}

// bulkSink is what a sink adds that takes a body as it is.
type bulkSink interface{ plain() *engine.Conn }

// way is one direction's passage inside the kernel.
type way struct {
	moved int
	pipe  *engine.Pipe
}

func (y *way) release() {
	if y.pipe != nil {
		y.pipe.Release()
		y.pipe = nil
	}
}

// splice moves a part of a large body by a pipe. ok is false when the body
// must go through memory.
func (y *way) splice(src source, dst sink) (n int, done, ok bool) {
	s, ok1 := src.(bulkSource)
	d, ok2 := dst.(bulkSink)
	if !ok1 || !ok2 {
		y.moved = 0
		return 0, false, false
	}
	from, left := s.bulk()
	to := d.plain()
	if y.pipe == nil && (from == nil || to == nil || left < bulk || !engine.Spliceable(to, from)) {
		return 0, false, false
	}
	if to == nil {
		return 0, false, false
	}
	if y.pipe == nil {
		if y.pipe = to.Loop().Pipe(); y.pipe == nil {
			y.moved = 0
			return 0, false, false
		}
	}
	if from == nil { // its end is in the pipe already
		left = 0
	}
	in, out := y.pipe.Move(to, from, int(min(left, 4<<20)))
	if in > 0 {
		s.took(int64(in))
	}
	left -= int64(in)
	if y.pipe.Held() > 0 {
		return max(in, out), false, true
	}
	y.release()
	if in+out == 0 {
		return 0, false, false // let an end or a failure show
	}
	return max(in, out), left == 0, true
}

func (b *h1source) bulkOf(c *engine.Conn) (*engine.Conn, int64) {
	if b.raw || b.data > 0 || b.body.Kind() != http1.Sized {
		return nil, 0
	}
	return c, b.body.Left()
}

func (h *h1server) bulk() (*engine.Conn, int64) { return h.src.bulkOf(h.c) }
func (h *h1server) took(n int64)                { h.src.body.Skip(n) }

func (h *h1server) plain() *engine.Conn {
	if h.dst.chunked || h.dst.closes {
		return nil
	}
	return h.c
}

func (u *h1client) bulk() (*engine.Conn, int64) { return u.src.bulkOf(u.c) }
func (u *h1client) took(n int64)                { u.src.body.Skip(n) }

func (u *h1client) plain() *engine.Conn {
	if u.dst.chunked || u.dst.closes {
		return nil
	}
	return u.c
}
