// SPDX-License-Identifier: Apache-2.0

package hpack

// overhead is what an entry counts beside its bytes (RFC 7541, 4.1).
const overhead = 32

// entry is a field of the dynamic table. Its bytes are the arena's, name and
// value in a row.
type entry struct {
	at          uint32 // position since the connection began, wrapping
	name, value uint32 // lengths
	info
	// The encoder's chains, by insertion number: the entry before with the
	// same bucket.
	sameField, sameName uint32
}

// table is a dynamic table: a ring of entries, and an arena that entries are
// appended to and that is moved to its start when its end is met.
type table struct {
	ring  []entry // a power of two
	buf   []byte
	base  uint32 // position of buf[0]
	last  uint32 // insertion number of the newest entry, wrapping
	n     uint32 // entries
	size  uint32
	limit uint32
}

func (t *table) get(number uint32) *entry { return &t.ring[number&uint32(len(t.ring)-1)] }

// nth gives the entry that is n insertions old.
func (t *table) nth(n uint32) *entry {
	if n >= t.n {
		return nil
	}
	return t.get(t.last - n)
}

func (t *table) bytes(e *entry) (name, value []byte) {
	from := e.at - t.base
	return t.buf[from : from+e.name], t.buf[from+e.name : from+e.name+e.value]
}

func (t *table) resize(limit uint32) {
	t.limit = limit
	t.evict(limit)
	if limit == 0 {
		t.ring, t.buf = nil, nil
	}
}

func (t *table) evict(most uint32) {
	for t.size > most {
		e := t.get(t.last - t.n + 1)
		t.size -= e.name + e.value + overhead
		t.n--
	}
}

// insert adds an entry, which may be too large to stay. name and value are
// not of this table's arena.
func (t *table) insert(name, value []byte, in info) *entry {
	need := uint64(len(name)) + uint64(len(value)) + overhead
	if need > uint64(t.limit) {
		t.evict(0)
		return nil
	}
	t.evict(t.limit - uint32(need))
	if int(t.n) == len(t.ring) {
		t.grow()
	}
	t.room(len(name) + len(value))
	at := t.base + uint32(len(t.buf))
	t.buf = append(append(t.buf, name...), value...)
	t.last++
	t.n++
	t.size += uint32(need)
	e := t.get(t.last)
	*e = entry{at: at, name: uint32(len(name)), value: uint32(len(value)), info: in}
	return e
}

func (t *table) grow() {
	ring := make([]entry, max(8, 2*len(t.ring)))
	for i := range t.n {
		number := t.last - i
		ring[number&uint32(len(ring)-1)] = *t.get(number)
	}
	t.ring = ring
}

// room makes place for n bytes at the arena's end. Live bytes are at most
// limit, so that with twice as much memory each byte is moved once at most.
func (t *table) room(n int) {
	if len(t.buf)+n <= cap(t.buf) {
		return
	}
	live := t.buf[len(t.buf):]
	if t.n > 0 {
		live = t.buf[t.get(t.last-t.n+1).at-t.base:]
	}
	moved := uint32(len(t.buf) - len(live))
	to := t.buf[:0]
	if 2*(len(live)+n) > cap(t.buf) {
		to = make([]byte, 0, max(256, min(2*int(t.limit), 4*(len(live)+n))))
	}
	t.buf = append(to, live...)
	t.base += moved
}
