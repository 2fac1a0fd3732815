// SPDX-License-Identifier: Apache-2.0

// Package record protects and opens TLS 1.3 records (RFC 8446, section 5) for
// connections whose handshake crypto/tls has finished.
//
// Walk: New with the two application traffic secrets → Seal, Open on byte
// slices → Closing.
//
// Owning the record layer lets an event loop seal straight into its output,
// batch what one turn says into one record, and, later, move a live
// connection to another process: its whole state is two secrets, two
// sequence numbers and partial buffers.
//
// Invariants:
//   - a nonce is never used twice: the sequence number is part of the key's
//     state and a key is replaced before its limit (key.go)
//   - after any error the connection must be dropped; nothing is retried
//   - secrets appear in no error and no log
//
// Begin at Conn.Open. No locks: a Conn belongs to one loop.
package record
