// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
)

// Handler is told, on the loop, that something about c changed: it became
// readable or writable, connected, or failed. It runs as far as it can and
// returns.
type Handler interface{ OnConn(c *Conn) }

// CloseHandler is what a Handler adds when it must know that its connection
// was closed by somebody else, such as the loop at its end.
type CloseHandler interface{ OnClose(c *Conn) }

// Records seals and opens the records of a secure connection. It is used by
// one loop only.
type Records interface {
	// Open opens one whole record (header included) and appends its
	// plaintext to dst, which has room. kind is what the record carried.
	Open(dst, rec []byte) (out []byte, kind Kind, err error)
	// Seal appends one record with plaintext p, at most MaxPlain bytes.
	Seal(dst, p []byte) []byte
	// SealInPlace turns b[start:], a gap of HeaderLen bytes followed by at
	// most MaxPlain bytes of plaintext, into a record.
	SealInPlace(b []byte, start int) []byte
	// Closing appends the alert that ends this side's stream.
	Closing(dst []byte) []byte
	// Pending appends what the record layer itself has to say (key updates).
	Pending(dst []byte) []byte
}

// Kind is what a record carried, as far as a Conn must know.
type Kind uint8

// The kinds of records.
const (
	Data    Kind = iota // plaintext was appended, perhaps none
	Control             // the record layer handled it; Pending may have an answer
	Closed              // the peer ended its stream
)

// Sizes of TLS 1.3 records (RFC 8446, section 5.1 and 5.2).
const (
	HeaderLen   = 5
	MaxPlain    = 16 << 10
	MaxCipher   = MaxPlain + 256
	maxOverhead = HeaderLen + 1 + 16
)

// OutHigh bounds the bytes that wait to be written on one connection.
const OutHigh = 128 << 10

// direct is the size from which clear bytes are written without being copied
// first. Below it the copy is cheaper than a second system call.
const direct = 4 << 10

// ErrTruncated means that a secure peer's stream ended without its closing
// alert: what came may not be all.
var ErrTruncated = errors.New("stream ended without close_notify")

// Conn is one TCP connection on a loop.
type Conn struct {
	l     *Loop
	h     Handler
	w     Watch
	fd    int
	in    buffer  // clear, unread
	out   buffer  // as it goes onto the wire, but for an open record
	raw   buffer  // ciphertext of records not yet whole or not yet wanted
	rec   Records // nil on a clear connection
	open  int     // start of the record being filled in out; -1 none
	class int     // what the next empty in buffer should hold, adapts to the traffic
	sent  uint64  // bytes the kernel took
	err   error   // first failure; nothing works after it
	werr  error   // failure of a write; what the peer sent before can still be read

	connecting bool
	readable   bool // edge-triggered: true until a read says otherwise
	writable   bool
	peerShut   bool // end of stream or error was signalled: short reads prove nothing
	eof        bool
	reset      bool // the peer gave up both directions; bytes that came before may be unread
	fin        bool // the peer's kernel said that its side is closed
	shut       bool // no more Send; the end follows the last byte
	shutDone   bool
	dirty      bool
	queued     bool
}

// Add makes a Conn of a connected or connecting non-blocking socket, which it
// takes over, also when it fails.
func (l *Loop) Add(fd int, connecting bool, h Handler) (*Conn, error) {
	c := &Conn{l: l, h: h, fd: fd, open: -1, connecting: connecting, writable: !connecting}
	w, err := l.Watch(fd, unix.EPOLLIN|unix.EPOLLOUT|unix.EPOLLRDHUP|unix.EPOLLET&0xffffffff, c)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.w = w
	l.conns[c] = struct{}{}
	l.load.Add(1)
	return c, nil
}

