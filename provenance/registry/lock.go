// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"os"
	"syscall"
)

// lockFile takes the advisory lock at path, syscall.LOCK_SH or LOCK_EX; the
// kernel gives it back when the process dies.
func lockFile(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
