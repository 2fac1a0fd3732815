// SPDX-License-Identifier: Apache-2.0

//go:build !linux || netpoll

package engine

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// What a watch is for and what an event says.
const (
	evIn        = sys.PollIn
	evOut       = sys.PollOut
	evErr       = sys.PollErr
	evHup       = sys.PollHup
	evRdHup     = sys.PollRdHup
	evEdge      = 1 << 31
	evExclusive = 0 // each loop that shares a descriptor is told; those that come late find nothing
)

// PerConn is how many descriptors a watched connection takes: its own, and
// the duplicate that Go's poller has.
const PerConn = 2

// event has the fields of epoll's.
type event struct {
	Events uint32
	Fd     int32 // index in the loop's table
	Pad    int32 // generation
}

// poller waits for events, here by the poller of Go's runtime, which is
// edge-triggered as well: a goroutine per watch is parked in it, and hears of
// every edge. It asks poll(2) what the edge was, and tells the loop. Of its
// methods only kick and post may be called from elsewhere than the loop.
type poller struct {
	watches []*watched // by index in the loop's table
	level   []*watched // level-triggered, told of in the last turn: they may have more
	timer   *time.Timer
	bell    chan struct{} // holds one ring: whoever waits, or is about to, looks again

	mu    sync.Mutex
	queue []*watched // that show something; each once
}

// watched is one watch. The poller of Go's runtime has a descriptor once, and
// closes what it has: so it gets a duplicate.
type watched struct {
	p       *poller
	ev      event
	f       *os.File
	raw     syscall.RawConn
	fd      int // of f; valid until leave
	shows   atomic.Uint32
	writing atomic.Bool // a goroutine waits until it is writable
	wg      sync.WaitGroup
	gone    bool
}

func (p *poller) open() error {
	p.bell = make(chan struct{}, 1)
	p.timer = time.NewTimer(time.Hour)
	p.timer.Stop()
	return nil
}

func (p *poller) add(fd int, ev event) error {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("duplicate: %w", err)
	}
	w := &watched{p: p, ev: ev, fd: dup, f: os.NewFile(uintptr(dup), "watched")}
	if w.raw, err = w.f.SyscallConn(); err != nil {
		w.f.Close()
		return fmt.Errorf("watch by Go's poller: %w", err)
	}
	for int(ev.Fd) >= len(p.watches) {
		p.watches = append(p.watches, nil)
	}
	p.watches[ev.Fd] = w
	if ev.Events&evOut != 0 {
		w.post(sys.Poll(dup, evOut)) // as epoll does: what can be written from the start is an event
	}
	w.wg.Go(w.hear)
	return nil
}

// hear waits for what can be read, and for ends, until leave.
func (w *watched) hear() {
	want := w.ev.Events & (evIn | evRdHup)
	err := w.raw.Read(func(uintptr) bool {
		w.post(sys.Poll(w.fd, want))
		return false // for the next edge
	})
	if !errors.Is(err, os.ErrClosed) {
		// Go's poller gives up a descriptor that shows an error and nothing
		// else. The next read or write tells which.
		w.post(evIn | evErr)
	}
}

// blocked has the loop told when the connection is writable again. Edges of
// the other direction would come with every byte that the peer acknowledges,
// so nobody waits for them before.
func (p *poller) blocked(at Watch) {
	w := p.watches[at.idx]
	if w != nil && w.writing.CompareAndSwap(false, true) {
		w.wg.Go(w.hearRoom)
	}
}

func (w *watched) hearRoom() {
	err := w.raw.Write(func(uintptr) bool {
		got := sys.Poll(w.fd, evOut)
		if got == 0 {
			return false
		}
		w.writing.Store(false) // before the loop is told, which may be blocked again at once
		w.post(got)
		return true
	})
	if err != nil && !errors.Is(err, os.ErrClosed) {
		w.writing.Store(false)
		w.post(evOut | evErr)
	}
}

// post tells the loop what w shows.
func (w *watched) post(got uint32) {
	if got == 0 {
		return
	}
	if w.shows.Or(got) != 0 {
		return // it is in the queue, and the loop will see all of it
	}
	w.p.mu.Lock()
	w.p.queue = append(w.p.queue, w)
	w.p.mu.Unlock()
	w.p.kick()
}

func (p *poller) kick() {
	select {
	case p.bell <- struct{}{}:
	default:
	}
}

// wait waits for events, at most ms milliseconds, or without bound when that
// is negative.
func (p *poller) wait(events []event, ms int, _ bool) (int, unix.Errno) {
	for i, w := range p.level {
		if !w.gone {
			w.post(sys.Poll(w.fd, w.ev.Events&evIn))
		}
		p.level[i] = nil
	}
	p.level = p.level[:0]
	if n := p.take(events); n > 0 || ms == 0 {
		return n, 0
	}
	if ms < 0 {
		<-p.bell
		return p.take(events), 0
	}
	p.timer.Reset(time.Duration(ms) * time.Millisecond)
	select {
	case <-p.bell:
		p.timer.Stop()
	case <-p.timer.C:
	}
	return p.take(events), 0
}

// take moves events off the queue. What shows from here on is an event of its
// own, so that nothing is lost between this and the handler.
func (p *poller) take(events []event) (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken := 0
	for _, w := range p.queue {
		if n == len(events) {
			break
		}
		taken++
		got := w.shows.Swap(0)
		if w.gone {
			continue
		}
		events[n] = event{Events: got, Fd: w.ev.Fd, Pad: w.ev.Pad}
		n++
		if w.ev.Events&evEdge == 0 {
			p.level = append(p.level, w)
		}
	}
	rest := copy(p.queue, p.queue[taken:])
	clear(p.queue[rest:])
	p.queue = p.queue[:rest]
	return n
}

// remove has nothing to do that leave does not.
func (*poller) remove(int) {}

// leave ends a watch, and returns when nobody waits for it and the duplicate
// is closed: the caller's close is the last, and its reset goes out.
func (p *poller) leave(idx uint32) {
	w := p.watches[idx]
	if w == nil {
		return
	}
	p.watches[idx] = nil
	w.gone = true
	w.f.Close()
	w.wg.Wait()
}

func (p *poller) close() {
	for i := range p.watches {
		p.leave(uint32(i))
	}
}

// openPipe gives no pipe: what would wait for it is epoll.
func openPipe() (r, w, size int) { return 0, 0, 0 }