// Ready takes the descriptor's events; none is a call that Again asked for.
func (c *Conn) Ready(ev uint32) {
	if ev == 0 {
		c.h.OnConn(c)
		return
	}
	if ev&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.readable = true
	}
	if ev&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		c.peerShut = true
	}
	if ev&(unix.EPOLLHUP|unix.EPOLLERR) != 0 && !c.connecting && !c.shut {
		c.reset = true // both directions ended, and not by this side
	}
	if c.connecting {
		if ev&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) == 0 {
			return
		}
		c.connecting = false
		if n, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			c.fail("connect", err.(unix.Errno))
		} else if n != 0 {
			c.fail("connect", unix.Errno(n))
		}
	}
	if ev&(unix.EPOLLOUT|unix.EPOLLERR|unix.EPOLLHUP) != 0 && !c.connecting {
		c.writable = true
		if c.out.len() > 0 {
			c.flush()
		}
	}
	c.h.OnConn(c)
}

// SetHandler changes who is told of events.
func (c *Conn) SetHandler(h Handler) { c.h = h }

// Loop gives the loop that c belongs to.
func (c *Conn) Loop() *Loop { return c.l }

// Connecting tells that the connection is not established yet.
func (c *Conn) Connecting() bool { return c.connecting }

// Err is the failure that ended the connection, if any. Bytes that came
// before it can still be read.
func (c *Conn) Err() error { return c.err }

// EOF tells that the peer ended its stream properly and Bytes holds the rest
// of it.
func (c *Conn) EOF() bool { return c.eof }

// Dead tells that nothing more will come from the peer: end or failure.
func (c *Conn) Dead() bool { return c.eof || c.err != nil }

// Broken tells that nothing can be sent any more.
func (c *Conn) Broken() bool { return c.err != nil || c.werr != nil }

// Reset tells that the peer has given up the whole connection, also while
// nothing is read from it.
func (c *Conn) Reset() bool { return c.reset || c.err != nil && !c.eof }

// Alive tells that c is open.
func (c *Conn) Alive() bool { return c.fd >= 0 }

// Secure tells that records protect the connection.
func (c *Conn) Secure() bool { return c.rec != nil }

// Sent is the number of bytes that the kernel took so far.
func (c *Conn) Sent() uint64 { return c.sent }

