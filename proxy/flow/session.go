// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// phase is what a session is doing; it selects the pump.
type phase uint8

const (
	first     phase = iota // inbound: waiting for the first byte
	greeting               // mTLS with the client; the handshake has the connection
	sniffing               // waiting for what tells the protocol
	exchanges              // HTTP, request by request: the exchange has the connection
	waiting                // stream: waiting for the upstream
	streaming              // bytes both ways
	queries                // DNS over TCP
	over
)

// session is one downstream connection.
type session struct {
	w          *Worker
	prev, next *session
	site       *Site
	kind       Kind
	phase      phase
	down       *engine.Conn
	http       exchange.Led // exchanges: carries the connection; nil until it has looked at it
	up         *upstream    // stream: being made, or in use
	from, dst  netip.AddrPort
	began      int64

	self   *mtls.Identity // what this side showed or will show
	peer   mtls.Peer      // inbound: who the client proved to be; zero for an unnamed one
	target *route.Target  // outbound and gateway: where it leads
	permit authz.Permit   // for the connection; a request has its own
	no     *authz.Denied  // decided already, told once the protocol is known
	spoke  bool           // sniffing: the client has sent something

	open     bool // carried as a stream since its client is silent, which may still turn out to send requests (late.go)
	again    bool // sniffed a second time: no more trying
	promised bool // sniffing: the client has said that a request comes
	silent   bool // in clear, and its client waits for the server to speak
	declared bool // sniffing: it is HTTP, and the question is which
	shared   bool // HTTP/2 whose streams are requests of HTTP/1 clients
	two      bool // HTTP/2 from end to end
	shaking  bool // counted in site.shakes

	timer  engine.Timer // of the phase
	expiry expiry       // of the certificates that name the two sides
	tried  []netip.AddrPort
	in     uint64 // bytes from the client
	out    uint64 // bytes to the client
	tell   []byte // what each request is told of the client: X-Forwarded-Client-Cert, or at a gateway -For
	dest   [hows]*dest
	line   []byte        // what access log lines say of the connection; empty before the first
	lineOf *route.Target // where it led then
}

func (e *session) link() {
	h := &e.w.sessions
	e.prev, e.next = h.prev, h
	h.prev.next, h.prev = e, e
	e.site.conns.Add(1)
}

// OnConn is told of the downstream connection.
func (e *session) OnConn(*engine.Conn) { e.pump() }

// OnClose is told that the loop ended or another part closed the connection.
func (e *session) OnClose(*engine.Conn) { e.end() }

func (e *session) pump() {
	switch e.phase {
	case first:
		e.pumpFirst()
	case sniffing:
		e.pumpSniff()
	case waiting:
		e.pumpWaiting()
	case streaming:
		e.pumpStream()
	case queries:
		e.pumpDNS()
	}
}

// Expire is told that the phase took too long.
func (e *session) Expire(*engine.Timer) {
	switch e.phase {
	case sniffing:
		if (e.promised || e.declared) && !e.spoke {
			e.close()
			return
		}
		e.open = !e.spoke && !e.again && e.kind != Inbound
		e.sniffed()
	case waiting, streaming:
		e.open = false // what looked like a request line went no further
		e.pump()
	case first:
		e.expireFirst()
	case queries:
		e.close()
	}
}

// end forgets the session: the upstream is given up, timers are stopped. The
// downstream connection is closed already or has another handler.
func (e *session) end() {
	if e.phase == over {
		return
	}
	e.phase = over
	e.w.l.StopTimer(&e.timer)
	e.w.l.StopTimer(&e.expiry.t)
	e.prev.next, e.next.prev = e.next, e.prev
	e.site.conns.Add(-1)
	if e.shaking {
		e.shaking = false
		e.site.shakes.Add(-1)
	}
	if u := e.up; u != nil {
		e.up = nil
		u.abandon()
	}
	for h := range e.dest {
		e.release(how(h))
	}
}

// close ends the session; the client sees a proper end behind what was sent.
func (e *session) close() {
	e.end()
	e.down.Finish()
}

// abort ends the session with a reset, so that the client cannot take what it
// got for all.
func (e *session) abort() {
	if e.phase == exchanges {
		e.down.Abort() // tells the exchange, which ends what is under way
	}
	e.end()
	e.down.Abort()
}

// retire has the session end as soon as nothing is under way.
func (e *session) retire() {
	switch e.phase {
	case exchanges:
		e.http.Retire()
	case sniffing, first, queries:
		e.close()
	}
}

// cut ends the session at once and records why.
func (e *session) cut(why string) {
	e.w.Count.Cut++
	e.record("cut", "deny", why)
	switch e.phase {
	case exchanges:
		e.http.Each(func(x *exchange.Stream) { x.Cut(why) })
	case waiting, streaming:
		e.logStream(why)
	}
	e.abort()
}

// localPort is the port of this pod that an inbound session is for.
func (e *session) localPort() uint16 { return e.dst.Port() }

// input is what policy sees of an inbound connection.
func (e *session) input() authz.Input {
	return authz.Input{Peer: e.peer.ID, Addr: e.from.Addr(), Port: e.localPort()}
}

// expiry ends what a certificate's end must end.
type expiry struct {
	t engine.Timer
	e *session
}

// arm has Expire called when the earlier certificate of the two runs out.
func (x *expiry) arm(e *session, until time.Time) {
	x.e = e
	d := time.Until(until)
	if until.IsZero() {
		return
	}
	e.w.l.SetTimer(&x.t, max(d, 0), x)
}

// reviewAgain is how often a stream that has outlived a certificate is held
// to the snapshot anew.
const reviewAgain = time.Minute

// Expire retires an HTTP connection: its next request finds a new one, with
// new certificates. What is under way cannot move; it lives on while the
// snapshot still knows its peer under that name.
func (x *expiry) Expire(t *engine.Timer) {
	e := x.e
	switch e.phase {
	case exchanges:
		e.retire()
		fallthrough
	case waiting, streaming:
		if e.phase == over {
			return
		}
		if e.stillKnown() {
			e.w.l.SetTimer(t, reviewAgain, x)
			return
		}
		e.cut("certificate ran out and the peer has left the mesh")
	}
}
