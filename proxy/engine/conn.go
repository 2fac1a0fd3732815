// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
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
	maxOverhead = HeaderLen + 8 + 16 + 32 // of TLS 1.2 too: explicit nonce, tag; and an alert or key update beside
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
	held  int     // 1 + descriptor while frozen (move.go), 0 otherwise
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
	w, err := l.Watch(fd, connEvents, c)
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	c.w = w
	if connecting {
		l.poll.blocked(w)
	}
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
	if ev&(evIn|evRdHup|evHup|evErr) != 0 {
		c.readable = true
	}
	if ev&(evRdHup|evHup|evErr) != 0 {
		c.peerShut = true
	}
	if ev&(evHup|evErr) != 0 && !c.connecting && !c.shut {
		c.reset = true // both directions ended, and not by this side
	}
	if c.connecting {
		if ev&(evOut|evErr|evHup) == 0 {
			return
		}
		c.connecting = false
		if n, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
			c.fail("connect", err.(unix.Errno))
		} else if n != 0 {
			c.fail("connect", unix.Errno(n))
		}
	}
	if ev&(evOut|evErr|evHup) != 0 && !c.connecting {
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
	acked, ok := ackedBytes(c.fd)
	return ok && acked <= sent+1 // the SYN counts as one
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
