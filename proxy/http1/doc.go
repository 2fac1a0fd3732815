// SPDX-License-Identifier: Apache-2.0

// Package http1 reads HTTP/1.1 messages (RFC 9112) from byte slices, strictly
// and without allocation.
//
// Walk: Request.Parse or Response.Parse on what has arrived → Framing →
// Body.Next until done; the Append functions write heads that leave.
//
// A proxy that is lenient lets two parties see different messages in the same
// bytes. So whatever could be read in two ways is refused: both lengths, a
// length twice, bare line feeds, folded lines, space before a colon, unknown
// transfer codings, odd chunk sizes. What is forwarded is written anew from
// what was understood, never copied with its framing.
//
// Invariants:
//   - a message accepted here is accepted by net/http with the same method,
//     target, host, fields and framing (fuzz_test.go)
//   - a head is at most MaxHead bytes and MaxFields fields; a chunk line and
//     the trailers are bounded too
//
// Begin at Request.Parse.
package http1
