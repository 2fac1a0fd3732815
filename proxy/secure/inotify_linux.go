// SPDX-License-Identifier: Apache-2.0

package secure

import "golang.org/x/sys/unix"

func inotify() (fd int, err error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) }

func watchDir(fd int, dir string) {
	const events = unix.IN_CLOSE_WRITE | unix.IN_MOVED_TO | unix.IN_CREATE | unix.IN_DELETE | unix.IN_ATTRIB | unix.IN_MOVE_SELF
	unix.InotifyAddWatch(fd, dir, events)
}
