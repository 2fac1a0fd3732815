// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/record"
)

// Deadline bounds one handshake, from its first byte to its last.
const Deadline = 10 * time.Second

// maxFlight bounds what a peer may send before it has a name. A chain of
// eight RSA certificates is about 16 KiB.
const maxFlight = 64 << 10

// ErrBusy means that too many handshakes are under way.
var ErrBusy = &errs.Error{Kind: errs.Unavailable, Subject: "handshake", Expected: "fewer handshakes at once", Fix: "try again"}

// Handshaker runs handshakes for all loops. Close waits for them.
type Handshaker struct {
	slots chan struct{} // who computes; a handshake that waits for its peer holds none
	limit int64
	live  atomic.Int64
	wg    sync.WaitGroup
}

// NewHandshaker allows limit handshakes at once, of which as many compute as
// there are processors.
func NewHandshaker(limit int) *Handshaker {
	return &Handshaker{slots: make(chan struct{}, max(2, runtime.NumCPU())), limit: int64(limit)}
}

// Close waits for the goroutines of handshakes whose connections have ended.
func (s *Handshaker) Close() { s.wg.Wait() }

// Live is the number of handshakes under way.
func (s *Handshaker) Live() int64 { return s.live.Load() }

// Done is called on the connection's loop when its handshake has ended. After
// nil the connection is secure and the caller must set its handler; after an
// error it is closed. It is not called when the caller closes the connection
// itself.
type Done func(Peer, error)

// Server names the client of c. Bytes that were read from c already are used.
func (s *Handshaker) Server(c *engine.Conn, self *Identity, t *Trust, done Done) {
	h := &handshake{done: done}
	h.start(s, c, t.server(self, &h.peer), tls.Server, "CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0")
}

// Client names the server of c, which must be expect.
func (s *Handshaker) Client(c *engine.Conn, self *Identity, t *Trust, expect, proto string, done Done) {
	h := &handshake{done: done}
	h.start(s, c, t.client(self, expect, proto, &h.peer), tls.Client, "SERVER_TRAFFIC_SECRET_0", "CLIENT_TRAFFIC_SECRET_0")
}

// handshake is one handshake: a handler on the loop's side, a net.Conn on
// crypto/tls's.
type handshake struct {
	s     *Handshaker
	c     *engine.Conn // loop's side only
	done  Done         // loop's side only; nil once called
	t     engine.Timer // loop's side only
	peer  Peer         // goroutine's until it posts
	keys  keyLog       // goroutine's until it posts
	spent int          // loop's side: bytes handed over

	mu   sync.Mutex
	wake sync.Cond
	in   []byte // whole records for crypto/tls, handed out one by one
	out  []byte // what crypto/tls wrote since the loop looked last
	end  error  // why no more will come
}

func (h *handshake) start(s *Handshaker, c *engine.Conn, cfg *tls.Config, role func(net.Conn, *tls.Config) *tls.Conn, read, write string) {
	h.s, h.c, h.wake.L = s, c, &h.mu
	if s.live.Add(1) > s.limit {
		s.live.Add(-1)
		c.Abort()
		h.done(Peer{}, ErrBusy)
		return
	}
	cfg.KeyLogWriter = &h.keys
	h.keys.read, h.keys.write = read, write
	c.SetHandler(h)
	c.Loop().SetTimer(&h.t, Deadline, h)
	l := c.Loop()
	s.wg.Go(func() {
		defer s.live.Add(-1)
		s.slots <- struct{}{}
		conn := role((*pipe)(h), cfg)
		err := conn.Handshake()
		<-s.slots
		l.Post(func() { h.finish(conn, err) })
	})
	h.OnConn(c)
}

// OnConn hands over whole records. crypto/tls reads as much as it is given,
// so it is given no more than a record at a time (pipe.Read), and what
// follows the handshake stays here.
func (h *handshake) OnConn(c *engine.Conn) {
	for {
		h.feed()
		if !c.Fill(engine.MaxCipher + engine.HeaderLen) {
			break
		}
	}
	if c.Dead() && c.Alive() {
		h.mu.Lock()
		if h.end == nil {
			h.end = io.ErrUnexpectedEOF
			if err := c.Err(); err != nil {
				h.end = err
			}
		}
		h.mu.Unlock()
		h.wake.Signal()
	}
}

func (h *handshake) feed() {
	b := h.c.Bytes()
	n := 0
	for len(b)-n >= engine.HeaderLen {
		rec := engine.HeaderLen + int(b[n+3])<<8 + int(b[n+4])
		if rec > engine.MaxCipher+engine.HeaderLen {
			rec = len(b) - n // crypto/tls refuses it with the right alert
		}
		if len(b)-n < rec || h.spent > maxFlight {
			break
		}
		n += rec
		h.spent += rec
	}
	if n == 0 {
		return
	}
	h.mu.Lock()
	h.in = append(h.in, b[:n]...)
	h.mu.Unlock()
	h.wake.Signal()
	h.c.Discard(n)
}

