// SPDX-License-Identifier: Apache-2.0

package engine

// Buffer classes. The slack over the round number holds one TLS record's
// header, tag and padding per 16 KiB, so that a full record of plaintext
// never forces the next class.
var classes = [...]int{4 << 10, 17 << 10, 68 << 10, 272 << 10}

// keep bounds how many buffers of each class a loop retains: 16 MiB, 8 MiB,
// 8 MiB, 8 MiB. More than that goes to the collector.
var keep = [...]int{4096, 512, 128, 32}

// pool is a loop's own stock of buffers. Last in, first out: the next
// connection meets warm memory.
type pool struct{ free [len(classes)][][]byte }

func classOf(n int) int {
	for i, c := range classes {
		if n <= c {
			return i
		}
	}
	return -1
}

func (p *pool) get(n int) []byte {
	k := classOf(n)
	if k < 0 {
		return make([]byte, n) // only by a caller that bounded n itself
	}
	if s := p.free[k]; len(s) > 0 {
		b := s[len(s)-1]
		p.free[k] = s[:len(s)-1]
		return b
	}
	return make([]byte, classes[k])
}

func (p *pool) put(b []byte) {
	k := classOf(len(b))
	if k < 0 || len(b) != classes[k] || len(p.free[k]) >= keep[k] {
		return
	}
	p.free[k] = append(p.free[k], b)
}

// buffer is a window [r, w) of pooled memory; it holds none while empty.
type buffer struct {
	b    []byte
	r, w int
}

func (b *buffer) len() int      { return b.w - b.r }
func (b *buffer) bytes() []byte { return b.b[b.r:b.w] }
func (b *buffer) free() []byte  { return b.b[b.w:] }

// room makes at least n bytes free behind w, by moving or growing.
func (b *buffer) room(p *pool, n int) {
	if len(b.b)-b.w >= n {
		return
	}
	have := b.len()
	if b.b != nil && len(b.b)-have >= n {
		copy(b.b, b.b[b.r:b.w])
		b.r, b.w = 0, have
		return
	}
	want := have + n
	if classOf(want) < 0 {
		want += have / 2 // each step copies all: steps of one size would cost the square of them
	}
	nb := p.get(want)
	copy(nb, b.bytes())
	if b.b != nil {
		p.put(b.b)
	}
	b.b, b.r, b.w = nb, 0, have
}

func (b *buffer) discard(p *pool, n int) {
	b.r += n
	if b.r == b.w {
		b.release(p)
	}
}

func (b *buffer) release(p *pool) {
	if b.b != nil {
		p.put(b.b)
	}
	*b = buffer{}
}
