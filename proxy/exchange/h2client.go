// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/message"
)

// h2client is a connection to a host that speaks HTTP/2, shared by streams.
type h2client struct {
	p       *pool
	c       *engine.Conn
	h       *http2.Conn
	t       engine.Timer
	tls     *filter.TLSInfo
	local   netip.AddrPort // zero when it was made by another process
	made    int64
	turn    int64 // when Elapse was told last
	since   int64 // without streams
	until   int64 // when it takes no new streams, by Mono; 0 for never
	count   uint32
	high    bool
	settled bool // the peer's SETTINGS came
	leaving bool // takes no new streams
	gone    bool
	keep    keeper
	calls   h2call // ring head of the streams under way
}

func newH2Client(p *pool, c *engine.Conn, high bool, info *filter.TLSInfo, local netip.AddrPort) {
	u := &h2client{p: p, c: c, local: local, high: high, tls: info, made: p.w.l.Now(), turn: p.w.l.Now(), since: p.w.l.Now(), until: p.until(info)}
	u.calls.next, u.calls.prev = &u.calls, &u.calls
	u.h = http2.New(http2.Client, p.cl.http2(&p.w.h2), u, c)
	c.SetHandler(u)
	p.multi = append(p.multi, u)
	u.h.Start()
	u.rest()
	p.ready2(u)
}

// h2call is one stream on it: the upstream of x.
type h2call struct {
	x           *Stream
	u           *h2client
	s           *http2.Stream
	in          h2body
	code        http2.Code
	got         bool // a head waits to be taken
	end         bool // … and no body follows
	headed      bool
	reset       bool
	unprocessed bool
	first       bool    // the connection was made for it
	alone       bool    // the host ended this stream, not the connection
	mark        uint64  // bytes sent before it
	next, prev  *h2call // in the connection's ring
}

// takes tells that another stream can be opened.
func (u *h2client) takes() bool {
	return !u.leaving && !u.gone && !u.c.Dead() && u.h.CanOpen() && (u.p.cl.Cfg.MaxRequests == 0 || u.count < u.p.cl.Cfg.MaxRequests) && !u.p.host.Removed() &&
		(u.count == 0 || u.until == 0 || u.p.w.l.Now() < u.until) // a new one serves whom it was made for
}

// open prepares a stream for x.
func (u *h2client) open(x *Stream) upstream {
	u.count++
	k := &x.h2u
	in := k.in.b[:0]
	*k = h2call{x: x, u: u, first: u.count <= 1, mark: u.c.Sent()}
	k.in.b = in
	k.s = u.h.NewStream()
	h := &u.calls
	k.prev, k.next = h.prev, h
	h.prev.next, h.prev = k, k
	return k
}

// OnConn is told of the connection.
func (u *h2client) OnConn(c *engine.Conn) {
	if u.gone {
		return
	}
	if now := u.p.w.l.Now(); now-u.turn > int64(time.Millisecond) {
		u.h.Elapse(time.Duration(now - u.turn))
		u.turn = now
	}
	if err := feed(c, u.h); err != nil {
		u.fail()
		return
	}
	if c.Dead() {
		u.fail()
		return
	}
	u.h.Writable(c.Room())
	u.settle()
}

// settle ends a connection that has done its work.
func (u *h2client) settle() {
	if u.gone {
		return
	}
	if u.h.Closing() || (!u.takes() || u.p.retired || u.p.w.draining) && u.settled && u.h.Active() == 0 {
		u.leave()
	}
	if u.leaving && u.h.Active() == 0 {
		u.close()
		u.p.dialAsNeeded()
		return
	}
	u.p.ready2(u)
}

// OnClose is told that the loop ended.
func (u *h2client) OnClose(*engine.Conn) { u.fail() }

// leave takes the connection out of those that take streams.
func (u *h2client) leave() {
	if u.leaving {
		return
	}
	u.leaving = true
	for i, o := range u.p.multi {
		if o == u {
			u.p.multi = append(u.p.multi[:i], u.p.multi[i+1:]...)
			break
		}
	}
}

