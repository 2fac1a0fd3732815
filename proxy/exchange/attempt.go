// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"math"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// attempt looks for a host and a connection to it. Stream.connected or
// Stream.unconnected follows, perhaps at once.
func (x *Stream) attempt() {
	if x.lead != nil && !x.led() {
		return
	}
	w, cl := x.w, x.cluster
	now := w.l.Now()
	x.phase = seeking
	x.sent, x.reqDone, x.stopped, x.replayAt = false, false, false, 0
	x.ask.Now = now
	x.ask.Avoid = nil
	switch p := x.retry.Policy; {
	case x.avoiding:
		x.ask.Avoid, x.ask.Tries = x.tried, maxConnects
	case p != nil && p.AvoidPrevious:
		x.ask.Avoid, x.ask.Tries = x.tried, p.HostAttempts
	}
	h := cl.only
	if h == nil {
		var why balance.Reason
		if h, why = w.picker(cl.Set).Pick(&x.ask); why != balance.Found {
			x.noHost(why)
			return
		}
		x.tried = append(x.tried, h)
	}
	x.host = h
	x.c.Host, x.c.HostName = h.Addr, h.Name
	x.c.Attempts++
	h.Begin()
	x.tryBegan = now
	x.try = 0
	if d := x.limits.PerTry; d > 0 && x.c.RequestWhole > 0 {
		x.try = now + int64(d)
		x.arm()
	}
	if x.fwd != nil && !x.shadow {
		x.address(h)
	}
	w.poolOf(cl, h, x.req.Proto, cl.proven(x)).get(x)
}

// address gives the request what depends on the host and the attempt.
func (x *Stream) address(h *balance.Host) {
	if x.fwd.Host.Auto {
		x.routes.Table.AutoHost(&x.c, h.Endpoint().Host)
	}
	if x.retries > 0 && x.c.Route.VHost.IncludeAttempts {
		x.limits.Attempt(&x.c, x.retries+1)
	}
}

func (x *Stream) noHost(why balance.Reason) {
	x.c.Flags |= filter.FlagNoHealthy
	if why == balance.DropLoad {
		x.c.Flags |= filter.FlagDrop
		x.reply(503, "drop_overload")
		return
	}
	x.cluster.count(x.w).NoHost++
	x.reply(503, "no_healthy_upstream")
}

// connected goes on with a connection: the request leaves.
func (x *Stream) connected(u upstream) {
	if x.lead != nil {
		x.mustPermit()
	}
	x.up = u
	x.phase = forwarding
	x.keeping = !x.lost && !x.headDone && x.c.RequestBody == nil && (x.retryable || x.lead != nil || !u.fresh())
	end := x.req.Length == 0 && !x.tunnels()
	if x.keptAll {
		end = len(x.kept) == 0 && len(x.reqT.Fields) == 0
	}
	x.sent = true
	x.c.HeadSent = x.w.l.Now()
	u.start(&x.req, end)
	if end {
		x.requestDone()
	}
}

// tunnels tells that the request asks for bytes both ways.
func (x *Stream) tunnels() bool { return x.req.Upgrade.Len() > 0 }

// unconnected says that there is no connection to the host.
func (x *Stream) unconnected(o balance.Outcome) {
	x.host.End(o, 0, x.w.l.Now())
	x.host = nil
	x.c.Flags |= filter.FlagUpstreamConnect
	if o == balance.Cancelled { // a circuit breaker
		x.c.Flags |= filter.FlagUpstreamOverflow
		x.cluster.count(x.w).Overflow++
		x.answer(&filter.LocalReply{Status: 503, Detail: "overflow", Headers: overloaded})
		return
	}
	x.cluster.count(x.w).ConnectFailed++
	if x.lead != nil {
		x.tried = append(x.tried, x.cluster.only)
		x.conns++
		x.attempt()
		if x.phase == forwarding {
			x.pump()
		}
		return
	}
	// Nothing was sent: another host may have it, whatever the policy, as long
	// as there is one that was not tried.
	if x.conns++; !x.retryable && x.conns < maxConnects && x.conns < len(x.cluster.Set.Members()) {
		x.avoiding = true
		x.attempt()
		return
	}
	if x.mayRetry(router.Outcome{Reset: router.ConnectFailed}) && x.backOff() {
		return
	}
	x.reply(503, "upstream_reset_before_response_started{connection_failure}")
}

const maxConnects = 3

var overloaded = []config.HeaderAdd{{Name: "x-envoy-overloaded", Value: "true"}}

// mayRetry tells that the policy wants another attempt after o, and has one
// left.
func (x *Stream) mayRetry(o router.Outcome) bool {
	if !x.retryable || x.lost || x.headDone || x.tunnelled || !x.retry.Retriable(o) {
		return false
	}
	if x.retries >= int(x.retry.Max) {
		x.c.Flags |= filter.FlagRetryLimit
		return false
	}
	return true
}

