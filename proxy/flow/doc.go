// SPDX-License-Identifier: Apache-2.0

// Package flow carries connections on the event loops: from the accepted
// socket to the last byte.
//
// Walk, leaving a pod: accept → original destination → target → egress policy
// → sniff → backend → mTLS → request by request, or byte by byte.
// Walk, coming in: accept → first byte → mTLS → the peer has a name → sniff →
// authorise → Permit → the application.
//
// A Worker is one loop's share and owns all it touches; a session is one
// downstream connection and its state; an upstream is one connection to a
// backend, which HTTP sessions borrow request by request. Each session has
// one pump for what it is doing now: it runs as far as it can whenever
// anything changed, so that no event has to mean something particular.
//
// Invariants:
//   - nothing is forwarded without a valid authz.Permit (forward in http.go,
//     startStream in stream.go)
//   - every decision on a connection is in the audit queue before it takes
//     effect; when the queue is full, nothing new is let in
//   - a request is sent twice only when the first try cannot have been
//     processed, or when twice is as good as once (retry.go)
//   - buffers are bounded: a slow side stops its fast side
//   - policies and revocations reach live connections (review.go)
//
// Begin at Worker.accept. No locks: see package engine.
package flow
