// SPDX-License-Identifier: Apache-2.0

// Package load is what stands around a proxy while it is measured: clients
// that are cheap enough not to be the bottleneck, and origins that answer
// from memory.
//
// The benchmarks run each Job in a process of its own, so that neither its
// processor time nor its garbage is the harness's or the proxy's.
//
// Walk: Run → Pace, Bulk or Stream on the client's side; Echo or Sink on the
// origin's.
//
// Invariants:
//   - Pace measures from the moment a request was due, not from when it was
//     sent: a proxy that stalls cannot hide the requests that waited
//   - an answer that is not the expected one is counted as an error
//   - an origin ends with its context and closes what it accepted
package load
