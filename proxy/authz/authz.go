// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"fmt"
	"net/netip"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// Input is what is known of a connection or request.
type Input struct {
	Peer string     // SPIFFE ID that the peer proved; "" for an unnamed one
	Addr netip.Addr // the peer's address
	Port uint16     // of this workload
	HTTP bool       // Method, Path and Host are known

	Method, Host []byte
	Path         []byte // normalised, without query
}

// Permit proves that a policy said yes. Only this package mints one; the zero
// Permit opens nothing.
type Permit struct{ g *grant }

type grant struct{ rule string }

// Valid tells that the permit was minted.
func (p Permit) Valid() bool { return p.g != nil }

// Rule names the rule that allowed it.
func (p Permit) Rule() string {
	if p.g == nil {
		return ""
	}
	return p.g.rule
}

// Denied says which rule denied and why. Values are shared and immutable.
type Denied struct {
	Rule   string // "" when the absence of a rule decided
	Reason string
	Status int // what an HTTP client is told
}

func (d *Denied) Error() string {
	if d.Rule == "" {
		return "denied: " + d.Reason
	}
	return "denied by " + d.Rule + ": " + d.Reason
}

// Unwrap makes it an errs.Denied.
func (d *Denied) Unwrap() error { return errs.Denied }

var (
	deniedNoAllow = &Denied{Reason: "no rule allows it", Status: 403}
	deniedNetwork = &Denied{Reason: "no network policy lets this address in", Status: 403}
	deniedPath    = &Denied{Reason: "path has no normal form", Status: 400}
)

// Policy is a compiled wire.Authz. It is immutable.
type Policy struct {
	Digest  string
	network *Network
	deny    []rule
	allow   []rule
	paths   bool
}

type rule struct {
	from   []source
	to     []operation
	grant  *grant
	denied *Denied
}

type source struct {
	principals, notPrincipals []pattern
	namespaces, notNamespaces []pattern
	blocks, notBlocks         []netip.Prefix
}

type operation struct {
	ports, notPorts     []uint16
	methods, notMethods []pattern
	paths, notPaths     []pattern
	hosts, notHosts     []pattern
	l7                  bool
}

// Compile reads a policy.
func Compile(a *wire.Authz) (*Policy, error) {
	p := &Policy{Digest: a.Digest}
	var err error
	if p.network, err = CompileNetwork(&a.Network); err != nil {
		return nil, err
	}
	if p.deny, err = p.rules("deny", a.Deny); err != nil {
		return nil, err
	}
	p.allow, err = p.rules("allow", a.Allow)
	return p, err
}

func (p *Policy) rules(field string, in []wire.Rule) ([]rule, error) {
	out := make([]rule, len(in))
	for i := range in {
		r := &in[i]
		name := fmt.Sprintf("%s[%d]", r.Policy, r.Index)
		out[i].grant = &grant{rule: name}
		out[i].denied = &Denied{Rule: name, Reason: "a deny rule matches", Status: 403}
		for _, s := range r.From {
			c := source{blocks: s.IPBlocks, notBlocks: s.NotIPBlocks}
			for _, b := range [][]netip.Prefix{s.IPBlocks, s.NotIPBlocks} {
				if err := prefixes(field, b); err != nil {
					return nil, err
				}
			}
			c.principals, c.notPrincipals = patterns(s.Principals), patterns(s.NotPrincipals)
			c.namespaces, c.notNamespaces = patterns(s.Namespaces), patterns(s.NotNamespaces)
			out[i].from = append(out[i].from, c)
		}
		for _, o := range r.To {
			c := operation{ports: o.Ports, notPorts: o.NotPorts}
			c.methods, c.notMethods = patterns(o.Methods), patterns(o.NotMethods)
			c.hosts, c.notHosts = patterns(lowered(o.Hosts)), patterns(lowered(o.NotHosts))
			c.paths, c.notPaths = patterns(o.Paths), patterns(o.NotPaths)
			c.l7 = len(o.Methods)+len(o.NotMethods)+len(o.Hosts)+len(o.NotHosts)+len(o.Paths)+len(o.NotPaths) > 0
			p.paths = p.paths || len(o.Paths)+len(o.NotPaths) > 0
			out[i].to = append(out[i].to, c)
		}
	}
	return out, nil
}

