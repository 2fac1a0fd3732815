// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"sync/atomic"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// rbac allows and denies requests.
type rbac struct {
	slot int
	own  *rbacPolicy
}

type rbacPolicy struct {
	rules, shadow   *filter.RBAC
	denials         map[string]*filter.LocalReply // by policy
	allowed, denied atomic.Uint64
	shadowAllowed   atomic.Uint64
	shadowDenied    atomic.Uint64
}

func newRBAC(cfg *config.RBACFilter, slot int) (*rbac, error) {
	p, err := compileRBAC(cfg)
	return &rbac{slot, p}, err
}

func compileRBAC(cfg *config.RBACFilter) (*rbacPolicy, error) {
	p := &rbacPolicy{denials: map[string]*filter.LocalReply{"": denial("none")}}
	var err error
	if p.rules, err = filter.CompileRBAC(cfg.Rules); err != nil {
		return nil, err
	}
	shadow := cfg.Shadow
	if cfg.Rules != nil {
		for name := range cfg.Rules.Policies {
			p.denials[name] = denial(name)
		}
		if shadow == nil {
			shadow = cfg.Rules.Shadow
		}
	}
	p.shadow, err = filter.CompileRBAC(shadow)
	return p, err
}

func denial(policy string) *filter.LocalReply {
	return &filter.LocalReply{Status: 403, Body: []byte("RBAC: access denied"), Detail: "rbac_access_denied_matched_policy[" + policy + "]"}
}

func (f *rbac) Scope(levels []any) (any, error) {
	cfg, err := as[*config.RBACFilter](levels)
	if err != nil {
		return nil, err
	}
	return compileRBAC(cfg)
}

func (f *rbac) Request(c *filter.Context) filter.Verdict {
	p := f.own
	if o, ok := c.Override(f.slot).(*rbacPolicy); ok {
		p = o
	}
	if p.shadow != nil {
		count(p.shadow, c, &p.shadowAllowed, &p.shadowDenied)
	}
	if p.rules == nil {
		return filter.Next
	}
	ok, policy := count(p.rules, c, &p.allowed, &p.denied)
	if ok {
		return filter.Next
	}
	c.Local = p.denials[policy]
	return filter.Reply
}

func count(r *filter.RBAC, c *filter.Context, yes, no *atomic.Uint64) (bool, string) {
	ok, policy := r.Allow(c)
	if ok {
		yes.Add(1)
	} else {
		no.Add(1)
	}
	return ok, policy
}
