// SPDX-License-Identifier: Apache-2.0

// Package conform attacks the stand-alone data plane from outside and holds
// it to the specifications: HTTP/1.1 smuggling, differential parsing beside
// nginx and haproxy, the published HTTP/2 floods, WebSocket, gRPC.
//
// Walk: rig builds bin/redoubt-proxy once and starts it before a recording
// origin → a suite speaks raw bytes or frames to it → the suite compares what
// the client got with what the origin saw.
//
// Each suite also runs against Debian's nginx or haproxy, where they speak
// the protocol. That proves the harness: a check that no proxy passes is a
// wrong check. What the rivals do differently is logged, never asserted.
//
// Invariants:
//   - a request that we refuse never reached the origin; one that we take
//     reached it once, in canonical form
//   - no case asserts a time; deadlines only end what hangs
//   - a proxy that was attacked still serves, and holds no more descriptors
//     than before
//
// Begin at smuggle_test.go. Packages rig (processes, origin, raw client),
// websock (RFC 6455) and load (steady, verifying clients) are for other tests
// too.
package conform
