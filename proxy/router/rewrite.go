// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"regexp"
	"slices"
	"strconv"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// substitution is a config.RegexRewrite, compiled.
type substitution struct {
	re    *regexp.Regexp
	parts []substPart
}

// substPart is literal text, or a group when text is "".
type substPart struct {
	text  string
	group int
}

func compileRewrite(r *config.RegexRewrite) (*substitution, error) {
	if r == nil {
		return nil, nil
	}
	bad := func() error {
		return &errs.Error{Kind: errs.Invalid, Field: "regex_rewrite.substitution", Expected: `text with \0 to \9 for groups that the pattern has, and \\ for a backslash`, Seen: r.Subst}
	}
	if r.Regex == nil {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "regex_rewrite.pattern", Expected: "a regular expression"}
	}
	s := &substitution{re: r.Regex}
	var text []byte
	for i := 0; i < len(r.Subst); i++ {
		c := r.Subst[i]
		switch {
		case c == '\r' || c == '\n' || c == 0:
			return nil, bad()
		case c != '\\':
			text = append(text, c)
			continue
		}
		if i++; i == len(r.Subst) {
			return nil, bad()
		}
		switch c = r.Subst[i]; {
		case c == '\\':
			text = append(text, c)
		case '0' <= c && c <= '9' && int(c-'0') <= r.Regex.NumSubexp():
			if len(text) > 0 {
				s.parts = append(s.parts, substPart{text: string(text)})
				text = nil
			}
			s.parts = append(s.parts, substPart{group: int(c - '0')})
		default:
			return nil, bad()
		}
	}
	if len(text) > 0 {
		s.parts = append(s.parts, substPart{text: string(text)})
	}
	return s, nil
}

// append appends src with all matches replaced. Go's regexp allocates for
// submatches; only routes that rewrite by expression pay for it.
func (s *substitution) append(dst, src []byte) []byte {
	at := 0
	for _, m := range s.re.FindAllSubmatchIndex(src, -1) {
		dst = append(dst, src[at:m[0]]...)
		for _, p := range s.parts {
			if p.text != "" {
				dst = append(dst, p.text...)
			} else if from := m[2*p.group]; from >= 0 {
				dst = append(dst, src[from:m[2*p.group+1]]...)
			}
		}
		at = m[1]
	}
	return append(dst, src[at:]...)
}

// Rewrite gives the request the path and the authority that the route wants
// upstream, and notes the former path in x-envoy-original-path unless quiet.
// An authority that is the endpoint's name is AutoHost's matter. False means
// that the new path would lead out of what the route stands for: "/api" made
// "/public/" turns "/api../x" into "/public/../x".
func (t *Table) Rewrite(c *filter.Context, quiet bool) bool {
	f := c.Route.To
	if f == nil {
		return true
	}
	a := t.of(c.Route)
	t.rewriteHost(c, f, a)
	if f.PrefixRewrite == "" && a.rewrite == nil || c.Req.Path.Len() == 0 {
		return true
	}
	old := c.Req.Path
	from := len(c.Req.Buf)
	c.Req.Buf = appendRewritten(c.Req.Buf, c.Req.In(old), c.Route, f.PrefixRewrite, a.rewrite)
	if !validPath(c.Req.Buf[from:]) { // an expression can make what no target may be
		c.Req.Buf = c.Req.Buf[:from]
		return true
	}
	if dots(c.Req.Buf[from:]) && !dots(c.Req.In(old)) {
		return false
	}
	c.Req.Path = message.Span{From: int32(from), To: int32(len(c.Req.Buf))}
	if !quiet {
		c.Req.Set("x-envoy-original-path", c.Req.In(old))
	}
	return true
}

// dots tells a path, before its query, in which a server may find a segment
// "." or "..": escaped, behind a backslash, or with parameters, too.
func dots(p []byte) bool {
	n := -1 // dots that are all of the segment so far; -1 for one with more
	for i := 0; i < len(p) && p[i] != '?'; i++ {
		c := p[i]
		if c == '%' && i+2 < len(p) && p[i+1] == '2' && p[i+2]|0x20 == 'e' {
			c = '.'
			i += 2
		}
		switch {
		case c == '/' || c == '\\':
			if n == 1 || n == 2 {
				return true
			}
			n = 0
		case c == '.' && n >= 0:
			n++
		case c == ';' && (n == 1 || n == 2):
			return true
		default:
			n = -1
		}
	}
	return n == 1 || n == 2
}

func validPath(p []byte) bool {
	for _, b := range p {
		if b <= ' ' || b == 0x7f {
			return false
		}
	}
	return len(p) > 0 && p[0] == '/'
}

// appendRewritten rewrites a path with query as its route says.
func appendRewritten(dst, path []byte, r *config.Route, prefix string, s *substitution) []byte {
	bare := path
	if i := bytes.IndexAny(path, "?#"); i >= 0 {
		bare = path[:i]
	}
	if s != nil {
		return append(s.append(dst, bare), path[len(bare):]...)
	}
	matched := len(bare) // an exact path, or an expression: all of it
	switch r.Match.Kind {
	case config.Prefix, config.PathPrefix:
		matched = min(len(r.Match.Path), len(bare))
	}
	return append(append(dst, prefix...), path[matched:]...)
}

