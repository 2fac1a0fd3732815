// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// Source is what a descriptor's events go to.
type Source interface{ Ready(events uint32) }

// Watch names a descriptor in a loop's table. The zero Watch names none.
type Watch struct{ idx, gen uint32 }

type slot struct {
	src Source
	fd  int
	gen uint32
}

// Loop is one event loop. Except for Post, Stop, Beat and Load, its methods
// are for handlers running on it.
type Loop struct {
	// Spin lets the loop keep its processor for a moment when it waits while
	// busy. It must be false unless the process has more processors
	// (GOMAXPROCS) than loops: with fewer, what runs beside the loops would
	// only run between their waits. Set before Run.
	Spin bool

	// Fault is told of a handler's panic; nil ends the process. Set before
	// Run.
	Fault func(cause any, stack []byte)

	ep, wake int
	slots    []slot
	spare    []uint32
	now      int64
	wheel    wheel
	bufs     pool
	pipes    []*Pipe
	scratch  []byte // one read's worth of ciphertext; empty between calls
	dirty    []*Conn
	again    []*Conn
	again2   []*Conn
	conns    map[*Conn]struct{}

	load atomic.Int64 // open connections, for balance between loops
	beat atomic.Int64 // monotonic ns of the turn under way; 0 while waiting

	faults int

	mu     sync.Mutex
	posted []func()
	spareP []func()
	woken  bool
	over   bool
	stop   bool
}

var epoch = time.Now()

// Mono is the loops' clock: nanoseconds since the process began.
func Mono() int64 { return int64(time.Since(epoch)) }

// Wall turns a Mono time into wall time.
func Wall(ns int64) time.Time { return epoch.Add(time.Duration(ns)) }

// New makes a loop; Run runs it and releases its descriptors.
func New() (*Loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("make epoll: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		unix.Close(ep)
		return nil, fmt.Errorf("make eventfd: %w", err)
	}
	l := &Loop{ep: ep, wake: wake, slots: make([]slot, 1, 1024), scratch: make([]byte, classes[2]), conns: map[*Conn]struct{}{}}
	l.now = Mono()
	l.wheel.init(l.now)
	if _, err := l.Watch(wake, unix.EPOLLIN, (*waker)(l)); err != nil {
		unix.Close(ep)
		unix.Close(wake)
		return nil, err
	}
	return l, nil
}

type waker Loop

// Ready empties the eventfd; the posted functions run later in the turn.
func (w *waker) Ready(uint32) {
	var b [8]byte
	sys.Read(w.wake, b[:])
}

// Discard releases a loop that will not Run.
func (l *Loop) Discard() { l.end() }

// Watch adds fd with the given epoll events. The caller keeps fd and calls
// Unwatch before it closes it.
func (l *Loop) Watch(fd int, events uint32, src Source) (Watch, error) {
	var i uint32
	if n := len(l.spare); n > 0 {
		i = l.spare[n-1]
		l.spare = l.spare[:n-1]
	} else {
		l.slots = append(l.slots, slot{})
		i = uint32(len(l.slots) - 1)
	}
	s := &l.slots[i]
	s.gen++
	s.src, s.fd = src, fd
	ev := unix.EpollEvent{Events: events, Fd: int32(i), Pad: int32(s.gen)}
	if err := unix.EpollCtl(l.ep, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		s.src = nil
		l.spare = append(l.spare, i)
		return Watch{}, fmt.Errorf("watch descriptor: %w", err)
	}
	return Watch{i, s.gen}, nil
}

// Unwatch removes what Watch added.
func (l *Loop) Unwatch(w Watch) {
	s := &l.slots[w.idx]
	if w.idx == 0 || s.gen != w.gen || s.src == nil {
		return
	}
	unix.EpollCtl(l.ep, unix.EPOLL_CTL_DEL, s.fd, nil)
	l.forget(w)
}

// forget frees the table's entry of a descriptor whose close removes it from
// epoll by itself.
func (l *Loop) forget(w Watch) {
	s := &l.slots[w.idx]
	if w.idx == 0 || s.gen != w.gen {
		return
	}
	s.src = nil
	l.spare = append(l.spare, w.idx)
}

// Post runs f on the loop, soon. False means that the loop has ended and f
// will not run.
func (l *Loop) Post(f func()) bool {
	l.mu.Lock()
	if l.over {
		l.mu.Unlock()
		return false
	}
	l.posted = append(l.posted, f)
	wake := !l.woken
	l.woken = true
	l.mu.Unlock()
	if wake {
		l.kick()
	}
	return true
}

func (l *Loop) kick() {
	var b [8]byte
	binary.NativeEndian.PutUint64(b[:], 1)
	sys.Write(l.wake, b[:])
}

// Stop asks Run to end after the current turn.
func (l *Loop) Stop() { l.Post(func() { l.stop = true }) }

// Now is the time at which the current turn began, by Mono.
func (l *Loop) Now() int64 { return l.now }

