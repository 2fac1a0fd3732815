// SPDX-License-Identifier: Apache-2.0

//go:build linux && !netpoll

package engine

import (
	"encoding/binary"
	"fmt"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// What a watch is for and what an event says.
const (
	evIn        = unix.EPOLLIN
	evOut       = unix.EPOLLOUT
	evErr       = unix.EPOLLERR
	evHup       = unix.EPOLLHUP
	evRdHup     = unix.EPOLLRDHUP
	evEdge      = unix.EPOLLET & 0xffffffff
	evExclusive = unix.EPOLLEXCLUSIVE
)

// PerConn is how many descriptors a watched connection takes.
const PerConn = 1

// event is one of epoll's: Fd is the index in the loop's table, Pad the
// generation.
type event = unix.EpollEvent

// poller waits for events, here by epoll. Of its methods only kick may be
// called from elsewhere than the loop. What only the other poller needs is
// empty, and compiles to nothing.
type poller struct{ ep, wake int }

func (p *poller) open() (err error) {
	if p.ep, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return fmt.Errorf("make epoll: %w", err)
	}
	if p.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		unix.Close(p.ep)
		return fmt.Errorf("make eventfd: %w", err)
	}
	// Slot 0 is nobody's: the event only ends the wait. Edge-triggered, every
	// kick is an event, and nobody need empty the counter, which lasts for
	// 2⁶⁴ of them.
	if err = p.add(p.wake, event{Events: evIn | evEdge}); err != nil {
		p.close()
	}
	return err
}

func (p *poller) add(fd int, ev event) error {
	return unix.EpollCtl(p.ep, unix.EPOLL_CTL_ADD, fd, &ev)
}

// remove ends the events of a descriptor that stays open.
func (p *poller) remove(fd int) { unix.EpollCtl(p.ep, unix.EPOLL_CTL_DEL, fd, nil) }

// leave is told that a slot is nobody's any more.
func (*poller) leave(uint32) {}

// blocked is told that a connection waits to be writable.
func (*poller) blocked(Watch) {}

func (p *poller) kick() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	sys.Write(p.wake, b[:])
}

// wait waits for events, at most ms milliseconds, or without bound when that
// is negative. busy has it keep the processor for a moment.
func (p *poller) wait(events []event, ms int, busy bool) (int, unix.Errno) {
	if !busy {
		return sys.EpollWait(p.ep, events, ms)
	}
	short := spin
	if ms >= 0 {
		short = min(ms, spin)
	}
	n, e := sys.EpollSpin(p.ep, events, short)
	if n == 0 && e == 0 && (ms < 0 || ms > spin) {
		n, e = sys.EpollWait(p.ep, events, max(ms-spin, -1))
	}
	return n, e
}

func (p *poller) close() {
	unix.Close(p.ep)
	unix.Close(p.wake)
}

// openPipe gives the ends of a pipe and its size; 0 for none.
func openPipe() (r, w, size int) {
	var fds [2]int
	if unix.Pipe2(fds[:], unix.O_NONBLOCK|unix.O_CLOEXEC) != nil {
		return 0, 0, 0
	}
	size, err := unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize)
	if err != nil {
		size = 64 << 10
	}
	return fds[0], fds[1], size
}
