// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

var (
	deniedClear   = &authz.Denied{Reason: "the port takes mTLS only", Status: 403}
	deniedRevoked = &authz.Denied{Reason: "certificate is revoked", Status: 403}
	deniedOther   = &authz.Denied{Reason: "destination is not this pod", Status: 403}
)

// startInbound waits for the first byte, which tells mTLS from clear.
func (e *session) startInbound() {
	pod := e.site.pod.Load()
	e.self = pod.Identity
	if e.dst.Addr() != pod.Addr {
		e.deny(deniedOther)
		return
	}
	e.phase = first
	d := firstTime
	if e.maySpeakLast(pod) {
		d = clearTime
	}
	e.w.l.SetTimer(&e.timer, d, e)
	e.pumpFirst()
}

// maySpeakLast tells that a silent client may be one in clear, of a protocol
// whose server speaks first. A pod of the mesh is none: its proxy always
// speaks TLS, however late on a loaded machine.
func (e *session) maySpeakLast(pod *route.Pod) bool {
	if !pod.Permissive(e.dst.Port()) {
		return false
	}
	_, mesh := pod.Table.Peer(e.from.Addr())
	return !mesh
}

const typeHandshake = 22 // the first byte of every TLS connection (RFC 8446, 5.1)

func (e *session) pumpFirst() {
	pod := e.site.pod.Load()
	for b := e.down.Bytes(); len(b) == 0 || pod.Permissive(e.dst.Port()) && b[0] == typeHandshake && !mtls.HelloWhole(b); b = e.down.Bytes() {
		if e.down.Dead() {
			e.close() // a probe of the port; nothing was asked
			return
		}
		if !e.down.Fill(engine.HeaderLen + engine.MaxCipher) {
			return
		}
	}
	if e.down.Bytes()[0] != typeHandshake || passThrough(pod, e.dst.Port(), e.down.Bytes()) {
		e.clear(pod)
		return
	}
	if e.site.shakes.Load() >= e.w.sh.SiteShakes {
		e.w.Count.Shed++
		e.abort()
		return
	}
	e.shaking = true
	e.site.shakes.Add(1)
	e.w.l.StopTimer(&e.timer)
	e.phase = greeting
	e.w.sh.Handshakes.Server(e.down, pod.Identity, pod.Table.Trust, e.named)
}

func (e *session) expireFirst() {
	pod := e.site.pod.Load()
	if !e.maySpeakLast(pod) {
		e.abort()
		return
	}
	e.silent = true
	e.clear(pod)
}

// clear takes a connection without mTLS where the port allows it. Its peer
// has no name.
func (e *session) clear(pod *route.Pod) {
	e.w.l.StopTimer(&e.timer)
	if !pod.Permissive(e.dst.Port()) {
		e.deny(deniedClear)
		return
	}
	proto := pod.Proto(e.dst.Port())
	if e.silent && proto == route.Auto {
		proto = route.TCP // it has waited once; a second time would find the same
	}
	e.startProto(proto)
}

// named goes on when the handshake has ended.
func (e *session) named(p mtls.Peer, err error) {
	if e.phase == over {
		return
	}
	e.shaking = false
	e.site.shakes.Add(-1)
	if err != nil {
		e.w.Count.HandshakeFailed++
		e.no = &authz.Denied{Reason: err.Error(), Status: 403}
		e.recordDecision("accept")
		e.end() // the handshake has closed the connection
		return
	}
	e.w.Count.Handshakes++
	e.peer = p
	e.down.SetHandler(e)
	pod := e.site.pod.Load()
	if pod.Table.Revoked(p.Serial) {
		e.deny(deniedRevoked)
		return
	}
	e.expiry.arm(e, earlier(p.NotAfter, e.self.NotAfter))
	if e.w.draining || e.site.gone.Load() {
		e.close()
		return
	}
	proto := pod.Proto(e.dst.Port())
	switch {
	case p.Proto == mtls.ProtoHTTP2 || p.Proto == mtls.ProtoShared:
		e.shared = p.Proto == mtls.ProtoShared
		e.startHTTP(message.HTTP2)
		return
	case p.Proto == mtls.ProtoOpaque && proto != route.HTTP:
		proto = route.TCP
	case p.Proto == mtls.ProtoStream:
		// The other proxy has seen a request. It may be late on a loaded
		// machine, which must not turn it into a stream that no rule on
		// requests can allow.
		e.promised = true
	}
	e.startProto(proto)
}

// deny refuses a connection whose protocol does not matter.
func (e *session) deny(d *authz.Denied) {
	e.no = d
	e.recordDecision("accept")
	e.abort()
}

// authorise decides on an inbound connection, once its protocol is known, and
// records the decision. For HTTP it asks whether any request could pass.
func (e *session) authorise(http bool) bool {
	pod := e.site.pod.Load()
	in := e.input()
	if http {
		e.permit, e.no = pod.Policy.Connect(&in)
	} else {
		e.permit, e.no = pod.Policy.Decide(&in)
	}
	return e.recordDecision("accept")
}

// passThrough tells that a TLS connection to a permissive port is not for the
// proxy: a client outside the mesh speaks TLS to the application itself. A
// mesh client names the proxies' protocol.
func passThrough(pod *route.Pod, port uint16, b []byte) bool {
	return pod.Permissive(port) && !mtls.OffersMesh(b)
}

var _ engine.Handler = (*session)(nil)
