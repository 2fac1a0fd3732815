// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// watched is a process that may or may not be our child, held by a
// descriptor, so that its number cannot come to mean another process.
type watched struct {
	pid  int
	fd   *os.File
	done chan struct{} // closed when it has ended
}

// watch takes hold of p and waits for its end in the background; errs.NotFound
// when it is gone.
func watch(p process) (*watched, error) {
	gone := &errs.Error{Kind: errs.NotFound, Subject: fmt.Sprintf("process %d", p.PID)}
	if p.PID == 0 {
		return nil, gone
	}
	fd, err := unix.PidfdOpen(p.PID, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, gone
	}
	if err != nil {
		return nil, fmt.Errorf("take hold of process %d: %w", p.PID, err)
	}
	// Only now, when the number can no longer change hands, see whose it is.
	if startOf(p.PID) != p.Start {
		unix.Close(fd)
		return nil, gone
	}
	w := &watched{pid: p.PID, fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	go w.await()
	return w, nil
}

// await ends with the process: one goroutine per sandbox, which costs no
// thread, because the descriptor is polled.
func (w *watched) await() {
	defer close(w.done)
	raw, err := w.fd.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Read(func(fd uintptr) bool {
		p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(p, 0)
		return n > 0 || (err != nil && !errors.Is(err, unix.EINTR))
	})
	// Bury it when it is a child of ours; the error when it is not is fine.
	_ = raw.Control(func(fd uintptr) {
		_ = unix.Waitid(unix.P_PIDFD, int(fd), nil, unix.WEXITED|unix.WNOHANG, nil)
	})
}

// kill ends the process; it is safe to repeat.
func (w *watched) kill() error {
	raw, err := w.fd.SyscallConn()
	if err != nil {
		return nil // closed: it has ended
	}
	var kerr error
	if err := raw.Control(func(fd uintptr) { kerr = unix.PidfdSendSignal(int(fd), syscall.SIGKILL, nil, 0) }); err != nil {
		return nil
	}
	if errors.Is(kerr, unix.ESRCH) {
		return nil
	}
	return kerr
}

// enter moves the calling thread into namespaces of the process.
func (w *watched) enter(which int) error {
	raw, err := w.fd.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	if err := raw.Control(func(fd uintptr) { serr = unix.Setns(int(fd), which) }); err != nil {
		return err
	}
	return serr
}

func (w *watched) ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}
