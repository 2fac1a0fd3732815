// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	istio "istio.io/api/security/v1beta1"
	"k8s.io/apimachinery/pkg/util/validation"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// oldDomain is how Istio's documents and most existing policies write the
// trust domain; Istio reads it as an alias of the mesh's own, and so do we.
const oldDomain = "cluster.local/"

// Check says all that keeps the policy from being compiled, each with its
// field. Every other field of the API is either compiled or named here.
func (p AuthorizationPolicy) Check() []*errs.Error {
	c := &authz{policy: p}
	c.compile()
	return c.errs
}

// authz compiles one AuthorizationPolicy.
type authz struct {
	policy AuthorizationPolicy
	domain id.TrustDomain
	errs   []*errs.Error
}

func (c *authz) bad(k errs.Kind, field, expected, seen, fix string) {
	c.errs = append(c.errs, &errs.Error{Kind: k, Subject: "AuthorizationPolicy " + c.policy.Namespace + "/" + c.policy.Name,
		Field: field, Expected: expected, Seen: seen, Fix: fix})
}

func (c *authz) refuse(is bool, field, why string) {
	if is {
		c.bad(errs.Unsupported, field, "a field that has an effect here", "", why)
	}
}

// compile gives the policy's rules. A policy without rules matches nothing
// (Istio, "allow-nothing"): it adds none.
func (c *authz) compile() []wire.Rule {
	s := c.policy.Spec
	if s == nil {
		c.bad(errs.Invalid, "spec", "a spec", "none", "")
		return nil
	}
	if a := s.Action; a != istio.AuthorizationPolicy_ALLOW && a != istio.AuthorizationPolicy_DENY {
		c.bad(errs.Unsupported, "spec.action", "ALLOW or DENY", a.String(), "")
	}
	c.refuse(s.GetProvider() != nil, "spec.provider", "remove it, and write the decision as rules")
	c.refuse(s.TargetRef != nil, "spec.targetRef", "use spec.selector")
	c.refuse(len(s.TargetRefs) > 0, "spec.targetRefs", "use spec.selector")
	var out []wire.Rule
	for i, r := range s.Rules {
		out = append(out, c.rule(i, r))
	}
	return out
}

func (c *authz) rule(i int, r *istio.Rule) wire.Rule {
	at := fmt.Sprintf("spec.rules[%d]", i)
	c.refuse(len(r.GetWhen()) > 0, at+".when", "write the condition as from or to")
	out := wire.Rule{Policy: c.policy.Namespace + "/" + c.policy.Name, Index: i}
	for j, f := range r.GetFrom() {
		out.From = append(out.From, c.source(fmt.Sprintf("%s.from[%d].source", at, j), f.GetSource()))
	}
	for j, t := range r.GetTo() {
		out.To = append(out.To, c.operation(fmt.Sprintf("%s.to[%d].operation", at, j), t.GetOperation()))
	}
	return out
}

func (c *authz) source(at string, s *istio.Source) wire.Source {
	if s == nil {
		s = &istio.Source{}
	}
	c.refuse(len(s.RequestPrincipals)+len(s.NotRequestPrincipals) > 0, at+".requestPrincipals", "use principals: tokens are not checked at the pod's edge")
	c.refuse(len(s.RemoteIpBlocks)+len(s.NotRemoteIpBlocks) > 0, at+".remoteIpBlocks", "use ipBlocks: headers that a peer writes prove nothing")
	c.refuse(len(s.TrustDomains)+len(s.NotTrustDomains) > 0, at+".trustDomains", "use principals: every peer is of this trust domain")
	out := wire.Source{
		Principals:    slices.Concat(c.principals(at+".principals", s.Principals), c.accounts(at+".serviceAccounts", s.ServiceAccounts)),
		NotPrincipals: slices.Concat(c.principals(at+".notPrincipals", s.NotPrincipals), c.accounts(at+".notServiceAccounts", s.NotServiceAccounts)),
		Namespaces:    c.patterns(at+".namespaces", s.Namespaces),
		NotNamespaces: c.patterns(at+".notNamespaces", s.NotNamespaces),
		IPBlocks:      c.blocks(at+".ipBlocks", s.IpBlocks),
		NotIPBlocks:   c.blocks(at+".notIpBlocks", s.NotIpBlocks),
	}
	// As Istio's own validation: mixed, it is not plain whether both or one
	// must match.
	if len(s.ServiceAccounts) > 0 && len(s.Principals)+len(s.Namespaces) > 0 {
		c.bad(errs.Invalid, at+".serviceAccounts", "serviceAccounts without principals and namespaces", "both", "write the accounts as principals")
	}
	if n := len(out.Principals) + len(out.NotPrincipals) + len(out.Namespaces) + len(out.NotNamespaces) + len(out.IPBlocks) + len(out.NotIPBlocks); n == 0 {
		// An empty source would match everybody: almost surely a slip.
		c.bad(errs.Invalid, at, "at least one field", "none", "leave 'from' out to mean everybody")
	}
	return out
}

