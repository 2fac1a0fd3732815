// SPDX-License-Identifier: Apache-2.0

// Package record protects and opens the records of TLS 1.3 (RFC 8446, section
// 5) and of TLS 1.2 with AEAD suites (RFC 5246, 5288, 7905), for connections
// whose handshake crypto/tls has finished.
//
// Walk: New with the secrets that the handshake left (Keys12 for TLS 1.2) →
// Seal, Open on byte slices → Closing; Export → Append → Import in another
// process.
//
// Owning the record layer lets an event loop seal straight into its output,
// batch what one turn says into one record, and move a live connection to
// another process: its whole state is two secrets, two sequence numbers and
// partial buffers.
//
// Invariants:
//   - a nonce is never used twice: the sequence number is part of the key's
//     state; in TLS 1.3 a key is replaced before its limit (key.go), in TLS
//     1.2 Worn tells that the connection should end
//   - who exports a state retires the original before the copy seals
//   - after any error the connection must be dropped; nothing is retried
//   - there is no renegotiation
//   - secrets appear in no error and no log
//
// Begin at Conn.Open. No locks: a Conn belongs to one loop.
package record
