// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"

	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/route"
)

// A pod may lead to itself through a service. No wire is crossed, so there is
// no mTLS; the pod's own inbound policy decides, with the pod's own name as the
// peer's.

// toSelf is what that policy sees.
func toSelf(pod *route.Pod, b route.Backend) authz.Input {
	return authz.Input{Peer: pod.Identity.ID, Addr: pod.Addr, Port: b.Addr.Port()}
}

// hairpin connects a stream to the pod itself.
func (e *session) hairpin(pod *route.Pod, b route.Backend) {
	in := toSelf(pod, b)
	if _, d := pod.Policy.Decide(&in); d != nil {
		e.no = d
		e.recordDecision("accept")
		e.abort()
		return
	}
	e.dial(netip.Addr{}, b, "")
}

// stillKnown tells that the snapshot in force still has the stream's peer
// under the name that it proved.
func (e *session) stillKnown() bool {
	_, t := e.site.self()
	if e.kind == Inbound {
		if e.peer.ID == "" {
			return true
		}
		if p, ok := t.Peer(e.from.Addr()); ok {
			return p.ID == e.peer.ID
		}
		return t.IsGateway(e.peer.ID) // it has no pod's address
	}
	if e.up == nil || e.up.self == nil {
		return true
	}
	p, ok := t.Peer(e.up.backend.Addr.Addr())
	return ok && p.ID == e.up.peer.ID
}
