// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"bytes"
	"net/netip"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Rules is what an HTTP connection manager says of requests that come. It is
// immutable.
type Rules struct {
	m        *config.HTTPManager
	internal []string // internal_only_headers, of the route configuration in force
}

// Compile checks what m says.
func Compile(m *config.HTTPManager) (*Rules, error) {
	if m.XFF.TrustedHops < 0 || m.XFF.TrustedHops > 64 {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "xff_num_trusted_hops", Expected: "0 to 64"}
	}
	if m.ForwardClientCert > config.CertAlwaysForwardOnly {
		return nil, &errs.Error{Kind: errs.Unsupported, Field: "forward_client_cert_details"}
	}
	return &Rules{m: m}, nil
}

// With gives the rules for a route configuration's internal_only_headers.
func (r *Rules) With(rc *config.RouteConfig) *Rules {
	out := &Rules{m: r.m}
	for _, name := range rc.Internal {
		out.internal = append(out.internal, strings.ToLower(name))
	}
	return out
}

// ours are fields with which a caller directs the proxy; strangers' are
// removed. A name may not end up here that a client must send.
var ours = [...]string{
	"x-envoy-retriable-status-codes", "x-envoy-retriable-header-names", "x-envoy-retry-on", "x-envoy-retry-grpc-on", "x-envoy-max-retries",
	"x-envoy-upstream-alt-stat-name", "x-envoy-upstream-rq-timeout-ms", "x-envoy-upstream-rq-per-try-timeout-ms", "x-envoy-upstream-rq-timeout-alt-response",
	"x-envoy-expected-rq-timeout-ms", "x-envoy-force-trace", "x-envoy-ip-tags", "x-envoy-original-url", "x-envoy-hedge-on-per-try-timeout",
}

// hops are fields by which proxies tell the next one what they know; they end
// at the edge.
var hops = [...]string{
	"x-envoy-decorator-operation", "x-envoy-downstream-service-cluster", "x-envoy-downstream-service-node", "x-envoy-original-path", "x-envoy-attempt-count",
	"x-envoy-external-address",
}

// Request settles c.Remote, c.Internal and c.RequestID, and the fields that go
// with them.
func (r *Rules) Request(c *filter.Context) {
	single := r.remote(c)
	c.Internal = single && c.Remote.IsValid() && Private(c.Remote)
	direct := c.Conn.Source.Addr().Unmap()
	if !c.Remote.IsValid() {
		c.Remote = direct
	}
	r.scheme(c)
	edge := !c.Internal && r.m.XFF.UseRemote
	q := c.Req
	q.Remove("x-envoy-internal")
	if c.Internal {
		q.AddString("x-envoy-internal", "true")
	} else {
		r.strangers(c, edge)
	}
	if edge {
		var b [46]byte
		q.Set("x-envoy-external-address", c.Remote.AppendTo(b[:0]))
	}
	r.requestID(c, edge)
	r.clientCert(c)
	if r.m.Via != "" {
		q.AddString("via", r.m.Via)
	}
}

// strangers removes what only a caller of ours may say. One pass over the
// fields rules most of them out by their first bytes.
func (r *Rules) strangers(c *filter.Context, edge bool) {
	h := &c.Req.Head
	for i := range h.Fields {
		f := &h.Fields[i]
		if n := h.In(f.Name); !f.Drop && len(n) > 8 && message.EqualFold(n[:8], "x-envoy-") {
			f.Drop = among(ours[:], n) || edge && among(hops[:], n)
		}
	}
	for _, name := range r.internal {
		h.Remove(name)
	}
}

func among(names []string, n []byte) bool {
	for _, name := range names {
		if message.EqualFold(n, name) {
			return true
		}
	}
	return false
}

// remote finds the client's address: the peer's, or what X-Forwarded-For says
// as far as hops are trusted. single tells that nobody stands between that the
// address does not name.
func (r *Rules) remote(c *filter.Context) (single bool) {
	direct := c.Conn.Source.Addr().Unmap()
	hops := r.m.XFF.TrustedHops
	if !r.m.XFF.UseRemote {
		c.Remote, single = ForwardedFor(&c.Req.Head, hops)
		return single
	}
	_, there := c.Req.Get(message.ForwardedFor)
	c.Remote = netip.Addr{}
	if hops > 0 {
		c.Remote, _ = ForwardedFor(&c.Req.Head, hops-1)
	}
	if !c.Remote.IsValid() {
		c.Remote = direct
	}
	if !r.m.XFF.SkipAppend {
		var b [46]byte
		peer := direct
		if peer.IsLoopback() { // a name that means nothing elsewhere
			peer = c.Conn.Local.Addr().Unmap()
		}
		AppendForwardedFor(&c.Req.Head, peer.AppendTo(b[:0]))
	}
	return !there
}

