// SPDX-License-Identifier: Apache-2.0

// Package wire writes and reads the state of connections, for another process
// to go on with it: big endian numbers, bytes with their length, nothing that
// can be written in two ways.
//
// Invariants:
//   - a Reader never allocates more than it was given bytes
//   - after the first fault a Reader gives zeros, and Err tells the fault: who
//     reads checks once, at the end
//   - what is left over at the end is a fault too (Done)
//
// Begin at Writer, then Reader.
package wire

import (
	"encoding/binary"
	"net/netip"
	"time"

	"redoubt.dev/api/errs"
)

// Writer appends values. The zero Writer is empty and ready.
type Writer struct{ B []byte }

// U8 writes a number of 8 bits.
func (w *Writer) U8(v uint8) { w.B = append(w.B, v) }

// Bool writes a flag.
func (w *Writer) Bool(v bool) {
	b := byte(0)
	if v {
		b = 1
	}
	w.B = append(w.B, b)
}

// U32 writes a number of 32 bits.
func (w *Writer) U32(v uint32) { w.B = binary.BigEndian.AppendUint32(w.B, v) }

// U64 writes a number of 64 bits.
func (w *Writer) U64(v uint64) { w.B = binary.BigEndian.AppendUint64(w.B, v) }

// I64 writes a signed number.
func (w *Writer) I64(v int64) { w.U64(uint64(v)) }

// Int writes a signed number.
func (w *Writer) Int(v int) { w.U64(uint64(v)) }

// Bytes writes p and its length.
func (w *Writer) Bytes(p []byte) {
	w.U32(uint32(len(p)))
	w.B = append(w.B, p...)
}

// String writes s and its length.
func (w *Writer) String(s string) {
	w.U32(uint32(len(s)))
	w.B = append(w.B, s...)
}

// Strings writes a list.
func (w *Writer) Strings(l []string) {
	w.U32(uint32(len(l)))
	for _, s := range l {
		w.String(s)
	}
}

// Addr writes an address, valid or not.
func (w *Writer) Addr(a netip.AddrPort) {
	b, _ := a.MarshalBinary() // fails for no value
	w.Bytes(b)
}

// IP writes an address without port, valid or not.
func (w *Writer) IP(a netip.Addr) {
	b, _ := a.MarshalBinary()
	w.Bytes(b)
}

// Wall writes a moment, to the second; zero stays zero.
func (w *Writer) Wall(t time.Time) {
	if t.IsZero() {
		w.I64(0)
		return
	}
	w.I64(t.Unix())
}

// Hole writes a length to be filled in by Fill, for what nests.
func (w *Writer) Hole() int {
	w.U32(0)
	return len(w.B)
}

// Fill sets the length that Hole left open, to what was written since.
func (w *Writer) Fill(at int) { binary.BigEndian.PutUint32(w.B[at-4:], uint32(len(w.B)-at)) }

// Reader reads what a Writer wrote, in the same order.
type Reader struct {
	b   []byte
	err error
}

// NewReader reads b, which must not change meanwhile: Bytes aliases it.
func NewReader(b []byte) *Reader { return &Reader{b: b} }

// Bad notes a fault of the caller's finding: a value that cannot be.
func (r *Reader) Bad(field string) {
	if r.err == nil {
		r.err = &errs.Error{Kind: errs.Invalid, Subject: "state of a connection", Field: field, Expected: "what this version writes"}
		r.b = nil
	}
}

// Err is the first fault; nil for none.
func (r *Reader) Err() error { return r.err }

// Done is Err, and a fault when something is left.
func (r *Reader) Done() error {
	if len(r.b) > 0 {
		r.Bad("end")
	}
	return r.err
}

// Left is how many bytes were not read.
func (r *Reader) Left() int { return len(r.b) }

func (r *Reader) take(n int) []byte {
	if r.err != nil || n > len(r.b) {
		r.Bad("length")
		return nil
	}
	p := r.b[:n:n]
	r.b = r.b[n:]
	return p
}

// U8 reads a number of 8 bits.
func (r *Reader) U8() uint8 {
	if p := r.take(1); p != nil {
		return p[0]
	}
	return 0
}

// Bool reads a flag.
func (r *Reader) Bool() bool {
	v := r.U8()
	if v > 1 {
		r.Bad("flag")
	}
	return v == 1
}

// U32 reads a number of 32 bits.
func (r *Reader) U32() uint32 {
	if p := r.take(4); p != nil {
		return binary.BigEndian.Uint32(p)
	}
	return 0
}

// U64 reads a number of 64 bits.
func (r *Reader) U64() uint64 {
	if p := r.take(8); p != nil {
		return binary.BigEndian.Uint64(p)
	}
	return 0
}

// I64 reads a signed number.
func (r *Reader) I64() int64 { return int64(r.U64()) }

// Int reads a signed number.
func (r *Reader) Int() int { return int(r.U64()) }

// Span reads a number from 0 to most.
func (r *Reader) Span(field string, most int) int {
	n := r.Int()
	if n < 0 || n > most {
		r.Bad(field)
		return 0
	}
	return n
}

// Count reads the length of a list whose elements take at least least bytes
// each.
func (r *Reader) Count(least int) int {
	n := int(r.U32())
	if n > len(r.b)/max(1, least) {
		r.Bad("count")
		return 0
	}
	return n
}

// Bytes reads bytes that alias what is read.
func (r *Reader) Bytes() []byte { return r.take(int(r.U32())) }

// String reads a string.
func (r *Reader) String() string { return string(r.Bytes()) }

// Strings reads a list; nil when it is empty.
func (r *Reader) Strings() (l []string) {
	for range r.Count(4) {
		l = append(l, r.String())
	}
	return l
}

// Addr reads an address.
func (r *Reader) Addr() (a netip.AddrPort) {
	if a.UnmarshalBinary(r.Bytes()) != nil {
		r.Bad("address")
	}
	return a
}

// IP reads an address without port.
func (r *Reader) IP() (a netip.Addr) {
	if a.UnmarshalBinary(r.Bytes()) != nil {
		r.Bad("address")
	}
	return a
}

// Wall reads a moment.
func (r *Reader) Wall() time.Time {
	if n := r.I64(); n != 0 {
		return time.Unix(n, 0)
	}
	return time.Time{}
}

// Part reads what a Hole was written around.
func (r *Reader) Part() *Reader {
	b := r.Bytes()
	return &Reader{b: b, err: r.err}
}