// Unheard tells that the peer closed its side before any byte beyond the
// first sent bytes reached its kernel, so that nobody can have read them.
//
// The FIN carries the peer's last acknowledgement, which settles it. A reset
// settles nothing: its acknowledgement is ignored, and that of bytes which
// the peer has read already may have been delayed.
func (c *Conn) Unheard(sent uint64) bool {
	if !c.fin || c.fd < 0 {
		return false
	}
	ti, err := unix.GetsockoptTCPInfo(c.fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	return err == nil && ti.Bytes_acked <= sent+1 // the SYN counts as one
}

// StartTLS puts rec between the wire and the handler. rest is ciphertext that
// was read already; unread bytes are taken as following it.
func (c *Conn) StartTLS(rec Records, rest []byte) {
	tail := c.in
	c.in = buffer{}
	c.rec = rec
	if n := len(rest) + tail.len(); n > 0 {
		c.raw.room(&c.l.bufs, n)
		c.raw.w += copy(c.raw.free(), rest)
		c.raw.w += copy(c.raw.free(), tail.bytes())
	}
	tail.release(&c.l.bufs)
}

// Bytes are the unread bytes, valid until the next call of Fill or Discard.
func (c *Conn) Bytes() []byte { return c.in.bytes() }

// Discard consumes n bytes.
func (c *Conn) Discard(n int) { c.in.discard(&c.l.bufs, n) }

// Fill reads once, unless limit bytes are unread already, and reports
// whether anything became of it: bytes, the end, or a failure. After false
// the handler will be called when there is more.
func (c *Conn) Fill(limit int) bool {
	if c.connecting || c.fd < 0 || c.eof || c.err != nil || c.in.len() >= limit {
		return false
	}
	if c.rec != nil {
		return c.fillSecure(limit)
	}
	if !c.readable {
		return false
	}
	if c.in.b == nil {
		c.in.b = c.l.bufs.get(min(classes[c.class], limit))
	}
	if len(c.in.free()) == 0 {
		c.in.room(&c.l.bufs, min(limit-c.in.len(), max(c.in.len(), classes[0])))
	}
	free := c.in.free()
	n := c.read(free)
	if n > 0 {
		c.in.w += n
		c.adapt(n, len(free))
		return true
	}
	if c.in.len() == 0 {
		c.in.release(&c.l.bufs)
	}
	return c.eof || c.err != nil
}

// adapt lets bulk traffic have larger buffers: a read of 64 KiB costs half of
// four of 16 KiB.
func (c *Conn) adapt(n, free int) {
	if n == free && c.class < len(classes)-1 {
		c.class++
	} else if c.class > 0 && n < classes[c.class-1]/2 {
		c.class--
	}
}

// read reads into p and keeps the edge-triggered state. 0 means nothing now,
// the end, or a failure.
func (c *Conn) read(p []byte) int {
	for {
		n, e := sys.Read(c.fd, p)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			c.readable = false
			return 0
		case e != 0:
			c.fail("read", e)
			return 0
		case n == 0:
			c.readable = false
			// A reset that a write was told of makes reads end too. It is
			// EPIPE when the peer's FIN had come before it.
			c.fin = c.werr == nil || errors.Is(c.werr, unix.EPIPE)
			switch {
			case c.werr != nil:
				c.err = c.werr // the reset was told to the writer; this is no proper end
			case c.rec != nil:
				c.err = ErrTruncated
			default:
				c.eof = true
			}
			return 0
		}
		// A short read emptied the socket; more will raise a new edge. Not so
		// when the end was signalled already: it raises none again.
		if n < len(p) && !c.peerShut {
			c.readable = false
		}
		return n
	}
}

func (c *Conn) fillSecure(limit int) bool {
	for {
		if c.raw.len() > 0 {
			n, got := c.openRecords(c.raw.bytes(), limit)
			c.raw.discard(&c.l.bufs, n)
			if got {
				return true
			}
		}
		if !c.readable || c.in.len() >= limit {
			return false
		}
		want := min(max(limit-c.in.len(), MaxCipher+HeaderLen), len(c.l.scratch))
		if c.raw.len() == 0 {
			b := c.l.scratch[:min(want, max(classes[c.class], classes[1]))]
			n := c.read(b)
			if n == 0 {
				return c.err != nil
			}
			c.adapt(n, len(b))
			used, got := c.openRecords(b[:n], limit)
			if used < n {
				c.raw.room(&c.l.bufs, max(n-used, recordLen(b[used:n])))
				c.raw.w += copy(c.raw.free(), b[used:n])
			}
			if got {
				return true
			}
			continue
		}
		c.raw.room(&c.l.bufs, max(classes[0], recordLen(c.raw.bytes())-c.raw.len()))
		n := c.read(c.raw.free())
		if n == 0 {
			return c.err != nil
		}
		c.raw.w += n
	}
}

// recordLen is the length of the record at the start of b as far as its
// header is known.
func recordLen(b []byte) int {
	if len(b) < HeaderLen {
		return HeaderLen
	}
	return HeaderLen + min(int(b[3])<<8|int(b[4]), MaxCipher)
}

