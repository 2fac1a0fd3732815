// SPDX-License-Identifier: Apache-2.0

package ingress_test

import (
	"bytes"
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"testing"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router/ingress"
)

func request(peer, path string, fields ...string) *filter.Context {
	r := &message.Request{Proto: message.HTTP11}
	r.Method, r.Authority, r.Path = r.PutString("GET"), r.PutString("bank.example:8443"), r.PutString(path)
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		r.AddString(n, v)
	}
	seed := uint64(0)
	return &filter.Context{
		Conn: &filter.ConnInfo{Source: netip.MustParseAddrPort(peer), Peer: netip.MustParseAddrPort(peer), Local: netip.MustParseAddrPort("10.9.9.9:8443")},
		Req:  r, Rand: func() uint64 { seed += 0x9e3779b97f4a7c15; return seed },
	}
}

func rules(t testing.TB, m config.HTTPManager) *ingress.Rules {
	t.Helper()
	r, err := ingress.Compile(&m)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func field(c *filter.Context, name string) string {
	var all []string
	for i := c.Req.Index(name, 0); i >= 0; i = c.Req.Index(name, i+1) {
		all = append(all, string(c.Req.In(c.Req.Fields[i].Value)))
	}
	return strings.Join(all, "|")
}

func TestRemoteAddress(t *testing.T) {
	for _, tt := range []struct {
		name     string
		xff      config.XFF
		peer     string
		fields   []string
		remote   string
		internal bool
		sent     string // x-forwarded-for
	}{
		{"edge, stranger", config.XFF{UseRemote: true}, "192.0.2.1:1", nil, "192.0.2.1", false, "192.0.2.1"},
		{"edge, forged", config.XFF{UseRemote: true}, "192.0.2.1:1", []string{"X-Forwarded-For: 10.0.0.1"}, "192.0.2.1", false, "10.0.0.1, 192.0.2.1"},
		{"edge, ours", config.XFF{UseRemote: true}, "10.0.0.1:1", nil, "10.0.0.1", true, "10.0.0.1"},
		{"edge, ours through another", config.XFF{UseRemote: true}, "10.0.0.1:1", []string{"X-Forwarded-For: 10.0.0.2"}, "10.0.0.1", false, "10.0.0.2, 10.0.0.1"},
		{"edge, not appended", config.XFF{UseRemote: true, SkipAppend: true}, "192.0.2.1:1", []string{"X-Forwarded-For: 10.0.0.1"}, "192.0.2.1", false, "10.0.0.1"},
		{"edge behind one hop", config.XFF{UseRemote: true, TrustedHops: 1}, "192.0.2.1:1", []string{"X-Forwarded-For: 203.0.113.1, 203.0.113.2"}, "203.0.113.2", false, "203.0.113.1, 203.0.113.2, 192.0.2.1"},
		{"edge behind two hops", config.XFF{UseRemote: true, TrustedHops: 2}, "192.0.2.1:1", []string{"X-Forwarded-For: 203.0.113.1", "X-Forwarded-For: 203.0.113.2"}, "203.0.113.1", false, "203.0.113.1|203.0.113.2, 192.0.2.1"},
		{"edge behind more hops than there are", config.XFF{UseRemote: true, TrustedHops: 3}, "192.0.2.1:1", []string{"X-Forwarded-For: 203.0.113.1"}, "192.0.2.1", false, "203.0.113.1, 192.0.2.1"},
		{"edge, hop forges garbage", config.XFF{UseRemote: true, TrustedHops: 1}, "192.0.2.1:1", []string{"X-Forwarded-For: x"}, "192.0.2.1", false, "x, 192.0.2.1"},
		{"loopback peer", config.XFF{UseRemote: true}, "127.0.0.1:1", nil, "127.0.0.1", true, "10.9.9.9"},
		{"inner, ours", config.XFF{}, "10.0.0.7:1", []string{"X-Forwarded-For: 10.0.0.1"}, "10.0.0.1", true, "10.0.0.1"},
		{"inner, passed through two", config.XFF{}, "10.0.0.7:1", []string{"X-Forwarded-For: 192.0.2.1, 10.0.0.1"}, "10.0.0.1", false, "192.0.2.1, 10.0.0.1"},
		{"inner, two lines", config.XFF{}, "10.0.0.7:1", []string{"X-Forwarded-For: 192.0.2.1", "X-Forwarded-For: 10.0.0.1"}, "10.0.0.1", false, "192.0.2.1|10.0.0.1"},
		{"inner, nothing said", config.XFF{}, "10.0.0.7:1", nil, "10.0.0.7", false, ""},
		{"inner behind one hop", config.XFF{TrustedHops: 1}, "10.0.0.7:1", []string{"X-Forwarded-For: 10.0.0.1, 10.0.0.2"}, "10.0.0.1", false, "10.0.0.1, 10.0.0.2"},
		{"inner, IPv6", config.XFF{}, "10.0.0.7:1", []string{"X-Forwarded-For: fd00::1"}, "fd00::1", true, "fd00::1"},
		{"inner, with a port", config.XFF{}, "10.0.0.7:1", []string{"X-Forwarded-For: 10.0.0.1:80"}, "10.0.0.7", false, "10.0.0.1:80"},
	} {
		c := request(tt.peer, "/", tt.fields...)
		rules(t, config.HTTPManager{XFF: tt.xff}).Request(c)
		if c.Remote.String() != tt.remote || c.Internal != tt.internal || field(c, "x-forwarded-for") != tt.sent {
			t.Errorf("%s: %v internal=%v %q", tt.name, c.Remote, c.Internal, field(c, "x-forwarded-for"))
		}
		if got := field(c, "x-envoy-internal"); got != map[bool]string{true: "true"}[tt.internal] {
			t.Errorf("%s: x-envoy-internal %q", tt.name, got)
		}
		if got := field(c, "x-envoy-external-address"); (got != "") != (tt.xff.UseRemote && !tt.internal) {
			t.Errorf("%s: x-envoy-external-address %q", tt.name, got)
		}
	}
}

func TestStrangersDirectNothing(t *testing.T) {
	fields := []string{"X-Envoy-Retry-On: 5xx", "x-envoy-upstream-rq-timeout-ms: 1", "x-envoy-internal: true", "X-Secret: 1", "x-envoy-peer: kept", "x-envoy-original-path: /forged"}
	r := rules(t, config.HTTPManager{XFF: config.XFF{UseRemote: true}}).With(&config.RouteConfig{Internal: []string{"X-Secret"}})
	c := request("192.0.2.1:1", "/", fields...)
	r.Request(c)
	for _, name := range []string{"x-envoy-retry-on", "x-envoy-upstream-rq-timeout-ms", "x-envoy-internal", "x-secret", "x-envoy-original-path"} {
		if v := field(c, name); v != "" {
			t.Errorf("%s: %s", name, v)
		}
	}
	if field(c, "x-envoy-peer") != "kept" {
		t.Error("what nobody acts on was removed")
	}
	c = request("10.0.0.1:1", "/", fields...)
	r.Request(c)
	if field(c, "x-envoy-retry-on") != "5xx" || field(c, "x-secret") != "1" || field(c, "x-envoy-internal") != "true" {
		t.Error("ours may not direct")
	}
}

func TestForwardedProto(t *testing.T) {
	for _, tt := range []struct {
		xff   config.XFF
		given string
		want  string
	}{
		{config.XFF{UseRemote: true}, "https", "http"}, {config.XFF{UseRemote: true, TrustedHops: 1}, "HTTPS", "HTTPS"}, {config.XFF{}, "https", "https"},
		{config.XFF{}, "gopher", "http"}, {config.XFF{}, "", "http"},
	} {
		c := request("192.0.2.1:1", "/", "X-Forwarded-Proto: "+tt.given)
		if tt.given == "" {
			c = request("192.0.2.1:1", "/")
		}
		rules(t, config.HTTPManager{XFF: tt.xff}).Request(c)
		if got := field(c, "x-forwarded-proto"); got != tt.want || string(c.Req.In(c.Req.Scheme)) != strings.ToLower(tt.want) {
			t.Errorf("%+v %s: %s, scheme %s", tt.xff, tt.given, got, c.Req.In(c.Req.Scheme))
		}
	}
}

func TestRequestID(t *testing.T) {
	uuid := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	for _, tt := range []struct {
		m     config.HTTPManager
		peer  string
		given string
		kept  bool
	}{
		{config.HTTPManager{GenerateRequestID: true, XFF: config.XFF{UseRemote: true}}, "192.0.2.1:1", "mine", false},
		{config.HTTPManager{GenerateRequestID: true, KeepRequestID: true, XFF: config.XFF{UseRemote: true}}, "192.0.2.1:1", "mine", true},
		{config.HTTPManager{GenerateRequestID: true, KeepRequestID: true}, "192.0.2.1:1", strings.Repeat("x", 257), false},
		{config.HTTPManager{GenerateRequestID: true}, "10.0.0.1:1", "mine", true},
		{config.HTTPManager{GenerateRequestID: true}, "10.0.0.1:1", "", false},
	} {
		c := request(tt.peer, "/")
		if tt.given != "" {
			c.Req.AddString("X-Request-Id", tt.given)
		}
		rules(t, tt.m).Request(c)
		got := field(c, "x-request-id")
		if tt.kept && got != tt.given || !tt.kept && !uuid.MatchString(got) || string(c.RequestID) != got {
			t.Errorf("%+v: %q, %q", tt, got, c.RequestID)
		}
	}
}

func TestClientCert(t *testing.T) {
	shown := &filter.TLSInfo{PeerPresented: true, PeerHash: "ab12", PeerSubject: `CN="a",O=b;x`, PeerURIs: []string{"spiffe://bank/ledger"}, PeerDNS: []string{"ledger"}, LocalURIs: []string{"spiffe://bank/gw"}}
	all := config.CertDetails{Subject: true, URI: true, DNS: true}
	mine := `By=spiffe://bank/gw;Hash=ab12;Subject="CN=\"a\",O=b;x";URI=spiffe://bank/ledger;DNS=ledger`
	for _, tt := range []struct {
		how  config.ForwardCert
		tls  *filter.TLSInfo
		want string
	}{
		{config.CertSanitize, shown, ""}, {config.CertForwardOnly, shown, "Hash=f|Hash=g"}, {config.CertForwardOnly, nil, ""},
		{config.CertAppendForward, shown, "Hash=f,Hash=g," + mine}, {config.CertSanitizeSet, shown, mine}, {config.CertSanitizeSet, &filter.TLSInfo{}, ""},
		{config.CertAlwaysForwardOnly, nil, "Hash=f|Hash=g"},
	} {
		c := request("192.0.2.1:1", "/", "X-Forwarded-Client-Cert: Hash=f", "X-Forwarded-Client-Cert: Hash=g")
		c.Conn.TLS = tt.tls
		rules(t, config.HTTPManager{ForwardClientCert: tt.how, CertDetails: all}).Request(c)
		if got := field(c, "x-forwarded-client-cert"); got != tt.want {
			t.Errorf("%d: %s, want %s", tt.how, got, tt.want)
		}
	}
	c := request("192.0.2.1:1", "/")
	c.Conn.TLS = &filter.TLSInfo{PeerPresented: true, PeerHash: "ab", PeerURIs: []string{"spiffe://x/;URI=spiffe://bank/admin"}}
	rules(t, config.HTTPManager{ForwardClientCert: config.CertSanitizeSet, CertDetails: all}).Request(c)
	if got := field(c, "x-forwarded-client-cert"); !strings.Contains(got, `URI="spiffe://x/;URI=spiffe://bank/admin"`) {
		t.Error(got)
	}
}

func TestPath(t *testing.T) {
	full := config.HTTPManager{Normalise: true, MergeSlashes: true}
	slashes := func(e config.EscapedSlashes) config.HTTPManager {
		m := full
		m.EscapedSlashes = e
		return m
	}
	for _, tt := range []struct {
		m    config.HTTPManager
		in   string
		want string // "" for refused
		v    ingress.PathVerdict
	}{
		{config.HTTPManager{}, "/a/../b//c", "/a/../b//c", ingress.PathFine},
		{config.HTTPManager{Normalise: true}, "/a/../b//c", "/b//c", ingress.PathFine},
		{config.HTTPManager{Normalise: true}, "/a//../b", "/a/b", ingress.PathFine},
		{config.HTTPManager{MergeSlashes: true}, "/a/../b//c?d//e/../f", "/a/../b/c?d//e/../f", ingress.PathFine},
		{full, "/", "/", ingress.PathFine},
		{full, "/a/.", "/a/", ingress.PathFine},
		{full, "/a/..", "/", ingress.PathFine},
		{full, "/a/b/..", "/a/", ingress.PathFine},
		{full, "/../../a", "/a", ingress.PathFine},
		{full, "/./././", "/", ingress.PathFine},
		{full, "/.", "/", ingress.PathFine},
		{full, "/..", "/", ingress.PathFine},
		{full, "/a/%2e%2E/b", "/b", ingress.PathFine},
		{full, "/a/.%2e", "/", ingress.PathFine},
		{full, "/a/%252e%252e/b", "/a/%252e%252e/b", ingress.PathFine},
		{full, `/a\..\b`, "/b", ingress.PathFine},
		{full, "/.well-known/...", "/.well-known/...", ingress.PathFine},
		{full, "/a%2Fb", "/a%2Fb", ingress.PathFine},
		{full, "/%61dm%69n%7e%2D", "/admin~-", ingress.PathFine},
		{full, "/a%zz", "", ingress.PathRefused},
		{full, "/a%2", "", ingress.PathRefused},
		{full, "/a%00", "", ingress.PathRefused},
		{full, "/a#b", "", ingress.PathRefused},
		{full, "*", "*", ingress.PathFine},
		{slashes(config.SlashReject), "/a%2fb", "", ingress.PathRefused},
		{slashes(config.SlashReject), "/a%5Cb", "", ingress.PathRefused},
		{slashes(config.SlashReject), "/a?b%2fc", "/a?b%2fc", ingress.PathFine},
		{slashes(config.SlashUnescapeForward), "/a%2f..%5cb?q", "/b?q", ingress.PathFine},
		{slashes(config.SlashUnescapeRedirect), "/a%2Fb?q", "/a/b?q", ingress.PathRedirect},
		{slashes(config.SlashUnescapeRedirect), "/a/../b", "/b", ingress.PathFine},
	} {
		c := request("192.0.2.1:1", tt.in)
		v := rules(t, tt.m).Path(c)
		if got := string(c.Req.In(c.Req.Path)); v != tt.v || v != ingress.PathRefused && got != tt.want {
			t.Errorf("%+v %s: %d %s, want %d %s", tt.m, tt.in, v, got, tt.v, tt.want)
		}
	}
}

func TestHost(t *testing.T) {
	for _, tt := range []struct {
		m        config.HTTPManager
		in, want string
	}{
		{config.HTTPManager{}, "h:8443", "h:8443"}, {config.HTTPManager{StripPort: true}, "h:1", "h"}, {config.HTTPManager{StripPort: true}, "[::1]:1", "[::1]"},
		{config.HTTPManager{StripPort: true}, "[::1]", "[::1]"}, {config.HTTPManager{StripMatchingPort: true}, "h:8443", "h"}, {config.HTTPManager{StripMatchingPort: true}, "h:80", "h:80"},
	} {
		c := request("192.0.2.1:1", "/")
		c.Req.SetAuthority([]byte(tt.in))
		rules(t, tt.m).Host(c)
		if got := string(c.Req.In(c.Req.Authority)); got != tt.want {
			t.Errorf("%+v %s: %s", tt.m, tt.in, got)
		}
	}
}

// A path that was made normal has no dot segments, no double slashes, and is
// normal.
func FuzzPath(f *testing.F) {
	for _, s := range []string{"/a/../b", "/%2e./%2E%2e//", "/a%2f..%5c?x", `/\..\`, "/..;/a"} {
		f.Add(s)
	}
	r := rules(f, config.HTTPManager{Normalise: true, MergeSlashes: true, EscapedSlashes: config.SlashUnescapeForward})
	f.Fuzz(func(t *testing.T, in string) {
		c := request("192.0.2.1:1", in)
		if r.Path(c) == ingress.PathRefused || len(in) == 0 || in[0] != '/' {
			return
		}
		got := bytes.Clone(c.Req.In(c.Req.Path))
		bare, _, _ := bytes.Cut(got, []byte("?"))
		for _, seg := range strings.Split(strings.ToLower(string(bare)), "/") {
			if s := strings.ReplaceAll(seg, "%2e", "."); s == "." || s == ".." {
				t.Fatalf("%q: %q", in, got)
			}
		}
		if bytes.Contains(bare, []byte("//")) || bytes.Contains(bytes.ToLower(bare), []byte("%2f")) && !strings.Contains(in, "%25") && r.Path(c) == ingress.PathFine && !bytes.Equal(got, c.Req.In(c.Req.Path)) {
			t.Fatalf("%q: %q is not normal", in, got)
		}
	})
}

// Our reader of addresses is net/netip's, but for zones.
func FuzzForwardedFor(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "1.2.3.4, ::ffff:1.2.3.4", "fe80::1%eth0", "::", "1::2:3", "01.2.3.4", "1:2:3:4:5:6:7::", ",,"} {
		f.Add(s, 0)
	}
	f.Fuzz(func(t *testing.T, v string, skip int) {
		skip &= 7
		h := &message.Head{}
		h.AddString("X-Forwarded-For", v)
		got, single := ingress.ForwardedFor(h, skip)
		parts := strings.Split(v, ",")
		var want netip.Addr
		if skip < len(parts) {
			want, _ = netip.ParseAddr(string(bytes.TrimSpace([]byte(parts[len(parts)-1-skip]))))
			if want.Zone() != "" {
				want = netip.Addr{}
			}
		}
		if got != want.Unmap() || single != (len(parts) == 1 && skip == 0 && want.IsValid()) {
			t.Fatalf("%q, %d: %v %v, net/netip says %v", v, skip, got, single, want)
		}
	})
}

func TestDoesNotAllocate(t *testing.T) {
	r := rules(t, config.HTTPManager{XFF: config.XFF{UseRemote: true}, GenerateRequestID: true, Normalise: true, MergeSlashes: true, ForwardClientCert: config.CertSanitizeSet})
	c := request("192.0.2.1:1", "/a/../b//c", "X-Forwarded-For: 10.0.0.1", "X-Envoy-Retry-On: 5xx")
	c.Conn.TLS = &filter.TLSInfo{PeerPresented: true, PeerHash: "ab"}
	q, path := *c.Req, c.Req.Path
	q.Fields = append([]message.Field(nil), q.Fields...)
	run := func() {
		c.Req.Buf, c.Req.Fields, c.Req.Path = c.Req.Buf[:len(q.Buf)], append(c.Req.Fields[:0], q.Fields...), path
		r.Path(c)
		r.Host(c)
		r.Request(c)
	}
	if n := testing.AllocsPerRun(100, run); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if got := fmt.Sprintf("%s %s", c.Req.In(c.Req.Path), field(c, "x-forwarded-for")); got != "/b/c 10.0.0.1, 192.0.2.1" {
		t.Error(got)
	}
}