func (t *Table) rewriteHost(c *filter.Context, f *config.Forward, a *actions) {
	h := &f.Host
	from := len(c.Req.Buf)
	switch {
	case c.Weighted != nil && c.Weighted.HostRewrite != "":
		c.Req.Buf = append(c.Req.Buf, c.Weighted.HostRewrite...)
	case h.Literal != "":
		c.Req.Buf = append(c.Req.Buf, h.Literal...)
	case h.Header != "":
		v, _ := c.Req.Find(h.Header)
		c.Req.Buf = append(c.Req.Buf, v...)
	case a.hostRewrite != nil:
		c.Req.Buf = a.hostRewrite.append(c.Req.Buf, pathOf(c.Req))
	}
	setHost(c, from, h.AppendXFH)
}

// setHost makes the bytes of the arena from from on the authority, if they can
// be one.
func setHost(c *filter.Context, from int, xfh bool) {
	v := c.Req.Buf[from:]
	if !message.ValidAuthority(v) { // it may come from a field of the request
		c.Req.Buf = c.Req.Buf[:from]
		return
	}
	old := c.Req.Authority
	c.Req.Authority = message.Span{From: int32(from), To: int32(len(c.Req.Buf))}
	if xfh && old.Len() > 0 {
		appendList(&c.Req.Head, "x-forwarded-host", c.Req.In(old))
	}
}

// AutoHost makes the endpoint's name the authority where the route asks for
// it; name is "" when the endpoint has none.
func (t *Table) AutoHost(c *filter.Context, name string) {
	if c.Route.To == nil || !c.Route.To.Host.Auto || name == "" {
		return
	}
	from := len(c.Req.Buf)
	c.Req.Buf = append(c.Req.Buf, name...)
	setHost(c, from, c.Route.To.Host.AppendXFH)
}

// appendList adds an element to a field that is a list, in one line.
func appendList(h *message.Head, name string, v []byte) {
	i := h.Index(name, 0)
	if i < 0 {
		n := h.PutString(name)
		h.Fields = append(h.Fields, message.Field{Name: n, Value: h.Put(v), Known: message.Lookup(h.In(n))})
		return
	}
	for j := h.Index(name, i+1); j >= 0; j = h.Index(name, j+1) {
		i = j // the last line
	}
	from := len(h.Buf)
	h.Buf = append(append(append(h.Buf, h.In(h.Fields[i].Value)...), ", "...), v...)
	h.Fields[i].Value = message.Span{From: int32(from), To: int32(len(h.Buf))}
}

// Location appends the target of c.Route's redirect.
func (t *Table) Location(dst []byte, c *filter.Context) []byte {
	r := c.Route.Redirect
	now := "http"
	if secure(c) {
		now = "https"
	}
	scheme := now
	switch {
	case r.HTTPS:
		scheme = "https"
	case r.Scheme != "":
		scheme = r.Scheme
	}
	dst = append(append(dst, scheme...), "://"...)
	if r.Host != "" {
		dst = append(dst, r.Host...)
	} else {
		dst = appendHost(dst, c.Req.In(c.Req.Authority), now, scheme, r.Port != 0)
	}
	if r.Port != 0 {
		dst = strconv.AppendUint(append(dst, ':'), uint64(r.Port), 10)
	}
	return t.appendTarget(dst, c, r)
}

// appendHost gives the request's host as a redirect needs it: a port that is
// the old scheme's own would be wrong for the new one.
func appendHost(dst, host []byte, old, scheme string, port bool) []byte {
	bare := WithoutPort(host)
	if old != scheme {
		p := string(host[len(bare):])
		port = port || old == "https" && p == ":443" || old == "http" && p == ":80"
	}
	if port {
		return append(dst, bare...)
	}
	return append(dst, host...)
}

func (t *Table) appendTarget(dst []byte, c *filter.Context, r *config.Redirect) []byte {
	path := c.Req.In(c.Req.Path)
	from := len(dst)
	fixed := r.PathSet || r.Path != ""
	own := fixed && bytes.IndexByte([]byte(r.Path), '?') >= 0 // its query wins over the request's, and is not stripped
	switch {
	case fixed:
		dst = append(dst, r.Path...)
		if i := bytes.IndexByte(path, '?'); i >= 0 && !own {
			dst = append(dst, path[i:]...)
		}
	case r.PrefixSet || r.Prefix != "" || t.of(c.Route).rewrite != nil:
		dst = appendRewritten(dst, path, c.Route, r.Prefix, t.of(c.Route).rewrite)
	default:
		dst = append(dst, path...)
	}
	if i := bytes.IndexByte(dst[from:], '?'); i >= 0 && r.StripQuery && !own {
		dst = dst[:from+i]
	}
	dst = clean(dst, from)
	if len(dst) == from || dst[from] != '/' { // else what the client sent would be more of the host's name, or a user's before another
		dst = slices.Insert(dst, from, '/')
	}
	return dst
}

// clean drops what would end the field line, were an expression to make it.
func clean(dst []byte, from int) []byte {
	to := from
	for _, b := range dst[from:] {
		if b > ' ' && b != 0x7f {
			dst[to] = b
			to++
		}
	}
	return dst[:to]
}
