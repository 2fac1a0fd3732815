// SPDX-License-Identifier: Apache-2.0

// Package xds reads the Envoy v3 API, from a bootstrap file and from a
// management server, and makes the configuration of a stand-alone proxy of
// it (package config).
//
// Walk: bytes → decode (decode.go) → refuse what has no effect (strict.go)
// → convert (listener.go, http.go, route.go, cluster.go, tls.go, filter.go)
// → config.Config; over the wire: shell (client.go, stream.go) → core.Step
// (core.go) → snapshot (snapshot.go) → apply.
//
// Invariants:
//   - nothing is ignored: a field that is set and not listed in supported.txt
//     is an error that names it, in a file and over the wire (NACK)
//   - all problems are reported at once, each with the path of its field
//   - what a server sends is bounded, and never replaces a good resource by
//     one that was not understood
//   - a snapshot is complete and immutable; parts that did not change are the
//     same pointers as before
//   - one apply is under way at a time; the newest snapshot wins
//
// The core is pure: state and event in, effects out, time in the events.
//
// Begin at Parse and Client.Run.
package xds