// backOff has the request tried again in a while, unless too many are being
// retried.
func (x *Stream) backOff() bool {
	if !x.retrying {
		if !x.cluster.Set.Admit(balance.Retries, x.high()) {
			x.c.Flags |= filter.FlagUpstreamOverflow
			return false
		}
		x.retrying = true
	}
	x.retries++
	x.cluster.count(x.w).Retries++
	x.phase = seeking
	x.try = 0
	x.again = x.w.l.Now() + 1 + int64(x.retry.Backoff(x.retries, x.w.Rand()))
	x.arm()
	return true
}

func (x *Stream) high() bool { return x.fwd != nil && x.fwd.Priority == 1 }

// dropUpstream gives the connection, or the place in its queue, back.
func (x *Stream) dropUpstream(whole bool) {
	if u := x.up; u != nil {
		x.up = nil
		u.release(whole)
	} else if x.pool != nil {
		x.pool.leave(x)
	}
	if h := x.host; h != nil {
		x.host = nil
		o := balance.Cancelled
		if x.headDone && x.c.Local == nil {
			o = balance.Outcome(x.resp.Status)
		}
		h.End(o, time.Duration(x.w.l.Now()-x.tryBegan), x.w.l.Now())
	}
}

// lose gives a connection back that failed, with what to say of its host.
func (x *Stream) lose(o balance.Outcome) {
	if h := x.host; h != nil {
		x.host = nil
		h.End(o, time.Duration(x.w.l.Now()-x.tryBegan), x.w.l.Now())
	}
	x.dropUpstream(false)
}

// upstreamDied handles an upstream that ended, or sent what is no response,
// before its response was complete.
func (x *Stream) upstreamDied(err error) {
	u := x.up
	unheard, fresh := u.unheard(), u.fresh()
	malformed := isMalformed(err)
	again := !malformed && !x.headDone && !x.lost && x.interims == 0 && x.replays < maxReplays && (unheard || !fresh && idempotent(x.req.In(x.req.Method)))
	o := balance.ResetByPeer
	switch {
	case malformed:
		o = balance.Malformed
	case unheard || again:
		o = balance.Cancelled // an idle connection's end says nothing of the host
	}
	x.lose(o)
	if !again {
		x.c.Flags |= filter.FlagUpstreamGone
	}
	if malformed {
		x.c.Flags |= filter.FlagUpstreamProtocol
	}
	if x.headDone {
		x.c.Detail = "upstream_reset_after_response_started{connection_termination}"
		x.finish(false)
		return
	}
	x.cluster.count(x.w).Reset++
	switch {
	case again:
		x.replays++
		x.cluster.count(x.w).Replays++
		x.attempt()
	case x.interims == 0 && x.mayRetry(resetOutcome(unheard)) && x.backOff():
	case x.lead != nil && malformed:
		x.reply(502, "malformed response")
	case x.lead != nil:
		x.reply(502, "backend ended without a response")
	case malformed:
		x.reply(502, "upstream_reset_before_response_started{protocol_error}")
	default:
		x.reply(503, "upstream_reset_before_response_started{connection_termination}")
	}
}

// cutOff is upstreamDied for one who is not pumping.
func (x *Stream) cutOff() {
	gen := x.gen
	x.upstreamDied(errGone)
	if x.gen == gen && x.phase == forwarding {
		x.pump()
	}
}

func resetOutcome(unheard bool) router.Outcome {
	if unheard {
		return router.Outcome{Reset: router.RefusedStream}
	}
	return router.Outcome{Reset: router.RemoteReset, Started: true}
}

// idempotent tells that doing the request twice is as doing it once
// (RFC 9110, 9.2.2).
func idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// pumpResponse passes on what there is of the response.
func (x *Stream) pumpResponse() (n int) {
	for !x.headDone {
		ok, end, err := x.up.response(&x.resp)
		if err != nil {
			x.upstreamDied(err)
			return n + 1
		}
		if !ok {
			return n
		}
		n++
		x.lastByte = x.w.l.Now()
		if x.resp.Interim() {
			if x.interims++; x.interims > maxInterim {
				x.upstreamDied(errInterims)
				return n
			}
			if x.req.Proto != message.HTTP10 {
				x.down.interim(&x.resp)
			}
			continue
		}
		if !x.gotHead(end) {
			return n
		}
	}
	for n < turnBytes/2 && !x.respDone {
		if x.c.ResponseRate > 0 && !x.allowance() {
			return n
		}
		k, done, err := x.carry(x.up, x.down, x.c.ResponseBody, &x.respOut, &x.toDown, false)
		if err != nil {
			x.upstreamDied(err)
			return n + 1
		}
		x.c.BytesOut += uint64(k)
		n += k
		if done {
			x.respDone = true
			x.lastByte = x.w.l.Now()
			return n + 1
		}
		if k == 0 {
			break
		}
		x.lastByte = x.w.l.Now()
	}
	return n
}

