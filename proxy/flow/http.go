// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"errors"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

var (
	errNoBackend = &errs.Error{Kind: errs.Unavailable, Subject: "backend", Expected: "one that is ready, allowed and not tried yet"}
	errUpstream  = errors.New("malformed response")
)

// exchange is one request and its response; it is reused for the next.
type exchange struct {
	req      http1.Request
	resp     http1.Response
	reqBody  http1.Body
	respBody http1.Body
	rewrite  http1.Rewrite
	frame    http1.Frame
	permit   authz.Permit

	active   bool
	partial  bool // a head has begun; its deadline is set
	replay   bool // the request's bytes are still in the buffer, from its head on
	sentHead bool
	reqDone  bool
	stopped  bool // the upstream takes no more of the body; its response may still come
	headDone bool
	respDone bool
	upgraded bool

	head    int // length of the request's head
	cursor  int // bytes of the buffer that were passed on
	tries   int
	interim int
	status  int
	begun   int64
	in, out uint64

	method, path, host []byte // kept for policy and log; path in normal form where policy looks at it
	target             []byte // normal form to send instead of what came
	cert               []byte // X-Forwarded-Client-Cert of this connection
}

const maxInterim = 16 // 1xx responses per request

// startHTTP carries the connection request by request.
func (e *session) startHTTP() {
	if e.kind == Inbound && e.no == nil && !e.authorise(true) {
		e.abort()
		return
	}
	e.phase = exchanges
	e.x = &exchange{}
	switch e.kind {
	case Inbound:
		// Whoever calls, only this proxy says who it is: the client's own
		// field is always dropped.
		if e.peer.ID != "" {
			e.x.cert = []byte("By=" + e.self.ID + ";URI=" + e.peer.ID)
		}
		e.x.rewrite.ClientCert = e.x.cert
	case Gateway:
		e.x.rewrite.For = []byte(e.from.Addr().String())
	}
	e.w.l.SetTimer(&e.timer, headTime, e)
	e.pumpHTTP()
}

// pumpHTTP runs as far as it can.
func (e *session) pumpHTTP() {
	if e.x.active && e.down.Reset() {
		e.logEnd("client has gone")
		e.abort() // and with it the upstream: nobody waits for the answer
		return
	}
	for spent := 0; spent < turnBytes; {
		if !e.x.active {
			ok := e.nextRequest()
			if e.phase != exchanges || !ok {
				return
			}
			if !e.x.active {
				spent += 1 << 10 // refused; a flood of these must yield too
				continue
			}
		}
		n := e.forwardRequest()
		if e.phase != exchanges {
			return
		}
		n += e.forwardResponse()
		if e.phase != exchanges {
			return
		}
		if e.x.active && e.x.respDone {
			if !e.finishExchange() {
				return
			}
		} else if n == 0 {
			return
		}
		spent += n + 1<<10
	}
	e.down.Again()
}

// nextRequest reads the next head. False means that it is not whole yet, or
// that the session is over.
func (e *session) nextRequest() bool {
	x := e.x
	for {
		n, err := x.req.Parse(e.down.Bytes())
		if err != nil {
			e.reject(err)
			return false
		}
		if n > 0 {
			e.begin(n)
			return true
		}
		if e.down.Dead() {
			e.close() // between requests this is the usual end
			return false
		}
		if !e.down.Fill(http1.MaxHead + 1) {
			break
		}
	}
	if len(e.down.Bytes()) > 0 && !x.partial {
		x.partial = true
		e.w.l.SetTimer(&e.timer, headTime, e)
	}
	if u := e.up; u != nil && u.state == ready && (u.c.Fill(1) || u.c.Dead()) {
		e.up = nil // the application ended its idle connection
		u.finish()
	}
	return false
}

func (e *session) expireHTTP() {
	if e.x.active {
		e.w.l.SetTimer(&e.timer, idleTime, e)
		return
	}
	e.close()
}

// reject answers what is no request, and ends.
func (e *session) reject(err error) {
	status := 400
	var f *http1.Fault
	if errors.As(err, &f) {
		status = f.Status
	}
	x := e.x
	x.begun, x.in, x.out = e.w.l.Now(), 0, 0
	x.method, x.path, x.host = x.method[:0], x.path[:0], x.host[:0]
	e.w.Count.Malformed++
	e.answer(status, err.Error(), true)
	e.close()
}

// begin starts the exchange whose head is the first n bytes.
func (e *session) begin(n int) {
	x, b := e.x, e.down.Bytes()
	x.active, x.partial, x.replay = true, false, true
	x.sentHead, x.stopped, x.headDone, x.respDone = false, false, false, false
	x.head, x.cursor, x.tries, x.interim, x.status = n, 0, 0, 0, 0
	x.begun, x.in, x.out = e.w.l.Now(), uint64(n), 0
	x.reqBody = x.req.Body()
	x.reqDone = x.reqBody.Done()
	x.resp.Reset()
	x.permit = e.permit
	x.rewrite.Target = nil
	x.method = append(x.method[:0], x.req.Method.In(b)...)
	x.host = append(x.host[:0], x.req.HostSpan.In(b)...)
	x.path = x.path[:0]
	if x.req.Root {
		x.path = append(x.path, '/')
	}
	x.path = append(x.path, x.req.Target.In(b)...)
	if len(x.host) == 0 {
		x.rewrite.Host = e.dst.AppendTo(x.rewrite.Host[:0])
	}
	if d := e.judge(); d != nil {
		e.w.Count.Denied++
		e.refuse(d.Status, d.Reason)
		return
	}
	e.tried = e.tried[:0]
	if u := e.up; u != nil { // the inbound side keeps its one connection to the application
		if u.state == ready && !u.c.Dead() && (http1.Idempotent(x.method) || e.w.l.Now()-u.rested < int64(restSafe)) {
			return
		}
		e.up = nil
		u.finish()
	}
	e.connect(mtls.ProtoStream)
}

