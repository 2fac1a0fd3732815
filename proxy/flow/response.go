// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"strconv"

	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// forwardResponse passes on what there is of the response and gives a
// measure of progress.
func (e *session) forwardResponse() (n int) {
	x, u := e.x, e.up
	if u == nil || u.state != ready || !x.sentHead || x.respDone {
		return 0
	}
	for !x.headDone {
		b := u.c.Bytes()
		e.commitIf(len(b) > 0 && x.replay)
		k, err := x.resp.Parse(b)
		if err != nil {
			e.badResponse(err)
			return n
		}
		if k > 0 {
			n++
			if !e.responseHead(k) {
				return n
			}
			continue
		}
		if u.c.Dead() {
			e.upstreamDied()
			return n + 1
		}
		if !u.c.Fill(http1.MaxHead + 1) {
			return n
		}
	}
	for !x.respBody.Done() && n < turnBytes/2 {
		if e.down.Broken() {
			e.logEnd("client has gone")
			e.abort()
			return n
		}
		used, err := move(&x.respBody, u.c.Bytes(), e.down, x.frame.Chunked)
		if err != nil {
			e.logEnd(err.Error())
			e.abort()
			return n
		}
		u.c.Discard(used)
		x.out += uint64(used)
		n += used
		if used > 0 || x.respBody.Done() {
			continue
		}
		if u.c.Dead() {
			if e.down.Blocked() && len(u.c.Bytes()) > 0 {
				return n
			}
			return n + e.bodyEnded()
		}
		if !u.c.Fill(readAhead) {
			return n
		}
	}
	x.respDone = x.respBody.Done()
	return n
}

// bodyEnded handles an upstream that ended within the body: the end of one
// that is framed by it, else a truncation, which the client must see as one.
func (e *session) bodyEnded() int {
	x, u := e.x, e.up
	if x.respBody.Kind() == http1.UntilClose && u.c.EOF() {
		x.respBody.End()
		x.respDone = true
		if x.frame.Chunked {
			putLast(e.down, nil)
		}
		return 1
	}
	e.logEnd("response cut short")
	e.abort()
	return 0
}

// responseHead passes on a response head of k bytes. False means that the
// exchange is no longer one.
func (e *session) responseHead(k int) bool {
	x, u, r := e.x, e.up, &e.x.resp
	b := u.c.Bytes()[:k]
	switch {
	case r.Interim():
		if x.interim++; x.interim > maxInterim {
			e.badResponse(errUpstream)
			return false
		}
		if x.req.Minor == 1 {
			e.down.Append(r.Append(e.w.buf[:0], b, http1.Frame{}))
		}
		u.c.Discard(k)
		return true
	case r.Status == 101:
		if !x.req.Upgrade || !r.Upgrade {
			e.badResponse(errUpstream)
			return false
		}
		e.down.Append(r.Append(e.w.buf[:0], b, http1.Frame{}))
		u.c.Discard(k)
		x.status = 101
		e.upgrade()
		return false
	}
	r.Upgrade = false
	x.respBody = r.Body(string(x.method) == "HEAD")
	x.frame = http1.Frame{Close: e.last || e.w.draining || !x.req.Persistent()}
	modern := x.req.Minor == 1
	switch x.respBody.Kind() {
	case http1.Chunked, http1.UntilClose:
		x.frame.Chunked = modern
		x.frame.Close = x.frame.Close || !modern
	case http1.None:
		x.frame.Chunked = r.Chunked && modern && r.Status != 204 && r.Status != 304
	}
	x.frame.Keep = !modern && !x.frame.Close
	x.status = r.Status
	x.headDone = true
	x.out += uint64(k)
	e.down.Append(r.Append(e.w.buf[:0], b, x.frame))
	u.c.Discard(k)
	return true
}

// upgrade goes on as a stream: the request's permit covers it.
func (e *session) upgrade() {
	e.x.upgraded = true
	e.commitIf(true)
	e.permit = e.x.permit
	e.in, e.out = 0, 0
	e.w.l.StopTimer(&e.timer)
	e.phase = streaming
	e.pumpStream()
}

// finishExchange settles both connections. False means that the session is
// over.
func (e *session) finishExchange() bool {
	x, u := e.x, e.up
	reuse := x.resp.Persistent() && x.reqDone && x.respBody.Kind() != http1.UntilClose && !u.c.Dead() && len(u.c.Bytes()) == 0 && !u.expiring()
	switch {
	case !reuse:
		e.up = nil
		u.finish()
	case e.kind == Inbound:
		u.reused, u.rested = true, e.w.l.Now() // to the application, under this client's address: it stays with the session
	case u.self == nil: // to the pod itself; the next request may lead elsewhere, and is judged anew
		e.up = nil
		u.finish()
	default:
		e.up = nil
		u.put()
	}
	e.commitIf(x.replay)
	e.logRequest("")
	x.active = false
	if x.frame.Close || e.last || !x.reqDone {
		e.close()
		return false
	}
	e.w.l.SetTimer(&e.timer, idleTime, e)
	return true
}

// upFailedHTTP tries another backend: nothing of the request was sent yet.
func (e *session) upFailedHTTP(b route.Backend, err error) {
	x := e.x
	if e.kind != Inbound && err != errNoBackend {
		if e.tried = append(e.tried, b.Addr); len(e.tried) < maxTries {
			x.tries++
			e.connect(mtls.ProtoStream)
			return
		}
	}
	e.w.Count.Unreachable++
	if e.kind == Inbound {
		e.refuse(503, "application does not answer")
		return
	}
	e.refuse(503, "no backend answers")
}

// badResponse answers for an upstream that does not speak HTTP.
func (e *session) badResponse(error) {
	u := e.up
	e.up = nil
	u.abandon()
	e.refuse(502, "malformed response")
}

// refuse answers the request under way and ends the exchange.
func (e *session) refuse(status int, reason string) {
	x := e.x
	keep := x.replay && x.reqDone && x.req.Persistent() && !e.last && e.no == nil && !e.w.draining
	e.answer(status, reason, !keep)
	if !keep {
		e.close()
		return
	}
	e.down.Discard(x.head)
	x.active = false
	e.w.l.SetTimer(&e.timer, idleTime, e)
	e.down.Again()
}

// answer writes a response of the proxy's own.
func (e *session) answer(status int, reason string, last bool) {
	x := e.x
	x.status = status
	e.logRequest(reason)
	var body [512]byte
	j := append(body[:0], `{"proxy":"redoubt","error":`...)
	j = appendJSON(j, reason)
	j = append(j, "}\n"...)
	b := append(e.w.buf[:0], "HTTP/1.1 "...)
	b = strconv.AppendInt(b, int64(status), 10)
	b = append(b, ' ')
	b = append(b, reasonOf(status)...)
	b = append(b, "\r\nContent-Type: application/json\r\nContent-Length: "...)
	b = strconv.AppendInt(b, int64(len(j)), 10)
	if last {
		b = append(b, "\r\nConnection: close"...)
	}
	b = append(b, "\r\n\r\n"...)
	if string(x.method) != "HEAD" {
		b = append(b, j...)
	}
	e.down.Append(b)
}

func reasonOf(status int) string {
	switch status {
	case 400:
		return "Bad Request"
	case 403:
		return "Forbidden"
	case 417:
		return "Expectation Failed"
	case 431:
		return "Request Header Fields Too Large"
	case 501:
		return "Not Implemented"
	case 502:
		return "Bad Gateway"
	case 503:
		return "Service Unavailable"
	case 505:
		return "HTTP Version Not Supported"
	}
	return "Error"
}