// drain lets the streams under way end.
func (u *h2client) drain() {
	u.leave()
	if !u.gone && u.h.Active() == 0 {
		u.close()
	}
}

func (u *h2client) close() {
	u.forget()
	if u.c.Alive() {
		u.h.GoAway(http2.NoError)
		u.c.Finish()
	}
}

func (u *h2client) forget() {
	u.leave()
	if u.gone {
		return
	}
	u.gone = true
	u.p.w.l.StopTimer(&u.t)
	u.keep.stop()
	u.p.closed(u.high)
	u.p.prune()
}

// fail ends all streams: the connection has.
func (u *h2client) fail() {
	if u.gone {
		return
	}
	u.forget()
	// A server's SETTINGS leave before it looks at a request.
	unread := u.p.cl.Graceful && !u.settled && u.c.EOF()
	for u.calls.next != &u.calls {
		k := u.calls.next
		k.unprocessed = k.unprocessed || unread
		x, gen := k.x, k.x.gen
		k.reset, k.code = true, http2.InternalError
		x.pump() // what has come is passed on first
		if x.gen == gen && x.up == upstream(k) {
			x.cutOff() // it was blocked, and would not have looked
		}
		if u.calls.next == k {
			k.unlink()
		}
	}
	if u.c.Alive() {
		u.c.SetHandler(deaf{})
		u.c.Close()
	}
	u.p.dialAsNeeded()
}

func (u *h2client) rest() {
	u.p.w.l.SetTimer(&u.t, u.p.cl.idle, u)
	u.keep.begin(u.p.w.l, u.h, &u.p.cl.Cfg.HTTP2, u.fail)
}

// Expire ends a connection that has been without streams for long, and asks
// one with streams whether it lives.
func (u *h2client) Expire(*engine.Timer) {
	if u.gone {
		return
	}
	now := u.p.w.l.Now()
	if u.h.Active() > 0 {
		u.since = now
	}
	if d := u.p.cl.Cfg.MaxConnDuration; d > 0 && now >= u.made+int64(d) || now >= u.since+int64(u.p.cl.idle) {
		u.drain()
		if u.gone {
			return
		}
	}
	u.rest()
}

// What follows is what the codec tells.

func (u *h2client) Open(*http2.Stream)                    {}
func (u *h2client) Refuse(s *http2.Stream, _ int, _ bool) { u.h.ResetStream(s, http2.Cancel) }
func (u *h2client) GoAway(uint32, http2.Code)             { u.leave() }
func (u *h2client) Settled()                              { u.settled = true }

func (u *h2client) Head(s *http2.Stream, end bool) {
	k := callOf(s)
	if k == nil {
		return
	}
	k.got, k.end = true, end
	k.in.last = k.in.last || end
	k.x.pump()
}

func (u *h2client) Body(s *http2.Stream, p []byte, end bool) int {
	k := callOf(s)
	if k == nil {
		return len(p) // nobody waits for it any more
	}
	return k.in.arrive(k.x, p, end)
}

func (u *h2client) Trailers(s *http2.Stream) {
	if k := callOf(s); k != nil {
		k.in.last = true
		k.x.pump()
	}
}

func (u *h2client) Reset(s *http2.Stream, code http2.Code) {
	k := callOf(s)
	if k == nil {
		return
	}
	k.reset, k.code, k.unprocessed, k.alone = true, code, s.Unprocessed, true
	if code == http2.NoError && k.in.last { // RFC 9113, 8.1: it needs no more of the request
		k.reset = false
		k.x.stopped = true
	}
	x, gen := k.x, k.x.gen
	x.pump()
	if x.gen == gen && x.phase == forwarding && x.up == upstream(k) && k.reset {
		x.cutOff()
	}
}

func (u *h2client) Window(s *http2.Stream) {
	if k := callOf(s); k != nil {
		k.x.pump()
	}
}