// Load is the number of open connections.
func (l *Loop) Load() int64 { return l.load.Load() }

// Beat tells since when, by Mono, the turn under way runs; 0 while the loop
// waits.
func (l *Loop) Beat() int64 { return l.beat.Load() }

// SetTimer arms t to run out in d; who is told. An armed timer is moved.
func (l *Loop) SetTimer(t *Timer, d time.Duration, who Expirer) {
	at := l.now + int64(d)
	t.who = who
	if t.set {
		if at >= t.at {
			t.at = at
			return
		}
		l.wheel.unlink(t)
	}
	t.at = at
	l.wheel.link(t)
}

// StopTimer disarms t.
func (l *Loop) StopTimer(t *Timer) {
	if t.set {
		l.wheel.unlink(t)
	}
}

// spin bounds the wait that does not release the processor. While busy it
// saves the hand-off to the Go scheduler on every turn (a fifth of a hop's
// latency when measured); longer would burn processor time when idle and hold
// up the collector.
const spin = 2

// Run turns until Stop, on a thread of its own. At its end it aborts all
// connections that are left.
func (l *Loop) Run() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer l.end()
	events := make([]unix.EpollEvent, 256)
	busy := false
	for !l.stop {
		n, err := l.sleep(events, busy)
		if err != nil {
			return err
		}
		busy = n > 0
		l.turn(events[:n])
	}
	return nil
}

func (l *Loop) sleep(events []unix.EpollEvent, busy bool) (int, error) {
	ms := 0
	if len(l.again) == 0 {
		ms = l.wheel.wait(Mono())
	}
	l.beat.Store(0)
	var n int
	var e unix.Errno
	if l.Spin && (ms >= 0 && ms <= spin || busy) {
		short := spin
		if ms >= 0 {
			short = min(ms, spin)
		}
		n, e = sys.EpollSpin(l.ep, events, short)
		if n == 0 && e == 0 && (ms < 0 || ms > spin) {
			n, e = sys.EpollWait(l.ep, events, max(ms-spin, -1))
		}
	} else {
		n, e = sys.EpollWait(l.ep, events, ms)
	}
	l.now = Mono()
	l.beat.Store(l.now)
	if e != 0 && e != unix.EINTR {
		return 0, fmt.Errorf("wait for events: %w", e)
	}
	return n, nil
}

func (l *Loop) turn(events []unix.EpollEvent) {
	for i := range events {
		ev := &events[i]
		// A slot may have been freed, or given to another, by a handler that
		// ran before in this batch.
		s := &l.slots[uint32(ev.Fd)]
		if s.src != nil && s.gen == uint32(ev.Pad) {
			l.ready(s.src, ev.Events)
		}
	}
	l.runPosted()
	l.again, l.again2 = l.again2[:0], l.again
	for _, c := range l.again2 {
		c.queued = false
		if c.fd >= 0 {
			l.ready(c, 0)
		}
	}
	l.wheel.expire(l.now)
	l.flushDirty()
}

// maxFaults is how many panics of handlers a loop survives. One connection
// must not end all others; many say that the loop's own state is damaged.
const maxFaults = 16

// ready calls a source. A panic in the handler of a connection is a fault of
// ours that the peer may know how to raise: it costs that connection, is
// told, and is not a way to stop the machine's traffic.
func (l *Loop) ready(src Source, events uint32) {
	if l.Fault != nil {
		if c, ok := src.(*Conn); ok {
			defer func() {
				if cause := recover(); cause != nil {
					l.fault(c, cause)
				}
			}()
		}
	}
	src.Ready(events)
}

func (l *Loop) fault(c *Conn, cause any) {
	if l.faults++; l.faults > maxFaults {
		panic(cause)
	}
	l.Fault(cause, debug.Stack())
	c.Abort()
}

func (l *Loop) runPosted() {
	l.mu.Lock()
	if !l.woken {
		l.mu.Unlock()
		return
	}
	fs := l.posted
	l.posted, l.spareP = l.spareP[:0], nil
	l.woken = false
	l.mu.Unlock()
	for i, f := range fs {
		f()
		fs[i] = nil
	}
	l.mu.Lock()
	l.spareP = fs[:0]
	l.mu.Unlock()
}

func (l *Loop) flushDirty() {
	for i := 0; i < len(l.dirty); i++ { // a handler may add to it
		c := l.dirty[i]
		c.dirty = false
		if c.fd >= 0 {
			c.flush()
		}
		l.dirty[i] = nil
	}
	l.dirty = l.dirty[:0]
}

func (l *Loop) end() {
	l.mu.Lock()
	l.over = true
	left := l.posted
	l.posted = nil
	l.mu.Unlock()
	for _, f := range left { // who posted it may be waiting for it
		f()
	}
	for c := range l.conns {
		c.Abort()
	}
	for _, p := range l.pipes {
		unix.Close(p.r)
		unix.Close(p.w)
	}
	unix.Close(l.ep)
	unix.Close(l.wake)
	l.beat.Store(0)
}
