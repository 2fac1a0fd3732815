// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"encoding/binary"

	"redoubt.dev/proxy/message"
)

// errState is made once; the exported state says nothing that helps a person.
var errState error = Bad("exported table does not hold together")

// cut reads exported state. After the first fault it gives zeros.
type cut struct {
	b   []byte
	bad bool
}

func (c *cut) take(n uint32) []byte {
	if c.bad || uint64(n) > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	p := c.b[:n]
	c.b = c.b[n:]
	return p
}

func (c *cut) u32() uint32 {
	if p := c.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

func (c *cut) flag() bool {
	v := c.u32()
	c.bad = c.bad || v > 1
	return v == 1
}

func put(b []byte, v ...uint32) []byte {
	for _, v := range v {
		b = binary.BigEndian.AppendUint32(b, v)
	}
	return b
}

func bit(v bool) uint32 {
	if v {
		return 1
	}
	return 0
}

func (t *table) export(b []byte) []byte {
	b = put(b, t.limit, t.n)
	for i := t.n; i > 0; i-- {
		e := t.get(t.last - i + 1)
		name, value := t.bytes(e)
		b = append(append(put(b, e.name, e.value), name...), value...)
	}
	return b
}

func (t *table) restore(c *cut, most uint32) {
	*t = table{}
	limit, n := c.u32(), c.u32()
	c.bad = c.bad || limit > most || n > limit/overhead
	t.limit = limit
	for range n {
		nl, vl := c.u32(), c.u32()
		name := c.take(nl)
		value := c.take(vl)
		if c.bad || uint64(nl)+uint64(vl)+overhead > uint64(limit-t.size) {
			c.bad = true
			return
		}
		in := look(name)
		in.BadValue = !message.ValidValue(value)
		t.insert(name, value, in)
	}
}

// Export appends d's state to b.
func (d *Decoder) Export(b []byte) []byte {
	return d.t.export(put(b, d.allowed, bit(d.owing)))
}

// Import makes d what Export wrote at the start of b and gives the rest. most
// bounds the table.
func (d *Decoder) Import(b []byte, most uint32) (rest []byte, err error) {
	c := cut{b: b}
	*d = Decoder{allowed: c.u32(), owing: c.flag()}
	d.t.restore(&c, max(most, 4096))
	if c.bad || d.allowed > max(most, 4096) || d.owing != (d.t.limit > d.allowed) {
		return nil, errState
	}
	return c.b, nil
}

// Export appends e's state to b.
func (e *Encoder) Export(b []byte) []byte {
	b = put(b, e.most, e.lowest, bit(e.change))
	b = put(b, e.seen[:]...)
	return e.t.export(b)
}

// Import makes e what Export wrote at the start of b and gives the rest. most
// bounds the table.
func (e *Encoder) Import(b []byte, most uint32) (rest []byte, err error) {
	c := cut{b: b}
	*e = Encoder{most: c.u32(), lowest: c.u32(), change: c.flag()}
	for i := range e.seen {
		e.seen[i] = c.u32()
	}
	e.t.restore(&c, max(most, 4096))
	if c.bad || e.most > max(most, 4096) || e.t.limit > max(e.most, 4096) || e.change && e.lowest > e.t.limit {
		return nil, errState
	}
	if len(e.t.ring) > 0 {
		e.rebuild()
	}
	return c.b, nil
}
