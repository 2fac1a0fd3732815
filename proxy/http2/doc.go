// SPDX-License-Identifier: Apache-2.0

// Package http2 is the HTTP/2 protocol (RFC 9113), both roles, as a state
// machine: bytes go in by Feed, frames go out to a Writer, and a Handler is
// told what the peer did. It does no I/O, reads no clock and starts nothing.
//
// Walk: New → Start → Feed: preface → frame → headers, data or control →
// Handler; answers leave by WriteResponse or WriteRequest → WriteData →
// WriteTrailers. Export and Import carry a live connection to another process.
//
// Heads are decoded straight into the owner's message.Request and Response;
// nothing is allocated per request once a connection has served a few.
//
// Invariants:
//   - what a peer can make us hold or do is bounded by what it lets us serve:
//     every frame that serves nothing costs credit, and resets are counted
//     against streams served (flood.go)
//   - a request that leaves here is never ambiguous in HTTP/1: names, values
//     and framing fields are checked while decoding (head.go, request.go)
//   - flow-control window is given back for every byte received exactly once,
//     whatever became of its stream (flow.go)
//   - a stream is told of Closed exactly once and is not touched afterwards
//
// Methods of a Conn must be called from one place at a time; they may be
// called from inside the Handler's methods, except Feed, Export and Start.
//
// Begin at Conn.Feed and Handler.
package http2
