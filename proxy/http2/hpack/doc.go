// SPDX-License-Identifier: Apache-2.0

// Package hpack compresses the fields of HTTP/2 heads (RFC 7541).
//
// Walk: Decoder.Begin → Decoder.Next until the block is spent;
// Encoder.Begin → Encoder.Append per field.
//
// A decoded field is appended to the caller's arena; what was learnt of it
// (which known field it is, whether it is valid) is kept with the entry of the
// dynamic table, so that a field that repeats is checked once.
//
// Invariants:
//   - the tables hold at most what their owner allowed, and memory follows
//     what is used
//   - a field beyond the caller's limit costs no copy, however often it is
//     named: one byte of a block never becomes more than a step (the HPACK bomb)
//   - a block is decoded to its end, so that the tables agree, or the
//     connection ends
//
// Begin at Decoder.Next.
package hpack
