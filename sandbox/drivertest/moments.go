// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"testing"
	"time"

	"redoubt.dev/sandbox"
)

// wait lets the i-th moment pass: they are spread over what Create takes.
func wait(i int) { <-time.After(time.Duration(i*i) * 700 * time.Microsecond) }

// settle gives processes that notice their driver's death by the end of a
// pipe the time to end; nobody can tell when they have.
func settle(t testing.TB, spec sandbox.Spec) {
	for range 500 {
		if len(leftovers(t, spec)) == 0 {
			return
		}
		<-time.After(20 * time.Millisecond)
	}
}