// openRecords opens the whole records at the start of src that in may take.
// It gives the bytes used and whether the handler has something to look at.
func (c *Conn) openRecords(src []byte, limit int) (used int, got bool) {
	for len(src)-used >= HeaderLen && c.in.len() < limit {
		rec := src[used:]
		n := int(rec[3])<<8 | int(rec[4])
		if n > MaxCipher {
			c.err = fmt.Errorf("record of %d bytes", n) // RFC 8446, 5.2: record_overflow
			return len(src), true
		}
		if len(rec) < HeaderLen+n {
			break
		}
		c.in.room(&c.l.bufs, n)
		out, kind, err := c.rec.Open(c.in.b[:c.in.w], rec[:HeaderLen+n])
		used += HeaderLen + n
		if err != nil {
			c.err = fmt.Errorf("open record: %w", err)
			return len(src), true
		}
		switch kind {
		case Data:
			got = got || len(out) > c.in.w
			c.in.w = len(out)
		case Control:
			c.say(c.rec.Pending)
			if c.out.len() > 2*OutHigh { // a peer that asks for key updates and never reads
				c.err = errFlood
				return len(src), true
			}
		case Closed:
			c.eof = true
			c.peerShut = true
			return len(src), true // RFC 8446, 6.1: what follows is ignored
		}
	}
	if c.in.len() == 0 {
		c.in.release(&c.l.bufs)
	}
	return used, got
}

// say appends records of the record layer's own.
func (c *Conn) say(f func([]byte) []byte) {
	c.closeRecord()
	c.out.room(&c.l.bufs, 256)
	b := f(c.out.b[:c.out.w])
	if len(b) > c.out.w {
		c.out.w = len(b)
		c.mark()
	}
}

// Send takes as many bytes of p as there is room for and gives their number.
// When it is less than len(p), the handler will be called when there is room
// again.
func (c *Conn) Send(p []byte) int {
	if c.fd < 0 || c.shut || c.Broken() || len(p) == 0 {
		return 0
	}
	if c.rec != nil {
		return c.sendSecure(p)
	}
	n := 0
	if len(p) >= direct {
		if c.out.len() > 0 && !c.flush() {
			return 0
		}
		n = c.write(p)
		if n == len(p) || c.Broken() || !c.writable {
			return n
		}
		p = p[n:]
	}
	if room := OutHigh - c.out.len(); room < len(p) {
		if !c.flush() {
			p = p[:max(0, min(len(p), OutHigh-c.out.len()))]
		}
	}
	c.put(p)
	return n + len(p)
}

// Append takes all of p, however much waits already: for heads and frames,
// whose size the caller bounds.
func (c *Conn) Append(p []byte) {
	if c.fd < 0 || c.shut || c.Broken() || len(p) == 0 {
		return
	}
	if c.rec != nil {
		c.sealAll(p)
		return
	}
	c.put(p)
}

// Room is how many bytes Append may be given without exceeding OutHigh. When
// it is small, the handler will be called when there is more.
func (c *Conn) Room() int {
	if c.out.len() > OutHigh/2 {
		c.flush()
	}
	return max(0, OutHigh-c.out.len())
}

// Blocked tells that the peer takes nothing at the moment.
func (c *Conn) Blocked() bool { return !c.writable }

// Idle tells that nothing waits to be written.
func (c *Conn) Idle() bool { return c.out.len() == 0 }

func (c *Conn) put(p []byte) {
	if len(p) == 0 {
		return
	}
	c.out.room(&c.l.bufs, len(p))
	c.out.w += copy(c.out.free(), p)
	c.mark()
}

func (c *Conn) sendSecure(p []byte) int {
	total := len(p)
	for len(p) > 0 {
		if c.out.len() >= OutHigh && !c.flush() {
			break
		}
		n := min(len(p), max(MaxPlain, OutHigh-c.out.len()))
		c.sealAll(p[:n])
		p = p[n:]
	}
	return total - len(p)
}

