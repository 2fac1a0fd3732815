// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"net/netip"
	"sort"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// maxRules bounds how deep a rule nests.
const maxRules = 32

// RBAC is a compiled config.RBAC. It judges requests, and connections, whose
// Context has no Req. It is immutable.
type RBAC struct {
	deny     bool
	log      bool
	policies []policy
}

type policy struct {
	name        string
	permissions []rule
	principals  []rule
}

type rule func(c *Context) bool

// CompileRBAC compiles rules; nil gives nil, which allows everything.
func CompileRBAC(r *config.RBAC) (*RBAC, error) {
	if r == nil {
		return nil, nil
	}
	out := &RBAC{}
	switch r.Action {
	case "", "ALLOW":
	case "DENY":
		out.deny = true
	case "LOG":
		out.log = true
	default:
		return nil, &errs.Error{Kind: errs.Unsupported, Field: "rbac.action", Expected: "ALLOW, DENY or LOG", Seen: r.Action}
	}
	names := make([]string, 0, len(r.Policies))
	for name := range r.Policies {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		p := policy{name: name}
		var err error
		if p.permissions, err = compileRules(r.Policies[name].Permissions, 0); err == nil {
			p.principals, err = compileRules(r.Policies[name].Principals, 0)
		}
		if err != nil {
			return nil, err
		}
		out.policies = append(out.policies, p)
	}
	return out, nil
}

// Allow judges c. policy names the one that matched, "" for none.
func (r *RBAC) Allow(c *Context) (ok bool, policy string) {
	if r == nil {
		return true, ""
	}
	for i := range r.policies {
		if p := &r.policies[i]; anyRule(p.permissions, c) && anyRule(p.principals, c) {
			return !r.deny, p.name
		}
	}
	return r.deny || r.log, ""
}

func anyRule(rs []rule, c *Context) bool {
	for _, r := range rs {
		if r(c) {
			return true
		}
	}
	return false
}

func allRules(rs []rule, c *Context) bool {
	for _, r := range rs {
		if !r(c) {
			return false
		}
	}
	return true
}

func compileRules(in []*config.RBACRule, depth int) ([]rule, error) {
	out := make([]rule, len(in))
	for i, r := range in {
		var err error
		if out[i], err = compileRule(r, depth); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func compileRule(r *config.RBACRule, depth int) (rule, error) {
	if depth > maxRules {
		return nil, errs.New(errs.TooLarge, "rbac", "rules are nested more than %d deep", maxRules)
	}
	switch {
	case r == nil:
	case r.Any:
		return func(*Context) bool { return true }, nil
	case r.And != nil:
		rs, err := compileRules(r.And, depth+1)
		return func(c *Context) bool { return allRules(rs, c) }, err
	case r.Or != nil:
		rs, err := compileRules(r.Or, depth+1)
		return func(c *Context) bool { return anyRule(rs, c) }, err
	case r.Not != nil:
		inner, err := compileRule(r.Not, depth+1)
		return func(c *Context) bool { return !inner(c) }, err
	case r.Header != nil, r.Path != nil:
		return requestRule(r)
	case r.Authenticated, r.Principal != nil, r.SNI != nil:
		return identityRule(r)
	}
	return addressRule(r)
}

func requestRule(r *config.RBACRule) (rule, error) {
	if r.Header != nil {
		f, err := CompileField(*r.Header)
		return func(c *Context) bool { return c.Req != nil && f.Match(c.Req) }, err
	}
	t, err := CompileText(*r.Path)
	return func(c *Context) bool {
		if c.Req == nil {
			return false
		}
		p := c.Req.PathOnly()
		if i := bytes.IndexByte(p, '#'); i >= 0 {
			p = p[:i]
		}
		return t.Match(p)
	}, err
}

func identityRule(r *config.RBACRule) (rule, error) {
	if r.SNI != nil {
		t, err := CompileText(*r.SNI)
		return func(c *Context) bool { return c.Conn.TLS != nil && t.MatchString(c.Conn.TLS.SNI) }, err
	}
	if r.Principal == nil {
		return func(c *Context) bool { return c.Conn.TLS != nil && c.Conn.TLS.PeerValidated }, nil
	}
	t, err := CompileText(*r.Principal)
	return func(c *Context) bool {
		// A name counts only when the certificate was verified: Envoy leaves
		// that to the listener, where a mistake would open the door.
		i := c.Conn.TLS
		if i == nil || !i.PeerValidated {
			return false
		}
		for _, names := range [2][]string{i.PeerURIs, i.PeerDNS} {
			for _, n := range names {
				if t.MatchString(n) {
					return true
				}
			}
		}
		return len(i.PeerURIs)+len(i.PeerDNS) == 0 && t.MatchString(i.PeerSubject)
	}, err
}

func addressRule(r *config.RBACRule) (rule, error) {
	in := func(p netip.Prefix, of func(c *Context) netip.Addr) rule {
		p = p.Masked()
		return func(c *Context) bool { return p.Contains(of(c).Unmap()) }
	}
	switch {
	case r == nil:
	case r.DestIP != nil:
		return in(*r.DestIP, func(c *Context) netip.Addr { return c.Conn.Local.Addr() }), nil
	case r.SourceIP != nil:
		return in(*r.SourceIP, func(c *Context) netip.Addr { return c.Conn.Peer.Addr() }), nil
	case r.RemoteIP != nil:
		return in(*r.RemoteIP, func(c *Context) netip.Addr {
			if c.Remote.IsValid() {
				return c.Remote
			}
			return c.Conn.Source.Addr()
		}), nil
	case r.DestPort != nil:
		from, to := r.DestPort.From, r.DestPort.To
		return func(c *Context) bool { p := int64(c.Conn.Local.Port()); return from <= p && p < to }, nil
	}
	return nil, &errs.Error{Kind: errs.Invalid, Field: "rbac", Expected: "a rule of a known kind"}
}
