// SPDX-License-Identifier: Apache-2.0

// Package router finds the route of a request and does what the route says
// before a request leaves and after its response came: headers, rewrites,
// redirects, hashes, retries, time limits.
//
// Walk: Compile, once per route configuration → Table.Match → Pick (weighted
// cluster) → Table.RequestHeaders, Rewrite → the request leaves →
// Retriable, FollowRedirect → Table.ResponseHeaders.
//
// A virtual host's routes are found through a trie of path bytes whose nodes
// hold route numbers in order; what a trie cannot say (regular expressions
// without a literal prefix, CONNECT) is one more ordered list. The lists that
// lie on a request's path are merged, so that the first route of the
// configuration that matches wins, exactly as in a linear scan, without one.
//
// Invariants:
//   - a Table is immutable and shared by all loops; Match allocates nothing
//   - meaning is that of Envoy's route.v3; a test compares Match with a
//     linear matcher on random configurations
//   - nothing here does I/O, reads a clock, or draws random numbers other
//     than by Context.Rand
//
// Begin at Table.Match.
package router
