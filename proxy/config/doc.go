// SPDX-License-Identifier: Apache-2.0

// Package config is what a stand-alone proxy is told: listeners, routes and
// clusters as plain values, whoever said it.
//
// Walk: package xds reads the Envoy v3 API, refuses what has no effect here,
// and builds these values → Validate → package serve puts them in force.
//
// Invariants:
//   - a value is immutable once it was validated; a change is a new value,
//     and what did not change is the same pointer, so that connections,
//     pools and health of an unchanged part go on
//   - no field here is without effect; one that no code honours is refused
//     where it is read
//   - the zero value of a field is the documented default
//
// Names and meanings are those of the Envoy v3 API, whose field each comment
// names where it differs from the Go name.
//
// Begin at Config.
package config
