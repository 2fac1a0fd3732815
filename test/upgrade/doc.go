// SPDX-License-Identifier: Apache-2.0

// Package upgrade_test replaces a serving redoubt-proxy by a new process, as
// an operator would, under clients that notice everything.
//
// Walk: world_test.go starts proxies, origins and successors → load_test.go
// has ten upgrades in a row under 1,000 clients → stream_test.go has long
// bodies and tunnels, one byte at a time → refuse_test.go has successors that
// are not ours, crash, hang or speak garbage.
//
// Successors that misbehave are this test's own executable, started again
// (TestMain); they are let in because the allow file lists it.
//
// Begin at TestTenUpgrades.
package upgrade_test
