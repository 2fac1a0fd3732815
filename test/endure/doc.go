// SPDX-License-Identifier: Apache-2.0

// Package endure shows what the stand-alone data plane bears: its
// configuration churned under load, more idle connections than a process has
// descriptors, attacks bounded in count and time, signals, broken updates, a
// full disk.
//
// Walk: start runs bin/redoubt-proxy (built by test/conform/rig) on a
// bootstrap → steady, verifying clients (test/conform/load) run through it →
// the disturbance → what the clients saw, what the counters of the admin
// socket say, and what the process holds in memory, descriptors and
// goroutines.
//
// Invariants:
//   - no case asserts a time; deadlines only end what hangs, latency is logged
//   - memory is held to ceilings that are several times what was measured
//   - each attack runs beside clients that must not notice it
//   - what the machine cannot carry is scaled down, and said by name
//
// Flags: -churn and -drainfor are how long the load runs, -idle how many
// connections, -body the bytes of a large body; -short makes all of them
// small. The defaults fit a CI machine of two cores.
//
// Begin at world_test.go, then churn_test.go.
package endure
