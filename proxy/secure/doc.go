// SPDX-License-Identifier: Apache-2.0

// Package secure makes connections on an event loop secure: TLS 1.2 and 1.3,
// as server and as client, with crypto/tls's handshake and package record's
// records.
//
// Walk: ParseHello, when something is chosen before → Server.Start or
// Client.Start → Handshaker: records fed by the loop, one at a time →
// crypto/tls on a goroutine → verify.go → secrets → record layer → back on
// the loop, with a filter.TLSInfo.
//
// The handshake is crypto/tls's, unchanged, on a goroutine that never
// touches the socket: the loop reads whole records and hands them over, so
// that not one byte of application data is read by crypto/tls, and a peer
// that says nothing costs a parked goroutine and no thread.
//
// A Server or Client is a context: certificates, trust and tickets, read
// anew when files or secrets change. What is in force is one immutable value
// behind an atomic pointer (source.go); a handshake uses the one that it
// began with, and connections that are open are not touched.
//
// Invariants:
//   - a connection changes hands only after verification (handshake.go)
//   - computation is bounded by slots, waiting handshakes by a limit and a
//     share of it, each by a deadline; secrets are cleared after use
//   - a certificate is replaced only by a chain and key that belong together
//   - a ticket opens no session under another trust, name or after its
//     client's certificate (ticket.go)
//   - keys appear in no error
//
// Begin at Handshaker.Server, then Server.Start. Locks: handshake.mu,
// ticketer.mu, sessions.mu alone; source.mu before Watcher.mu.
package secure
