// SPDX-License-Identifier: Apache-2.0

// Package balance knows the hosts of a cluster, how they fare, and which one
// takes the next request.
//
// Walk: New or Set.Update makes an immutable snapshot of the hosts
// (build.go) → Picker.Pick chooses on a loop (pick.go) → Host.Begin and
// Host.End count and detect outliers (host.go, outlier.go) → Set.Run sweeps off
// the loops: it books ejections and ends them, and makes the next snapshot.
//
// A pick goes from the outside in: drop overload, subset, priority (priority.go),
// locality (zone.go), then the policy's own table.
//
// Invariants:
//   - a pick takes no lock and allocates nothing while the snapshot stays
//   - what one host does wrong takes effect at once, by a flag of the host that
//     every pick looks at; what must be computed again follows with the next
//     snapshot
//   - a host that stays keeps its *Host, and with it counters, health and
//     ejection, over updates of the endpoints and of the cluster
//   - time is handed in as monotonic nanoseconds; nothing here sleeps
//   - Events are called without a lock held
//
// Begin at Set and Picker. Locks: shared.mu before shared.queueMu or
// shared.destMu.
package balance
