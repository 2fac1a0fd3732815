// SPDX-License-Identifier: Apache-2.0

// Package websock is a small WebSocket end (RFC 6455) for tests: it can do
// what a good end does, and send any frame that it should not.
//
// Walk: Dial (HTTP/1.1), DialHTTP2 (RFC 8441) or Serve → Conn.Write and
// Conn.Read, frame by frame.
//
// Invariants:
//   - a client masks, a server does not; what is received is held to that
//   - nothing is assembled or answered by itself: a test sees each frame
//
// Begin at Conn.
package websock
