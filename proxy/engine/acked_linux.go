// SPDX-License-Identifier: Apache-2.0

package engine

import "golang.org/x/sys/unix"

// ackedBytes is how many bytes of a connection the peer's kernel has.
func ackedBytes(fd int) (uint64, bool) {
	ti, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0, false
	}
	return ti.Bytes_acked, true
}
