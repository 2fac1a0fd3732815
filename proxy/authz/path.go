// SPDX-License-Identifier: Apache-2.0

package authz

import "bytes"

// Normalise appends the normal form of a request target's path to dst and
// gives the rest of the target, from "?" on: unreserved characters are not
// escaped, escapes are upper case, slashes are single, dot segments are
// resolved (RFC 3986, 6.2.2). ok is false for a path that two servers could
// read as two paths: an escaped slash, backslash or NUL, a malformed escape,
// a dot segment with a parameter, a byte that should have been escaped.
//
// The normal form is still a valid target: what was judged is what is sent.
func Normalise(dst, target []byte) (path, query []byte, ok bool) {
	p := target
	if i := bytes.IndexByte(target, '?'); i >= 0 {
		p, query = target[:i], target[i:]
	}
	if len(p) == 1 && p[0] == '*' {
		return append(dst, '*'), query, true
	}
	if len(p) == 0 || p[0] != '/' {
		return dst, nil, false
	}
	base := len(dst)
	for i := 0; i < len(p); i++ {
		c := p[i]
		if c == '%' {
			if i+2 >= len(p) {
				return dst, nil, false
			}
			h, l := unhex(p[i+1]), unhex(p[i+2])
			if h < 0 || l < 0 {
				return dst, nil, false
			}
			i += 2
			c = byte(h<<4 | l)
			if c == '/' || c == '\\' || c == 0 {
				return dst, nil, false
			}
			if !plain(c) {
				dst = append(dst, '%', upper[c>>4], upper[c&15])
				continue
			}
		} else if c <= ' ' || c >= 0x7f || c == '\\' || c == '#' {
			return dst, nil, false
		}
		if c == '/' {
			if dst, ok = segment(dst, base); !ok {
				return dst, nil, false
			}
			if len(dst) > base && dst[len(dst)-1] == '/' {
				continue
			}
		}
		dst = append(dst, c)
	}
	trailing := len(dst)
	if dst, ok = segment(dst, base); !ok {
		return dst, nil, false
	}
	if len(dst) < trailing && (len(dst) == base || dst[len(dst)-1] != '/') {
		dst = append(dst, '/')
	}
	return dst, query, true
}

// segment resolves the dot segment that ends dst, if one does. What remains
// then ends with a slash.
func segment(dst []byte, base int) ([]byte, bool) {
	i := bytes.LastIndexByte(dst[base:], '/')
	if i < 0 {
		return dst, true
	}
	s := dst[base+i+1:]
	switch {
	case len(s) == 1 && s[0] == '.':
		return dst[:base+i+1], true
	case len(s) == 2 && s[0] == '.' && s[1] == '.':
		if i == 0 {
			return dst, false // above the root: whoever sends it means harm
		}
		j := bytes.LastIndexByte(dst[base:base+i], '/')
		return dst[:base+j+1], true
	case len(s) > 1 && s[0] == '.' && (parameter(s[1:]) || s[1] == '.' && parameter(s[2:])):
		return dst, false // "..;x" is ".." to some servers
	}
	return dst, true
}

func parameter(s []byte) bool {
	return bytes.HasPrefix(s, []byte(";")) || bytes.HasPrefix(s, []byte("%3B"))
}

const upper = "0123456789ABCDEF"

func unhex(c byte) int {
	switch {
	case '0' <= c && c <= '9':
		return int(c - '0')
	case 'a' <= c && c <= 'f':
		return int(c-'a') + 10
	case 'A' <= c && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}

// plain tells whether a byte stands for itself in a path whether it is escaped
// or not, to the servers behind: the unreserved characters (RFC 3986, 2.3), and
// of the reserved ones those that end no segment and begin no parameter. A
// rule on "/accounts:close" must match "/accounts%3Aclose".
func plain(c byte) bool {
	switch c {
	case '-', '.', '_', '~', ':', '@', '!', '$', '&', '\'', '(', ')', '*', '+', ',', '=':
		return true
	}
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
