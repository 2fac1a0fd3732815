// SPDX-License-Identifier: Apache-2.0

// Package ingress settles, when a request comes, what a proxy may believe of
// it: who the client is, whether it is one of ours, and what path it means.
//
// Walk: Compile, once per connection manager → Rules.Path (dot segments,
// slashes) → Rules.Host (port) → Rules.Request (remote address,
// x-forwarded-*, x-envoy-*, x-request-id, client certificate) → routing.
//
// Invariants:
//   - a field that says what only the proxy can know leaves as the proxy
//     wrote it, or not at all
//   - nobody is internal by saying so: the address that decides comes from
//     the connection, or from a hop that the configuration trusts
//   - a path that two servers could read as two paths is refused where
//     normalisation was asked for
//
// All functions are pure but for Context.Rand; none allocates.
//
// Begin at Rules.Request.
package ingress
