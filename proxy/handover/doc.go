// SPDX-License-Identifier: Apache-2.0

// Package handover is the socket on which a proxy lets its successor take
// over: who may speak there, and frames with descriptors.
//
// Walk: Join (the new process) → Keeper.Run (the old one): uid, executable,
// one at a time → Session, over which package serve moves listeners and
// connections (serve/move.go has the steps).
//
// Who may: a process of the same user, or root, whose executable has this
// process's own SHA-256, or one that the allow file lists. That stops a wrong
// binary, and any program of the user that is not the proxy. It does not stop
// who can run code as that user and means harm: such a one may start the right
// binary under a debugger.
//
// Invariants:
//   - nothing is sent before the peer is known
//   - every wait has a deadline, every frame a bound
//   - a descriptor that arrives is close-on-exec and is closed on every path
//     on which nobody takes it
//   - bodies hold keys: they are wiped after use and never logged
//
// Begin at Keeper.Run, then Session.
package handover
