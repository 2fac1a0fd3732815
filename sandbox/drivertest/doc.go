// SPDX-License-Identifier: Apache-2.0

// Package drivertest holds the contract of sandbox.Driver as a suite: what
// each driver must do, whatever it isolates with. A driver's test is one line:
//
//	func TestDriver(t *testing.T) { drivertest.Run(t, fixture) }
//
// Walk: Run → one subtest per sentence of the contract, each in sandboxes of
// its own, each followed by a leak audit: no process, control group, mount or
// descriptor stays behind.
//
// Some subtests need a program inside the guest that no shell has. That is
// the test binary itself, put into the image, which then runs a probe (see
// probe.go); so it must be static: CGO_ENABLED=0 go test. Others need another
// process that drives and dies: the test binary again (see adopt.go).
package drivertest