// restSafe is for how long an idle connection to an application takes a
// request that must not be sent twice. An application may end it at any
// moment, and when that crosses with the request nobody can tell whether it
// was read. Servers' idle times are seconds (Node.js 5, nginx 75); a
// connection younger than this is not about to be ended for idleness, and a
// new one costs little within the machine.
const restSafe = time.Second

// judge holds the request to policy. A nil answer leaves a valid x.permit.
func (e *session) judge() *authz.Denied {
	x := e.x
	if e.no != nil {
		return e.no // recorded with the connection
	}
	if e.kind != Inbound {
		return nil // the connection's permit covers its requests
	}
	return e.judgeBy(e.site.pod.Load(), e.input(), x)
}

func (e *session) judgeBy(pod *route.Pod, in authz.Input, x *exchange) (d *authz.Denied) {
	in.HTTP, in.Method, in.Host = true, x.method, x.host
	if pod.Policy.Paths() && !e.normalise() {
		d = authz.NoPath()
	} else {
		in.Path = x.path
		x.permit, d = pod.Policy.Decide(&in)
	}
	if d != nil && !e.recordRequest(d) {
		e.last = true // what cannot be recorded is not answered in detail
		return deniedAudit
	}
	return d
}

var deniedAudit = &authz.Denied{Reason: "decision cannot be recorded", Status: 503}

// normalise brings the path into the form that policy compares and the
// application will see.
func (e *session) normalise() bool {
	x := e.x
	path, query, ok := authz.Normalise(e.w.buf[:0], x.path)
	if !ok {
		return false
	}
	x.target = append(append(x.target[:0], path...), query...)
	x.path = append(x.path[:0], path...)
	x.rewrite.Target = x.target
	return true
}

// forwardRequest passes on what there is of the request and gives a measure
// of progress.
func (e *session) forwardRequest() (n int) {
	x, u := e.x, e.up
	if u == nil || u.state != ready || x.respDone {
		return 0
	}
	if !x.sentHead {
		e.sendHead(u)
		n++
	}
	for !x.reqDone && !x.stopped && n < turnBytes/2 {
		if u.c.Broken() {
			x.stopped = true
			break
		}
		used, err := move(&x.reqBody, e.down.Bytes()[x.cursor:], u.c, x.req.Chunked)
		if err != nil {
			e.badBody(err)
			return n
		}
		x.cursor += used
		x.in += uint64(used)
		n += used
		x.reqDone = x.reqBody.Done()
		e.commitIf(!x.replay)
		if used > 0 || x.reqDone {
			continue
		}
		if e.down.Dead() {
			if !u.c.Blocked() {
				e.logEnd("client ended within its request")
				e.abort()
			}
			return n
		}
		e.commitIf(len(e.down.Bytes()) >= replayMax)
		if !e.down.Fill(readAhead) {
			return n
		}
	}
	return n
}

// replayMax bounds what is kept of a request to send it again.
const replayMax = 64 << 10

// commitIf lets go of the bytes that were passed on; from then on the request
// cannot be sent again.
func (e *session) commitIf(yes bool) {
	if x := e.x; yes {
		x.replay = false
		e.down.Discard(x.cursor)
		x.cursor = 0
	}
}

func (e *session) sendHead(u *upstream) {
	x := e.x
	if !x.permit.Valid() {
		panic("flow: request forwarded without a permit")
	}
	e.w.buf = x.req.Append(e.w.buf[:0], e.down.Bytes()[:x.head], &x.rewrite)
	u.mark = u.c.Sent()
	u.c.Append(e.w.buf)
	x.sentHead = true
	x.cursor = x.head
}

// move passes on the part of a body at the start of in, as far as dst takes
// it, and gives the bytes used.
func move(body *http1.Body, in []byte, dst *engine.Conn, chunked bool) (used int, err error) {
	for !body.Done() && used < len(in) {
		data, n, trailers, err := body.Next(in[used:])
		if err != nil {
			return used, err
		}
		if n == 0 {
			break
		}
		used += n
		if len(data) > 0 {
			took := put(dst, data, chunked)
			if took < len(data) {
				body.Unread(len(data) - took)
				return used - (len(data) - took), nil
			}
		}
		if body.Done() && chunked {
			putLast(dst, trailers)
		}
	}
	return used, nil
}

const chunkOverhead = 16 + 2 + 2

func put(dst *engine.Conn, data []byte, chunked bool) int {
	if !chunked {
		return dst.Send(data)
	}
	n := min(len(data), dst.Room()-chunkOverhead)
	if n <= 0 {
		return 0
	}
	var h [chunkOverhead]byte
	dst.Append(http1.AppendChunkSize(h[:0], n))
	dst.Append(data[:n])
	dst.Append(crlf)
	return n
}

var crlf = []byte("\r\n")

func putLast(dst *engine.Conn, trailers []byte) {
	dst.Append(lastChunk)
	dst.Append(trailers)
	dst.Append(crlf)
}

var lastChunk = []byte("0\r\n")

// badBody ends an exchange whose request turned out malformed on the way.
func (e *session) badBody(err error) {
	e.w.Count.Malformed++
	if u := e.up; u != nil {
		e.up = nil
		u.abandon() // the backend must not take what came for the whole
	}
	if e.x.headDone {
		e.logEnd(err.Error())
		e.abort()
		return
	}
	e.answer(400, err.Error(), true)
	e.close()
}
