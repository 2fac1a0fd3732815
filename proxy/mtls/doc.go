// SPDX-License-Identifier: Apache-2.0

// Package mtls gives connections names: TLS 1.3 with an X.509-SVID on both
// sides, for connections that live on an event loop.
//
// Walk: Handshaker.Server or .Client → package secure runs crypto/tls beside
// the loop → Trust.verify → record layer → back on the loop, with a Peer.
//
// Invariants:
//   - TLS 1.3 only, X25519MLKEM768 preferred, no session tickets
//   - both sides prove an X.509-SVID of this trust domain; the client
//     demands the very ID that it was told to expect
//   - the connection changes hands only after verification
//
// Begin at Handshaker.Server.
package mtls