func callOf(s *http2.Stream) *h2call {
	k, _ := s.Owner.(*h2call)
	if k == nil || k.s != s {
		return nil
	}
	return k
}

// Closed is told that the stream is over.
func (k *h2call) Closed(s *http2.Stream) {
	if k.s == s {
		k.s = nil
	}
}

// What follows is the upstream of x.

func (k *h2call) start(m *message.Request, end bool) {
	x := k.x
	k.s.Owner = k
	k.s.Resp = &x.resp
	k.s.Trailers = &x.respT
	x.c.UpstreamTLS, x.c.UpstreamLocal = k.u.tls, k.u.local
	h1upgrade := m.Upgrade.Len() > 0 && string(m.In(m.Method)) != "CONNECT"
	if h1upgrade { // the form that HTTP/2 has for it (RFC 8441)
		m.Method = m.PutString("CONNECT")
		m.Remove("sec-websocket-key")
		if !k.u.h.PeerConnect() {
			k.reset = true
			return
		}
	}
	if m.Scheme.Len() == 0 {
		m.Scheme = m.PutString(x.scheme())
	}
	if err := k.u.h.WriteRequest(m, k.s, end); err != nil {
		k.s = nil
		k.reset, k.unprocessed = true, true
	}
}

func (k *h2call) send(p []byte, last bool) int {
	if k.s == nil {
		k.x.stopped = true
		return 0
	}
	return write(k.u.c, k.u.h, k.s, p, last)
}

func (k *h2call) finish(t *message.Head) {
	switch {
	case k.s == nil:
	case t != nil:
		k.u.h.WriteTrailers(k.s, t)
	default:
		k.u.h.WriteData(k.s, nil, true)
	}
}

func (k *h2call) response(*message.Response) (ok, end bool, err error) {
	if k.got {
		k.got = false
		k.headed = k.headed || !k.x.resp.Interim()
		return true, k.end, nil
	}
	if k.reset {
		return false, false, errGone
	}
	return false, false, nil
}

func (k *h2call) peek() ([]byte, bool, error) {
	p, last := k.in.peek(k.trailers() != nil)
	if len(p) == 0 && !last && k.reset {
		return nil, false, errGone
	}
	return p, last, nil
}

func (k *h2call) consume(n int) {
	if k.in.consume(n) && k.s != nil {
		k.u.h.Consumed(k.s, n)
	}
}

func (k *h2call) trailers() *message.Head {
	if len(k.x.respT.Fields) == 0 {
		return nil
	}
	return &k.x.respT
}

func (k *h2call) tunnel() {}

func (k *h2call) switches2xx() bool { return true }

// fresh: a host that ends one stream has a reason, which a repetition would
// meet again; a connection that ends under its streams says nothing of them.
func (k *h2call) fresh() bool { return k.first || k.alone && k.x.lead == nil }
func (k *h2call) unheard() bool {
	return k.unprocessed || k.reset && (k.code == http2.RefusedStream || !k.alone && k.u.c.Unheard(k.mark))
}

func (k *h2call) unlink() {
	if k.next != nil {
		k.prev.next, k.next.prev = k.next, k.prev
		k.next, k.prev = nil, nil
	}
}

func (k *h2call) release(bool) {
	k.unlink()
	if s := k.s; s != nil {
		k.s = nil
		s.Resp, s.Trailers = nil, nil
		if !(s.Received() && s.Sent()) {
			code := http2.Cancel
			if s.Received() && k.x.respDone {
				code = http2.NoError
			}
			k.u.h.ResetStream(s, code)
		}
	}
	u := k.u
	k.in.reset()
	u.since = u.p.w.l.Now()
	if most := u.p.cl.Cfg.MaxRequests; !u.gone && (u.leaving || u.p.head != nil || most > 0 && u.count >= most) {
		u.c.Again() // settle from the loop, not from within the codec
	}
}
