// SPDX-License-Identifier: Apache-2.0

// Package authz decides whether a connection or request may pass. It is pure:
// no clock, no I/O, no allocation per decision.
//
// Walk: Compile once per snapshot → Policy.Connect when the peer has a name →
// Policy.Decide for each request, or once for a stream that is not HTTP.
//
// The answer is a Permit, which forwarding takes as an argument, or a *Denied
// that names the rule and the reason. The semantics are those of Istio's
// AuthorizationPolicy and of Kubernetes' NetworkPolicy, as api/wire documents
// them: deny rules first, then at least one allow rule must match, and the
// network policy must let the peer's address in.
//
// Invariants:
//   - no rule, no permission: an empty policy denies
//   - what cannot be seen cannot help: on a stream that is not HTTP, an allow
//     rule on methods, paths or hosts never matches and a deny rule on them
//     always does
//   - a peer without a name matches no principal and no namespace
//   - paths are compared in one normal form, and what has none is refused
//     (path.go)
//
// Begin at Policy.Decide.
package authz
