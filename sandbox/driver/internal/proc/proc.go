// SPDX-License-Identifier: Apache-2.0

// Package proc holds on to processes that may or may not be children of this
// one, across the death of whoever started them.
package proc

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// ID identifies a process for good: a number is used again, a number with
// its start time is not. The zero ID names none.
type ID struct {
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks after boot, /proc/PID/stat field 22
}

// Of identifies a process that runs, and is known not to end meanwhile.
func Of(pid int) ID { return ID{pid, startOf(pid)} }

// BootID names this boot of the machine; in another one an ID means nothing.
var BootID = sync.OnceValue(func() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(b))
})

// startOf reads when a process started; 0 when there is none.
func startOf(pid int) uint64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	return parseStart(string(b))
}

// parseStart finds the start time. The name in parentheses may hold anything,
// also parentheses.
func parseStart(stat string) uint64 {
	_, rest, ok := strings.Cut(stat[max(0, strings.LastIndexByte(stat, ')')):], " ")
	fields := strings.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0
	}
	n, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// Process is held by a descriptor, so that its number cannot come to mean
// another process.
type Process struct {
	PID  int
	fd   *os.File
	done chan struct{}
}

// Done is closed when the process has ended.
func (w *Process) Done() <-chan struct{} { return w.done }

// Close lets go of a process.
func (w *Process) Close() error { return w.fd.Close() }

// Watch takes hold of p and waits for its end in the background; errs.NotFound
// when it is gone.
func Watch(p ID) (*Process, error) {
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
	w := &Process{PID: p.PID, fd: os.NewFile(uintptr(fd), "pidfd"), done: make(chan struct{})}
	go w.await()
	return w, nil
}

// await ends with the process: one goroutine per sandbox, which costs no
// thread, because the descriptor is polled.
func (w *Process) await() {
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

// Kill ends the process; it is safe to repeat.
func (w *Process) Kill() error {
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

// Enter moves the calling thread into namespaces of the process.
func (w *Process) Enter(which int) error {
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

// Ended says whether it has.
func (w *Process) Ended() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}
