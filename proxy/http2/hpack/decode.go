// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"redoubt.dev/proxy/message"
)

// Bad is why a block cannot be decoded. The tables no longer agree: the
// connection must end (RFC 9113, 4.3).
type Bad string

func (b Bad) Error() string { return string(b) }

// Made once: floods must not make garbage.
var (
	errShort   error = Bad("field block ends inside a field")
	errInteger error = Bad("integer too large")
	errIndex   error = Bad("index outside the tables")
	errString  error = Bad("malformed Huffman string")
	errUpdate  error = Bad("table size update out of place")
	errSize    error = Bad("table size above the limit")
	errUnsaid  error = Bad("table was shrunk and the block does not say so")
)

// Field is what Next found. The name and value are the last bytes of the
// arena, in that order.
type Field struct {
	Name, Value int // lengths
	info
	Never   bool // must not enter a table
	Skipped bool // beyond the limit: not in the arena
}

// Size is what a field counts for the limit of a list (RFC 9113, 6.5.2).
func (f *Field) Size() int { return f.Name + f.Value + overhead }

// Decoder decodes the blocks of one direction of a connection, in order.
type Decoder struct {
	t       table
	allowed uint32 // the most that the peer may set
	owing   bool   // the next block must lower the table's size
}

// Init makes d new. The peer may use the protocol's 4096 bytes until it
// acknowledges another size.
func (d *Decoder) Init() {
	*d = Decoder{t: table{ring: d.t.ring, buf: d.t.buf[:0]}, allowed: 4096}
	d.t.limit = 4096
}

// Allow sets how large a table the peer may have, once it has acknowledged
// that. When it is smaller than the table in use, the next block must say so
// (RFC 7541, 4.2).
func (d *Decoder) Allow(size uint32) {
	d.allowed = size
	d.owing = d.t.limit > size
}

// Begin reads the size updates at the start of a block and gives their length.
func (d *Decoder) Begin(b []byte) (n int, err error) {
	for updates := 0; n < len(b) && b[n]&0xe0 == 0x20; updates++ {
		if updates == 2 {
			return n, errUpdate
		}
		size, m, err := integer(b[n:], 5)
		if err != nil {
			return n, err
		}
		if size > d.allowed {
			return n, errSize
		}
		d.t.resize(size)
		d.owing = false
		n += m
	}
	if d.owing {
		return n, errUnsaid
	}
	return n, nil
}

// Next reads one field from the start of b, gives its length in b, and appends
// its name and value to dst, if its size is at most limit.
func (d *Decoder) Next(f *Field, b, dst []byte, limit int) (n int, out []byte, err error) {
	c := b[0]
	switch {
	case c&0x80 != 0:
		i, n, err := integer(b, 7)
		if err != nil {
			return 0, dst, err
		}
		out, err = d.indexed(f, i, dst, limit)
		return n, out, err
	case c&0x40 != 0:
		return d.literal(f, b, dst, limit, 6, true)
	case c&0x20 != 0:
		return 0, dst, errUpdate
	}
	n, out, err = d.literal(f, b, dst, limit, 4, false)
	f.Never = c&0x10 != 0
	return n, out, err
}

func (d *Decoder) indexed(f *Field, i uint32, dst []byte, limit int) ([]byte, error) {
	if i-1 < staticLen {
		e := &static[i]
		*f = Field{Name: len(e.name), Value: len(e.value), info: e.info}
		if f.Size() > limit {
			f.Skipped = true
			return dst, nil
		}
		return append(append(dst, e.name...), e.value...), nil
	}
	e := d.t.nth(i - staticLen - 1)
	if i == 0 || e == nil {
		return dst, errIndex
	}
	*f = Field{Name: int(e.name), Value: int(e.value), info: e.info}
	if f.Size() > limit {
		f.Skipped = true
		return dst, nil
	}
	from := e.at - d.t.base
	return append(dst, d.t.buf[from:from+e.name+e.value]...), nil
}

// literal reads a literal field (RFC 7541, 6.2). It is decoded into dst even
// when it is beyond the limit, since the table needs it; it is taken off
// again then. That is bounded by the block: it expands by 8/5 at most.
func (d *Decoder) literal(f *Field, b, dst []byte, limit int, prefix uint8, index bool) (n int, out []byte, err error) {
	from := len(dst)
	i, n, err := integer(b, prefix)
	if err != nil {
		return 0, dst, err
	}
	*f = Field{}
	switch {
	case i == 0:
		m := 0
		if dst, m, err = str(dst, b[n:]); err != nil {
			return 0, dst, err
		}
		n += m
		f.Name = len(dst) - from
		f.info = look(dst[from:])
	case i <= staticLen:
		dst = append(dst, static[i].name...)
		f.Name, f.info = len(static[i].name), static[i].info
	default:
		e := d.t.nth(i - staticLen - 1)
		if e == nil {
			return 0, dst, errIndex
		}
		name, _ := d.t.bytes(e)
		dst = append(dst, name...)
		f.Name, f.info = len(name), e.info
	}
	value := len(dst)
	dst, m, err := str(dst, b[n:])
	if err != nil {
		return 0, dst, err
	}
	n += m
	f.Value = len(dst) - value
	f.BadValue = !message.ValidValue(dst[value:])
	if index {
		d.t.insert(dst[from:value], dst[value:], f.info)
	}
	if f.Size() > limit {
		f.Skipped = true
		dst = dst[:from]
	}
	return n, dst, nil
}

// str reads a string (RFC 7541, 5.2).
func str(dst, b []byte) (out []byte, n int, err error) {
	if len(b) == 0 {
		return dst, 0, errShort
	}
	l, n, err := integer(b, 7)
	if err != nil {
		return dst, 0, err
	}
	if uint64(l) > uint64(len(b)-n) {
		return dst, 0, errShort
	}
	s := b[n : n+int(l)]
	n += int(l)
	if b[0]&0x80 == 0 {
		return append(dst, s...), n, nil
	}
	out, ok := appendDecoded(dst, s)
	if !ok {
		return out, 0, errString
	}
	return out, n, nil
}

// integer reads an integer of the given prefix (RFC 7541, 5.1); b is not
// empty. Four more bytes, 2^28, are beyond all that is allowed here.
func integer(b []byte, prefix uint8) (v uint32, n int, err error) {
	most := uint32(1)<<prefix - 1
	v = uint32(b[0]) & most
	if v < most {
		return v, 1, nil
	}
	for n = 1; n < len(b); n++ {
		if n > 4 {
			return 0, 0, errInteger
		}
		c := b[n]
		v += uint32(c&0x7f) << (7 * (n - 1))
		if c&0x80 == 0 {
			return v, n + 1, nil
		}
	}
	return 0, 0, errShort
}
