// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"net"

	"golang.org/x/sys/unix"
)

func peerUID(c *net.UnixConn) (int, error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, err
	}
	var cred *unix.Xucred
	var e error
	const solLocal = 0 // SOL_LOCAL
	if err := raw.Control(func(fd uintptr) { cred, e = unix.GetsockoptXucred(int(fd), solLocal, unix.LOCAL_PEERCRED) }); err != nil {
		return -1, err
	}
	if e != nil {
		return -1, e
	}
	return int(cred.Uid), nil
}