func (c *authz) operation(at string, o *istio.Operation) wire.Operation {
	if o == nil {
		o = &istio.Operation{}
	}
	out := wire.Operation{
		Ports: c.ports(at+".ports", o.Ports), NotPorts: c.ports(at+".notPorts", o.NotPorts),
		Methods: c.patterns(at+".methods", o.Methods), NotMethods: c.patterns(at+".notMethods", o.NotMethods),
		Paths: c.paths(at+".paths", o.Paths), NotPaths: c.paths(at+".notPaths", o.NotPaths),
		Hosts: c.hosts(at+".hosts", o.Hosts), NotHosts: c.hosts(at+".notHosts", o.NotHosts),
	}
	if n := len(o.Ports) + len(o.NotPorts) + len(o.Methods) + len(o.NotMethods) + len(o.Paths) + len(o.NotPaths) + len(o.Hosts) + len(o.NotHosts); n == 0 {
		c.bad(errs.Invalid, at, "at least one field", "none", "leave 'to' out to mean everything")
	}
	return out
}

// patterns checks Istio's patterns: exact, "prefix*", "*suffix", "*". Any
// other "*" would match itself alone, which in a DENY opens what it meant to
// close.
func (c *authz) patterns(at string, list []string) []string {
	for i, s := range list {
		c.pattern(fmt.Sprintf("%s[%d]", at, i), s)
	}
	return slices.Clone(list)
}

func (c *authz) pattern(at, s string) {
	inner := strings.TrimSuffix(s, "*")
	if inner == s {
		inner = strings.TrimPrefix(s, "*")
	}
	if s == "" || strings.Contains(inner, "*") {
		c.bad(errs.Invalid, at, "a word, 'prefix*', '*suffix' or '*'", fmt.Sprintf("%.128q", s), "")
	}
}

func (c *authz) paths(at string, list []string) []string {
	for i, s := range list {
		switch f := fmt.Sprintf("%s[%d]", at, i); {
		case strings.ContainsAny(s, "{}"):
			c.bad(errs.Unsupported, f, "a path without templates", fmt.Sprintf("%.128q", s), "write it as a prefix")
		case !strings.HasPrefix(s, "/") && !strings.HasPrefix(s, "*"):
			c.bad(errs.Invalid, f, "a path that begins with '/' or '*'", fmt.Sprintf("%.128q", s), "")
		default:
			c.pattern(f, s)
		}
	}
	return slices.Clone(list)
}

// hosts are compared without case (RFC 9110 §4.2.3): wire holds them lower.
func (c *authz) hosts(at string, list []string) []string {
	out := c.patterns(at, list)
	for i := range out {
		out[i] = strings.ToLower(out[i])
	}
	return out
}

func (c *authz) principals(at string, list []string) []string {
	out := c.patterns(at, list)
	for i, s := range out {
		if strings.HasPrefix(s, "spiffe://") {
			c.bad(errs.Invalid, fmt.Sprintf("%s[%d]", at, i), "a principal without spiffe://", fmt.Sprintf("%.128q", s), fmt.Sprintf("write %.128q", strings.TrimPrefix(s, "spiffe://")))
		}
		if rest, ok := strings.CutPrefix(s, oldDomain); ok {
			out[i] = c.domain.Name() + "/" + rest
		}
	}
	return out
}

// accounts turns service accounts, "name" or "namespace/name", into the
// principals they have.
func (c *authz) accounts(at string, list []string) []string {
	var out []string
	for i, s := range list {
		ns, name, ok := strings.Cut(s, "/")
		if !ok {
			ns, name = c.policy.Namespace, s
		}
		if len(validation.IsDNS1123Label(ns)) > 0 || len(validation.IsDNS1123Subdomain(name)) > 0 {
			c.bad(errs.Invalid, fmt.Sprintf("%s[%d]", at, i), "a service account: name or namespace/name, no patterns", fmt.Sprintf("%.128q", s), "")
			continue
		}
		out = append(out, c.domain.Name()+"/ns/"+ns+"/sa/"+name)
	}
	return out
}

func (c *authz) blocks(at string, list []string) []netip.Prefix {
	var out []netip.Prefix
	for i, s := range list {
		b, err := netip.ParsePrefix(s)
		if a, aerr := netip.ParseAddr(s); aerr == nil && a.Zone() == "" {
			b, err = netip.PrefixFrom(a, a.BitLen()), nil
		}
		if err != nil || b.Addr().Is4In6() {
			c.bad(errs.Invalid, fmt.Sprintf("%s[%d]", at, i), "an address or a block such as 10.0.0.0/8", fmt.Sprintf("%.128q", s), "")
			continue
		}
		out = append(out, b.Masked())
	}
	return out
}

func (c *authz) ports(at string, list []string) []uint16 {
	var out []uint16
	for i, s := range list {
		n, err := strconv.ParseUint(s, 10, 16)
		if err != nil || n == 0 {
			c.bad(errs.Invalid, fmt.Sprintf("%s[%d]", at, i), "a port from 1 to 65535", fmt.Sprintf("%.128q", s), "")
			continue
		}
		out = append(out, uint16(n))
	}
	return out
}
