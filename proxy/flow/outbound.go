// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/route"
)

// Why a connection may not leave. Shared values: refusing costs no garbage.
var (
	deniedUnknown = &authz.Denied{Reason: "destination is not in the mesh", Status: 403}
	deniedPort    = &authz.Denied{Reason: "service has no such port", Status: 403}
	deniedLocal   = &authz.Denied{Reason: "link-local destination", Status: 403}
	deniedEgress  = &authz.Denied{Reason: "no network policy lets it leave", Status: 403}
	deniedEmpty   = &authz.Denied{Reason: "no ready endpoint", Status: 503}
	deniedGateway = &authz.Denied{Reason: "gateway has no such service", Status: 503}
)

// startOutbound finds where a connection that leaves a pod leads.
func (e *session) startOutbound() {
	pod := e.site.pod.Load()
	e.self = pod.Identity
	if e.dst == dnsAddr {
		e.phase = queries
		e.w.l.SetTimer(&e.timer, headTime, e)
		return
	}
	target, reason := pod.Table.Lookup(e.dst)
	switch {
	case e.dst.Addr().IsLinkLocalUnicast():
		e.no = deniedLocal // the proxy's own addresses: a loop
	case target == nil && reason == deniedPort.Reason:
		e.no = deniedPort
	case target == nil:
		e.no = deniedUnknown
	}
	e.target = target
	e.decided(pod)
}

// startGateway begins a connection from outside the mesh.
func (e *session) startGateway() {
	g := e.site.gateway.Load()
	e.self = g.Identity
	e.target = g.Target
	if g.Target == nil {
		e.no = deniedGateway
	}
	e.decided(nil)
}

// decided holds the connection to the pod's egress policy, records the
// decision, and goes on to learn the protocol.
func (e *session) decided(pod *route.Pod) {
	if e.no == nil && len(e.target.Backends) == 0 {
		e.no = deniedEmpty
	}
	if e.no == nil {
		if pod == nil {
			e.permit = authz.Exposed
		} else if e.permit = e.egress(pod); !e.permit.Valid() {
			e.no = deniedEgress
		}
	}
	if !e.recordDecision("connect") {
		e.abort()
		return
	}
	proto := route.Auto
	if e.target != nil {
		proto = e.target.Proto
	}
	e.startProto(proto)
}

// egress gives the permit by which the pod may reach at least one backend.
func (e *session) egress(pod *route.Pod) authz.Permit {
	for i := range e.target.Backends {
		a := e.target.Backends[i].Addr
		if p := pod.Egress.Decide(a.Addr(), a.Port()); p.Valid() {
			return p
		}
	}
	return authz.Permit{}
}

// startProto goes on by what the port is declared to speak.
func (e *session) startProto(p route.Proto) {
	switch p {
	case route.TCP:
		e.startStream()
	default:
		e.phase = sniffing
		e.declared = p == route.HTTP
		d := sniffTime
		switch {
		case e.declared:
			d = headTime
		case e.promised:
			d = firstTime
		}
		e.w.l.SetTimer(&e.timer, d, e)
		e.pumpSniff()
	}
}

// pumpSniff looks at the first bytes. A client that stays silent waits for
// its server to speak.
func (e *session) pumpSniff() {
	for {
		if b := e.down.Bytes(); len(b) > 0 {
			if e.sniffs(b) {
				return
			}
			// What could still become a request line gets more time, once: a
			// byte now and then must not hold the connection for ever.
			if !e.spoke && !e.declared {
				e.spoke = true
				e.w.l.SetTimer(&e.timer, sniffLong, e)
			}
		}
		if !e.down.Fill(http1.MaxHead) {
			return
		}
		if e.down.Err() != nil {
			e.abort()
			return
		}
		if e.down.EOF() {
			e.sniffed()
			return
		}
	}
}

// sniff tells what a connection's first bytes are: HTTP/1, or HTTP/2 by its
// preface (RFC 9113, 3.4).
func sniff(b []byte) (v http1.Verdict, p message.Proto) {
	const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	switch n := min(len(b), len(preface)); {
	case string(b[:n]) != preface[:n]:
		return http1.Sniff(b), message.HTTP11
	case n < len(preface):
		return http1.More, message.HTTP2
	}
	return http1.Yes, message.HTTP2
}

// sniffs goes on when b tells what the client speaks.
func (e *session) sniffs(b []byte) bool {
	v, p := sniff(b)
	switch {
	case v == http1.Yes, e.declared && p == message.HTTP11: // what is no HTTP is told so
		e.startHTTP(p)
	case v == http1.More:
		return false
	default:
		e.sniffed()
	}
	return true
}

// sniffed goes on with what is no HTTP, or not in time.
func (e *session) sniffed() {
	e.w.l.StopTimer(&e.timer)
	if e.declared {
		e.startHTTP(message.HTTP11)
		return
	}
	if e.down.EOF() && len(e.down.Bytes()) == 0 {
		e.close() // nothing was asked
		return
	}
	e.startStream()
}

var _ engine.CloseHandler = (*session)(nil)
