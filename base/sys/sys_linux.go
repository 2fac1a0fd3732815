// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads into p. fd must be non-blocking and p must not be empty.
func Read(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Write writes p. fd must be non-blocking and p must not be empty.
func Write(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Recv reads from a socket, which must be non-blocking, into p, which must not
// be empty. It skips what read(2) does for files.
func Recv(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), 0, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Send writes p, which must not be empty, to a socket, which must be
// non-blocking. A peer that is gone is an error, not a signal.
func Send(fd int, p []byte) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)), unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// EpollSpin waits at most msec milliseconds for events without releasing the
// processor to the Go scheduler. Keep msec at a few: a garbage collection
// that must stop the world waits for it.
func EpollSpin(ep int, events []unix.EpollEvent, msec int) (int, unix.Errno) {
	n, _, e := unix.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(msec), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// EpollWait waits for events; msec < 0 waits without bound. The scheduler
// may use the processor meanwhile.
func EpollWait(ep int, events []unix.EpollEvent, msec int) (int, unix.Errno) {
	n, _, e := unix.Syscall6(unix.SYS_EPOLL_PWAIT, uintptr(ep), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), uintptr(msec), 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

// Splice moves at most n bytes from one descriptor to another, one of which is
// a pipe, without blocking (splice(2)). Both must be non-blocking.
func Splice(from, to, n int) (int, unix.Errno) {
	const flags = unix.SPLICE_F_MOVE | unix.SPLICE_F_NONBLOCK
	m, _, e := unix.RawSyscall6(unix.SYS_SPLICE, uintptr(from), 0, uintptr(to), 0, uintptr(n), flags)
	if e != 0 {
		return 0, e
	}
	return int(m), 0
}

// Accept takes a connection off a listening socket; it does not block and is
// not inherited.
func Accept(fd int) (int, unix.Sockaddr, error) {
	return unix.Accept4(fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
}

// Socket makes a socket that does not block and is not inherited.
func Socket(family, kind int) (int, error) {
	return unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
}

// Transparent lets a socket have addresses that are not this machine's.
func Transparent(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TRANSPARENT, 1)
}

// LatePort has a socket that is bound to an address get its port when it
// connects, so that ports are used up by pair of addresses.
func LatePort(fd int) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
}

// UserTimeout bounds how long bytes may wait for the peer's kernel before a
// connection is given up.
func UserTimeout(fd int, d time.Duration) error {
	return unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(d.Milliseconds()))
}
