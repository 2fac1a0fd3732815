// SPDX-License-Identifier: Apache-2.0

package hpack

import "redoubt.dev/proxy/message"

// Policy says how a field meets the dynamic table.
type Policy uint8

// The policies.
const (
	// Learn indexes a field when it comes a second time, so that what differs
	// from request to request does not push out what repeats.
	Learn Policy = iota
	// Index enters the field at once.
	Index
	// Plain leaves the table alone.
	Plain
	// Never leaves the table alone and forbids it to everybody after us (RFC
	// 7541, 7.1.3).
	Never
)

// Encoder encodes the blocks of one direction of a connection, in order.
type Encoder struct {
	t      table
	most   uint32 // that we would use
	lowest uint32 // that the table had to be since the last block
	change bool   // the next block must say the size

	// Buckets of insertion numbers. One that is older than the table is an
	// empty bucket, so that nothing is done when entries leave.
	fields, names []uint32
	seen          [64]uint32 // hashes that Learn met once
	lower         []byte
}

// probes bounds the walk along a chain, whatever values an attacker makes
// collide; what is not found is sent in full.
const probes = 8

// Init makes e new. It will use at most size bytes of the peer's table.
func (e *Encoder) Init(size uint32) {
	*e = Encoder{
		t:    table{ring: e.t.ring, buf: e.t.buf[:0], limit: min(size, 4096)},
		most: size, fields: e.fields, names: e.names, lower: e.lower[:0],
	}
	clear(e.fields)
	clear(e.names)
	if e.t.limit < 4096 {
		e.change, e.lowest = true, e.t.limit
	}
}

// Allow tells what table the peer's settings allow.
func (e *Encoder) Allow(size uint32) {
	size = min(size, e.most)
	if size == e.t.limit {
		return
	}
	if !e.change {
		e.lowest = size
	}
	e.change = true
	e.lowest = min(e.lowest, size)
	e.t.resize(size)
}

// Begin opens a block: size updates that are due (RFC 7541, 4.2).
func (e *Encoder) Begin(dst []byte) []byte {
	if !e.change {
		return dst
	}
	if e.lowest < e.t.limit {
		dst = appendInteger(dst, 0x20, 5, e.lowest)
	}
	e.change = false
	return appendInteger(dst, 0x20, 5, e.t.limit)
}

// Append encodes a field. The name may be in any case and leaves in lower
// case.
func (e *Encoder) Append(dst, name, value []byte, p Policy) []byte {
	name = e.lowered(name)
	nh := hash(name, 0)
	index, whole := findStatic(name, value, nh)
	if whole > 0 && p != Never {
		return append(dst, 0x80|byte(whole))
	}
	return e.append(dst, name, value, nh, index, p)
}

// AppendStatic encodes a field whose name is the static table's: one of the
// Name constants.
func (e *Encoder) AppendStatic(dst []byte, name int, value []byte, p Policy) []byte {
	if p != Never {
		if i := staticValue(name, value); i > 0 {
			return append(dst, 0x80|byte(i))
		}
	}
	return e.append(dst, static[name].name, value, staticHash[name], name, p)
}

// append encodes what the static table does not hold; index is its entry for
// the name, or 0.
func (e *Encoder) append(dst, name, value []byte, nh uint64, index int, p Policy) []byte {
	if p >= Plain {
		if index == 0 {
			index = e.findName(name, nh)
		}
		first := byte(0)
		if p == Never {
			first = 0x10
		}
		return literal(dst, first, 4, index, name, value)
	}
	fh := hash(value, nh)
	if i := e.findField(name, value, fh); i > 0 {
		return appendInteger(dst, 0x80, 7, uint32(i))
	}
	if index == 0 {
		index = e.findName(name, nh)
	}
	// An entry that would push out more than a quarter of the table is worth
	// less than what it pushes out.
	if p == Learn && !e.again(fh) || uint32(len(name)+len(value)+overhead) > e.t.limit/4 {
		return literal(dst, 0, 4, index, name, value)
	}
	dst = literal(dst, 0x40, 6, index, name, value)
	e.insert(name, value, nh, fh)
	return dst
}

func (e *Encoder) lowered(name []byte) []byte {
	if !hasUpper(name) {
		return name
	}
	e.lower = append(e.lower[:0], name...)
	for i, c := range e.lower {
		e.lower[i] = message.Lower(c)
	}
	return e.lower
}

// again tells whether a field of that hash came not long ago.
func (e *Encoder) again(h uint64) bool {
	at, v := &e.seen[h>>58], uint32(h)|1
	if *at == v {
		*at = 0
		return true
	}
	*at = v
	return false
}

func (e *Encoder) insert(name, value []byte, nh, fh uint64) {
	en := e.t.insert(name, value, info{})
	if en == nil {
		return
	}
	if len(e.fields) < len(e.t.ring) {
		e.rebuild()
		return
	}
	e.link(en, e.t.last, nh, fh)
}

func (e *Encoder) link(en *entry, number uint32, nh, fh uint64) {
	mask := uint64(len(e.fields) - 1)
	en.sameField, e.fields[fh&mask] = e.fields[fh&mask], number
	en.sameName, e.names[nh&mask] = e.names[nh&mask], number
}

// rebuild makes buckets for the ring's size.
func (e *Encoder) rebuild() {
	e.fields, e.names = make([]uint32, len(e.t.ring)), make([]uint32, len(e.t.ring))
	for i := e.t.n; i > 0; i-- {
		number := e.t.last - i + 1
		en := e.t.get(number)
		name, value := e.t.bytes(en)
		nh := hash(name, 0)
		e.link(en, number, nh, hash(value, nh))
	}
}

// findField and findName give an index of the whole address space; 0: none.
func (e *Encoder) findField(name, value []byte, fh uint64) int {
	if len(e.fields) == 0 {
		return 0
	}
	number := e.fields[fh&uint64(len(e.fields)-1)]
	for range probes {
		age := e.t.last - number
		if age >= e.t.n {
			return 0
		}
		en := e.t.get(number)
		if n, v := e.t.bytes(en); string(v) == string(value) && string(n) == string(name) {
			return staticLen + 1 + int(age)
		}
		number = en.sameField
	}
	return 0
}

func (e *Encoder) findName(name []byte, nh uint64) int {
	if len(e.names) == 0 {
		return 0
	}
	number := e.names[nh&uint64(len(e.names)-1)]
	for range probes {
		age := e.t.last - number
		if age >= e.t.n {
			return 0
		}
		en := e.t.get(number)
		if n, _ := e.t.bytes(en); string(n) == string(name) {
			return staticLen + 1 + int(age)
		}
		number = en.sameName
	}
	return 0
}

func literal(dst []byte, first byte, prefix uint8, index int, name, value []byte) []byte {
	dst = appendInteger(dst, first, prefix, uint32(index))
	if index == 0 {
		dst = appendString(dst, name)
	}
	return appendString(dst, value)
}

func appendString(dst, s []byte) []byte {
	if n := encodedLen(s); n < len(s) {
		return appendEncoded(appendInteger(dst, 0x80, 7, uint32(n)), s)
	}
	return append(appendInteger(dst, 0, 7, uint32(len(s))), s...)
}

func appendInteger(dst []byte, first byte, prefix uint8, v uint32) []byte {
	most := uint32(1)<<prefix - 1
	if v < most {
		return append(dst, first|byte(v))
	}
	dst = append(dst, first|byte(most))
	for v -= most; v >= 0x80; v >>= 7 {
		dst = append(dst, byte(v)|0x80)
	}
	return append(dst, byte(v))
}
