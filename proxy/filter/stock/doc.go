// SPDX-License-Identifier: Apache-2.0

// Package stock is the HTTP filters that a proxy has, and the chain that a
// configuration asks for.
//
// Walk: Chain builds each config.HTTPFilter by the type of its Config →
// filter.Chain.Scope compiles what routes say → requests pass.
//
// Invariants:
//   - a filter's configuration that has no effect here is refused
//   - replies that requests meet often are made once; limits and counts are
//     atomics that all loops share
//   - a filter whose Config is the same pointer as before is the same filter:
//     its buckets and counts go on
//
// Filters that call other services or change bodies are packages of their
// own: extauthz, compress, grpcweb.
//
// Begin at Chain.
package stock