// OnClose lets the goroutine go when the connection's owner or the loop's end
// closed it; the owner knows and is not told.
func (h *handshake) OnClose(c *engine.Conn) {
	h.done = nil
	c.Loop().StopTimer(&h.t)
	h.mu.Lock()
	if h.end == nil {
		h.end = net.ErrClosed
	}
	h.mu.Unlock()
	h.wake.Signal()
}

// Expire gives up on a peer that is too slow.
func (h *handshake) Expire(*engine.Timer) {
	h.fail(&errs.Error{Kind: errs.Unavailable, Subject: "handshake", Expected: fmt.Sprintf("an end within %s", Deadline)})
}

func (h *handshake) fail(err error) {
	if h.done == nil {
		return
	}
	h.mu.Lock()
	h.end = err
	h.mu.Unlock()
	h.wake.Signal()
	done := h.done
	h.done = nil
	h.c.Loop().StopTimer(&h.t)
	h.c.Finish() // what is left to say is an alert
	done(Peer{}, err)
}

// write sends what crypto/tls wrote.
func (h *handshake) write() {
	h.mu.Lock()
	b := h.out
	h.out = nil
	h.mu.Unlock()
	h.c.Append(b)
}

// finish is the way back onto the loop.
func (h *handshake) finish(conn *tls.Conn, err error) {
	if h.done == nil {
		return
	}
	h.write()
	if err != nil {
		h.fail(refused(err))
		return
	}
	st := conn.ConnectionState()
	rec, err := record.New(st.CipherSuite, h.keys.readSecret, h.keys.writeSecret)
	clear(h.keys.readSecret)
	clear(h.keys.writeSecret)
	if err != nil {
		h.fail(err)
		return
	}
	h.c.Loop().StopTimer(&h.t)
	done := h.done
	h.done = nil
	h.c.StartTLS(rec, h.in)
	done(h.peer, nil)
	if h.c.Alive() {
		h.c.Again() // bytes may be waiting that will raise no event
	}
}

// refused keeps a typed cause and types any other.
func refused(err error) error {
	var e *errs.Error
	if errors.As(err, &e) {
		return e
	}
	return &errs.Error{Kind: errs.Unproven, Subject: "handshake", Expected: "TLS 1.3 with an X.509-SVID on both sides", Err: err}
}

// pipe is the handshake as crypto/tls sees it.
type pipe handshake

// Read gives the next record, or a part of it. It parks the goroutine while
// there is none.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.in) == 0 {
		p.flushLocked()
		<-p.s.slots
		for len(p.in) == 0 && p.end == nil {
			p.wake.Wait()
		}
		p.mu.Unlock()
		p.s.slots <- struct{}{}
		p.mu.Lock()
	}
	if len(p.in) == 0 {
		return 0, p.end
	}
	if p.keys.left == 0 {
		p.keys.left = len(p.in)
		if len(p.in) >= engine.HeaderLen {
			p.keys.left = min(len(p.in), engine.HeaderLen+int(p.in[3])<<8+int(p.in[4]))
		}
	}
	n := copy(b, p.in[:p.keys.left])
	p.keys.left -= n
	p.in = p.in[n:]
	return n, nil
}

func (p *pipe) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		return 0, p.end
	}
	p.out = append(p.out, b...)
	return len(b), nil
}

// flushLocked has the loop send what was written: once per flight.
func (p *pipe) flushLocked() {
	if len(p.out) > 0 {
		p.c.Loop().Post(func() {
			if p.c.Alive() {
				(*handshake)(p).write()
			}
		})
	}
}

func (p *pipe) Close() error                     { return nil }
func (p *pipe) LocalAddr() net.Addr              { return nil }
func (p *pipe) RemoteAddr() net.Addr             { return nil }
func (p *pipe) SetDeadline(time.Time) error      { return nil }
func (p *pipe) SetReadDeadline(time.Time) error  { return nil }
func (p *pipe) SetWriteDeadline(time.Time) error { return nil }

// keyLog catches the two application traffic secrets of its one handshake.
// crypto/tls gives them in no other way.
type keyLog struct {
	read, write             string // labels
	readSecret, writeSecret []byte
	left                    int // of the record being read; guarded by handshake.mu
}

// Write takes one line "label client-random secret" in hex.
func (k *keyLog) Write(line []byte) (int, error) {
	f := bytes.Fields(line)
	if len(f) != 3 {
		return len(line), nil
	}
	var to *[]byte
	switch string(f[0]) {
	case k.read:
		to = &k.readSecret
	case k.write:
		to = &k.writeSecret
	default:
		return len(line), nil
	}
	*to = make([]byte, hex.DecodedLen(len(f[2])))
	if _, err := hex.Decode(*to, f[2]); err != nil {
		return 0, errors.New("malformed traffic secret")
	}
	return len(line), nil
}
