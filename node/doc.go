// SPDX-License-Identifier: Apache-2.0

// Package node is all of Redoubt on one machine, wired by hand.
//
// Walk: redoubt up → api.go → sets.go (load, keep the last good) → world.go
// (plan → pods) → pod.Worker (admit → edge → identity → sandbox) → mesh.go
// (compile → proxy). A change of a file, of a pod or of an SVID runs the same
// loop again.
//
// Invariants:
//   - what was accepted survives kill -9: sets, addresses and pod records are
//     on disk before they take effect, and running pods are adopted
//   - a manifest that became bad changes nothing: the last good one stays
//   - one goroutine owns the world; others ask it through a channel
//
// Begin at New and Node.Run. Locks: mesh.mu alone, never held over a call.
package node
