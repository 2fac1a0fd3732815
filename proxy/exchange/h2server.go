// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/message"
)

// h2server is a client's HTTP/2 connection.
type h2server struct {
	server
	w       *Worker
	c       *engine.Conn
	h       *http2.Conn
	info    *filter.ConnInfo
	lead    Lead // nil: filters and routes
	peer    *PeerCount
	t       engine.Timer
	began   int64
	since   int64 // without streams
	turn    int64
	count   uint32
	last    bool // a graceful end has begun
	halfway bool // the last look found a head that is not whole
	ended   bool
	keep    keeper
	done    func()
	sides   h2side // ring head of the streams under way
}

// ServeHTTP2 takes over c, whose first bytes may have been read. done is
// called once, when the connection has ended.
func (w *Worker) ServeHTTP2(c *engine.Conn, m *Manager, info *filter.ConnInfo, done func()) {
	w.serve2(c, m, info, nil, done)
}

func (w *Worker) serve2(c *engine.Conn, m *Manager, info *filter.ConnInfo, lead Lead, done func()) *h2server {
	h := &h2server{w: w, c: c, info: info, lead: lead, peer: w.peer(info), began: w.l.Now(), since: w.l.Now(), turn: w.l.Now(), done: done}
	h.server.who, h.server.m = h, m
	w.link(&h.server)
	c.SetHandler(h)
	m.count(w).Conns++
	h.sides.next, h.sides.prev = &h.sides, &h.sides
	h.h = http2.New(http2.Server, m.http2(&w.h2), h, c)
	h.h.Start()
	h.arm(min(m.headTime, m.idle))
	if w.draining || m.newest().draining.Load() {
		h.retire()
	}
	h.OnConn(c)
	return h
}

// h2side is one stream of it: the downstream of x.
type h2side struct {
	x          *Stream
	h          *h2server
	s          *http2.Stream
	in         h2body
	reset      bool
	next, prev *h2side // in the connection's ring
}

// OnConn is told of the connection.
func (h *h2server) OnConn(c *engine.Conn) {
	if h.ended {
		return
	}
	if now := h.w.l.Now(); now-h.turn > int64(time.Millisecond) {
		h.h.Elapse(time.Duration(now - h.turn))
		h.turn = now
	}
	if err := feed(c, h.h); err != nil {
		h.m.count(h.w).Malformed++
		h.end()
		c.Finish() // behind the GOAWAY
		return
	}
	if h.ended {
		return
	}
	if c.Dead() || c.Broken() {
		h.end()
		c.Close()
		return
	}
	h.h.Writable(c.Room())
	h.w.runLater()
	h.settle()
}

// settle ends a connection that was to end with its streams.
func (h *h2server) settle() {
	if h.h.Active() > 0 || h.ended {
		return
	}
	if h.last && h.h.Unanswered() == 0 || h.h.Closing() {
		h.close()
	}
}

// OnClose is told that another part closed the connection.
func (h *h2server) OnClose(*engine.Conn) { h.end() }

func (h *h2server) close() {
	h.h.GoAway(http2.NoError)
	h.end()
	h.c.Finish()
}

func (h *h2server) end() {
	if h.ended {
		return
	}
	h.ended = true
	h.w.l.StopTimer(&h.t)
	h.keep.stop()
	h.server.unlink()
	for h.sides.next != &h.sides {
		d := h.sides.next
		if d.x.unborn {
			d.x.abandon()
		} else {
			d.x.c.Flags |= filter.FlagDownstreamGone
			d.x.finish(false)
		}
		if h.sides.next == d {
			d.unlink()
		}
	}
	if h.done != nil {
		h.done()
		h.done = nil
	}
}

// retire has the connection end once its streams have.
func (h *h2server) retire() {
	if h.last || h.ended {
		return
	}
	h.last = true
	h.h.Shutdown()
	h.w.l.SetTimer(&h.t, h.m.drainTime, h)
}

// Expire ends an idle connection.
func (h *h2server) Expire(*engine.Timer) {
	now := h.w.l.Now()
	limit := h.m.idle
	if h.count == 0 {
		limit = h.m.headTime
	}
	switch {
	case h.ended:
		return
	case h.last:
		h.h.Finish()
		h.settle()
	case h.m.cfg.MaxConnDuration > 0 && now >= h.began+int64(h.m.cfg.MaxConnDuration):
		h.retire()
		return
	case h.h.Halfway() && h.halfway:
		h.close() // a preface or a head that is not whole in time
		return
	case h.h.Active() > 0:
		h.since = now
	case now >= h.since+int64(limit):
		h.close()
		return
	}
	if h.halfway = h.h.Halfway(); h.halfway {
		limit = min(limit, h.m.headTime)
	}
	if !h.ended {
		h.arm(min(limit, h.m.headTime))
	}
}

// arm sets the timer, no later than for the connection's end.
func (h *h2server) arm(d time.Duration) {
	if most := h.m.cfg.MaxConnDuration; most > 0 && !h.last {
		d = min(d, max(0, time.Duration(h.began-h.w.l.Now())+most))
	}
	h.w.l.SetTimer(&h.t, d, h)
	h.keep.begin(h.w.l, h.h, &h.m.cfg.HTTP2, h.vanished)
}

// vanished ends a connection whose client does not answer.
func (h *h2server) vanished() {
	h.end()
	h.c.Close()
}

// What follows is what the codec tells.

// Open begins a request.
func (h *h2server) Open(s *http2.Stream) {
	h.m = h.m.newest()
	x := h.w.newStream(h.m, nil)
	d := &x.h2d
	in := d.in.b[:0]
	*d = h2side{x: x, h: h, s: s}
	d.in.b = in
	r := &h.sides
	d.prev, d.next = r.prev, r
	r.prev.next, r.prev = d, d
	x.down = d
	x.c.Conn, x.peer, x.lead = h.info, h.peer, h.lead
	x.phase = judging
	x.unborn = true
	s.Owner, s.Req, s.Trailers = d, &x.req, &x.reqT
}

