// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ownStreams gives the three standard files as the guest gets them, to be
// closed by the caller. Where there is none, it is /dev/null.
func ownStreams(in [3]*os.File) ([]*os.File, error) {
	var out []*os.File
	for _, f := range in {
		own, err := ownStream(f)
		if err != nil {
			closeAll(out)
			return nil, err
		}
		out = append(out, own)
	}
	return out, nil
}

// ownStream gives a descriptor of the same pipe, terminal or file with flags
// of its own. Flags belong to the open file, not to the descriptor, and a
// pipe of Go's is non-blocking: a guest that saw that would lose output as
// soon as the pipe is full, and a guest that changed it would change ours.
func ownStream(f *os.File) (*os.File, error) {
	if f == nil {
		return os.OpenFile(os.DevNull, os.O_RDWR, 0)
	}
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	var (
		own  int
		oerr error
	)
	if err := raw.Control(func(fd uintptr) { own, oerr = reopen(fd) }); err != nil {
		return nil, err
	}
	if oerr != nil {
		return nil, fmt.Errorf("stdio: %w", oerr)
	}
	return os.NewFile(uintptr(own), f.Name()), nil
}

func reopen(fd uintptr) (int, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(fd), &st); err != nil {
		return -1, err
	}
	flags, err := unix.FcntlInt(fd, unix.F_GETFL, 0)
	if err != nil {
		return -1, err
	}
	if t := st.Mode & unix.S_IFMT; t == unix.S_IFIFO || t == unix.S_IFCHR {
		// Without blocking: opening a pipe waits for its other end.
		own, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), flags&unix.O_ACCMODE|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
		if err == nil {
			_, err = unix.FcntlInt(uintptr(own), unix.F_SETFL, flags&unix.O_APPEND)
			return own, err
		}
	}
	// Files share their position, so that two streams into one file do not
	// overwrite each other; sockets cannot be opened again.
	return unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
}
