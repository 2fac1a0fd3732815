// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"

	"golang.org/x/sys/unix"
)

// UserTimeout bounds how long bytes may wait for the peer's kernel before a
// connection is given up; here in whole seconds.
func UserTimeout(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_RXT_CONNDROPTIME, max(1, int(d.Seconds())))
}
