// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"slices"
	"time"

	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/route"
)

var (
	deniedConnect = &authz.Denied{Reason: "CONNECT is not carried", Status: 501}
	deniedAudit   = &authz.Denied{Reason: "decision cannot be recorded", Status: 503}
	deniedApp     = &authz.Denied{Reason: "application does not answer", Status: 503}
	deniedBackend = &authz.Denied{Reason: "no backend answers", Status: 503}
)

// manager is how connections with requests are bounded. Requests may take as
// long as they want: only their clients know how long that is.
func manager() *exchange.Manager {
	chain, err := filter.NewChain(nil)
	if err != nil {
		panic("flow: " + err.Error())
	}
	cfg := &config.HTTPManager{ServerHeader: config.ServerPass, IdleTimeout: idleTime, HeadTimeout: headTime, StreamIdleTimeout: -1,
		DrainTimeout: time.Second, MaxHead: 64 << 10, MaxFields: 128, HTTP2: bounds}
	m, err := exchange.NewManager(cfg, chain, nil, nil, nil, 1, nil)
	if err != nil {
		panic("flow: " + err.Error())
	}
	return m
}

// bounds are those of HTTP/2 connections. Streams share connections between proxies,
// hence more of them than a browser needs.
var bounds = config.HTTP2Options{MaxStreams: 512, StreamWindow: 256 << 10, ConnWindow: 4 << 20}

// startHTTP has the exchange carry the connection, request by request; proto
// is HTTP11 or HTTP2.
func (e *session) startHTTP(proto message.Proto) {
	if e.kind == Inbound && e.no == nil && !e.authorise(true) {
		e.abort()
		return
	}
	e.phase = exchanges
	e.w.l.StopTimer(&e.timer)
	e.two = proto == message.HTTP2 && !e.shared
	switch e.kind {
	case Inbound:
		// Whoever calls, only this proxy says who it is.
		if e.peer.ID != "" {
			e.tell = []byte("By=" + e.self.ID + ";URI=" + e.peer.ID)
		}
	case Gateway:
		e.tell = []byte(e.from.Addr().String())
	}
	info := &filter.ConnInfo{Listener: e.kind.String(), Peer: e.from, Source: e.from, Local: e.dst, Transport: proto}
	e.http = e.w.x.ServeLed(e.down, e.w.m, info, proto, e, e.end)
}

// Judge holds a request to policy.
func (e *session) Judge(x *exchange.Stream) *authz.Denied {
	d := e.judge(x)
	if d != nil {
		e.w.Count.Denied++
	}
	return d
}

func (e *session) judge(x *exchange.Stream) *authz.Denied {
	if e.no != nil { // recorded with the connection
		x.EndConn()
		return e.no
	}
	r := x.Context().Req
	if r.Path.Len() == 0 {
		return deniedConnect
	}
	if r.Authority.Len() == 0 {
		e.w.buf = e.dst.AppendTo(e.w.buf[:0])
		r.SetAuthority(e.w.buf)
	}
	r.RemoveKnown(message.ClientCert) // the sender's own is never believed
	switch e.kind {
	case Inbound:
		if e.tell != nil {
			r.Add(clientCert, e.tell)
		}
		return e.judgeBy(e.site.pod.Load(), e.input(), x)
	case Gateway:
		r.RemoveKnown(message.ForwardedFor)
		r.Add(forwardedFor, e.tell)
	}
	x.Permit = e.permit // the connection's covers its requests
	return nil
}

var clientCert, forwardedFor = []byte("X-Forwarded-Client-Cert"), []byte("X-Forwarded-For")

// judgeBy asks a pod's own policy, and records a denial.
func (e *session) judgeBy(pod *route.Pod, in authz.Input, x *exchange.Stream) (d *authz.Denied) {
	r := x.Context().Req
	if pod.Policy.Paths() {
		// The form that policy compares is what the application will see.
		path, query, ok := authz.Normalise(e.w.buf[:0], r.In(r.Path))
		if ok {
			e.w.path = append(append(e.w.path[:0], path...), query...)
			r.SetPath(e.w.path)
		} else {
			d = authz.NoPath()
		}
	}
	if d == nil {
		request(&in, r, pod.Policy.Paths())
		x.Permit, d = pod.Policy.Decide(&in)
	}
	if d != nil && !e.recordRequest(r, d) {
		x.EndConn() // what cannot be recorded is not answered in detail
		return deniedAudit
	}
	return d
}

// request completes in by what is known of a request.
func request(in *authz.Input, r *message.Request, paths bool) {
	in.HTTP, in.Method, in.Host, in.Path = true, r.In(r.Method), r.In(r.Authority), r.In(r.Path)
	if paths {
		in.Path = r.PathOnly()
	}
}

// Next leads a request to a backend, or to the application.
func (e *session) Next(x *exchange.Stream) (*exchange.Cluster, *authz.Denied) {
	e.tried = x.Tried(e.tried[:0])
	e.left(x)
	if e.kind == Inbound {
		if len(e.tried) > 0 {
			e.w.Count.Unreachable++
			return nil, deniedApp
		}
		// Under the client's own address: the application sees who speaks.
		return e.enter(x, destKey{site: e.site, from: e.from.Addr(), to: e.dst, id: e.peer.ID, how: e.how(x), clear: true}), nil
	}
	b, ok := e.pick()
	if !ok || len(e.tried) >= maxTries {
		e.w.Count.Unreachable++
		return nil, deniedBackend
	}
	k := destKey{site: e.site, to: b.Addr, id: b.ID, how: e.how(x)}
	if pod := e.site.pod.Load(); pod != nil {
		if b.Addr.Addr() != pod.Addr {
			k.from = pod.Addr
		} else if d := e.judgeBy(pod, toSelf(pod, b), x); d != nil { // hairpin.go
			e.w.Count.Denied++
			return nil, d
		} else {
			k.clear = true
		}
	}
	return e.enter(x, k), nil
}

// how says how the request may travel: the application is to see the protocol
// that its client speaks.
func (e *session) how(x *exchange.Stream) how {
	switch r := x.Context().Req; {
	case e.two:
		return two
	case e.kind == Inbound || r.Proto == message.HTTP10 || r.Upgrade.Len() > 0:
		return one
	}
	return shared
}

func (e *session) enter(x *exchange.Stream, k destKey) *exchange.Cluster {
	d := e.dest[k.how]
	if d == nil || d.gone || d.destKey != k {
		d = e.w.destOf(k)
		e.hold(d)
	}
	d.load.active++
	return d.cl
}

// left settles the accounts of an attempt that has ended; e.tried is what
// could not be reached.
func (e *session) left(x *exchange.Stream) {
	cl := x.Cluster()
	if cl == nil {
		return
	}
	l := cl.Owner.(*dest).load
	l.active--
	switch at := cl.Owner.(*dest).to; {
	case slices.Contains(e.tried, at):
		l.fail(e.w.l.Now())
	case x.Context().UpstreamHead > 0:
		l.failures = 0
	}
}

// Done logs a request at its end.
func (e *session) Done(x *exchange.Stream) {
	e.tried = e.tried[:0]
	e.left(x)
	c := x.Context()
	if c.Flags&filter.FlagProtocol != 0 && x.Permit.Valid() { // what was no request the manager has counted
		e.w.Count.Malformed++
	}
	if x.Status() == 101 {
		e.w.Count.Streams++
	}
	e.w.Count.request(x.Status(), engine.Mono()-c.Began)
	e.logRequest(x)
}
