// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"math"

	"golang.org/x/sys/unix"
)

// KeepDescriptors makes that no program started from now on inherits a
// descriptor but the ones it is given: shells and build tools leave theirs
// open, and a sandbox refuses to start with one that it does not know.
func KeepDescriptors() error {
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("mark inherited descriptors: %w", err)
	}
	return nil
}
