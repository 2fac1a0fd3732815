// SPDX-License-Identifier: Apache-2.0

// Package health finds out from outside whether hosts live, and where they
// are: active health checks and DNS, off the loops.
//
// Walk: Checker.Run takes the hosts of a balance.Set, asks each in its turn
// (tcp.go, http.go, grpc.go), has a judge weigh the answers (judge.go) and tells
// the set. Resolver.Run looks names up and gives the set what they stand for
// (dns.go).
//
// Invariants:
//   - a new host is asked at once, and the set leaves it out until it has
//     answered
//   - so many checks at most are under way; one that hangs ends at its timeout
//   - of a peer's answer no more is read than a bound says
//   - the state of all checks belongs to the one goroutine of Checker.Run
//   - a name that does not resolve keeps the addresses that it had
//
// Begin at Checker and Resolver.
package health
