// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"bytes"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// csrf refuses requests that change something and that a page of another
// origin made.
type csrf struct {
	slot int
	own  *csrfPolicy
}

type csrfPolicy struct {
	cfg        *config.CSRF
	additional []filter.Text
}

var csrfReply = &filter.LocalReply{Status: 403, Body: []byte("Invalid origin"), Detail: "csrf_origin_mismatch"}

func newCSRF(cfg *config.CSRF, slot int) (*csrf, error) {
	p, err := compileCSRF(cfg)
	return &csrf{slot, p}, err
}

func compileCSRF(cfg *config.CSRF) (*csrfPolicy, error) {
	ts, err := filter.CompileTexts(cfg.Additional)
	return &csrfPolicy{cfg, ts}, err
}

func (f *csrf) Scope(levels []any) (any, error) {
	cfg, err := as[*config.CSRF](levels)
	if err != nil {
		return nil, err
	}
	return compileCSRF(cfg)
}

func (f *csrf) Request(c *filter.Context) filter.Verdict {
	p := f.own
	if o, ok := c.Override(f.slot).(*csrfPolicy); ok {
		p = o
	}
	if !filter.Hit(&p.cfg.Enabled, c.Rand()) { // a shadow policy changes nothing
		return filter.Next
	}
	switch string(c.Req.In(c.Req.Method)) {
	case "POST", "PUT", "DELETE", "PATCH":
	default:
		return filter.Next
	}
	origin := csrfSource(c)
	target := c.Req.In(c.Req.Authority)
	if len(origin) > 0 && (bytes.EqualFold(origin, target) || filter.AnyText(p.additional, origin)) {
		return filter.Next
	}
	c.Local = csrfReply
	return filter.Reply
}

// csrfSource gives host and port of Origin, or of Referer when the browser
// hides the origin.
func csrfSource(c *filter.Context) []byte {
	v, _ := c.Req.Find("origin")
	if h := hostAndPort(v); len(h) > 0 {
		return h
	}
	v, _ = c.Req.Find("referer")
	return hostAndPort(v)
}

// hostAndPort takes them out of an absolute URL; nothing of anything else,
// "null" included.
func hostAndPort(u []byte) []byte {
	i := bytes.Index(u, []byte("://"))
	if i <= 0 {
		return nil
	}
	u = u[i+3:]
	if i = bytes.IndexAny(u, "/?#"); i >= 0 {
		u = u[:i]
	}
	if bytes.IndexByte(u, '@') >= 0 {
		return nil // no browser sends it, and servers read it in two ways
	}
	return u
}
