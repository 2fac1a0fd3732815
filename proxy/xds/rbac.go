// SPDX-License-Identifier: Apache-2.0

package xds

import (
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"redoubt.dev/proxy/config"
)

func (c *converter) networkRBAC(m *netrbacv3.RBAC, p *place) *config.RBAC {
	if m.GetEnforcementType() != netrbacv3.RBAC_ONE_TIME_ON_FIRST_BYTE {
		c.unsupported(p.field("enforcement_type"), "ONE_TIME_ON_FIRST_BYTE", m.GetEnforcementType(), "remove it")
	}
	r := c.rbac(m.GetRules(), p.field("rules"), true)
	shadow := c.rbac(m.GetShadowRules(), p.field("shadow_rules"), true)
	if r == nil && shadow != nil { // the shadow is evaluated beside rules that let all pass
		r = &config.RBAC{Action: "DENY"}
	}
	if r != nil {
		r.Shadow = shadow
	}
	return r
}

// rbac reads rules; network says that there is no request to look at.
func (c *converter) rbac(m *rbacv3.RBAC, p *place, network bool) *config.RBAC {
	if m == nil {
		return nil
	}
	r := &config.RBAC{Action: m.GetAction().String(), Policies: make(map[string]*config.RBACPolicy, len(m.GetPolicies()))}
	switch m.GetAction() {
	case rbacv3.RBAC_ALLOW, rbacv3.RBAC_DENY, rbacv3.RBAC_LOG:
	default:
		c.unsupported(p.field("action"), "ALLOW, DENY or LOG", m.GetAction(), "")
	}
	for name, pol := range m.GetPolicies() {
		at, x := p.entry("policies", name), &config.RBACPolicy{}
		for i, q := range pol.GetPermissions() {
			x.Permissions = append(x.Permissions, c.permission(q, at.item("permissions", i), network))
		}
		for i, q := range pol.GetPrincipals() {
			x.Principals = append(x.Principals, c.principal(q, at.item("principals", i), network))
		}
		r.Policies[name] = x
	}
	return r
}

func (c *converter) permission(m *rbacv3.Permission, p *place, network bool) *config.RBACRule {
	all := func(s *rbacv3.Permission_Set, at *place) (out []*config.RBACRule) {
		for i, q := range s.GetRules() {
			out = append(out, c.permission(q, at.item("rules", i), network))
		}
		return out
	}
	switch x := m.GetRule().(type) {
	case *rbacv3.Permission_Any:
		return c.anyRule(x.Any, p)
	case *rbacv3.Permission_AndRules:
		return &config.RBACRule{And: all(x.AndRules, p.field("and_rules"))}
	case *rbacv3.Permission_OrRules:
		return &config.RBACRule{Or: all(x.OrRules, p.field("or_rules"))}
	case *rbacv3.Permission_NotRule:
		return &config.RBACRule{Not: c.permission(x.NotRule, p.field("not_rule"), network)}
	case *rbacv3.Permission_Header:
		h := c.headerMatch(x.Header, c.onRequest(p.field("header"), network))
		return &config.RBACRule{Header: &h}
	case *rbacv3.Permission_UrlPath:
		return c.pathRule(x.UrlPath, c.onRequest(p.field("url_path"), network))
	case *rbacv3.Permission_DestinationIp:
		n := c.prefix(x.DestinationIp, p.field("destination_ip"))
		return &config.RBACRule{DestIP: &n}
	case *rbacv3.Permission_DestinationPort:
		port := int64(c.port(x.DestinationPort, p.field("destination_port")))
		return &config.RBACRule{DestPort: &config.Range{From: port, To: port + 1}}
	case *rbacv3.Permission_DestinationPortRange:
		r := x.DestinationPortRange
		if r.GetStart() < 0 || r.GetEnd() > 65536 || r.GetStart() >= r.GetEnd() {
			c.wrong(p.field("destination_port_range"), "start below end, at most 65536", r.GetEnd(), "")
		}
		return &config.RBACRule{DestPort: &config.Range{From: int64(r.GetStart()), To: int64(r.GetEnd())}}
	case *rbacv3.Permission_RequestedServerName:
		s := c.stringMatch(x.RequestedServerName, p.field("requested_server_name"))
		return &config.RBACRule{SNI: &s}
	}
	c.unsupported(p, "a permission that docs/config.md lists", "another", "")
	return &config.RBACRule{}
}

func (c *converter) principal(m *rbacv3.Principal, p *place, network bool) *config.RBACRule {
	all := func(s *rbacv3.Principal_Set, at *place) (out []*config.RBACRule) {
		for i, q := range s.GetIds() {
			out = append(out, c.principal(q, at.item("ids", i), network))
		}
		return out
	}
	switch x := m.GetIdentifier().(type) {
	case *rbacv3.Principal_Any:
		return c.anyRule(x.Any, p)
	case *rbacv3.Principal_AndIds:
		return &config.RBACRule{And: all(x.AndIds, p.field("and_ids"))}
	case *rbacv3.Principal_OrIds:
		return &config.RBACRule{Or: all(x.OrIds, p.field("or_ids"))}
	case *rbacv3.Principal_NotId:
		return &config.RBACRule{Not: c.principal(x.NotId, p.field("not_id"), network)}
	case *rbacv3.Principal_Authenticated_:
		r := &config.RBACRule{Authenticated: true}
		if n := x.Authenticated.GetPrincipalName(); n != nil {
			s := c.stringMatch(n, p.field("authenticated").field("principal_name"))
			r.Principal = &s
		}
		return r
	case *rbacv3.Principal_DirectRemoteIp:
		n := c.prefix(x.DirectRemoteIp, p.field("direct_remote_ip"))
		return &config.RBACRule{SourceIP: &n}
	case *rbacv3.Principal_RemoteIp:
		n := c.prefix(x.RemoteIp, p.field("remote_ip"))
		return &config.RBACRule{RemoteIP: &n}
	case *rbacv3.Principal_Header:
		h := c.headerMatch(x.Header, c.onRequest(p.field("header"), network))
		return &config.RBACRule{Header: &h}
	case *rbacv3.Principal_UrlPath:
		return c.pathRule(x.UrlPath, c.onRequest(p.field("url_path"), network))
	}
	c.unsupported(p, "a principal that docs/config.md lists", "another", "")
	return &config.RBACRule{}
}

// onRequest refuses what a connection cannot show: it would never match, and
// a DENY that never matches lets pass.
func (c *converter) onRequest(p *place, network bool) *place {
	if network {
		c.unsupported(p, "rules on connections, in a network filter", "one on requests", "use the HTTP filter")
	}
	return p
}

func (c *converter) anyRule(v bool, p *place) *config.RBACRule {
	if !v {
		c.wrong(p.field("any"), "true", false, "use not_rule or not_id")
	}
	return &config.RBACRule{Any: v}
}

func (c *converter) pathRule(m *matcherv3.PathMatcher, p *place) *config.RBACRule {
	s := c.stringMatch(m.GetPath(), p.field("path"))
	return &config.RBACRule{Path: &s}
}
