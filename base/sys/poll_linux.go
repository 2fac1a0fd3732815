// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Poll tells which of events, and of PollErr and PollHup, fd shows now. It
// does not wait.
func Poll(fd int, events uint32) uint32 {
	p := unix.PollFd{Fd: int32(fd), Events: int16(events)}
	var now unix.Timespec
	for {
		n, _, e := unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&now)), 0, 0, 0)
		switch {
		case e == unix.EINTR:
			continue
		case e != 0 || n == 0:
			return 0
		}
		return uint32(uint16(p.Revents))
	}
}
