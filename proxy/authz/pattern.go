// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"bytes"
	"strings"
)

// pattern is one of Istio's: exact, "prefix*", "*suffix", "*".
type pattern struct {
	kind patternKind
	s    string
}

type patternKind uint8

const (
	exact patternKind = iota
	prefix
	suffix
	present // "*": anything but nothing
)

func patterns(in []string) []pattern {
	out := make([]pattern, len(in))
	for i, s := range in {
		switch {
		case s == "*":
			out[i] = pattern{kind: present}
		case strings.HasSuffix(s, "*"):
			out[i] = pattern{prefix, s[:len(s)-1]}
		case strings.HasPrefix(s, "*"):
			out[i] = pattern{suffix, s[1:]}
		default:
			out[i] = pattern{exact, s}
		}
	}
	return out
}

func anyOf[T string | []byte](ps []pattern, v T) bool {
	for i := range ps {
		if matches(&ps[i], v) {
			return true
		}
	}
	return false
}

func matches[T string | []byte](p *pattern, v T) bool {
	n := len(p.s)
	switch p.kind {
	case exact:
		return string(v) == p.s
	case prefix:
		return len(v) >= n && string(v[:n]) == p.s
	case suffix:
		return len(v) >= n && string(v[len(v)-n:]) == p.s
	}
	return len(v) > 0
}

func lowered(in []string) []string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = strings.ToLower(s)
	}
	return out
}

// anyHost compares without regard to case, and, as Istio does, both with the
// port that the client named and without.
func anyHost(ps []pattern, host []byte) bool {
	var buf [256]byte
	if len(host) > len(buf) {
		return false
	}
	low := buf[:len(host)]
	for i, c := range host {
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		low[i] = c
	}
	if anyOf(ps, low) {
		return true
	}
	i := bytes.LastIndexByte(low, ':')
	return i > 0 && i > bytes.LastIndexByte(low, ']') && anyOf(ps, low[:i])
}
