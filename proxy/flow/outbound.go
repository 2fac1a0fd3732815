// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
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
	case route.HTTP:
		e.startHTTP()
	case route.TCP:
		e.startStream()
	default:
		e.phase = sniffing
		d := sniffTime
		if e.promised {
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
			if v := http1.Sniff(b); v != http1.More {
				e.sniffed(v)
				return
			}
			// What could still become a request line gets more time, once: a
			// byte now and then must not hold the connection for ever.
			if !e.spoke {
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
			e.sniffed(http1.No)
			return
		}
	}
}

func (e *session) sniffed(v http1.Verdict) {
	e.w.l.StopTimer(&e.timer)
	if v == http1.Yes {
		e.startHTTP()
		return
	}
	if e.down.EOF() && len(e.down.Bytes()) == 0 {
		e.close() // nothing was asked
		return
	}
	e.startStream()
}

var _ engine.CloseHandler = (*session)(nil)