func prefixes(field string, in []netip.Prefix) error {
	for _, p := range in {
		if !p.IsValid() {
			return &errs.Error{Kind: errs.Invalid, Field: field, Expected: "valid IP prefixes", Seen: p.String()}
		}
	}
	return nil
}

// Paths tells that rules look at paths, so that Input.Path must be in normal
// form, and the normal form is what must be forwarded.
func (p *Policy) Paths() bool { return p.paths }

// NoPath is the denial of a request whose path has no normal form.
func NoPath() *Denied { return deniedPath }

// Connect decides on a connection whose requests are decided one by one: it
// is denied when each of them would be.
func (p *Policy) Connect(in *Input) (Permit, *Denied) { return p.decide(in, true) }

// Decide decides on a request, or on a stream when in.HTTP is false.
func (p *Policy) Decide(in *Input) (Permit, *Denied) { return p.decide(in, false) }

func (p *Policy) decide(in *Input, blind bool) (Permit, *Denied) {
	if !p.network.Decide(in.Addr, in.Port).Valid() {
		return Permit{}, deniedNetwork
	}
	who := strings.TrimPrefix(in.Peer, "spiffe://")
	ns := namespace(who)
	for i := range p.deny {
		// A deny on what is not seen matches (the stream will never show
		// it), unless requests will show it one by one.
		if r := &p.deny[i]; r.matches(in, who, ns, !blind, blind) {
			return Permit{}, r.denied
		}
	}
	for i := range p.allow {
		if r := &p.allow[i]; r.matches(in, who, ns, blind, blind) {
			return Permit{r.grant}, nil
		}
	}
	return Permit{}, deniedNoAllow
}

// matches holds a rule to in. unseen is what a condition on methods, paths
// and hosts is worth when they are not known, or, with blind, not to be
// looked at.
func (r *rule) matches(in *Input, who, ns string, unseen, blind bool) bool {
	from := len(r.from) == 0
	for i := range r.from {
		if from = r.from[i].matches(in, who, ns); from {
			break
		}
	}
	if !from {
		return false
	}
	to := len(r.to) == 0
	for i := range r.to {
		if to = r.to[i].matches(in, unseen, blind); to {
			break
		}
	}
	return to
}

func (s *source) matches(in *Input, who, ns string) bool {
	return (len(s.principals) == 0 || who != "" && anyOf(s.principals, who)) &&
		(len(s.notPrincipals) == 0 || who == "" || !anyOf(s.notPrincipals, who)) &&
		(len(s.namespaces) == 0 || ns != "" && anyOf(s.namespaces, ns)) &&
		(len(s.notNamespaces) == 0 || ns == "" || !anyOf(s.notNamespaces, ns)) &&
		(len(s.blocks) == 0 || within(s.blocks, in.Addr)) &&
		(len(s.notBlocks) == 0 || !within(s.notBlocks, in.Addr))
}

func (o *operation) matches(in *Input, unseen, blind bool) bool {
	if len(o.ports) > 0 && !contains(o.ports, in.Port) || len(o.notPorts) > 0 && contains(o.notPorts, in.Port) {
		return false
	}
	if !o.l7 {
		return true
	}
	if blind || !in.HTTP {
		return unseen
	}
	return (len(o.methods) == 0 || anyOf(o.methods, in.Method)) &&
		(len(o.notMethods) == 0 || !anyOf(o.notMethods, in.Method)) &&
		(len(o.paths) == 0 || anyOf(o.paths, in.Path)) &&
		(len(o.notPaths) == 0 || !anyOf(o.notPaths, in.Path)) &&
		(len(o.hosts) == 0 || anyHost(o.hosts, in.Host)) &&
		(len(o.notHosts) == 0 || !anyHost(o.notHosts, in.Host))
}

// namespace reads "domain/ns/<namespace>/sa/<account>".
func namespace(who string) string {
	_, path, _ := strings.Cut(who, "/")
	rest, ok := strings.CutPrefix(path, "ns/")
	if !ok {
		return ""
	}
	ns, rest, _ := strings.Cut(rest, "/")
	if sa, ok := strings.CutPrefix(rest, "sa/"); !ok || strings.Contains(sa, "/") {
		return ""
	}
	return ns
}

func within(ps []netip.Prefix, a netip.Addr) bool {
	for _, p := range ps {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

func contains(ps []uint16, p uint16) bool {
	for _, q := range ps {
		if p == q {
			return true
		}
	}
	return false
}
