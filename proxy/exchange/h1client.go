// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"encoding/base64"
	"encoding/binary"
	"net/netip"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
)

// h1client is a connection to a host that speaks HTTP/1.
type h1client struct {
	p       *pool
	c       *engine.Conn
	x       *Stream // nil while idle
	src     h1source
	dst     h1sink
	t       engine.Timer
	tls     *filter.TLSInfo
	local   netip.AddrPort // zero when it was made by another process
	made    int64
	until   int64  // when it takes no new request, by Mono; 0 for never
	rested  int64  // since when it is idle
	mark    uint64 // bytes sent before the request under way
	count   uint32
	high    bool
	reused  bool
	resting bool
	persist bool // the host will take another request
	headed  bool // the final response's head was read
	gone    bool
}

// OnConn is told of the connection.
func (u *h1client) OnConn(c *engine.Conn) {
	if u.x != nil {
		u.x.pump()
		return
	}
	// Whatever an idle server says, it is not the answer to a request that
	// was not sent: its end, or a stray response.
	if !u.gone && (c.Fill(1) || c.Dead()) {
		u.close()
	}
}

// OnClose is told that the loop ended.
func (u *h1client) OnClose(*engine.Conn) { u.forget() }

// Expire is told that the connection has been idle for long.
func (u *h1client) Expire(*engine.Timer) {
	if u.resting {
		u.close()
	}
}

func (u *h1client) rest() {
	u.p.w.l.SetTimer(&u.t, u.p.cl.idle, u) // pushed back while it is armed: one store
}

// old tells that the connection takes no more requests.
func (u *h1client) old() bool {
	cfg := u.p.cl.Cfg
	return cfg.MaxRequests > 0 && u.count >= cfg.MaxRequests || cfg.MaxConnDuration > 0 && u.p.w.l.Now() >= u.made+int64(cfg.MaxConnDuration) || u.p.host.Removed() || cfg.ProxyProtocol > 0 || u.until != 0 && u.p.w.l.Now() >= u.until
}

// worn tells that the connection has been idle for too long for a request that
// must not be sent twice.
func (u *h1client) worn(x *Stream) bool {
	r := u.p.cl.Rest
	return r > 0 && u.p.w.l.Now()-u.rested >= int64(r) && !idempotent(x.req.In(x.req.Method))
}

func (u *h1client) forget() {
	if u.gone {
		return
	}
	u.gone = true
	u.p.w.l.StopTimer(&u.t)
	if u.resting {
		u.resting = false
		u.p.forget(u)
	}
	u.p.closed(u.high)
	u.p.prune()
}

// close ends the connection properly: nothing of a request is lost.
func (u *h1client) close() {
	if u.gone {
		return
	}
	u.forget()
	u.c.Finish()
}

// What follows is the upstream of the exchange under way.

func (u *h1client) start(m *message.Request, end bool) {
	w := u.p.w
	u.count++
	u.mark = u.c.Sent()
	u.headed, u.persist = false, false
	if m.Upgrade.Len() > 0 {
		u.upgrade(m)
	}
	if u.x.lead != nil && m.Proto == message.HTTP2 {
		capitals(&m.Head)
	}
	length := m.Length
	if !end && length == 0 { // an upgrade of another protocol's making
		m.Length = 0
	}
	w.buf = http1.AppendRequest(w.buf[:0], m)
	m.Length = length
	u.c.Append(w.buf)
	u.dst = h1sink{chunked: m.Length < 0}
	w.resp.Reset()
	u.x.c.UpstreamTLS, u.x.c.UpstreamLocal = u.tls, u.local
}

// upgrade gives an extended CONNECT the form that HTTP/1.1 has for it.
func (u *h1client) upgrade(m *message.Request) {
	if string(m.In(m.Method)) != "CONNECT" {
		return
	}
	m.Method = m.PutString("GET")
	m.Length = 0
	if _, ok := m.Find("sec-websocket-key"); !ok && message.EqualFold(m.In(m.Upgrade), "websocket") {
		var k [16]byte
		binary.NativeEndian.PutUint64(k[:], u.p.w.Rand())
		binary.NativeEndian.PutUint64(k[8:], u.p.w.Rand())
		var b [24]byte
		base64.StdEncoding.Encode(b[:], k[:])
		m.Add([]byte("Sec-WebSocket-Key"), b[:])
	}
}

func (u *h1client) send(p []byte, last bool) int {
	if u.c.Broken() {
		u.x.stopped = true
		return 0
	}
	return u.dst.send(u.c, p, last)
}

func (u *h1client) finish(t *message.Head) {
	if t != nil && u.x.lead != nil && u.x.req.Proto == message.HTTP2 {
		capitals(t)
	}
	u.dst.finish(u.c, t)
}

func (u *h1client) response(m *message.Response) (ok, end bool, err error) {
	r := &u.p.w.resp
	for {
		b := u.c.Bytes()
		r.Resume(0)
		n, err := r.Parse(b)
		if err != nil {
			return false, false, err
		}
		if n > 0 {
			r.Decode(b[:n], m)
			body := r.Body(u.x.isHead)
			u.c.Discard(n)
			if m.Interim() {
				return true, false, nil
			}
			u.headed = true
			u.src.begin(body)
			u.persist = r.Persistent() && m.Status != 101
			end = body.Done() && m.Status != 101
			if body.Kind() == http1.UntilClose {
				u.persist = false
			}
			return true, end, nil
		}
		if u.c.Dead() {
			if u.c.Err() != nil {
				return false, false, errGone
			}
			return false, false, errCutShort
		}
		if !u.c.Fill(http1.MaxHead + 1) {
			return false, false, nil
		}
	}
}

func (u *h1client) peek() ([]byte, bool, error) { return u.src.peek(u.c, &u.x.respT, u.p.cl.ahead) }
func (u *h1client) consume(n int)               { u.src.consume(u.c, n) }

func (u *h1client) trailers() *message.Head {
	if len(u.x.respT.Fields) == 0 {
		return nil
	}
	return &u.x.respT
}

func (u *h1client) tunnel() {
	u.src.begin(http1.Body{})
	u.src.raw = true
	u.dst = h1sink{closes: true}
	u.persist = false
}

func (u *h1client) switches2xx() bool { return false }
func (u *h1client) fresh() bool       { return !u.reused }

// unheard: the peer's kernel had received nothing of the request as it closed
// its side, so that it came too late to be read. Or the peer is one that says
// so by ending its stream properly; TLS protects that, so that nobody else can
// say it.
func (u *h1client) unheard() bool {
	return !u.headed && (u.c.Unheard(u.mark) || u.p.cl.Graceful && u.c.EOF() && len(u.c.Bytes()) == 0)
}

func (u *h1client) release(whole bool) {
	x := u.x
	u.x = nil
	if u.gone {
		return
	}
	switch {
	case !whole:
		u.forget()
		if u.headed && x.respDone || x.tunnelled {
			u.c.Finish()
		} else {
			u.c.Abort() // the host should stop working for nobody
		}
		u.p.dialAsNeeded() // one that waited for it needs another
	case !u.persist || !u.src.done() || u.c.Dead() || len(u.c.Bytes()) > 0:
		u.close()
		u.p.dialAsNeeded()
	default:
		u.reused, u.rested = true, u.p.w.l.Now()
		u.p.ready1(u)
	}
}
