// SPDX-License-Identifier: Apache-2.0

// Package mtls gives connections names: TLS 1.3 with an X.509-SVID on both
// sides, for connections that live on an event loop.
//
// Walk: Handshaker.Server or .Client → records fed by the loop, one at a
// time → crypto/tls on a goroutine → Trust.verify → secrets → record layer →
// back on the loop.
//
// The handshake is crypto/tls's, unchanged, on a goroutine that never
// touches the socket: the loop reads whole records and hands them over, so
// that not one byte of application data is read by crypto/tls, and a peer
// that says nothing costs a parked goroutine and no thread.
//
// Invariants:
//   - TLS 1.3 only, X25519MLKEM768 preferred, no session tickets
//   - both sides prove an X.509-SVID of this trust domain; the client
//     demands the very ID that it was told to expect
//   - the connection changes hands only after verification (handshake.go)
//   - computation is bounded by slots, waiting handshakes by a limit, each
//     by a deadline; secrets are cleared after use
//
// Begin at Handshaker.Server. Lock: handshake.mu.
package mtls
