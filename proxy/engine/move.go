// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/handover/wire"
)

// A connection moves to another process in three steps: Freeze takes it off
// the loop with nothing of it lost, Export writes what is known of it, and
// Yield forgets it, or Thaw goes on with it as if nothing had happened. At the
// other end Adopt makes a frozen connection, and Thaw begins.
//
// While a Conn is frozen its descriptor is hidden from it: reads find nothing,
// sends take nothing, closing does nothing. So no event, timer or late call
// can touch a socket that may be another process's already.

// Base is the time, by the machine's monotonic clock, at which Mono was zero.
func Base() int64 {
	var ts unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts) != nil {
		return 0
	}
	return ts.Nano() - Mono()
}

// Continue has Mono count from another process's Base, so that deadlines of
// connections that come from it stay what they are. Call it before anything
// else of this package.
func Continue(base int64) {
	epoch = epoch.Add(-time.Duration(Base() - base))
}

// Each calls f with the connections that are open, and their handlers, in no
// order. f must not open or close any.
func (l *Loop) Each(f func(c *Conn, h Handler)) {
	for c := range l.conns {
		if c.fd >= 0 {
			f(c, c.h)
		}
	}
}

// Has tells that c is on this loop. It may have left for another since it was
// looked up (Leave), and then nothing of it may be touched here.
func (l *Loop) Has(c *Conn) bool {
	_, ok := l.conns[c]
	return ok
}

// At is when t runs out; 0 when it is not set.
func (t *Timer) At() int64 {
	if !t.set {
		return 0
	}
	return t.at
}

// RestoreTimer arms t to run out at a time by Mono, if that is not 0.
func (l *Loop) RestoreTimer(t *Timer, at int64, who Expirer) {
	if at != 0 {
		l.SetTimer(t, time.Duration(max(0, at-l.now)), who)
	}
}

// Handler gives who is told of events.
func (c *Conn) Handler() Handler { return c.h }

// Movable tells that c can be frozen and exported. A connection that failed
// ends where it is.
func (c *Conn) Movable() bool {
	return c.fd >= 0 && !c.connecting && c.err == nil && c.werr == nil && !c.reset
}

// Freeze writes what can be written and takes c off the loop. False means
// that it has failed meanwhile, and is not frozen.
func (c *Conn) Freeze() bool {
	c.flush()
	if !c.Movable() {
		return false
	}
	c.l.Unwatch(c.w)
	c.held, c.fd = c.fd+1, -1
	return true
}

// Frozen gives the descriptor of a frozen connection; -1 when it is not.
func (c *Conn) Frozen() int { return c.held - 1 }

// Thaw puts a frozen connection on its loop, with h as its handler, who is
// called soon whether there is an event or not.
func (c *Conn) Thaw(h Handler) error {
	c.fd, c.held = c.held-1, 0
	c.h = h
	w, err := c.l.Watch(c.fd, connEvents, c)
	if err != nil {
		c.Fail(fmt.Errorf("take up connection: %w", err))
	}
	c.w = w
	c.readable, c.writable = true, true // the first call tells better
	if _, known := c.l.conns[c]; !known {
		c.l.conns[c] = struct{}{}
		c.l.load.Add(1)
	}
	if c.out.len() > 0 || c.shut && !c.shutDone {
		c.mark()
	}
	c.Again()
	return err
}

// Spill takes the bytes in p, if there is one, into dst's memory, behind what
// waits there already, and releases p: a pipe does not move. False means that
// the bytes could not be had.
func (p *Pipe) Spill(dst *Conn) bool {
	for p.n > 0 {
		dst.out.room(&dst.l.bufs, p.n)
		n, e := sys.Read(p.r, dst.out.free()[:p.n])
		if e == unix.EINTR {
			continue
		}
		if e != 0 || n == 0 {
			return false
		}
		dst.out.w += n
		p.n -= n
	}
	p.Release()
	dst.mark()
	return true
}

// Yield closes this process's descriptor of a frozen connection, which lives
// on in another, and forgets its keys. Nobody is told.
func (c *Conn) Yield() {
	if c.held == 0 {
		return
	}
	unix.Close(c.held - 1)
	c.held = 0
	c.in.release(&c.l.bufs)
	c.out.release(&c.l.bufs)
	c.raw.release(&c.l.bufs)
	c.err = errMoved
	if r, ok := c.rec.(interface{ Retire() }); ok {
		r.Retire()
	}
	if _, known := c.l.conns[c]; known {
		delete(c.l.conns, c)
		c.l.load.Add(-1)
	}
}

var errMoved = fmt.Errorf("moved to another process")

// Bounds of what an exported connection may hold.
const (
	mostIn  = 1 << 20
	mostOut = 4 << 20
)

// Export writes the state of a frozen connection; its descriptor travels
// beside. seal writes its record layer.
func (c *Conn) Export(w *wire.Writer, seal func(Records, *wire.Writer)) {
	w.U64(c.sent)
	w.U8(uint8(c.class))
	for _, f := range [...]bool{c.peerShut, c.eof, c.fin, c.shut, c.shutDone} {
		w.Bool(f)
	}
	w.Bytes(c.in.bytes())
	w.Bytes(c.out.bytes())
	w.Bytes(c.raw.bytes())
	w.Bool(c.rec != nil)
	if c.rec != nil {
		at := w.Hole()
		seal(c.rec, w)
		w.Fill(at)
	}
}

// Adopt makes a frozen connection of fd, which it takes over, and of what
// Export wrote. open makes its record layer. On a fault, which r tells, fd is
// closed.
func (l *Loop) Adopt(fd int, r *wire.Reader, open func([]byte) (Records, error)) *Conn {
	c := &Conn{l: l, fd: -1, held: fd + 1, open: -1}
	c.sent = r.U64()
	c.class = min(int(r.U8()), len(classes)-1)
	for _, f := range [...]*bool{&c.peerShut, &c.eof, &c.fin, &c.shut, &c.shutDone} {
		*f = r.Bool()
	}
	l.adoptBuffer(&c.in, r, mostIn)
	l.adoptBuffer(&c.out, r, mostOut)
	l.adoptBuffer(&c.raw, r, mostIn)
	if r.Bool() {
		rec, err := open(r.Bytes())
		if err != nil {
			r.Bad("record layer")
		}
		c.rec = rec
	}
	if r.Err() != nil {
		c.Yield()
	}
	return c
}

func (l *Loop) adoptBuffer(b *buffer, r *wire.Reader, most int) {
	p := r.Bytes()
	if len(p) > most {
		r.Bad("buffer")
		return
	}
	if len(p) > 0 {
		b.room(&l.bufs, len(p))
		b.w += copy(b.free(), p)
	}
}