// Head begins the exchange.
func (h *h2server) Head(s *http2.Stream, end bool) {
	d := sideOf(s)
	if d == nil {
		return
	}
	d.in.last = end
	h.count++
	if end {
		d.x.req.Length = 0
	}
	if most := h.m.cfg.MaxRequests; most > 0 && h.count >= most {
		h.retire()
	}
	d.x.unborn = false
	d.x.begin()
}

// Refuse answers a head beyond bounds.
func (h *h2server) Refuse(s *http2.Stream, status int, end bool) {
	d := sideOf(s)
	if d == nil {
		return
	}
	x := d.x
	x.unborn = false
	d.in.last = end
	x.req.Reset()
	x.req.Proto = message.HTTP2
	x.noFilters = true
	x.c.Req = &x.req
	x.c.Began = h.w.l.Now()
	h.m.count(h.w).Requests++
	h.m.count(h.w).Active++
	h.m.count(h.w).Malformed++
	x.c.Flags |= filter.FlagProtocol
	x.reply(status, "request headers too large")
}

func (h *h2server) Body(s *http2.Stream, p []byte, end bool) int {
	d := sideOf(s)
	if d == nil {
		return len(p)
	}
	return d.in.arrive(d.x, p, end)
}

func (h *h2server) Trailers(s *http2.Stream) {
	if d := sideOf(s); d != nil {
		d.in.last = true
		d.x.pump()
	}
}

func (h *h2server) Reset(s *http2.Stream, _ http2.Code) {
	d := sideOf(s)
	if d == nil {
		return
	}
	d.reset = true
	if d.x.unborn {
		d.x.abandon()
		return
	}
	d.x.c.Flags |= filter.FlagDownstreamGone
	d.x.c.Detail = "downstream_remote_reset"
	d.x.finish(false)
}

func (h *h2server) Window(s *http2.Stream) {
	if d := sideOf(s); d != nil {
		d.x.pump()
	}
}

func (h *h2server) GoAway(uint32, http2.Code) {}
func (h *h2server) Settled()                  {}

func sideOf(s *http2.Stream) *h2side {
	d, _ := s.Owner.(*h2side)
	if d == nil || d.s != s || d.x.down == nil {
		return nil
	}
	return d
}

// Closed is told that the stream is over.
func (d *h2side) Closed(s *http2.Stream) {
	if d.s == s {
		d.s = nil
		if d.x.unborn {
			d.x.abandon()
		}
	}
}

// abandon forgets a stream whose head never became whole.
func (x *Stream) abandon() {
	x.h2d.unlink()
	x.unborn = false
	x.phase = ended
	x.down = nil
	x.w.recycle(x)
}

// What follows is the downstream of x.

func (d *h2side) peek() ([]byte, bool, error) {
	p, last := d.in.peek(len(d.x.reqT.Fields) > 0)
	if len(p) == 0 && !last && (d.reset || d.s == nil) {
		return nil, false, errCutShort
	}
	return p, last, nil
}

func (d *h2side) consume(n int) {
	if d.in.consume(n) && d.s != nil {
		d.h.h.Consumed(d.s, n)
	}
}

func (d *h2side) trailers() *message.Head { return d.x.requestTrailers() }
func (d *h2side) broken() bool            { return d.reset || d.s == nil && !d.x.respDone }

func (d *h2side) again() {
	d.x.w.later = append(d.x.w.later, later{d.x, d.x.gen})
	d.h.c.Again()
}

func (d *h2side) interim(m *message.Response) {
	if d.s != nil && m.Status != 101 {
		d.h.h.WriteResponse(d.s, m, false)
	}
}

func (d *h2side) head(m *message.Response, end bool) {
	if d.s == nil {
		return
	}
	if d.x.tunnelled && m.Status == 101 {
		m.Status = 200
		m.Upgrade = message.Span{}
		m.Remove("sec-websocket-accept")
	}
	if m.Status == 304 {
		m.Length = message.Unknown // it may be said (RFC 9110, 8.6), but net/http's client then misses the body
	}
	d.h.h.WriteResponse(d.s, m, end)
}

func (d *h2side) tunnel() {}

func (d *h2side) send(p []byte, last bool) int {
	if d.s == nil {
		return 0
	}
	return write(d.h.c, d.h.h, d.s, p, last)
}

func (d *h2side) finish(t *message.Head) {
	switch {
	case d.s == nil:
	case t != nil:
		d.h.h.WriteTrailers(d.s, t)
	default:
		d.h.h.WriteData(d.s, nil, true)
	}
}

func (d *h2side) unlink() {
	if d.next != nil {
		d.prev.next, d.next.prev = d.next, d.prev
		d.next, d.prev = nil, nil
	}
}

func (d *h2side) over(x *Stream, whole bool) {
	d.unlink()
	s := d.s
	d.s = nil
	d.in.reset()
	if s != nil {
		s.Req, s.Trailers = nil, nil // they are another's from now on
		switch {
		case whole && !s.Received():
			d.h.h.ResetStream(s, http2.NoError) // RFC 9113, 8.1: no more of the request is wanted
		case !whole:
			code := http2.InternalError
			if d.reset {
				code = http2.Cancel
			}
			d.h.h.ResetStream(s, code)
		}
	}
	if x.endConn && !d.h.ended {
		d.h.retire()
	}
	d.h.since = d.h.w.l.Now()
	if d.h.last && !d.h.ended {
		d.h.c.Again()
	}
}
