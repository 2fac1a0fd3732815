// SPDX-License-Identifier: Apache-2.0

// Package rig runs a proxy as a process of its own, between a recording
// origin and clients that speak raw bytes.
//
// Walk: NewOrigin → Start (writes the configuration, waits until the
// listeners answer) → Talk → Origin.Take → Proxy.Stop.
//
// A Proxy is this repository's redoubt-proxy, built once per test process, or
// Debian's nginx or haproxy in the same place, tuned to do the same work.
//
// Invariants:
//   - all processes end with the test that started them, also when it fails
//   - nothing here sleeps for a result: waiting polls an observable state and
//     ends at a deadline that only a broken peer reaches
//
// Begin at Start.
package rig
