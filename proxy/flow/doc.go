// SPDX-License-Identifier: Apache-2.0

// Package flow carries connections on the event loops: from the accepted
// socket to the last byte.
//
// Walk, leaving a pod: accept → original destination → target → egress policy
// → sniff → HTTP: the exchange, request by request; else: backend → mTLS →
// byte by byte.
// Walk, coming in: accept → first byte → mTLS → the peer has a name → sniff →
// authorise → Permit → the application.
//
// A Worker is one loop's share and owns all it touches; a session is one
// downstream connection and its state. One with HTTP belongs to package
// exchange, and the session is its Lead (lead.go): it judges each request and
// says which dest it goes to (dest.go), a place with its own pool of
// connections. Another has one pump for what it is doing now: it runs as far
// as it can whenever anything changed, so that no event has to mean something
// particular.
//
// Invariants:
//   - nothing is forwarded without a valid authz.Permit (startStream in
//     stream.go, and exchange for requests)
//   - every decision on a connection is in the audit queue before it takes
//     effect; when the queue is full, nothing new is let in
//   - connections are never shared between sites, identities or clients'
//     addresses (destKey in dest.go)
//   - buffers are bounded: a slow side stops its fast side
//   - policies and revocations reach live connections and requests (review.go)
//
// Begin at Worker.accept. No locks: see package engine.
package flow
