// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"math/bits"
	"sort"
	"strconv"
	"time"

	"github.com/cespare/xxhash/v2"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// Hashed is a request's hash for consistent balancing.
type Hashed struct {
	Hash uint64
	OK   bool // some policy gave one
	// Cookie, when not nil, is the policy whose cookie the client does not
	// have yet: the response sets it to Value (AppendCookie).
	Cookie *config.HashPolicy
	Value  [16]byte
}

// Hash combines the hashes of the route's policies, in their order: xxHash64
// of each source, the sum rotated before each further one.
func (t *Table) Hash(c *filter.Context) (h Hashed) {
	f := c.Route.To
	if f == nil {
		return h
	}
	a := t.of(c.Route)
	for i := range f.Hash {
		p := &f.Hash[i]
		v, ok := h.source(c, p, a.hash[i])
		if ok && h.OK {
			v ^= bits.RotateLeft64(h.Hash, 1)
		}
		if ok {
			h.Hash, h.OK = v, true
		}
		if p.Terminal && h.OK {
			break
		}
	}
	return h
}

func (h *Hashed) source(c *filter.Context, p *config.HashPolicy, s *substitution) (uint64, bool) {
	switch {
	case p.Header != "":
		return hashField(c, p.Header, s)
	case p.Cookie != "":
		if v, ok := CookieOf(c, p.Cookie); ok {
			return xxhash.Sum64(v), true
		}
		if p.CookieTTL == nil {
			return 0, false
		}
		n := c.Rand()
		for i := range h.Value {
			h.Value[i] = "0123456789abcdef"[n>>(60-4*i)&15]
		}
		h.Cookie = p
		return xxhash.Sum64(h.Value[:]), true
	case p.SourceIP:
		if !c.Remote.IsValid() {
			return 0, false
		}
		var b [64]byte
		return xxhash.Sum64(c.Remote.Unmap().AppendTo(b[:0])), true
	case p.Query != "":
		v, ok := filter.QueryValue(c.Req.Query(), p.Query)
		if !ok {
			return 0, false
		}
		return xxhash.Sum64(v), true
	}
	return 0, false
}

// hashField hashes a field's value. Several lines are hashed in the order of
// their values, so that their order does not matter.
func hashField(c *filter.Context, name string, s *substitution) (uint64, bool) {
	if name[0] == ':' || name == "host" {
		v := filter.Pseudo(c.Req, name)
		if len(v) == 0 {
			return 0, false
		}
		return hashValue(v, s), true
	}
	i := c.Req.Index(name, 0)
	if i < 0 {
		return 0, false
	}
	if c.Req.Index(name, i+1) < 0 {
		return hashValue(c.Req.In(c.Req.Fields[i].Value), s), true
	}
	var all [][]byte // rare enough to allocate
	for ; i >= 0; i = c.Req.Index(name, i+1) {
		v := c.Req.In(c.Req.Fields[i].Value)
		if s != nil {
			v = s.append(nil, v)
		}
		all = append(all, v)
	}
	sort.Slice(all, func(i, j int) bool { return bytes.Compare(all[i], all[j]) < 0 })
	d := xxhash.New()
	for _, v := range all {
		_, _ = d.Write(v) // a digest does not fail
	}
	return d.Sum64(), true
}

func hashValue(v []byte, s *substitution) uint64 {
	if s != nil {
		v = s.append(nil, v)
	}
	return xxhash.Sum64(v)
}

// CookieOf finds the first cookie of that name in the request.
func CookieOf(c *filter.Context, name string) ([]byte, bool) {
	for i := c.Req.Index("cookie", 0); i >= 0; i = c.Req.Index("cookie", i+1) {
		rest := c.Req.In(c.Req.Fields[i].Value)
		for len(rest) > 0 {
			pair := rest
			if j := bytes.IndexByte(rest, ';'); j >= 0 {
				pair, rest = rest[:j], rest[j+1:]
			} else {
				rest = nil
			}
			k, v, ok := bytes.Cut(bytes.Trim(pair, " \t"), []byte{'='})
			if ok && string(k) == name {
				return bytes.Trim(v, `"`), true
			}
		}
	}
	return nil, false
}

// AppendCookie appends the Set-Cookie value that h asks for.
func (h *Hashed) AppendCookie(dst []byte) []byte {
	p := h.Cookie
	dst = append(append(append(append(dst, p.Cookie...), `="`...), h.Value[:]...), '"')
	if p.CookieTTL != nil && *p.CookieTTL > 0 {
		dst = strconv.AppendInt(append(dst, "; Max-Age="...), int64(*p.CookieTTL/time.Second), 10)
	}
	if p.CookiePath != "" {
		dst = append(append(dst, "; Path="...), p.CookiePath...)
	}
	return append(dst, "; HttpOnly"...)
}
