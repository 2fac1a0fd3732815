// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/route"
)

// Review holds every live connection to the snapshot that is now in force. It
// runs on the loop, after the sites have their new policy.
func (w *Worker) Review() {
	for e := w.sessions.next; e != &w.sessions; {
		next := e.next
		if why := e.review(); why != "" {
			e.cut(why)
		}
		e = next
	}
	for _, p := range w.pools {
		p.drop(func(u *upstream) bool {
			_, t := u.site.self()
			return t.Revoked(u.peer.Serial) || t.Revoked(u.self.Serial)
		})
	}
	for a, l := range w.loads {
		if l.active == 0 && l.until < w.l.Now() {
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
		if e.x.active {
			return e.reviewRequest(pod, in)
		}
	case waiting, streaming:
		if e.x != nil { // upgraded: what permitted it was the request
			return e.reviewRequest(pod, in)
		}
		if _, d := pod.Policy.Decide(&in); d != nil {
			return d.Reason
		}
	}
	return ""
}

// reviewRequest judges the request under way anew. One that has no normal
// path was let in by a policy that did not look at paths.
func (e *session) reviewRequest(pod *route.Pod, in authz.Input) string {
	in.HTTP, in.Method, in.Host, in.Path = true, e.x.method, e.x.host, e.x.path
	if pod.Policy.Paths() {
		p, _, ok := authz.Normalise(e.w.buf[:0], e.x.path)
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
