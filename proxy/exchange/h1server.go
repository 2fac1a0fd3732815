// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"crypto/sha1"
	"encoding/base64"
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
)

// h1server is a client's HTTP/1 connection: one exchange after the other.
type h1server struct {
	server
	w    *Worker
	c    *engine.Conn
	info *filter.ConnInfo
	lead Lead // nil: filters and routes
	peer *PeerCount
	x    *Stream // nil between requests

	src     h1source
	dst     h1sink
	t       engine.Timer
	began   int64
	since   int64 // when the connection fell idle, or the head under way began
	seen    int   // bytes scanned of it
	count   uint32
	partial bool          // a head has begun
	persist bool          // the client can send another request
	modern  bool          // HTTP/1.1
	last    bool          // none is taken after this one
	told    bool          // the client knows
	grace   time.Duration // how long it may be idle yet, when it departs; 0: it does not
	running bool          // pump is on the stack
	ended   bool
	done    func() // tells the listener; nil once told
}

// ServeHTTP1 takes over c, whose first bytes may have been read. done is
// called once, when the connection has ended.
func (w *Worker) ServeHTTP1(c *engine.Conn, m *Manager, info *filter.ConnInfo, done func()) {
	w.serve1(c, m, info, nil, done)
}

func (w *Worker) serve1(c *engine.Conn, m *Manager, info *filter.ConnInfo, lead Lead, done func()) *h1server {
	h := &h1server{w: w, c: c, info: info, lead: lead, peer: w.peer(info), began: w.l.Now(), since: w.l.Now(), done: done}
	h.server.who, h.server.m = h, m
	w.link(&h.server)
	c.SetHandler(h)
	m.count(w).Conns++
	h.arm(m.headTime)
	if w.draining || m.newest().draining.Load() {
		h.depart(asksAgain)
	}
	h.pump()
	return h
}

// OnConn is told of the connection.
func (h *h1server) OnConn(*engine.Conn) {
	if h.ended {
		return
	}
	if h.x != nil {
		h.x.pump()
		return
	}
	h.pump()
}

// OnClose is told that another part closed the connection.
func (h *h1server) OnClose(*engine.Conn) { h.end() }

// next goes on after an exchange.
func (h *h1server) next() {
	if !h.running && !h.ended {
		h.pump()
	}
}

// pump reads heads and begins exchanges, as long as they end at once.
func (h *h1server) pump() {
	h.running = true
	spent := 0
	for !h.ended && h.x == nil {
		if spent++; spent > 64 {
			h.c.Again() // a pipeline must not starve the others
			break
		}
		if !h.read() {
			break
		}
	}
	h.running = false
}

// read reads the next head and begins its exchange. False means that there is
// none yet, or that the connection has ended.
func (h *h1server) read() bool {
	w := h.w
	if h.c.Room() == 0 {
		return false // a client that does not read gets no more answers to hold
	}
	for {
		b := h.c.Bytes()
		w.req.Resume(h.seen)
		n, err := w.req.Parse(b)
		if err == nil && n > h.m.maxHead || n == 0 && err == nil && len(b) > h.m.maxHead {
			err = errHeadSize
		}
		if err != nil {
			h.refuse(err)
			return false
		}
		if n > 0 {
			h.begin(b[:n])
			return true
		}
		h.seen = w.req.Seen()
		if len(b) > 0 && !h.partial {
			h.partial, h.since = true, w.l.Now()
			h.arm(h.m.headTime)
		}
		if h.c.Dead() {
			h.close() // between requests this is the usual end
			return false
		}
		if !h.c.Fill(h.m.maxHead + 1) {
			return false
		}
	}
}

var errHeadSize = &http1.Fault{Status: 431, Reason: "head too large"}

// begin starts the exchange whose head is b.
func (h *h1server) begin(b []byte) {
	w := h.w
	h.m = h.m.newest()
	h.partial, h.seen = false, 0
	x := w.newStream(h.m, h)
	x.h1, x.lead = h, h.lead
	x.c.Conn, x.peer = h.info, h.peer
	w.req.Decode(b, &x.req)
	h.src.begin(w.req.Body())
	h.persist, h.modern = w.req.Persistent(), w.req.Minor == 1
	h.c.Discard(len(b))
	h.x = x
	h.count++
	if most := h.m.cfg.MaxRequests; most > 0 && h.count >= most {
		h.last = true
	}
	x.begin()
}

// refuse answers what is no request, and ends.
func (h *h1server) refuse(err error) {
	x := h.w.newStream(h.m, h)
	x.h1, x.lead = h, h.lead
	x.c.Conn, x.peer = h.info, h.peer
	x.c.Req = &x.req
	x.c.Began = h.w.l.Now()
	x.noFilters = true
	x.closeAfter = true
	x.c.Flags |= filter.FlagProtocol
	x.req.Proto, h.modern, h.persist = message.HTTP11, true, false
	h.src.begin(http1.Body{})
	h.src.body.End()
	h.x = x
	h.m.count(h.w).Requests++
	h.m.count(h.w).Active++
	h.m.count(h.w).Malformed++
	status := 400
	if f, ok := err.(*http1.Fault); ok {
		status = f.Status
	}
	x.reply(status, err.Error())
}

// Expire ends an idle connection, or one whose head takes too long.
func (h *h1server) Expire(*engine.Timer) {
	now := h.w.l.Now()
	limit := h.m.idle
	if h.partial || h.count == 0 {
		limit = h.m.headTime
	}
	if h.grace > 0 && !h.partial {
		limit = min(limit, h.grace)
	}
	if d := h.m.cfg.MaxConnDuration; d > 0 && now >= h.began+int64(d) {
		h.retire()
	}
	switch {
	case h.ended:
		return
	case h.x != nil:
	case now >= h.since+int64(limit):
		if h.partial {
			h.refuse(errSlow)
			return
		}
		h.close()
		return
	default:
		h.arm(time.Duration(h.since + int64(limit) - now))
		return
	}
	h.arm(limit)
}

