// SPDX-License-Identifier: Apache-2.0

// Package proxyproto reads and writes the PROXY protocol, versions 1 and 2, as
// HAProxy's proxy-protocol.txt (section 2) defines it: the first bytes of a
// connection, in which a proxy says for whom it connects.
//
// Walk: Parse on what has been read so far → More, or a Header and its length
// → the connection goes on behind it. Append writes one for an upstream.
//
// Invariants:
//   - Parse is pure and strict: what the specification does not allow is
//     Malformed, at the first byte that shows it; version 2 allocates nothing
//   - lengths are bounded before anything is waited for (MaxLen)
//   - TLVs are walked to their end, and a checksum, when present, is right,
//     before a Header is given out
//
// Begin at Parse.
package proxyproto
