// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package sys

import (
	"errors"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// KeepDescriptors is for starting sandboxes, which there are none of here.
func KeepDescriptors() error { return errors.ErrUnsupported }

// OpenPTY is for containers, which there are none of here.
func OpenPTY() (master, replica *os.File, err error) { return nil, nil, errors.ErrUnsupported }

func result(n int, err error) (int, unix.Errno) {
	if e, ok := err.(unix.Errno); ok {
		return 0, e
	}
	return n, 0
}

// Read reads into p. fd must be non-blocking and p must not be empty.
func Read(fd int, p []byte) (int, unix.Errno) { return result(unix.Read(fd, p)) }

// Write writes p. fd must be non-blocking and p must not be empty.
func Write(fd int, p []byte) (int, unix.Errno) { return result(unix.Write(fd, p)) }

// Recv reads from a socket, which must be non-blocking, into p, which must not
// be empty.
func Recv(fd int, p []byte) (int, unix.Errno) { return Read(fd, p) }

// Send writes p, which must not be empty, to a socket, which must be
// non-blocking. A peer that is gone is an error: of a signal for a descriptor
// above 2 Go makes nothing.
func Send(fd int, p []byte) (int, unix.Errno) { return Write(fd, p) }

// Splice cannot be had here.
func Splice(from, to, n int) (int, unix.Errno) { return 0, unix.ENOSYS }

// Accept takes a connection off a listening socket; it does not block and is
// not inherited.
func Accept(fd int) (int, unix.Sockaddr, error) {
	syscall.ForkLock.RLock() // nobody may start a program before it is marked
	defer syscall.ForkLock.RUnlock()
	c, sa, err := unix.Accept(fd)
	if err != nil {
		return -1, nil, err
	}
	return c, sa, mark(c)
}

// Socket makes a socket that does not block and is not inherited.
func Socket(family, kind int) (int, error) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	fd, err := unix.Socket(family, kind, 0)
	if err != nil {
		return -1, err
	}
	return fd, mark(fd)
}

func mark(fd int) error {
	unix.CloseOnExec(fd)
	err := unix.SetNonblock(fd, true)
	if err != nil {
		unix.Close(fd)
	}
	return err
}

// Transparent cannot be had here.
func Transparent(fd int) error { return unix.ENOTSUP }

// LatePort cannot be had here: ports are chosen before the peer is known, and
// there are fewer connections from one address.
func LatePort(fd int) error { return unix.ENOTSUP }