// arm sets the timer, no later than for the connection's end.
func (h *h1server) arm(d time.Duration) {
	if most := h.m.cfg.MaxConnDuration; most > 0 && !h.last {
		d = min(d, max(0, time.Duration(h.began-h.w.l.Now())+most))
	}
	h.w.l.SetTimer(&h.t, d, h)
}

var errSlow = &http1.Fault{Status: 408, Reason: "head not whole in time"}

// retire has the connection end as soon as nothing is under way.
func (h *h1server) retire() {
	h.last = true
	if h.x == nil && !h.partial {
		h.close()
	}
}

func (h *h1server) close() {
	h.end()
	h.c.Finish()
}

func (h *h1server) end() {
	if h.ended {
		return
	}
	h.ended = true
	h.w.l.StopTimer(&h.t)
	h.server.unlink()
	if x := h.x; x != nil {
		x.c.Flags |= filter.FlagDownstreamGone
		x.finish(false)
	}
	if h.done != nil {
		h.done()
		h.done = nil
	}
}

// What follows is the downstream of the exchange under way.

func (h *h1server) peek() ([]byte, bool, error) { return h.src.peek(h.c, &h.x.reqT, h.m.ahead) }
func (h *h1server) consume(n int)               { h.src.consume(h.c, n) }
func (h *h1server) trailers() *message.Head     { return h.x.requestTrailers() }
func (h *h1server) again()                      { h.c.Again() }

func (h *h1server) broken() bool {
	return h.c.Reset() || h.c.Broken()
}

func (h *h1server) interim(m *message.Response) {
	if h.modern {
		if h.lead != nil && m.Proto == message.HTTP2 {
			capitals(&m.Head)
		}
		h.w.buf = http1.AppendResponse(h.w.buf[:0], m, http1.Frame{})
		h.c.Append(h.w.buf)
	}
}

// head writes the response's head and settles how its body is framed.
func (h *h1server) head(m *message.Response, end bool) {
	x := h.x
	if h.lead != nil && m.Proto == message.HTTP2 {
		capitals(&m.Head)
	}
	bodiless := m.Bodiless(x.isHead) || x.tunnelled
	if x.c.Local != nil && !x.closeAfter {
		h.drop()
	}
	if x.closeAfter || h.w.draining || h.m.newest().draining.Load() || !x.reqDone && !h.src.done() && x.c.Local != nil {
		h.last = true
	}
	fr := http1.Frame{Close: h.last || !h.persist}
	h.dst = h1sink{}
	if !bodiless && end && m.Length < 0 {
		m.Length = 0 // the body of another protocol's message that had none
	}
	if !bodiless && m.Length < 0 {
		fr.Chunked = h.modern
		fr.Close = fr.Close || !h.modern
		h.dst.chunked = h.modern
		h.dst.closes = !h.modern
	}
	if x.tunnelled && m.Status != 101 { // over HTTP/2 success says it
		m.Status, m.Reason = 101, message.Span{}
		m.Upgrade = m.Put(x.req.In(x.req.Upgrade))
		h.accept(m)
	}
	h.last, h.told = fr.Close, fr.Close
	fr.Keep = !h.modern && !fr.Close
	h.w.buf = http1.AppendResponse(h.w.buf[:0], m, fr)
	h.c.Append(h.w.buf)
}

// drop passes over what has come of a body that nobody wants, so that the
// connection can go on when that is all of it. A client that waits for leave
// to send one sends none.
func (h *h1server) drop() {
	if h.x.req.Continue {
		return
	}
	for n := 0; n < readAhead; {
		p, _, err := h.peek()
		if len(p) == 0 || err != nil {
			return
		}
		n += len(p)
		h.consume(len(p))
	}
}

// accept proves to a WebSocket client that its upgrade was understood (RFC
// 6455, 4.2.2): the other side's protocol has no such proof.
func (h *h1server) accept(m *message.Response) {
	r := &h.x.req
	for i := range r.Fields { // one that was dropped on the way counts too
		if f := &r.Fields[i]; message.EqualFold(r.In(f.Name), "sec-websocket-key") {
			m.Remove("sec-websocket-accept")
			m.AddString("sec-websocket-accept", acceptOf(r.In(f.Value)))
			return
		}
	}
}

func acceptOf(key []byte) string {
	sum := sha1.Sum(append(append([]byte(nil), key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func (h *h1server) send(p []byte, last bool) int { return h.dst.send(h.c, p, last) }

func (h *h1server) finish(t *message.Head) {
	if t != nil && h.lead != nil && h.x.resp.Proto == message.HTTP2 {
		capitals(t)
	}
	h.dst.finish(h.c, t)
}

func (h *h1server) tunnel() {
	h.src.begin(http1.Body{})
	h.src.raw = true
	h.dst = h1sink{closes: true}
}

// over ends the exchange.
func (h *h1server) over(x *Stream, whole bool) {
	h.x = nil
	if h.ended {
		return
	}
	h.since = h.w.l.Now()
	switch {
	case !whole:
		h.end()
		h.c.Abort() // the client must not take what it got for all
	case x.tunnelled || h.told || !h.src.done():
		h.close()
	case h.last: // it was to end only after the head had said otherwise
		h.depart(asksAgain)
	default:
		h.arm(h.m.idle)
	}
}
