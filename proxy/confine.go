// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// Confine gives up what the process never needs: new privileges through
// exec, core dumps and debuggers of the same user, through which keys could
// leave. It only ever lowers; the node that starts the proxy has chosen user
// and capabilities. It raises the soft limit of descriptors to the hard one.
func Confine() error {
	if _, _, e := syscall.AllThreadsSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
		on, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err != nil || on != 1 {
			return &errs.Error{Kind: errs.Unsupported, Subject: "no_new_privs", Expected: "a static binary, or a parent that has set it", Fix: "build with CGO_ENABLED=0", Err: e}
		}
	}
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("forbid core dumps: %w", err)
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
