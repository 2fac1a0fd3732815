// SPDX-License-Identifier: Apache-2.0

package route

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/dns"
	"redoubt.dev/proxy/mtls"
)

// Proto is what a port is declared to speak.
type Proto uint8

// The protocols.
const (
	Auto Proto = iota // the first bytes tell
	HTTP
	TCP
)

// Backend is one place that serves a target.
type Backend struct {
	Addr netip.AddrPort
	ID   string // that it must prove
}

// Target is where a destination leads.
type Target struct {
	Name     string // "namespace/service:port", or "namespace/pod" for direct addressing
	Proto    Proto
	Backends []Backend
}

// Pod is one pod of this machine.
type Pod struct {
	UID, Namespace, Name string
	Addr                 netip.Addr
	NetNS                string
	Identity             *mtls.Identity
	Policy               *authz.Policy
	Egress               *authz.Network
	Table                *Table

	mode  string
	modes map[uint16]string
	proto map[uint16]Proto
	svid  wire.SVID
}

// Permissive tells whether the port takes connections in clear.
func (p *Pod) Permissive(port uint16) bool {
	m, ok := p.modes[port]
	if !ok {
		m = p.mode
	}
	return m == wire.MTLSPermissive
}

// Proto gives what the port is declared to speak.
func (p *Pod) Proto(port uint16) Proto { return p.proto[port] }

// Gateway is one listener in the machine's own namespace.
type Gateway struct {
	Listen   netip.AddrPort
	Name     string
	Target   *Target // nil when the service or port does not exist now
	Identity *mtls.Identity
	Table    *Table
	svid     wire.SVID
}

// Table is a compiled snapshot.
type Table struct {
	Version  uint64
	Trust    *mtls.Trust
	Zone     *dns.Zone
	Pods     map[string]*Pod // by UID
	Gateways map[netip.AddrPort]*Gateway

	targets map[netip.AddrPort]*Target
	vips    map[netip.Addr]bool
	peers   map[netip.Addr]*wire.Peer
	revoked map[string]bool
	domain  string
	roots   [][]byte
}

// Lookup finds where dst leads: a service's port, or a pod of the mesh. The
// reason says why it leads nowhere.
func (t *Table) Lookup(dst netip.AddrPort) (target *Target, reason string) {
	if s, ok := t.targets[dst]; ok {
		return s, ""
	}
	if t.vips[dst.Addr()] {
		return nil, "service has no such port"
	}
	if p, ok := t.peers[dst.Addr()]; ok {
		return &Target{Name: p.Namespace + "/" + p.Name, Backends: []Backend{{dst, p.ID}}}, ""
	}
	return nil, "destination is not in the mesh"
}

// Peer gives the pod that has the address.
func (t *Table) Peer(a netip.Addr) (*wire.Peer, bool) {
	p, ok := t.peers[a]
	return p, ok
}

// IsGateway tells that the ID is one of the snapshot's gateways'.
func (t *Table) IsGateway(id string) bool {
	for _, g := range t.Gateways {
		if g.Identity.ID == id {
			return true
		}
	}
	return false
}

// Revoked tells that the serial's certificate must not be used any more.
func (t *Table) Revoked(serial string) bool { return t.revoked[serial] }

// Compile validates s and builds its table; prev, which may be nil, lends
// what has not changed. All problems are reported, and then there is no
// table.
func Compile(s *wire.Snapshot, prev *Table, o Options) (*Table, error) {
	c := &compiler{s: s, prev: prev, o: o, t: &Table{
		Version: s.Version, domain: s.TrustDomain, roots: s.Roots,
		Pods: map[string]*Pod{}, Gateways: map[netip.AddrPort]*Gateway{},
		targets: map[netip.AddrPort]*Target{}, vips: map[netip.Addr]bool{}, peers: map[netip.Addr]*wire.Peer{}, revoked: map[string]bool{},
	}}
	if prev != nil && prev.domain == s.TrustDomain && equal(prev.roots, s.Roots) {
		c.t.Trust = prev.Trust
	} else {
		var err error
		if c.t.Trust, err = mtls.NewTrust(s.TrustDomain, s.Roots); err != nil {
			return nil, fmt.Errorf("snapshot %d: %w", s.Version, err) // nothing else can be checked without it
		}
	}
	c.services()
	c.workloads()
	c.pods()
	c.gateways()
	for _, r := range s.Revoked {
		c.t.revoked[r] = true
	}
	if len(c.errs) > 0 {
		return nil, fmt.Errorf("snapshot %d: %w", s.Version, errors.Join(c.errs...))
	}
	c.t.Zone = dns.NewZone(s.Services)
	return c.t, nil
}

