// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Confine gives up what the process never needs: new privileges through
// exec, core dumps and debuggers of the same user, through which keys could
// leave. It only ever lowers; the node that starts the proxy has chosen user
// and capabilities. It raises the soft limit of descriptors to the hard one.
//
// It may replace the process by itself, so it must be called first.
func Confine() error {
	if err := lower(); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("forbid core files: %w", err)
	}
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) == nil && lim.Cur < lim.Max {
		lim.Cur = lim.Max
		unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) // best effort: fewer connections are served without it
	}
	return nil
}
