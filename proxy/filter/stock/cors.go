// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// cors answers preflight requests and marks responses that pages of other
// origins may read. Its policies are the routes'.
type cors struct {
	slot int
	own  *corsPolicy // nil: the route's alone
}

type corsPolicy struct {
	cfg       *config.CORS
	origins   []filter.Text
	preflight *filter.LocalReply
}

func newCORS(cfg *config.CORS, slot int) (*cors, error) {
	f := &cors{slot: slot}
	if len(cfg.Origins) == 0 {
		return f, nil
	}
	var err error
	f.own, err = compileCORS(cfg)
	return f, err
}

func compileCORS(cfg *config.CORS) (*corsPolicy, error) {
	p := &corsPolicy{cfg: cfg, preflight: &filter.LocalReply{Status: 200, Detail: "cors_response"}}
	var err error
	if p.origins, err = filter.CompileTexts(cfg.Origins); err != nil {
		return nil, err
	}
	for _, h := range [][2]string{{"access-control-allow-methods", cfg.Methods}, {"access-control-allow-headers", cfg.Headers}, {"access-control-max-age", cfg.MaxAge}} {
		if h[1] != "" {
			p.preflight.Headers = append(p.preflight.Headers, config.HeaderAdd{Name: h[0], Value: h[1]})
		}
	}
	return p, nil
}

func (f *cors) Scope(levels []any) (any, error) {
	cfg, err := as[*config.CORS](levels)
	if err != nil {
		return nil, err
	}
	return compileCORS(cfg)
}

// allowed gives the policy when it is on and lets the request's origin in.
func (f *cors) allowed(c *filter.Context) (p *corsPolicy, origin []byte, ok bool) {
	p, _ = c.Override(f.slot).(*corsPolicy)
	if p == nil {
		p = f.own
	}
	if p == nil || c.Req == nil {
		return nil, nil, false
	}
	origin, there := c.Req.Find("origin")
	return p, origin, there && len(origin) > 0 && filter.AnyText(p.origins, origin)
}

func (f *cors) Request(c *filter.Context) filter.Verdict {
	p, origin, ok := f.allowed(c)
	if p == nil || len(origin) == 0 || p.cfg.Enabled != nil && !filter.Hit(p.cfg.Enabled, c.Rand()) {
		return filter.Next
	}
	c.Slots[f.slot] = p // enforced
	if string(c.Req.In(c.Req.Method)) != "OPTIONS" {
		return filter.Next
	}
	if m, there := c.Req.Find("access-control-request-method"); !there || len(m) == 0 {
		return filter.Next
	}
	if !ok && p.cfg.ForwardUnmatched {
		return filter.Next
	}
	if !ok {
		c.Local = corsUnmatched
		return filter.Reply
	}
	c.Local = p.preflight
	return filter.Reply
}

var corsUnmatched = &filter.LocalReply{Status: 200, Detail: "cors_response"}

func (f *cors) Response(c *filter.Context) {
	p, origin, ok := f.allowed(c)
	if !ok || c.Resp == nil || c.Slots[f.slot] == nil && p.cfg.Enabled != nil {
		return
	}
	h := &c.Resp.Head
	h.Set("access-control-allow-origin", origin)
	if p.cfg.Credentials {
		set(h, "access-control-allow-credentials", "true")
	}
	switch {
	case c.Local == p.preflight:
		if v, _ := c.Req.Find("access-control-request-private-network"); p.cfg.PrivateNetwork && string(v) == "true" {
			set(h, "access-control-allow-private-network", "true")
		}
	case p.cfg.Expose != "":
		set(h, "access-control-expose-headers", p.cfg.Expose)
	}
}

// set is Head.Set for text.
func set(h *message.Head, name, value string) {
	h.Remove(name)
	h.AddString(name, value)
}
