// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/base/obs"
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/route"
)

// Review holds every live connection to the snapshot that is now in force. It
// runs on the loop, after the sites have their new policy.
func (w *Worker) Review() {
	for e := w.sessions.next; e != &w.sessions; {
		next := e.next
		if why := e.review(); why != "" {
			e.cut(why)
		} else if e.phase == exchanges && e.no == nil {
			e.http.Each(e.reviewStream)
		}
		e = next
	}
	for _, d := range w.dests {
		_, t := d.site.self()
		w.x.Cull(d.cl, func(i *filter.TLSInfo) bool { return t.Revoked(i.PeerSerial) || t.Revoked(i.LocalSerial) })
		if d.uses == 0 && !d.cl.Used() {
			w.drop(d)
		}
	}
	for a, l := range w.loads {
		if l.active == 0 && l.dests == 0 && l.until < w.l.Now() {
			delete(w.loads, a)
		}
	}
}

// review says why the session must end, or "".
func (e *session) review() string {
	self, t := e.site.self()
	switch {
	case self == nil || e.phase == over:
		return ""
	case e.self != nil && t.Revoked(e.self.Serial):
		return "own certificate revoked"
	case e.peer.Serial != "" && t.Revoked(e.peer.Serial):
		return "peer's certificate revoked"
	}
	if u := e.up; u != nil && u.self != nil && (t.Revoked(u.peer.Serial) || t.Revoked(u.self.Serial)) {
		return "certificate revoked"
	}
	if e.no != nil {
		return ""
	}
	pod := e.site.pod.Load()
	if pod == nil {
		return e.reviewGateway()
	}
	if e.kind == Inbound {
		return e.reviewInbound(pod)
	}
	return e.reviewOutbound(pod)
}

func (e *session) reviewInbound(pod *route.Pod) string {
	in := e.input()
	if e.peer.ID == "" && (e.phase == exchanges || e.phase == waiting || e.phase == streaming) && !pod.Permissive(e.dst.Port()) {
		return deniedClear.Reason
	}
	switch e.phase {
	case exchanges:
		if _, d := pod.Policy.Connect(&in); d != nil {
			return d.Reason
		}
	case waiting, streaming:
		if _, d := pod.Policy.Decide(&in); d != nil {
			return d.Reason
		}
	}
	return ""
}

// reviewStream holds a request under way to the snapshot, and cuts it when
// policy would not let it go where it goes any more.
func (e *session) reviewStream(x *exchange.Stream) {
	if !x.Permit.Valid() {
		return // it is being refused
	}
	why := ""
	_, t := e.site.self()
	pod := e.site.pod.Load()
	switch u := x.Context().UpstreamTLS; {
	case u != nil && (t.Revoked(u.PeerSerial) || t.Revoked(u.LocalSerial)):
		why = "certificate revoked"
	case pod == nil || x.Cluster() == nil:
	case e.kind == Inbound:
		why = e.reviewRequest(pod, e.input(), x)
	default:
		to := x.Cluster().Owner.(*dest)
		if to.clear {
			why = e.reviewRequest(pod, authz.Input{Peer: pod.Identity.ID, Addr: pod.Addr, Port: to.to.Port()}, x)
		} else if !pod.Egress.Decide(to.to.Addr(), to.to.Port()).Valid() {
			why = deniedEgress.Reason
		}
	}
	if why != "" {
		e.w.Count.Cut++
		e.record("cut", obs.Deny, why)
		x.Cut(why)
	}
}

// reviewRequest judges a request anew. One that has no normal path was let in
// by a policy that did not look at paths.
func (e *session) reviewRequest(pod *route.Pod, in authz.Input, x *exchange.Stream) string {
	r := x.Context().Req
	request(&in, r, pod.Policy.Paths())
	if pod.Policy.Paths() {
		p, _, ok := authz.Normalise(e.w.buf[:0], r.In(r.Path))
		if !ok {
			return authz.NoPath().Reason
		}
		in.Path = p
	}
	if _, d := pod.Policy.Decide(&in); d != nil {
		return d.Reason
	}
	return ""
}

func (e *session) reviewGateway() string {
	if e.phase != exchanges {
		return ""
	}
	target := e.site.gateway.Load().Target
	if target == nil {
		return deniedGateway.Reason
	}
	e.target = target
	return ""
}

func (e *session) reviewOutbound(pod *route.Pod) string {
	if u := e.up; u != nil && u.self != nil && !pod.Egress.Decide(u.backend.Addr.Addr(), u.backend.Addr.Port()).Valid() {
		return deniedEgress.Reason
	}
	// A connection that is kept for requests follows the service.
	if e.phase == exchanges {
		target, _ := pod.Table.Lookup(e.dst)
		if target == nil {
			return deniedUnknown.Reason
		}
		e.target = target
	}
	return ""
}
