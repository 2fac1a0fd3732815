// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"sync/atomic"

	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// Kind says what comes in on a listener.
type Kind uint8

// The kinds of listeners.
const (
	Outbound Kind = iota // connections that leave the pod
	Inbound              // connections that come in
	DNS                  // name queries of the pod, UDP
	Gateway              // connections from outside the mesh
)

func (k Kind) String() string { return [...]string{"outbound", "inbound", "dns", "gateway"}[k] }

// Listener is one listening socket.
type Listener struct {
	Kind Kind
	FD   int
}

// Edge is where a pod's traffic passes. Its listeners live until Close; Dial
// may be called by all loops at once, each on its locked thread, and must not
// block.
type Edge interface {
	Listeners() []Listener
	// Dial begins a connection under the address from; an invalid from means
	// an address of the edge's own. connecting says that it is not
	// established yet.
	Dial(from netip.Addr, to netip.AddrPort) (fd int, connecting bool, err error)
	// StopListening closes the listeners; Dial goes on to work.
	StopListening()
	Close() error
}

// Site is one edge in service: a pod's or a gateway's. Its policy is swapped
// with each snapshot; exactly one of pod and gateway is set.
type Site struct {
	edge    Edge
	pod     atomic.Pointer[route.Pod]
	gateway atomic.Pointer[route.Gateway]
	gone    atomic.Bool

	conns  atomic.Int64 // sessions
	shakes atomic.Int64 // handshakes under way
	queued atomic.Int64 // records that wait for the audit log
}

// NewPodSite makes the site of a pod.
func NewPodSite(e Edge, p *route.Pod) *Site {
	s := &Site{edge: e}
	s.pod.Store(p)
	return s
}

// NewGatewaySite makes the site of a gateway.
func NewGatewaySite(e Edge, g *route.Gateway) *Site {
	s := &Site{edge: e}
	s.gateway.Store(g)
	return s
}

// SetPod puts a new snapshot's policy in force for what comes next; Review
// holds what is there to it.
func (s *Site) SetPod(p *route.Pod) { s.pod.Store(p) }

// SetGateway does as SetPod.
func (s *Site) SetGateway(g *route.Gateway) { s.gateway.Store(g) }

// Retire marks the site as gone. Workers must be told to Remove it before
// Close.
func (s *Site) Retire() { s.gone.Store(true) }

// StopListening closes the listeners, after every worker has removed the
// site.
func (s *Site) StopListening() { s.edge.StopListening() }

// Close closes the edge, after every worker has removed the site.
func (s *Site) Close() error { return s.edge.Close() }

// self gives who speaks here, and the table in force.
func (s *Site) self() (*mtls.Identity, *route.Table) {
	if p := s.pod.Load(); p != nil {
		return p.Identity, p.Table
	}
	g := s.gateway.Load()
	return g.Identity, g.Table
}