// Options widen what Compile takes.
type Options struct {
	// AllowLoopbackForTest lets snapshots name addresses in 127.0.0.0/8,
	// where tests run without namespaces.
	AllowLoopbackForTest bool
}

type compiler struct {
	s    *wire.Snapshot
	o    Options
	prev *Table
	t    *Table
	errs []error
}

func (c *compiler) bad(subject, field, expected, seen string) {
	c.errs = append(c.errs, &errs.Error{Kind: errs.Invalid, Subject: subject, Field: field, Expected: expected, Seen: seen})
}

func (c *compiler) wrap(subject string, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s: %w", subject, err))
	}
}

func (c *compiler) services() {
	for i := range c.s.Services {
		s := &c.s.Services[i]
		name := s.Namespace + "/" + s.Name
		for j := range s.Ports {
			p := &s.Ports[j]
			t := &Target{Name: fmt.Sprintf("%s:%d", name, p.Port), Proto: c.proto("service "+name, p.Protocol)}
			for _, b := range p.Endpoints {
				if !c.usable(b.Addr.Addr()) || b.Addr.Port() == 0 || b.ID == "" {
					c.bad("service "+name, "endpoints", "an IPv4 address, a port and an ID", b.Addr.String())
				}
				t.Backends = append(t.Backends, Backend{b.Addr, b.ID})
			}
			if !s.VIP.IsValid() {
				continue // headless: its pods are addressed directly
			}
			at := netip.AddrPortFrom(s.VIP, p.Port)
			if !c.usable(s.VIP) || p.Port == 0 {
				c.bad("service "+name, "vip", "an IPv4 address and a port", at.String())
			}
			if other, ok := c.t.targets[at]; ok {
				c.bad("service "+name, "vip", "an address of its own", at.String()+" is "+other.Name)
			}
			c.t.targets[at] = t
		}
		if s.VIP.IsValid() {
			c.t.vips[s.VIP] = true
		}
	}
}

func (c *compiler) proto(subject, s string) Proto {
	switch s {
	case "", wire.ProtoAuto:
		return Auto
	case wire.ProtoHTTP:
		return HTTP
	case wire.ProtoTCP:
		return TCP
	}
	c.bad(subject, "protocol", "auto, http or tcp", s)
	return TCP
}

// usable refuses what no pod can have, above all loopback and link-local
// addresses, behind which the proxy itself or the machine would answer.
func (c *compiler) usable(a netip.Addr) bool {
	return a.Is4() && !a.IsUnspecified() && !a.IsMulticast() && !a.IsLinkLocalUnicast() && (!a.IsLoopback() || c.o.AllowLoopbackForTest)
}

func (c *compiler) workloads() {
	for i := range c.s.Workloads {
		w := &c.s.Workloads[i]
		if !c.usable(w.Addr) || w.ID == "" {
			c.bad("workload "+w.Namespace+"/"+w.Name, "addr", "an IPv4 address, and an ID", w.Addr.String())
		}
		if other, ok := c.t.peers[w.Addr]; ok {
			c.bad("workload "+w.Namespace+"/"+w.Name, "addr", "an address of its own", w.Addr.String()+" is "+other.Namespace+"/"+other.Name)
		}
		c.t.peers[w.Addr] = w
	}
}