// gotHead takes the final response's head. False means that the exchange goes
// another way.
func (x *Stream) gotHead(end bool) bool {
	r := &x.resp
	now := x.w.l.Now()
	x.c.UpstreamHead = now
	if r.Status == 101 && !x.tunnels() {
		x.upstreamDied(errSwitch)
		return false
	}
	if x.retryable && x.mayRetry(router.Outcome{Started: true, Resp: r}) {
		x.lose(balance.Outcome(r.Status))
		if x.backOff() {
			if d := x.retry.After(r); d > 0 {
				x.again = now + int64(d)
				x.arm()
			}
			return false
		}
		x.reply(503, "retry_overflow") // the response is gone with its connection
		return false
	}
	x.headDone = true
	if x.replayAt == len(x.kept) {
		x.unkeep()
	} else { // an early response: the rest of what is kept must leave still
		x.keeping, x.lost = false, true
	}
	x.try = 0
	if x.c.RequestWhole == 0 {
		x.total = 0 // who answers early need not be waited for
	}
	if x.tunnels() && (r.Status == 101 || r.Status/100 == 2 && x.upgradesByStatus()) {
		x.tunnelled = true
		x.reqDone, x.stopped = false, false
		x.total, x.timeout = 0, 0
		x.arm()
		x.respond()
		x.up.tunnel()
		x.down.head(r, false)
		x.down.tunnel()
		return true
	}
	if x.tunnels() && x.req.Length <= 0 {
		x.reqDone = true // the upgrade was not taken, and nothing else was to come
	}
	x.respond()
	if x.c.ResponseBody != nil && !r.Bodiless(x.isHead) {
		r.Length = message.Unknown
	}
	if x.c.ResponseRate > 0 {
		x.rateFrom = now
	}
	x.down.head(r, end)
	x.respDone = end
	return true
}

// upgradesByStatus tells that success, not 101, answers an upgrade: what an
// extended CONNECT's 2xx is (RFC 8441, 5).
func (x *Stream) upgradesByStatus() bool { return x.up.switches2xx() }

// allowance holds a response to its rate; false means later.
func (x *Stream) allowance() bool {
	spent := x.w.l.Now() - x.rateFrom + int64(16*time.Millisecond)
	if x.c.BytesOut < uint64(spent)*x.c.ResponseRate/uint64(time.Second) {
		return true
	}
	x.again = x.w.l.Now() + int64(10*time.Millisecond)
	x.arm()
	return false
}

// arm sets the timer to the next deadline.
func (x *Stream) arm() {
	at := int64(math.MaxInt64)
	for _, d := range [...]int64{x.total, x.try, x.again, x.most} {
		if d > 0 && d < at {
			at = d
		}
	}
	if x.idle > 0 {
		at = min(at, x.lastByte+x.idle)
	}
	if at == math.MaxInt64 {
		x.w.l.StopTimer(&x.t)
		return
	}
	x.w.l.SetTimer(&x.t, time.Duration(at-x.w.l.Now()), x)
}

// Expire is told that a deadline may have passed.
func (x *Stream) Expire(*engine.Timer) {
	now := x.w.l.Now()
	switch {
	case x.phase == ended:
		return
	case x.again > 0 && now >= x.again:
		x.again = 0
		switch x.phase {
		case delayed:
			if x.c.Local != nil {
				x.answerFilter()
			} else {
				x.route()
			}
		case seeking:
			x.attempt()
		}
		if x.phase == forwarding {
			x.pump()
		}
	case x.most > 0 && now >= x.most:
		x.c.Flags |= filter.FlagMaxDuration
		x.expire(504, "max_duration_timeout")
	case x.total > 0 && now >= x.total:
		x.total = 0
		if x.c.RequestWhole == 0 {
			x.expire(408, "request_overall_timeout")
			break
		}
		x.c.Flags |= filter.FlagUpstreamTimeout
		if x.up != nil {
			x.lose(balance.TimedOut)
		}
		x.expire(504, "response_timeout")
	case x.try > 0 && now >= x.try:
		x.try = 0
		x.c.Flags |= filter.FlagUpstreamTimeout
		x.cluster.count(x.w).TryTimeouts++
		x.lose(balance.TimedOut)
		if !x.mayRetry(router.Outcome{Reset: router.PerTryTimedOut, Started: true}) || !x.backOff() {
			x.expire(504, "upstream_per_try_timeout")
		}
	case x.idle > 0 && now >= x.lastByte+x.idle:
		x.c.Flags |= filter.FlagIdleTimeout
		if x.phase == forwarding && x.reqDone {
			x.expire(504, "stream_idle_timeout")
		} else {
			x.expire(408, "stream_idle_timeout")
		}
	}
	if x.phase != ended && x.w != nil && x.down != nil {
		x.arm()
	}
}

// expire ends an exchange whose time is over.
func (x *Stream) expire(status int, detail string) {
	if status == 408 {
		x.closeAfter = true
	}
	x.reply(status, detail)
}
