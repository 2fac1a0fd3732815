// SPDX-License-Identifier: Apache-2.0

package router

import (
	"regexp"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Table is a compiled route configuration. It implements filter.Router.
type Table struct {
	rc      *config.RouteConfig
	hosts   hosts
	global  *headers
	actions []actions // by Route.Index, then one per virtual host that requires TLS
	shares  map[*config.Weighted]*actions
}

// entry is one route, ready to be matched.
type entry struct {
	route    *config.Route
	kind     config.PathKind
	path     string // lower case when fold
	fold     bool
	re       *regexp.Regexp
	headers  []filter.Field
	params   []filter.Param
	fraction *config.Fraction
	tls      *config.TLSMatch
	grpc     bool
}

// host is one virtual host.
type host struct {
	vhost   *config.VirtualHost
	secure  *config.Route // the redirect to https; nil unless required
	entries []entry
	exact   node    // case counts
	folded  node    // case does not
	rest    []int32 // what no trie holds
	folds   bool
}

// Compile compiles a route configuration. It fills Route.VHost and Route.Index
// where validation has not, so that it must run before rc is shared.
func Compile(rc *config.RouteConfig) (*Table, error) {
	t := &Table{rc: rc, shares: map[*config.Weighted]*actions{}}
	number(rc)
	routes := 0
	for _, v := range rc.Hosts {
		routes += len(v.Routes)
	}
	var err error
	if t.global, err = compileHeaders(&rc.Headers); err != nil {
		return nil, subject(err, "route configuration "+rc.Name)
	}
	t.actions = make([]actions, routes, routes+len(rc.Hosts))
	for _, v := range rc.Hosts {
		h, err := t.host(v)
		if err == nil {
			err = t.hosts.add(h)
		}
		if err != nil {
			return nil, subject(err, "virtual host "+v.Name)
		}
	}
	t.hosts.sort()
	return t, nil
}

// Config is what the table was compiled from.
func (t *Table) Config() *config.RouteConfig { return t.rc }

// Len bounds Route.Index of the routes that Match gives: those of the
// configuration, and one redirect to https per virtual host that asks for it.
func (t *Table) Len() int { return len(t.actions) }

// number gives routes their places. A validated configuration has them.
func number(rc *config.RouteConfig) {
	n := 0
	for _, v := range rc.Hosts {
		for _, r := range v.Routes {
			if r.VHost != v || r.Index != n {
				r.VHost, r.Index = v, n
			}
			n++
		}
	}
}

func (t *Table) host(v *config.VirtualHost) (*host, error) {
	h := &host{vhost: v, entries: make([]entry, len(v.Routes))}
	for i, r := range v.Routes {
		e, err := compileEntry(r)
		if err == nil {
			err = t.compileActions(r)
		}
		if err != nil {
			return nil, subject(err, "route "+r.Name)
		}
		h.entries[i] = e
		h.index(int32(i))
	}
	h.exact.finish()
	h.folded.finish()
	if v.RequireTLS {
		h.secure = &config.Route{Name: "", VHost: v, Index: len(t.actions), Redirect: &config.Redirect{Code: 301, HTTPS: true}}
		t.actions = append(t.actions, actions{})
		if err := t.compileActions(h.secure); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func compileEntry(r *config.Route) (entry, error) {
	m := &r.Match
	e := entry{route: r, kind: m.Kind, path: m.Path, fold: m.IgnoreCase, fraction: m.Fraction, tls: m.TLS, grpc: m.GRPC}
	if e.fold {
		e.path = strings.ToLower(e.path)
	}
	var err error
	switch m.Kind {
	case config.Prefix, config.Exact, config.Connect:
	case config.PathPrefix:
		if strings.HasSuffix(e.path, "/") || !strings.HasPrefix(e.path, "/") || strings.ContainsAny(e.path, "?#") {
			return e, &errs.Error{Kind: errs.Invalid, Field: "match.path_separated_prefix", Expected: "a path that begins and does not end with a slash", Seen: m.Path}
		}
	case config.Regex:
		if m.Regex == nil {
			return e, &errs.Error{Kind: errs.Invalid, Field: "match.safe_regex", Expected: "a regular expression"}
		}
		if e.re, err = filter.Whole(m.Regex); err != nil {
			return e, err
		}
	default:
		return e, &errs.Error{Kind: errs.Unsupported, Field: "match"}
	}
	if e.headers, err = filter.CompileFields(m.Headers); err != nil {
		return e, err
	}
	e.params, err = filter.CompileParams(m.Query)
	return e, err
}

// index puts route i where Match will look for it. Routes come in order.
func (h *host) index(i int32) {
	e := &h.entries[i]
	root := &h.exact
	if e.fold && e.kind != config.Regex { // ignore_case does not reach regular expressions
		root, h.folds = &h.folded, true
	}
	switch e.kind {
	case config.Exact:
		root.insert(e.path).whole.add(i)
	case config.PathPrefix:
		root.insert(e.path).segment.add(i)
	case config.Prefix:
		root.insert(e.path).prefix.add(i)
	case config.Regex:
		if p, _ := e.route.Match.Regex.LiteralPrefix(); p != "" {
			root.insert(p).prefix.add(i)
			return
		}
		h.rest = append(h.rest, i)
	default:
		h.rest = append(h.rest, i)
	}
}

// Match finds the route for c.Req: nil when no virtual host or no route takes
// it. It does not change c and does not allocate.
func (t *Table) Match(c *filter.Context) *config.Route {
	h := t.hosts.find(c.Req.In(c.Req.Authority), t.rc.IgnorePort)
	if h == nil {
		return nil
	}
	if h.secure != nil && !secure(c) {
		return h.secure
	}
	return h.match(c)
}

// secure tells a request that came, or is believed to have come, by https.
func secure(c *filter.Context) bool {
	if s := c.Req.In(c.Req.Scheme); len(s) > 0 {
		return string(s) == "https"
	}
	return c.Conn != nil && c.Conn.TLS != nil
}

// pathOf is what paths are compared with: without query and fragment.
func pathOf(r *message.Request) []byte {
	p := r.In(r.Path)
	for i, b := range p {
		if b == '?' || b == '#' {
			return p[:i]
		}
	}
	return p
}

// random draws at most once per search, so that a request is the same share of
// all fractions.
type random struct {
	draw  func() uint64
	value uint64
	drawn bool
}

func (r *random) get() uint64 {
	if !r.drawn && r.draw != nil {
		r.value, r.drawn = r.draw(), true
	}
	return r.value
}

// conditions checks all but the path.
func (e *entry) conditions(c *filter.Context, rnd *random) bool {
	if e.fraction != nil && !filter.Hit(e.fraction, rnd.get()) {
		return false
	}
	return (!e.grpc || filter.IsGRPC(&c.Req.Head)) &&
		filter.AllFields(e.headers, c.Req) &&
		(len(e.params) == 0 || filter.AllParams(e.params, c.Req.Query())) &&
		(e.tls == nil || matchTLS(e.tls, c))
}

func matchTLS(m *config.TLSMatch, c *filter.Context) bool {
	var info filter.TLSInfo
	if c.Conn != nil && c.Conn.TLS != nil {
		info = *c.Conn.TLS
	}
	return (m.Presented == nil || *m.Presented == info.PeerPresented) && (m.Validated == nil || *m.Validated == info.PeerValidated)
}

// isConnect tells a plain CONNECT; an extended one (RFC 8441) is an upgrade
// and is routed by its path.
func isConnect(r *message.Request) bool {
	return r.Upgrade.Len() == 0 && string(r.In(r.Method)) == "CONNECT"
}

// path checks what the trie has not: regular expressions and CONNECT.
func (e *entry) pathRest(c *filter.Context, path []byte) bool {
	switch e.kind {
	case config.Regex:
		return e.re.Match(path)
	case config.Connect:
		return isConnect(c.Req)
	}
	return true
}

func subject(err error, s string) error {
	if e, ok := err.(*errs.Error); ok {
		c := *e
		if c.Subject != "" {
			s += ": " + c.Subject
		}
		c.Subject = s
		return &c
	}
	return err
}
