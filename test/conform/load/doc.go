// SPDX-License-Identifier: Apache-2.0

// Package load keeps a steady, verifying load on a proxy while something is
// done to it: an upgrade, a change of configuration, a flood by others.
//
// Walk: Echo (the server behind the proxy) → Start (N clients, each with one
// connection that it never gives up by itself) → the disturbance →
// Load.Stop → Report.
//
// Each client sends a request or a block of bytes that nobody else sends,
// and checks every byte that comes back. What a client sees is counted, not
// judged: the test that uses the package says what it allows.
//
// Invariants:
//   - a client opens a new connection only after it has counted the loss of
//     the old one
//   - all goroutines have ended when Stop returns
//   - latency is measured from the moment a request was due, so a stall shows
//     in all requests that it delayed
//
// Begin at Start.
package load