// sealAll seals whole records straight from p and leaves the rest in an open
// record, where what follows in this turn may join it: fewer records, fewer
// tags, one write.
func (c *Conn) sealAll(p []byte) {
	for len(p) > 0 {
		if c.open < 0 && len(p) >= MaxPlain {
			c.out.room(&c.l.bufs, MaxPlain+maxOverhead)
			c.out.w = len(c.rec.Seal(c.out.b[:c.out.w], p[:MaxPlain]))
			p = p[MaxPlain:]
			continue
		}
		if c.open < 0 {
			c.out.room(&c.l.bufs, min(len(p), MaxPlain)+maxOverhead)
			c.open = c.out.w - c.out.r
			c.out.w += HeaderLen
		}
		have := c.out.len() - c.open - HeaderLen
		n := min(len(p), MaxPlain-have)
		c.out.room(&c.l.bufs, n+maxOverhead)
		c.out.w += copy(c.out.free(), p[:n])
		p = p[n:]
		if have+n == MaxPlain {
			c.closeRecord()
		}
	}
	c.mark()
}

// closeRecord seals the open record. open counts from out.r, since room may
// move the bytes.
func (c *Conn) closeRecord() {
	if c.open < 0 {
		return
	}
	off := c.open
	c.open = -1
	c.out.room(&c.l.bufs, maxOverhead)
	c.out.w = len(c.rec.SealInPlace(c.out.b[:c.out.w], c.out.r+off))
}

func (c *Conn) mark() {
	if !c.dirty {
		c.dirty = true
		c.l.dirty = append(c.l.dirty, c)
	}
}

// flush writes what waits; true when nothing waits any more.
func (c *Conn) flush() bool {
	if c.open >= 0 {
		c.closeRecord()
	}
	for c.out.len() > 0 && !c.Broken() {
		if !c.writable {
			return false
		}
		n := c.write(c.out.bytes())
		c.out.discard(&c.l.bufs, n)
	}
	if c.Broken() {
		c.out.release(&c.l.bufs)
		return false
	}
	if c.shut && !c.shutDone && !c.connecting {
		c.shutDone = true
		unix.Shutdown(c.fd, unix.SHUT_WR)
	}
	return true
}

func (c *Conn) write(p []byte) int {
	if !c.writable {
		return 0
	}
	for {
		n, e := sys.Write(c.fd, p)
		switch {
		case e == unix.EINTR:
			continue
		case e == unix.EAGAIN:
			c.writable = false
			return 0
		case e != 0:
			c.werr = fmt.Errorf("write: %w", e)
			c.readable = true
			c.Again()
			return 0
		}
		c.sent += uint64(n)
		return n
	}
}

func (c *Conn) fail(act string, e unix.Errno) {
	if c.err == nil {
		c.err = fmt.Errorf("%s: %w", act, e)
	}
}

// Fail ends the connection with a failure of the handler's own finding.
func (c *Conn) Fail(err error) {
	if c.err == nil {
		c.err = err
	}
}

// Again has the handler called once more in the next turn: for a handler that
// stops early to let others run.
func (c *Conn) Again() {
	if !c.queued {
		c.queued = true
		c.l.again = append(c.l.again, c)
	}
}

// CloseWrite ends this side's stream behind what was sent. The peer sees a
// proper end.
func (c *Conn) CloseWrite() {
	if c.fd < 0 || c.shut || c.Broken() {
		return
	}
	if c.rec != nil {
		c.say(c.rec.Closing)
	}
	c.shut = true
	c.mark()
}

// Close closes at once; what was not written is lost. A peer that sees no
// close_notify knows.
func (c *Conn) Close() {
	if c.fd < 0 {
		return
	}
	c.l.forget(c.w)
	unix.Close(c.fd)
	c.fd = -1
	c.in.release(&c.l.bufs)
	c.out.release(&c.l.bufs)
	c.raw.release(&c.l.bufs)
	c.open = -1
	delete(c.l.conns, c)
	c.l.load.Add(-1)
	if c.err == nil {
		c.err = errClosed
	}
	if h, ok := c.h.(CloseHandler); ok {
		h.OnClose(c)
	}
}

var (
	errClosed = errors.New("closed")
	errFlood  = errors.New("peer does not read what it asks for")
)

// Abort closes with a reset, so that the peer cannot take it for an end.
func (c *Conn) Abort() {
	if c.fd < 0 {
		return
	}
	unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	c.Close()
}
