// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/mtls"
)

// upstreamDied handles an upstream that ended before its response began: the
// request goes to another connection when that cannot do it twice.
func (e *session) upstreamDied() {
	x, u := e.x, e.up
	again := len(u.c.Bytes()) == 0 && x.replay && x.interim == 0 && x.tries < maxTries && !e.site.gone.Load() &&
		(u.unprocessed() || u.reused && http1.Idempotent(x.method))
	e.up = nil
	u.close()
	if !again {
		e.refuse(502, "backend ended without a response")
		return
	}
	e.w.Count.Retries++
	x.tries++ // from now on fresh connections only: the pool may hold more that died together
	x.sentHead, x.stopped, x.cursor = false, false, 0
	x.reqBody = x.req.Body()
	x.reqDone = x.reqBody.Done()
	x.resp.Reset()
	e.connect(mtls.ProtoStream)
}

// unprocessed tells that the request cannot have been acted on.
//
// Between two of these proxies a stream that is properly ended before a
// response says so: a worker ends a stream only between requests, and drops
// what arrives after that (Conn.Finish); in any other case it answers, or
// resets. TLS protects the closing alert, so nobody else can say it.
//
// Else the peer's kernel tells: when it had received nothing of the request
// as it closed its side, the request came too late to be read.
func (u *upstream) unprocessed() bool {
	return u.peer.Proto == mtls.ProtoStream && u.c.EOF() || u.c.Unheard(u.mark)
}
