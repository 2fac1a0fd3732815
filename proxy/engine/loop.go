// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
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

	poll    poller // by build: epoll, or Go's own
	slots   []slot
	spare   []uint32
	now     int64
	wheel   wheel
	bufs    pool
	pipes   []*Pipe
	scratch []byte // one read's worth of ciphertext; empty between calls
	dirty   []*Conn
	again   []*Conn
	again2  []*Conn
	conns   map[*Conn]struct{}

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
	l := &Loop{slots: make([]slot, 1, 1024), scratch: make([]byte, classes[2]), conns: map[*Conn]struct{}{}}
	l.now = Mono()
	l.wheel.init(l.now)
	if err := l.poll.open(); err != nil {
		return nil, err
	}
	return l, nil
}

// Discard releases a loop that will not Run.
func (l *Loop) Discard() { l.end() }

// What to Watch for. A watch is level-triggered unless it says otherwise.
const (
	Readable = evIn               // one descriptor that no other loop watches
	Shared   = evIn | evExclusive // by several loops: few are told of one event

	connEvents = evIn | evOut | evRdHup | evEdge
)

// Watch adds fd with the given events. The caller keeps fd and calls Unwatch
// before it closes it.
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
	if err := l.poll.add(fd, event{Events: events, Fd: int32(i), Pad: int32(s.gen)}); err != nil {
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
	l.poll.remove(s.fd)
	l.forget(w)
}

// forget frees the table's entry of a descriptor that is about to be closed,
// which removes it from epoll by itself.
func (l *Loop) forget(w Watch) {
	s := &l.slots[w.idx]
	if w.idx == 0 || s.gen != w.gen {
		return
	}
	s.src = nil
	l.spare = append(l.spare, w.idx)
	l.poll.leave(w.idx)
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
	if !l.woken {
		l.woken = true
		l.poll.kick() // under the lock: after the loop's end its descriptor is another's
	}
	l.mu.Unlock()
	return true
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
	events := make([]event, 256)
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

func (l *Loop) sleep(events []event, busy bool) (int, error) {
	ms := 0
	if len(l.again) == 0 {
		ms = l.wheel.wait(Mono())
	}
	l.beat.Store(0)
	n, e := l.poll.wait(events, ms, l.Spin && (ms >= 0 && ms <= spin || busy))
	l.now = Mono()
	l.beat.Store(l.now)
	if e != 0 && e != unix.EINTR {
		return 0, fmt.Errorf("wait for events: %w", e)
	}
	return n, nil
}

func (l *Loop) turn(events []event) {
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
	l.poll.close()
	l.beat.Store(0)
}
