// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"strconv"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// PathVerdict is what becomes of a request for its path.
type PathVerdict uint8

// The verdicts.
const (
	PathFine     PathVerdict = iota
	PathRefused              // 400
	PathRedirect             // 307 to the request's path as it is now; a gRPC request is refused instead
)

// Path brings the request's path into the form that the rules ask for, or
// refuses it: escaped slashes first, then dot segments, then double slashes.
func (r *Rules) Path(c *filter.Context) PathVerdict {
	m := r.m
	if !m.Normalise && !m.MergeSlashes && m.EscapedSlashes == config.SlashKeep {
		return PathFine
	}
	q := c.Req
	path := q.In(q.Path)
	if len(path) == 0 || path[0] != '/' { // CONNECT, "*"
		return PathFine
	}
	bare := path
	if i := bytes.IndexAny(path, "?"); i >= 0 {
		bare = path[:i]
	}
	if !suspicious(bare) {
		return PathFine
	}
	if bytes.IndexByte(bare, '#') >= 0 {
		return PathRefused // no fragment is sent in a target (RFC 9112, 3.2)
	}
	from := len(q.Buf)
	dst, unescaped, ok := unescapeSlashes(q.Buf, bare, m.EscapedSlashes)
	if ok && m.Normalise {
		dst, ok = removeDots(dst, from)
	}
	if !ok {
		q.Buf = dst[:from]
		return PathRefused
	}
	if m.MergeSlashes {
		dst = mergeSlashes(dst, from)
	}
	if bytes.Equal(dst[from:], bare) {
		q.Buf = dst[:from]
		return PathFine
	}
	q.Buf = append(dst, path[len(bare):]...)
	q.Path = message.Span{From: int32(from), To: int32(len(q.Buf))}
	if unescaped && m.EscapedSlashes == config.SlashUnescapeRedirect {
		if filter.IsGRPC(&q.Head) {
			return PathRefused
		}
		return PathRedirect
	}
	return PathFine
}

// suspicious tells paths that any of the rules could have a word on; most have
// none of it.
func suspicious(p []byte) bool {
	for i, c := range p {
		switch c {
		case '%', '\\', '#':
			return true
		case '.', '/':
			if i > 0 && p[i-1] == '/' {
				return true
			}
		}
	}
	return false
}

// unescapeSlashes copies p to dst and does with %2F and %5C as told; did says
// that there were any. ok is false when they are refused.
func unescapeSlashes(dst, p []byte, how config.EscapedSlashes) (out []byte, did, ok bool) {
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' && i+2 < len(p) && how != config.SlashKeep {
			b := byte(0)
			switch {
			case p[i+1] == '2' && p[i+2]|0x20 == 'f':
				b = '/'
			case p[i+1] == '5' && p[i+2]|0x20 == 'c':
				b = '\\'
			}
			if b != 0 {
				if how == config.SlashReject {
					return dst, true, false
				}
				dst, did = append(dst, b), true
				i += 2
				continue
			}
		}
		dst = append(dst, c)
	}
	return dst, did, true
}

// removeDots resolves dot segments (RFC 3986, 5.2.4) in place, escaped dots
// included; a backslash is a slash, as for browsers. ".." above the root stays
// at the root. A malformed escape and an escaped NUL are refused.
func removeDots(buf []byte, from int) ([]byte, bool) {
	n, ok := plainDots(buf[from:])
	if !ok {
		return buf, false
	}
	p := buf[from : from+n]
	w := 0
	for i := 0; i < len(p); { // p[i] is a slash
		j := i + 1
		for j < len(p) && p[j] != '/' {
			j++
		}
		switch s := p[i+1 : j]; {
		case len(s) == 1 && s[0] == '.':
		case len(s) == 2 && s[0] == '.' && s[1] == '.':
			w = max(bytes.LastIndexByte(p[:w], '/'), 0)
		default:
			w += copy(p[w:], p[i:j])
			i = j
			continue
		}
		if j == len(p) { // what the last segment stood in is a folder
			p[w] = '/'
			w++
		}
		i = j
	}
	return buf[:from+w], true
}

// unreserved tells characters that mean the same escaped (RFC 3986, 2.3): who
// authorises /admin must not let /%61dmin pass.
func unreserved(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// plainDots makes what needs no escape plain, dots among it, and backslashes
// slashes, in place; it gives the new length.
func plainDots(p []byte) (int, bool) {
	w := 0
	for i := 0; i < len(p); i++ {
		c := p[i]
		switch c {
		case '\\':
			c = '/'
		case '%':
			if i+2 >= len(p) || unhex(p[i+1]) < 0 || unhex(p[i+2]) < 0 {
				return 0, false
			}
			switch b := byte(unhex(p[i+1])<<4 | unhex(p[i+2])); {
			case b == 0:
				return 0, false
			case unreserved(b):
				c = b
				i += 2
			}
		}
		p[w] = c
		w++
	}
	return w, true
}

// mergeSlashes makes runs of slashes one, in place.
func mergeSlashes(buf []byte, from int) []byte {
	w := from
	for i := from; i < len(buf); i++ {
		if buf[i] == '/' && w > from && buf[w-1] == '/' {
			continue
		}
		buf[w] = buf[i]
		w++
	}
	return buf[:w]
}

// Host cuts the port off the authority where the rules ask for it.
func (r *Rules) Host(c *filter.Context) {
	if !r.m.StripPort && !r.m.StripMatchingPort {
		return
	}
	q := c.Req
	all := q.In(q.Authority)
	bare := router.WithoutPort(all)
	if len(bare) == len(all) || len(bare) == 0 || string(q.In(q.Method)) == "CONNECT" {
		return
	}
	if !r.m.StripPort {
		var b [20]byte
		if string(all[len(bare)+1:]) != string(strconv.AppendUint(b[:0], uint64(c.Conn.Local.Port()), 10)) {
			return
		}
	}
	q.Authority.To -= int32(len(all) - len(bare))
}