func (c *compiler) pods() {
	addrs := map[netip.Addr]string{}
	for i := range c.s.Pods {
		w := &c.s.Pods[i]
		name := "pod " + w.Namespace + "/" + w.Name
		if w.UID == "" || c.t.Pods[w.UID] != nil {
			c.bad(name, "uid", "a UID of its own", w.UID)
		}
		if other := addrs[w.Addr]; !c.usable(w.Addr) || other != "" {
			c.bad(name, "addr", "an IPv4 address of its own", w.Addr.String()+" "+other)
		}
		addrs[w.Addr] = name
		if w.NetNS != "" && !filepath.IsAbs(w.NetNS) {
			c.bad(name, "netns", "an absolute path", w.NetNS)
		}
		p := &Pod{UID: w.UID, Namespace: w.Namespace, Name: w.Name, Addr: w.Addr, NetNS: w.NetNS, Table: c.t,
			mode: w.Inbound.MTLS, modes: w.Inbound.Ports, proto: map[uint16]Proto{}, svid: w.SVID}
		if c.prev != nil && c.prev.Pods[w.UID] != nil {
			p.Identity = c.same(&w.SVID, &c.prev.Pods[w.UID].svid, c.prev.Pods[w.UID].Identity)
		}
		var err error
		if p.Identity == nil {
			p.Identity, err = mtls.NewIdentity(&w.SVID, c.t.Trust)
			c.wrap(name, err)
		}
		p.Policy, err = authz.Compile(&w.Inbound)
		c.wrap(name, err)
		p.Egress, err = authz.CompileNetwork(&w.Egress)
		c.wrap(name, err)
		c.mode(name, w.Inbound.MTLS)
		for _, m := range w.Inbound.Ports {
			c.mode(name, m)
		}
		for port, s := range w.Inbound.AppPort {
			p.proto[port] = c.proto(name, s)
		}
		c.t.Pods[w.UID] = p
	}
}

// same gives the identity of the table before when the SVID has not changed
// and the trust domain still stands.
func (c *compiler) same(now, before *wire.SVID, was *mtls.Identity) *mtls.Identity {
	if c.prev.domain == c.t.domain && now.ID == before.ID && bytes.Equal(now.Key, before.Key) && equal(now.Chain, before.Chain) {
		return was
	}
	return nil
}

func (c *compiler) mode(name, m string) {
	if m != wire.MTLSStrict && m != wire.MTLSPermissive {
		c.bad(name, "inbound.mtls", "STRICT or PERMISSIVE", m)
	}
}

func (c *compiler) gateways() {
	for i := range c.s.Gateways {
		w := &c.s.Gateways[i]
		name := "gateway " + w.Listen.String()
		if !w.Listen.IsValid() || w.Listen.Port() == 0 || c.t.Gateways[w.Listen] != nil {
			c.bad(name, "listen", "an address and port of its own", w.Listen.String())
		}
		g := &Gateway{Listen: w.Listen, Name: fmt.Sprintf("%s/%s:%d", w.Namespace, w.Service, w.Port), Table: c.t, svid: w.SVID}
		if c.prev != nil && c.prev.Gateways[w.Listen] != nil {
			g.Identity = c.same(&w.SVID, &c.prev.Gateways[w.Listen].svid, c.prev.Gateways[w.Listen].Identity)
		}
		if g.Identity == nil {
			var err error
			g.Identity, err = mtls.NewIdentity(&w.SVID, c.t.Trust)
			c.wrap(name, err)
		}
		for j := range c.s.Services {
			s := &c.s.Services[j]
			if s.Namespace != w.Namespace || s.Name != w.Service {
				continue
			}
			for k := range s.Ports {
				if s.Ports[k].Port == w.Port {
					g.Target = c.target(s, &s.Ports[k])
				}
			}
		}
		c.t.Gateways[w.Listen] = g
	}
}

// target finds the compiled target, or makes one for a headless service.
func (c *compiler) target(s *wire.Service, p *wire.ServicePort) *Target {
	if s.VIP.IsValid() {
		return c.t.targets[netip.AddrPortFrom(s.VIP, p.Port)]
	}
	t := &Target{Name: fmt.Sprintf("%s/%s:%d", s.Namespace, s.Name, p.Port), Proto: c.proto(s.Name, p.Protocol)}
	for _, b := range p.Endpoints {
		t.Backends = append(t.Backends, Backend{b.Addr, b.ID})
	}
	return t
}

func equal(a, b [][]byte) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if !bytes.Equal(a[i], b[i]) {
			return false
		}
	}
	return true
}
