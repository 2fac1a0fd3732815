// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"net/netip"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
	"redoubt.dev/proxy/router/ingress"
)

const (
	resourceRequests = balance.Requests
	resourceRetries  = balance.Retries
)

// enter brings the request into the form that filters and routes see. False
// means that it was answered.
func (x *Stream) enter() bool {
	m := x.m
	r := m.routing.Load()
	x.routes = r
	if n := m.chain.Len(); cap(x.c.Slots) < n {
		x.c.Slots = make([]any, n)
	} else {
		x.c.Slots = x.c.Slots[:n]
	}
	if r == nil {
		x.c.Flags |= filter.FlagNoRoute
		x.reply(404, "route_configuration_not_found")
		return false
	}
	x.c.Routes, x.c.Overrides = r.Table, r.Overrides
	r.rules.Request(&x.c)
	switch r.rules.Path(&x.c) {
	case ingress.PathRefused:
		x.reply(400, "path_normalization_failed")
		return false
	case ingress.PathRedirect:
		x.pathRedirect()
		return false
	}
	r.rules.Host(&x.c)
	if m.tracer != nil {
		x.parent = m.tracer.Start(&x.c)
	}
	x.c.Route = r.Table.Match(&x.c)
	return true
}

// pathRedirect sends the client to the path in its normal form.
func (x *Stream) pathRedirect() {
	if x.isGRPC {
		x.reply(400, "path_normalization_failed")
		return
	}
	// One slash: "//name", and "/\name", lead a browser to another host.
	x.w.buf = append(append(x.w.buf[:0], '/'), bytes.TrimLeft(x.req.In(x.req.Path), `/\`)...)
	x.location(307, x.w.buf, "path_normalization_redirect")
}

// location answers with a redirect.
func (x *Stream) location(status int, to []byte, detail string) {
	x.answer(&filter.LocalReply{Status: status, Detail: detail, Headers: []config.HeaderAdd{{Name: "location", Value: string(to)}}})
}

// mayUpgrade tells whether the protocol that the request asks for may pass.
func (x *Stream) mayUpgrade() bool {
	u := x.req.In(x.req.Upgrade)
	if message.EqualFold(u, "h2c") && !x.connects() { // it may be ignored (RFC 9110, 7.8), and is: nothing unseen passes
		x.req.Upgrade = message.Span{}
		return true
	}
	var b [32]byte
	if len(u) > len(b) {
		return false
	}
	for i, c := range u {
		b[i] = message.Lower(c)
	}
	if f := x.c.Route.To; f != nil {
		if may, said := f.Upgrades[string(b[:len(u)])]; said {
			return may
		}
	}
	return x.m.upgrades[string(b[:len(u)])]
}

// connects tells a CONNECT of either kind.
func (x *Stream) connects() bool { return string(x.req.In(x.req.Method)) == "CONNECT" }

// route sends the request where its route leads.
func (x *Stream) route() {
	r := x.c.Route
	switch {
	case r == nil:
		x.c.Flags |= filter.FlagNoRoute
		x.reply(404, "route_not_found")
	case x.tunnels() && !x.mayUpgrade():
		x.reply(403, "upgrade_failed")
	case r.Direct != nil:
		x.answer(&filter.LocalReply{Status: r.Direct.Status, Body: r.Direct.Body, Detail: "direct_response"})
	case r.Redirect != nil:
		x.w.buf = x.routes.Table.Location(x.w.buf[:0], &x.c)
		x.location(r.Redirect.Code, x.w.buf, "redirect")
	default:
		x.forward(r.To)
	}
}

// forward sends the request to a cluster.
func (x *Stream) forward(f *config.Forward) {
	t := x.routes.Table
	x.fwd = f
	if len(f.Weighted) > 0 {
		x.c.Weighted = router.Pick(f, x.w.Rand())
	}
	x.c.Cluster = router.ClusterOf(&x.c)
	cl := (*x.m.clusters.Load())[x.c.Cluster]
	if cl == nil {
		x.c.Flags |= filter.FlagNoCluster
		status := f.NotFound
		if status == 0 {
			status = 503
		}
		x.reply(status, "cluster_not_found")
		return
	}
	x.cluster = cl
	cl.count(x.w).Requests++
	if x.connects() && !x.tunnels() && cl.Cfg.Upstream != config.UpHTTP2 && cl.Cfg.Upstream != config.UpDownstream { // HTTP/1 has no form for it here
		x.reply(501, "connect_to_http1")
		return
	}
	if !cl.Set.Admit(resourceRequests, x.high()) {
		x.c.Flags |= filter.FlagUpstreamOverflow
		cl.count(x.w).Overflow++
		x.answer(&filter.LocalReply{Status: 503, Detail: "overflow", Headers: overloaded})
		return
	}
	x.admitted = true
	x.ask.Dest = x.c.Conn.Local
	if o := cl.Cfg.OriginalDst; o != nil && o.Header != "" {
		x.destination(o)
	}
	x.ask.Subset = x.subset(f)
	if h := t.Hash(&x.c); h.OK {
		x.ask.Hash, x.ask.HasHash = h.Hash, true
		x.sticky = h
	}
	x.retry = t.Retry(&x.c)
	x.retryable = x.retry.Policy != nil || x.retry.On != 0
	x.limits = x.retry.Timeouts(&x.c)
	x.timeout = int64(x.limits.Total)
	switch {
	case f.IdleTimeout > 0:
		x.idle = int64(f.IdleTimeout)
	case f.IdleTimeout < 0:
		x.idle = 0
	}
	if d := f.MaxDuration; d > 0 {
		x.most = x.c.Began + int64(d)
	} else if d := x.m.cfg.MaxStreamDuration; d > 0 {
		x.most = x.c.Began + int64(d)
	}
	t.RequestHeaders(&x.c)
	if !t.Rewrite(&x.c, x.m.quiet) {
		x.reply(400, "path_rewrite_failed")
		return
	}
	if x.limits.PerTry > 0 || x.c.Route.VHost.IncludeAttempts {
		x.limits.Attempt(&x.c, 1)
	}
	if x.c.RequestWhole > 0 {
		x.clock()
	}
	x.arm()
	router.Mirrors(&x.c, x.mirrorTo)
	x.attempt()
}

// leave changes the response's head on its way out.
func (x *Stream) leave() {
	r := &x.resp
	if x.routes != nil && x.c.Route != nil {
		x.routes.Table.ResponseHeaders(&x.c)
	}
	if x.sticky.Cookie != nil && x.c.Local == nil {
		x.w.buf = x.sticky.AppendCookie(x.w.buf[:0])
		r.Add([]byte("set-cookie"), x.w.buf)
	}
	switch x.m.cfg.ServerHeader {
	case config.ServerOverwrite:
		r.Set("server", x.m.server)
	case config.ServerIfAbsent:
		if _, ok := r.Find("server"); !ok {
			r.Set("server", x.m.server)
		}
	}
}

func (x *Stream) scheme() string {
	if x.c.Conn.TLS != nil {
		return "https"
	}
	return "http"
}

// subset gives what hosts must have.
func (x *Stream) subset(f *config.Forward) *balance.Subset {
	if w := x.c.Weighted; w != nil && len(w.Subset) > 0 {
		return x.routes.subsets[w]
	}
	if len(f.Subset) > 0 {
		return x.routes.subsets[f]
	}
	return nil
}

// destination takes the host from a field, where the cluster says so. A
// malformed one leads nowhere.
func (x *Stream) destination(o *config.OriginalDst) {
	x.ask.Dest = netip.AddrPort{}
	if v, ok := x.req.Find(o.Header); ok {
		if at, err := netip.ParseAddrPort(string(v)); err == nil {
			x.ask.Dest = at
		}
	}
}