// ForwardedFor gives the address that is skip places from the end of
// X-Forwarded-For, whose lines are one list. single tells that it is the only
// one. An element that is no plain address gives none.
func ForwardedFor(h *message.Head, skip int) (a netip.Addr, single bool) {
	n := 0 // elements from the end on
	for i := len(h.Fields) - 1; i >= 0; i-- {
		f := &h.Fields[i]
		if f.Drop || f.Known != message.ForwardedFor {
			continue
		}
		rest := h.In(f.Value)
		for {
			j := bytes.LastIndexByte(rest, ',')
			if n == skip {
				a = parse(bytes.TrimSpace(rest[j+1:]))
				return a, a.IsValid() && n == 0 && j < 0 && !before(h, i)
			}
			n++
			if j < 0 {
				break
			}
			rest = rest[:j]
		}
	}
	return netip.Addr{}, false
}

func before(h *message.Head, i int) bool {
	for i--; i >= 0; i-- {
		if f := &h.Fields[i]; !f.Drop && f.Known == message.ForwardedFor {
			return true
		}
	}
	return false
}

// parse reads an IPv4 or IPv6 address without port or zone; ParseAddr would
// need a string, and its errors are garbage that a client could order.
func parse(v []byte) netip.Addr {
	if bytes.IndexByte(v, ':') < 0 {
		return parse4(v)
	}
	return parse6(v)
}

func parse4(v []byte) netip.Addr {
	var a [4]byte
	for i := range 4 {
		n, d := 0, 0
		for d < len(v) && '0' <= v[d] && v[d] <= '9' && d < 3 {
			n = n*10 + int(v[d]-'0')
			d++
		}
		if d == 0 || n > 255 || d > 1 && v[0] == '0' {
			return netip.Addr{}
		}
		a[i], v = byte(n), v[d:]
		if i < 3 {
			if len(v) == 0 || v[0] != '.' {
				return netip.Addr{}
			}
			v = v[1:]
		}
	}
	if len(v) != 0 {
		return netip.Addr{}
	}
	return netip.AddrFrom4(a)
}

// parse6 reads the forms of RFC 4291, 2.2.
func parse6(v []byte) netip.Addr {
	var a [16]byte
	n, gap := 0, -1
	if bytes.HasPrefix(v, []byte("::")) {
		gap, v = 0, v[2:]
	}
	for len(v) > 0 {
		if n == 16 {
			return netip.Addr{}
		}
		d, x := 0, 0
		for d < len(v) && d < 5 && unhex(v[d]) >= 0 {
			x = x<<4 | unhex(v[d])
			d++
		}
		if d < len(v) && v[d] == '.' && n <= 12 {
			four := parse4(v)
			if !four.IsValid() {
				return netip.Addr{}
			}
			b := four.As4()
			n += copy(a[n:], b[:])
			break
		}
		if d == 0 || d > 4 {
			return netip.Addr{}
		}
		a[n], a[n+1] = byte(x>>8), byte(x)
		n += 2
		if v = v[d:]; len(v) == 0 {
			break
		}
		if v[0] != ':' || len(v) == 1 {
			return netip.Addr{}
		}
		if v = v[1:]; v[0] == ':' {
			if gap >= 0 {
				return netip.Addr{}
			}
			gap, v = n, v[1:]
		}
	}
	if gap < 0 && n != 16 || gap >= 0 && n > 14 {
		return netip.Addr{}
	}
	if gap >= 0 {
		copy(a[16-(n-gap):], a[gap:n])
		clear(a[gap : 16-(n-gap)])
	}
	return netip.AddrFrom16(a).Unmap()
}

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

// AppendForwardedFor adds an address to the list, on its last line.
func AppendForwardedFor(h *message.Head, v []byte) {
	for i := len(h.Fields) - 1; i >= 0; i-- {
		f := &h.Fields[i]
		if f.Drop || f.Known != message.ForwardedFor {
			continue
		}
		from := len(h.Buf)
		h.Buf = append(append(append(h.Buf, h.In(f.Value)...), ',', ' '), v...)
		if f.Value.Len() == 0 {
			h.Buf = append(h.Buf[:from], v...)
		}
		f.Value = message.Span{From: int32(from), To: int32(len(h.Buf))}
		return
	}
	h.Fields = append(h.Fields, message.Field{Name: h.PutString("x-forwarded-for"), Value: h.Put(v), Known: message.ForwardedFor})
}

var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("::1/128"),
}

// Private tells the addresses of a network of one's own (RFC 1918, RFC 4193)
// and of the machine itself.
func Private(a netip.Addr) bool {
	a = a.Unmap()
	for _, p := range private {
		if p.Contains(a) {
			return true
		}
	}
	return false
}

// scheme settles x-forwarded-proto: a trusted hop's word, or what the
// connection is. The request's scheme follows it where the protocol gave none.
func (r *Rules) scheme(c *filter.Context) {
	is := "http"
	if c.Conn.TLS != nil {
		is = "https"
	}
	v, there := c.Req.Find("x-forwarded-proto")
	valid := there && (message.EqualFold(v, "http") || message.EqualFold(v, "https"))
	if !valid || r.m.XFF.UseRemote && r.m.XFF.TrustedHops == 0 {
		c.Req.Remove("x-forwarded-proto")
		c.Req.AddString("x-forwarded-proto", is)
		c.Req.Scheme = c.Req.PutString(is)
		return
	}
	if message.EqualFold(v, "https") {
		is = "https"
	} else {
		is = "http"
	}
	c.Req.Scheme = c.Req.PutString(is)
}
