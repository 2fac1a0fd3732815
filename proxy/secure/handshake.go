// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
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

// Deadline bounds one handshake, from its first byte to its last, unless
// Options say otherwise.
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

// Share is the part of a Handshaker's limit that one listener or cluster may
// take, so that a flood at one leaves room at the others. The zero Share
// takes none; a nil *Share is unbounded. Safe for concurrent use.
type Share struct {
	limit int64
	live  atomic.Int64
}

// NewShare makes a share of limit handshakes at once.
func NewShare(limit int) *Share { return &Share{limit: int64(limit)} }

// Live is the number of the share's handshakes under way.
func (s *Share) Live() int64 { return s.live.Load() }

func (s *Share) take() bool {
	if s == nil {
		return true
	}
	if s.live.Add(1) > s.limit {
		s.live.Add(-1)
		return false
	}
	return true
}

func (s *Share) give() {
	if s != nil {
		s.live.Add(-1)
	}
}

// Options say how one handshake is run. The zero value is useful.
type Options struct {
	Share    *Share        // nil: bounded by the Handshaker only
	Deadline time.Duration // 0: Deadline
	Expected string        // for errors: what the peer should have shown; "": "a TLS handshake"
}

// Done is called on the connection's loop when its handshake has ended. After
// nil the connection is secure and the caller must set its handler; after an
// error it is closed. It is not called when the caller closes the connection
// itself.
type Done func(tls.ConnectionState, error)

// Server does the server's side on c. Bytes that were read from c already are
// used. cfg is this handshake's own: its KeyLogWriter is set, and it must
// not be used elsewhere (tls.Config.Clone). Of TLS 1.2 it must take AEAD
// suites only, and it must not allow renegotiation.
func (s *Handshaker) Server(c *engine.Conn, cfg *tls.Config, o Options, done Done) {
	h := &handshake{done: done, keys: keys{server: true, tickets: !cfg.SessionTicketsDisabled}}
	h.start(s, c, cfg, tls.Server, &o)
}

// Client does the client's side on c. cfg is this handshake's own, as with
// Server.
func (s *Handshaker) Client(c *engine.Conn, cfg *tls.Config, o Options, done Done) {
	h := &handshake{done: done, keys: keys{tickets: !cfg.SessionTicketsDisabled && cfg.ClientSessionCache != nil}}
	h.start(s, c, cfg, tls.Client, &o)
}

// handshake is one handshake: a handler on the loop's side, a net.Conn on
// crypto/tls's.
type handshake struct {
	s        *Handshaker
	c        *engine.Conn  // loop's side only
	done     Done          // loop's side only; nil once called
	t        engine.Timer  // loop's side only
	deadline time.Duration // loop's side only
	expected string
	keys     keys // goroutine's until it posts
	spent    int  // loop's side: bytes handed over

	mu   sync.Mutex
	wake sync.Cond
	in   []byte // whole records for crypto/tls, handed out one by one
	left int    // of the record being handed out
	out  []byte // what crypto/tls wrote since the loop looked last
	end  error  // why no more will come
	fed  bool   // it is the loop that reads, and must not wait
}

func (h *handshake) start(s *Handshaker, c *engine.Conn, cfg *tls.Config, role func(net.Conn, *tls.Config) *tls.Conn, o *Options) {
	h.s, h.c, h.wake.L = s, c, &h.mu
	h.expected, h.deadline = o.Expected, o.Deadline
	if h.deadline == 0 {
		h.deadline = Deadline
	}
	if !o.Share.take() {
		h.busy()
		return
	}
	if s.live.Add(1) > s.limit {
		s.live.Add(-1)
		o.Share.give()
		h.busy()
		return
	}
	share := o.Share
	cfg.KeyLogWriter = &h.keys
	h.keys.tap(cfg)
	c.SetHandler(h)
	l := c.Loop()
	l.SetTimer(&h.t, h.deadline, h)
	s.wg.Go(func() {
		defer s.live.Add(-1)
		defer share.give()
		s.slots <- struct{}{}
		conn := role((*pipe)(h), cfg)
		err := conn.Handshake()
		<-s.slots
		l.Post(func() { h.finish(conn, err) })
	})
	h.OnConn(c)
}

// busy refuses at once: a reset costs nothing to either side.
func (h *handshake) busy() {
	h.c.Abort()
	h.done(tls.ConnectionState{}, ErrBusy)
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
		err := c.Err()
		if err == nil {
			err = io.ErrUnexpectedEOF
		}
		h.stop(err)
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

// stop tells the goroutine that no more will come; the first reason counts.
func (h *handshake) stop(err error) {
	h.mu.Lock()
	if h.end == nil {
		h.end = err
	}
	h.mu.Unlock()
	h.wake.Signal()
}

// OnClose lets the goroutine go when the connection's owner or the loop's end
// closed it; the owner knows and is not told.
func (h *handshake) OnClose(c *engine.Conn) {
	h.done = nil
	c.Loop().StopTimer(&h.t)
	h.stop(net.ErrClosed)
}

// Expire gives up on a peer that is too slow.
func (h *handshake) Expire(*engine.Timer) {
	h.fail(&errs.Error{Kind: errs.Unavailable, Subject: "handshake", Expected: fmt.Sprintf("an end within %s", h.deadline)})
}

func (h *handshake) fail(err error) {
	if h.done == nil {
		return
	}
	h.stop(err)
	done := h.done
	h.done = nil
	h.c.Loop().StopTimer(&h.t)
	h.c.Finish() // what is left to say is an alert
	done(tls.ConnectionState{}, err)
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
	defer h.keys.wipe()
	if h.done == nil {
		return
	}
	h.write()
	if err != nil {
		h.fail(h.refused(err))
		return
	}
	st := conn.ConnectionState()
	rec, err := h.keys.records(&st)
	if err != nil {
		h.fail(err)
		return
	}
	if h.keys.tickets && !h.keys.server && st.Version == tls.VersionTLS13 {
		rec.WatchTickets(&ticketFeed{conn: conn, h: h})
	}
	h.c.Loop().StopTimer(&h.t)
	done := h.done
	h.done = nil
	rest := h.in
	h.in = nil
	h.c.StartTLS(rec, rest)
	done(st, nil)
	if h.c.Alive() {
		h.c.Again() // bytes may be waiting that will raise no event
	}
}

// refused keeps a typed cause and types any other.
func (h *handshake) refused(err error) error {
	var e *errs.Error
	if errors.As(err, &e) {
		return e
	}
	want := h.expected
	if want == "" {
		want = "a TLS handshake"
	}
	return &errs.Error{Kind: errs.Unproven, Subject: "handshake", Expected: want, Err: err}
}

var _ engine.Records = (*record.Conn)(nil)
