// SPDX-License-Identifier: Apache-2.0

package router

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// actions is what one route, or one share of a weighted cluster, does,
// compiled.
type actions struct {
	own, vhost  *headers
	rewrite     *substitution // of the path, or of the redirect's
	hostRewrite *substitution
	hash        []*substitution // beside Forward.Hash
	retriable   []filter.Field  // retriable_headers
}

func (t *Table) compileActions(r *config.Route) (err error) {
	a := &t.actions[r.Index]
	if a.own, err = compileHeaders(&r.Headers); err != nil {
		return err
	}
	if a.vhost, err = t.vhostHeaders(r); err != nil {
		return err
	}
	switch {
	case r.Redirect != nil:
		a.rewrite, err = compileRewrite(r.Redirect.RegexRewrite)
	case r.To != nil:
		err = t.compileForward(a, r, r.To)
	}
	return err
}

func (t *Table) compileForward(a *actions, r *config.Route, f *config.Forward) (err error) {
	if a.rewrite, err = compileRewrite(f.RegexRewrite); err != nil {
		return err
	}
	if a.hostRewrite, err = compileRewrite(f.Host.PathRegex); err != nil {
		return err
	}
	a.hash = make([]*substitution, len(f.Hash))
	for i := range f.Hash {
		if a.hash[i], err = compileRewrite(f.Hash[i].HeaderRewrite); err != nil {
			return err
		}
	}
	retry := f.Retry
	if retry == nil {
		retry = r.VHost.Retry
	}
	if retry != nil {
		if a.retriable, err = filter.CompileFields(retry.Headers); err != nil {
			return err
		}
	}
	for i := range f.Weighted {
		w := &f.Weighted[i]
		h, err := compileHeaders(&w.Headers)
		if err != nil {
			return err
		}
		if h != nil {
			t.shares[w] = &actions{own: h}
		}
	}
	return nil
}

// vhostHeaders gives all routes of one virtual host the same operations.
func (t *Table) vhostHeaders(r *config.Route) (*headers, error) {
	if first := r.VHost.Routes; len(first) > 0 && first[0] != r {
		return t.actions[first[0].Index].vhost, nil
	}
	return compileHeaders(&r.VHost.Headers)
}

func (t *Table) of(r *config.Route) *actions { return &t.actions[r.Index] }

// Pick draws a share of a weighted cluster; nil when there are none, or all
// weigh nothing.
func Pick(f *config.Forward, random uint64) *config.Weighted {
	var total uint64
	for i := range f.Weighted {
		total += uint64(f.Weighted[i].Weight)
	}
	if total == 0 {
		return nil
	}
	at := random % total
	for i := range f.Weighted {
		w := uint64(f.Weighted[i].Weight)
		if at < w {
			return &f.Weighted[i]
		}
		at -= w
	}
	return nil
}

// ClusterOf gives the cluster that the route leads c to, once c.Weighted is
// set for a weighted one; "" when the field that should name it is missing.
// The name that a field gives is a new string.
func ClusterOf(c *filter.Context) string {
	f := c.Route.To
	switch {
	case f == nil:
		return ""
	case f.Cluster != "":
		return f.Cluster
	case c.Weighted != nil:
		return c.Weighted.Cluster
	case f.ClusterHeader != "":
		v, _ := c.Req.Find(f.ClusterHeader)
		return string(v)
	}
	return ""
}

// Mirrors tells which of the route's mirrors, or its virtual host's when it
// has none, take a copy of this request: it calls take for each.
func Mirrors(c *filter.Context, take func(m *config.Mirror)) {
	if c.Route.To == nil {
		return
	}
	ms := c.Route.To.Mirrors
	if len(ms) == 0 {
		ms = c.Route.VHost.Mirrors
	}
	for i := range ms {
		if m := &ms[i]; m.Fraction == nil || filter.Hit(m.Fraction, c.Rand()) {
			take(m)
		}
	}
}

// MirrorHost appends the authority of a copy: the request's with "-shadow"
// behind the name, as Envoy does, so that copies can be told apart.
func MirrorHost(dst, authority []byte) []byte {
	bare := WithoutPort(authority)
	return append(append(append(dst, bare...), "-shadow"...), authority[len(bare):]...)
}
