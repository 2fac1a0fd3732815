// SPDX-License-Identifier: Apache-2.0

// Package serve is the proxy that stands by itself: it puts a config.Config
// in force and serves it, as load balancer, gateway, or both.
//
// Walk: Server.Apply builds what has changed (build.go) → a listener accepts
// (listener.go) → arrival: PROXY protocol, the TLS hello, the filter chain
// that fits, TLS, the protocol by its first bytes (arrival.go) → package
// exchange for HTTP, or a TCP stream (tcp.go), or datagrams (udp.go) → access
// log and counters (admin.go).
//
// Invariants:
//   - a configuration is in force whole or not at all; after a refusal the
//     last good one stays
//   - what has not changed goes on: listeners, pools, health, counters; a
//     connection lives on under the chain that took it
//   - a listener that goes ends its connections by their protocol's own
//     means, in the time that its chain grants
//   - nothing blocks a loop
//
// Begin at Server.Run, then Server.Apply. Lock: Server.mu, held by one Apply
// at a time.
package serve
