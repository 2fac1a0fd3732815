// SPDX-License-Identifier: Apache-2.0

// Package compile turns what is declared and what runs into what each proxy
// must know: services, pods and policies in, one wire.Snapshot out.
//
// Walk: index the pods → services (service.go) → authorization (authz.go) →
// mTLS modes (mtls.go) → network policy (network.go) → digest of what is in
// force (digest.go).
//
// It is pure: no I/O, no clock, no state. The same input in any order gives
// the same snapshot, byte for byte.
//
// Invariants:
//   - a pod that no policy allows anything to is closed, whatever else is wrong
//   - a selector that matches nobody never turns into "any" (nil in wire)
//   - a pod is in Snapshot.Pods only with an SVID of its own ID
//   - what cannot be compiled exactly is refused, and the last snapshot stays
//
// Begin at Compile.
package compile
