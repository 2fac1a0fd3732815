// SPDX-License-Identifier: Apache-2.0

package message

import "bytes"

// Lookalike tells a name that a CGI-like receiver, to which "_" and "-" are
// the same letter of a variable, takes for a field that a proxy answers for
// (CVE-2025-64484).
func Lookalike(name []byte) bool {
	if bytes.IndexByte(name, '_') < 0 || len(name) > maxLookalike {
		return false
	}
	var b [maxLookalike]byte
	for i, c := range name {
		if c == '_' {
			c = '-'
		}
		b[i] = Lower(c)
	}
	plain := b[:len(name)]
	switch Lookup(plain) {
	case ContentLength, TransferEncoding, ClientCert, ForwardedFor:
		return true
	}
	return bytes.HasPrefix(plain, []byte("x-forwarded-"))
}

// maxLookalike is longer than any name that matters to Lookalike.
const maxLookalike = 64

// ValidAuthority reads uri-host [ ":" port ] (RFC 9112, 3.2), without user
// information. A port that is no number, or a bracket that does not close, is
// cut off at different places by different readers. A host is what names and
// addresses are made of, not all of reg-name (RFC 3986, 3.2.2): commas and
// escapes there only serve to be read in two ways.
func ValidAuthority(h []byte) bool {
	if len(h) == 0 || len(h) > maxAuthority {
		return false
	}
	port := h
	if h[0] == '[' {
		i := bytes.IndexByte(h, ']')
		if i < 0 || !ipv6(h[1:i]) {
			return false
		}
		port = h[i+1:]
	} else {
		i := 0
		for i < len(h) && isHost(h[i]) {
			if h[i] == '.' && i > 0 && h[i-1] == '.' {
				return false // an empty label
			}
			i++
		}
		if i == 0 {
			return false // a port of nothing
		}
		port = h[i:]
	}
	if len(port) == 0 {
		return true
	}
	if port[0] != ':' || len(port) > 6 {
		return false
	}
	n := 0
	for _, c := range port[1:] {
		if c < '0' || c > '9' {
			return false
		}
		n = n*10 + int(c-'0')
	}
	return n <= 65535
}

const maxAuthority = 255

// ipv6 tells what can stand between the brackets; whether it is an address is
// for who resolves it.
func ipv6(b []byte) bool {
	for _, c := range b {
		if d := Lower(c); !('0' <= c && c <= '9' || 'a' <= d && d <= 'f' || c == ':' || c == '.') {
			return false
		}
	}
	return bytes.IndexByte(b, ':') >= 0
}

func isHost(c byte) bool {
	l := Lower(c)
	return 'a' <= l && l <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_' || c == '~'
}

// IsTarget tells the characters of a request's path and query: what clients
// send beyond RFC 3986, but nothing that could end it, and ASCII only: what
// another character stands for is the next reader's guess.
func IsTarget(c byte) bool { return c > ' ' && c < 0x7f && c != '#' }
