// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"sort"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/message"
)

// maxHost bounds names that are looked up: 253 bytes of a name (RFC 1035) with
// a port. What is longer is nobody's name and meets "*" only.
const maxHost = 262

// hosts finds virtual hosts by domain: an exact name, the longest "*.suffix",
// the longest "prefix.*", then "*".
type hosts struct {
	exact    map[string]*host
	suffixes []wildcards // longest first
	prefixes []wildcards
	any      *host
}

// wildcards are those of one length.
type wildcards struct {
	n     int
	names map[string]*host
}

func (h *hosts) add(v *host) error {
	if h.exact == nil {
		h.exact = map[string]*host{}
	}
	for _, d := range v.vhost.Domains {
		d = strings.ToLower(d)
		ok := true
		switch stars := strings.Count(d, "*"); {
		case d == "*":
			ok = h.any == nil
			h.any = v
		case stars == 0 && d != "":
			_, dup := h.exact[d]
			ok = !dup
			h.exact[d] = v
		case stars == 1 && d[0] == '*':
			h.suffixes, ok = addWildcard(h.suffixes, d[1:], v)
		case stars == 1 && d[len(d)-1] == '*':
			h.prefixes, ok = addWildcard(h.prefixes, d[:len(d)-1], v)
		default:
			return &errs.Error{Kind: errs.Invalid, Field: "domains", Expected: `a name, "*suffix", "prefix*" or "*"`, Seen: d}
		}
		if !ok {
			return &errs.Error{Kind: errs.Exists, Field: "domains", Expected: "domains that are each of one virtual host", Seen: d}
		}
	}
	return nil
}

func addWildcard(ws []wildcards, name string, v *host) ([]wildcards, bool) {
	for i := range ws {
		if ws[i].n == len(name) {
			_, dup := ws[i].names[name]
			ws[i].names[name] = v
			return ws, !dup
		}
	}
	return append(ws, wildcards{len(name), map[string]*host{name: v}}), true
}

func (h *hosts) sort() {
	for _, ws := range [][]wildcards{h.suffixes, h.prefixes} {
		sort.Slice(ws, func(i, j int) bool { return ws[i].n > ws[j].n })
	}
}

// find looks an authority up.
func (h *hosts) find(authority []byte, ignorePort bool) *host {
	if len(h.exact) == 0 && len(h.suffixes) == 0 && len(h.prefixes) == 0 {
		return h.any
	}
	if ignorePort {
		authority = WithoutPort(authority)
	}
	if len(authority) == 0 || len(authority) > maxHost {
		return h.any
	}
	var buf [maxHost]byte
	name := buf[:len(authority)]
	for i, c := range authority {
		name[i] = message.Lower(c)
	}
	if v := h.exact[string(name)]; v != nil {
		return v
	}
	for i := range h.suffixes {
		if w := &h.suffixes[i]; w.n < len(name) { // "*" stands for one byte or more
			if v := w.names[string(name[len(name)-w.n:])]; v != nil {
				return v
			}
		}
	}
	for i := range h.prefixes {
		if w := &h.prefixes[i]; w.n < len(name) {
			if v := w.names[string(name[:w.n])]; v != nil {
				return v
			}
		}
	}
	return h.any
}

// WithoutPort cuts a port off an authority; the brackets of an IPv6 address
// stay.
func WithoutPort(authority []byte) []byte {
	i := bytes.LastIndexByte(authority, ':')
	if i < 0 || len(authority) > 0 && authority[0] == '[' && authority[i-1] != ']' {
		return authority
	}
	for _, c := range authority[i+1:] {
		if c < '0' || c > '9' {
			return authority
		}
	}
	return authority[:i]
}
