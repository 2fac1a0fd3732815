// SPDX-License-Identifier: Apache-2.0

// Package proxy is the node's data plane: one process that carries every
// connection of every pod on the machine, encrypted, named and authorised.
//
// Walk: control.go takes a snapshot from the node → apply.go puts it in force
// → package flow carries connections by it, on the event loops of package
// engine → audit and access log.
//
// The proxy stands outside the sandboxes and serves each pod from inside its
// network namespace (package edge). It holds the keys of this machine's pods
// and asks nobody: without the node it goes on with the last good snapshot,
// and without any snapshot it listens nowhere.
//
// Parts: engine (loop, buffers, timers), mtls and record (TLS 1.3), http1
// (codec), authz (decisions), route (compiled snapshot), dns (names), edge
// (sockets in namespaces), flow (connections).
//
// Invariants:
//   - a snapshot is in force whole or not at all; an edge that cannot be
//     opened stays closed, is retried, and holds up nothing else
//   - a revocation or policy change has reached every live connection before
//     the snapshot is acknowledged
//   - nothing blocks a loop; a loop that stands still ends the process
//
// Begin at Proxy.Run. Lock: Proxy.mu, held by one Apply at a time.
package proxy
