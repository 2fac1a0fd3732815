// SPDX-License-Identifier: Apache-2.0

package sys

import "golang.org/x/sys/unix"

// Poll tells which of events, and of PollErr and PollHup, fd shows now. It
// does not wait.
//
// Here poll(2) says POLLHUP already when the peer has ended its side only;
// the state of the connection tells the two apart.
func Poll(fd int, events uint32) uint32 {
	p := [1]unix.PollFd{{Fd: int32(fd), Events: int16(events &^ PollRdHup)}}
	for {
		n, err := unix.Poll(p[:], 0)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil || n == 0:
			return 0
		}
		break
	}
	got := uint32(uint16(p[0].Revents))
	if got&PollHup == 0 {
		return got
	}
	const closed = 0 // TCPS_CLOSED: reset, or both sides have ended
	got |= PollIn | PollRdHup
	if ti, err := unix.GetsockoptTCPConnectionInfo(fd, unix.IPPROTO_TCP, unix.TCP_CONNECTION_INFO); err == nil && ti.State != closed {
		got &^= PollHup
	}
	return got
}
