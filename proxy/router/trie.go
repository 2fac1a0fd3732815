// SPDX-License-Identifier: Apache-2.0

package router

import (
	"math"
	"sort"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// list holds route numbers in rising order.
type list []int32

func (l *list) add(i int32) { *l = append(*l, i) }

// node is one node of a radix trie: what is said of paths that begin with the
// bytes from the root to here.
type node struct {
	label   string // bytes from the parent
	prefix  list   // routes for all that goes on from here
	segment list   // … if it ends here or goes on with a slash
	whole   list   // … if it ends here
	kids    []*node
	first   string // the kids' first bytes, sorted
}

// insert gives the node for a path, splitting labels on the way.
func (n *node) insert(path string) *node {
	for path != "" {
		kid := (*node)(nil)
		for _, k := range n.kids {
			if k.label[0] == path[0] {
				kid = k
				break
			}
		}
		if kid == nil {
			kid = &node{label: path}
			n.kids = append(n.kids, kid)
			return kid
		}
		common := 0
		for common < len(kid.label) && common < len(path) && kid.label[common] == path[common] {
			common++
		}
		if common < len(kid.label) {
			rest := *kid
			rest.label = kid.label[common:]
			*kid = node{label: kid.label[:common], kids: []*node{&rest}}
		}
		n, path = kid, path[common:]
	}
	return n
}

// finish sorts kids for the search.
func (n *node) finish() {
	sort.Slice(n.kids, func(i, j int) bool { return n.kids[i].label[0] < n.kids[j].label[0] })
	b := make([]byte, len(n.kids))
	for i, k := range n.kids {
		b[i] = k.label[0]
		k.finish()
	}
	n.first = string(b)
}

func (n *node) kid(b byte) *node {
	lo, hi := 0, len(n.first)
	for lo < hi {
		m := int(uint(lo+hi) >> 1)
		if n.first[m] < b {
			lo = m + 1
		} else {
			hi = m
		}
	}
	if lo < len(n.first) && n.first[lo] == b {
		return n.kids[lo]
	}
	return nil
}

// width bounds how many lists one search merges. A configuration whose paths
// nest deeper is searched from its first route on, which is right as well.
const width = 24

// found is the lists that lie on a path.
type found struct {
	lists [width]list
	n     int
	over  bool
}

func (f *found) add(l list) {
	switch {
	case len(l) == 0:
	case f.n == width:
		f.over = true
	default:
		f.lists[f.n] = l
		f.n++
	}
}

// walk collects what is said of path.
func (n *node) walk(path []byte, fold bool, f *found) {
	for {
		f.add(n.prefix)
		if len(path) == 0 {
			f.add(n.segment)
			f.add(n.whole)
			return
		}
		if path[0] == '/' {
			f.add(n.segment)
		}
		b := path[0]
		if fold {
			b = message.Lower(b)
		}
		if n = n.kid(b); n == nil || len(path) < len(n.label) {
			return
		}
		if head := path[:len(n.label)]; fold {
			if !message.EqualFold(head, n.label) {
				return
			}
		} else if string(head) != n.label {
			return
		}
		path = path[len(n.label):]
	}
}

// match finds the first route, in the configuration's order, that takes the
// request.
func (h *host) match(c *filter.Context) *config.Route {
	path := pathOf(c.Req)
	rnd := random{draw: c.Rand}
	var f found
	f.add(h.rest)
	if c.Req.Path.Len() > 0 { // a plain CONNECT has no path, and only Connect takes it
		h.exact.walk(path, false, &f)
		if h.folds {
			h.folded.walk(path, true, &f)
		}
	}
	if f.over {
		return h.linear(c, path, &rnd)
	}
	for {
		best, at := int32(math.MaxInt32), -1
		for i := range f.n {
			if l := f.lists[i]; len(l) > 0 && l[0] < best {
				best, at = l[0], i
			}
		}
		if at < 0 {
			return nil
		}
		f.lists[at] = f.lists[at][1:]
		e := &h.entries[best]
		if (c.Req.Path.Len() > 0 || e.kind == config.Connect) && e.pathRest(c, path) && e.conditions(c, &rnd) {
			return e.route
		}
	}
}

// linear tries all routes.
func (h *host) linear(c *filter.Context, path []byte, rnd *random) *config.Route {
	for i := range h.entries {
		if e := &h.entries[i]; e.matchPath(c, path) && e.conditions(c, rnd) {
			return e.route
		}
	}
	return nil
}

// matchPath checks a path without the trie.
func (e *entry) matchPath(c *filter.Context, path []byte) bool {
	if e.kind == config.Connect {
		return isConnect(c.Req)
	}
	if c.Req.Path.Len() == 0 {
		return false
	}
	n := len(e.path)
	switch e.kind {
	case config.Exact:
		return len(path) == n && e.equal(path)
	case config.Prefix:
		return len(path) >= n && e.equal(path[:n])
	case config.PathPrefix:
		return len(path) >= n && e.equal(path[:n]) && (len(path) == n || path[n] == '/')
	}
	return e.re.Match(path)
}

func (e *entry) equal(p []byte) bool {
	if e.fold {
		return message.EqualFold(p, e.path)
	}
	return string(p) == e.path
}
