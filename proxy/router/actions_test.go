// SPDX-License-Identifier: Apache-2.0

package router_test

import (
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cespare/xxhash/v2"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

func routed(t *testing.T, rc *config.RouteConfig, c *filter.Context) *router.Table {
	t.Helper()
	table := compile(t, rc)
	if c.Route = table.Match(c); c.Route == nil {
		t.Fatal("no route")
	}
	return table
}

func TestHeaderActions(t *testing.T) {
	for _, tt := range []struct {
		add    config.HeaderAdd
		before []string
		want   string
	}{
		{config.HeaderAdd{Name: "X", Value: "n"}, []string{"X: o"}, "x=o;x=n;"},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.AddIfAbsent}, []string{"X: o"}, "x=o;"},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.AddIfAbsent}, nil, "x=n;"},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.OverwriteOrAdd}, []string{"X: o", "X: p"}, "x=n;"},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.OverwriteOrAdd}, nil, "x=n;"},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.OverwriteIfExists}, nil, ""},
		{config.HeaderAdd{Name: "x", Value: "n", Action: config.OverwriteIfExists}, []string{"X: o"}, "x=n;"},
		{config.HeaderAdd{Name: "x", Value: "%REQ(y)%"}, nil, ""},
		{config.HeaderAdd{Name: "x", Value: "%REQ(y)%", KeepEmpty: true}, nil, "x=;"},
		{config.HeaderAdd{Name: "x", Value: " %REQ(:authority)% 100%%"}, nil, "x=h 100%;"},
	} {
		c := request("GET", "h", "/", tt.before...)
		table := routed(t, one(&config.Route{To: to("c"), Headers: config.HeaderOps{RequestAdd: []config.HeaderAdd{tt.add}}}), c)
		table.RequestHeaders(c)
		if got := dump(&c.Req.Head); got != tt.want {
			t.Errorf("%+v on %v: %s, want %s", tt.add, tt.before, got, tt.want)
		}
	}
}

func TestHeaderOrder(t *testing.T) {
	ops := func(v string) config.HeaderOps {
		return config.HeaderOps{
			RequestAdd:     []config.HeaderAdd{{Name: "all", Value: v}, {Name: "last", Value: v, Action: config.OverwriteOrAdd}},
			ResponseAdd:    []config.HeaderAdd{{Name: "all", Value: v}},
			RequestRemove:  []string{"no-" + v},
			ResponseRemove: []string{"no-" + v},
		}
	}
	for specific, want := range map[bool]string{false: "all=w;all=r;all=v;all=g;last=g;", true: "all=g;all=v;all=r;all=w;last=w;"} {
		rc := one(&config.Route{Headers: ops("r"), To: &config.Forward{Weighted: []config.Weighted{{Cluster: "a", Weight: 1, Headers: ops("w")}}}})
		rc.Headers, rc.Hosts[0].Headers, rc.MostSpecificHeaderMutationsWins = ops("g"), ops("v"), specific
		c := request("GET", "h", "/", "no-r: 1", "no-w: 1", "No-V: 1", "no-g: 1")
		table := routed(t, rc, c)
		c.Weighted = router.Pick(c.Route.To, 0)
		table.RequestHeaders(c)
		got := dump(&c.Req.Head)
		last := got[strings.Index(got, "last="):][:7]
		if got = strings.ReplaceAll(got, last, "") + last; got != want {
			t.Errorf("most specific wins %v: %s, want %s", specific, got, want)
		}
		c.Resp = &message.Response{Status: 200}
		c.Resp.AddString("no-w", "1")
		table.ResponseHeaders(c)
		if got := dump(&c.Resp.Head); got != want[:len(want)-7] {
			t.Errorf("response: %s", got)
		}
	}
}

func TestRefusedHeaders(t *testing.T) {
	for _, name := range []string{"host", "Host", "Content-Length", "transfer-encoding", "connection", ":path", "a b", ""} {
		for _, ops := range []config.HeaderOps{{RequestAdd: []config.HeaderAdd{{Name: name, Value: "1"}}}, {ResponseRemove: []string{name}}} {
			if _, err := router.Compile(one(&config.Route{To: to("c"), Headers: ops})); err == nil {
				t.Errorf("%q was taken", name)
			}
		}
	}
	if _, err := router.Compile(one(&config.Route{To: to("c"), Headers: config.HeaderOps{RequestAdd: []config.HeaderAdd{{Name: "x", Value: "a\r\nb: c"}}}})); err == nil {
		t.Error("a value of two lines was taken")
	}
}

func TestHeadersDoNotAllocate(t *testing.T) {
	rc := one(&config.Route{To: to("c"), Headers: config.HeaderOps{
		RequestAdd: []config.HeaderAdd{{Name: "x-client", Value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}, {Name: "x-a", Value: "b", Action: config.OverwriteOrAdd}}, RequestRemove: []string{"cookie"}}})
	c := request("GET", "h", "/", "Cookie: a=b")
	c.Remote = netip.MustParseAddr("192.0.2.1")
	table := routed(t, rc, c)
	buf, fields := len(c.Req.Buf), len(c.Req.Fields)
	if n := testing.AllocsPerRun(100, func() {
		c.Req.Buf, c.Req.Fields = c.Req.Buf[:buf], c.Req.Fields[:fields]
		table.RequestHeaders(c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestRewrite(t *testing.T) {
	swap := &config.RegexRewrite{Regex: regexp.MustCompile(`^/service/([^/]+)(/.*)$`), Subst: `\2/instance/\1`}
	for _, tt := range []struct {
		m          config.Match
		f          config.Forward
		path       string
		host, want string
	}{
		{config.Match{Path: "/a"}, config.Forward{PrefixRewrite: "/n"}, "/ab?q", "h", "/nb?q"},
		{config.Match{Kind: config.Exact, Path: "/a"}, config.Forward{PrefixRewrite: "/n"}, "/a?q", "h", "/n?q"},
		{config.Match{Kind: config.PathPrefix, Path: "/a"}, config.Forward{PrefixRewrite: "/n"}, "/a/b", "h", "/n/b"},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`/.*`)}, config.Forward{PrefixRewrite: "/n"}, "/a/b?q", "h", "/n?q"},
		{config.Match{Path: "/"}, config.Forward{RegexRewrite: swap}, "/service/foo/v1/api?q=/service/x/y", "h", "/v1/api/instance/foo?q=/service/x/y"},
		{config.Match{Path: "/"}, config.Forward{RegexRewrite: &config.RegexRewrite{Regex: regexp.MustCompile("/xxx/"), Subst: "/yyy/"}}, "/aaa/xxx/bbb/xxx/ccc", "h", "/aaa/yyy/bbb/yyy/ccc"},
		{config.Match{Path: "/"}, config.Forward{RegexRewrite: &config.RegexRewrite{Regex: regexp.MustCompile("/.*"), Subst: ""}}, "/a", "h", "/a"}, // no path at all: refused
		{config.Match{Path: "/"}, config.Forward{Host: config.HostRewrite{Literal: "n"}}, "/a", "n", "/a"},
		{config.Match{Path: "/"}, config.Forward{Host: config.HostRewrite{Header: "x-h"}}, "/a", "other", "/a"},
		{config.Match{Path: "/"}, config.Forward{Host: config.HostRewrite{Header: "x-evil"}}, "/a", "h", "/a"},
		{config.Match{Path: "/"}, config.Forward{Host: config.HostRewrite{PathRegex: &config.RegexRewrite{Regex: regexp.MustCompile("^/(.+)/.+$"), Subst: `\1`}}}, "/bank/x", "bank", "/bank/x"},
	} {
		c := request("GET", "h", tt.path, "x-h: other", "x-evil: a b")
		table := routed(t, one(&config.Route{Match: tt.m, To: &tt.f}), c)
		table.Rewrite(c, false)
		if host, path := string(c.Req.In(c.Req.Authority)), string(c.Req.In(c.Req.Path)); host != tt.host || path != tt.want {
			t.Errorf("%+v %s: %s %s, want %s %s", tt.f, tt.path, host, path, tt.host, tt.want)
		}
		if v, ok := c.Req.Find("x-envoy-original-path"); ok != (tt.path != tt.want) || ok && string(v) != tt.path {
			t.Errorf("%s: original path %q", tt.path, v)
		}
	}
	c := request("GET", "h:80", "/", "X-Forwarded-Host: first")
	table := routed(t, one(&config.Route{To: &config.Forward{Host: config.HostRewrite{Auto: true, AppendXFH: true}}}), c)
	table.AutoHost(c, "pod-1.bank")
	if v, _ := c.Req.Find("x-forwarded-host"); string(v) != "first, h:80" || string(c.Req.In(c.Req.Authority)) != "pod-1.bank" {
		t.Errorf("%s, %s", v, c.Req.In(c.Req.Authority))
	}
	for _, subst := range []string{`\`, `\2`, `\x`, "a\nb"} {
		if _, err := router.Compile(one(&config.Route{To: &config.Forward{RegexRewrite: &config.RegexRewrite{Regex: regexp.MustCompile(`(a)`), Subst: subst}}})); err == nil {
			t.Errorf("substitution %q was taken", subst)
		}
	}
}

func TestPick(t *testing.T) {
	f := &config.Forward{Weighted: []config.Weighted{{Cluster: "a", Weight: 1}, {Cluster: "b"}, {Cluster: "c", Weight: 3}}}
	n := map[string]int{}
	for i := range uint64(400) {
		n[router.Pick(f, i).Cluster]++
	}
	if n["a"] != 100 || n["b"] != 0 || n["c"] != 300 {
		t.Error(n)
	}
	if router.Pick(&config.Forward{Weighted: []config.Weighted{{Cluster: "a"}}}, 1) != nil {
		t.Error("a share of nothing")
	}
}

func TestHash(t *testing.T) {
	ttl := time.Minute
	for _, tt := range []struct {
		name   string
		p      []config.HashPolicy
		want   uint64
		ok     bool
		cookie bool
	}{
		{"header", []config.HashPolicy{{Header: "x"}}, xxhash.Sum64String("1"), true, false},
		{"missing", []config.HashPolicy{{Header: "y"}}, 0, false, false},
		{"two lines, sorted", []config.HashPolicy{{Header: "z"}}, xxhash.Sum64String("ab"), true, false},
		{"cookie", []config.HashPolicy{{Cookie: "c"}}, xxhash.Sum64String("v"), true, false},
		{"made cookie", []config.HashPolicy{{Cookie: "d", CookieTTL: &ttl, CookiePath: "/p"}}, xxhash.Sum64String("0000000000000007"), true, true},
		{"source", []config.HashPolicy{{SourceIP: true}}, xxhash.Sum64String("192.0.2.1"), true, false},
		{"query", []config.HashPolicy{{Query: "q"}}, xxhash.Sum64String("5"), true, false},
		{"terminal", []config.HashPolicy{{Header: "x", Terminal: true}, {Query: "q"}}, xxhash.Sum64String("1"), true, false},
		{"both", []config.HashPolicy{{Header: "x"}, {Query: "q"}}, xxhash.Sum64String("5") ^ (xxhash.Sum64String("1")<<1 | xxhash.Sum64String("1")>>63), true, false},
		{"rewritten", []config.HashPolicy{{Header: "x", HeaderRewrite: &config.RegexRewrite{Regex: regexp.MustCompile("1"), Subst: "22"}}}, xxhash.Sum64String("22"), true, false},
	} {
		c := request("GET", "h", "/?q=5", "x: 1", "Cookie: a=b; c=\"v\"", "z: b", "z: a")
		c.Remote = netip.MustParseAddr("192.0.2.1")
		table := routed(t, one(&config.Route{To: &config.Forward{Hash: tt.p}}), c)
		h := table.Hash(c)
		if h.Hash != tt.want || h.OK != tt.ok || (h.Cookie != nil) != tt.cookie {
			t.Errorf("%s: %+v, want %x", tt.name, h, tt.want)
		}
		if tt.cookie {
			if got := string(h.AppendCookie(nil)); got != `d="0000000000000007"; Max-Age=60; Path=/p; HttpOnly` {
				t.Error(got)
			}
		}
	}
}

func TestRetriable(t *testing.T) {
	resp := func(status int, fields ...string) *message.Response {
		r := &message.Response{Status: status}
		for _, f := range fields {
			n, v, _ := strings.Cut(f, ": ")
			r.AddString(n, v)
		}
		return r
	}
	for _, tt := range []struct {
		on   string
		o    router.Outcome
		want bool
	}{
		{"5xx", router.Outcome{Resp: resp(500)}, true},
		{"5xx", router.Outcome{Resp: resp(404)}, false},
		{"5xx", router.Outcome{Resp: resp(500, "x-envoy-overloaded: true")}, false},
		{"5xx", router.Outcome{Reset: router.ConnectFailed}, true},
		{"5xx", router.Outcome{Reset: router.Overflow}, false},
		{"gateway-error", router.Outcome{Resp: resp(500)}, false},
		{"gateway-error", router.Outcome{Resp: resp(504)}, true},
		{"gateway-error", router.Outcome{Reset: router.PerTryTimedOut, Started: true}, true},
		{"connect-failure", router.Outcome{Reset: router.ConnectFailed}, true},
		{"connect-failure", router.Outcome{Reset: router.RemoteReset}, false},
		{"refused-stream", router.Outcome{Reset: router.RefusedStream}, true},
		{"refused-stream", router.Outcome{Reset: router.RemoteReset}, false},
		{"reset-before-request", router.Outcome{Reset: router.RemoteReset}, true},
		{"reset-before-request", router.Outcome{Reset: router.RemoteReset, Started: true}, false},
		{"reset", router.Outcome{Reset: router.RemoteReset, Started: true}, true},
		{"retriable-4xx", router.Outcome{Resp: resp(409)}, true},
		{"retriable-status-codes", router.Outcome{Resp: resp(429)}, true},
		{"retriable-status-codes", router.Outcome{Resp: resp(418)}, true},
		{"retriable-status-codes", router.Outcome{Resp: resp(500)}, false},
		{"retriable-headers", router.Outcome{Resp: resp(200, "x-again: 1")}, true},
		{"retriable-headers", router.Outcome{Resp: resp(200)}, false},
		{"unavailable, cancelled", router.Outcome{Resp: resp(200, "grpc-status: 14")}, true},
		{"internal", router.Outcome{Resp: resp(200, "grpc-status: 14")}, false},
		{"", router.Outcome{Reset: router.ConnectFailed}, false},
	} {
		c := request("GET", "h", "/", "x-envoy-retriable-status-codes: 418, 999999")
		p := &config.Retry{On: router.RetryOnOf(tt.on), Codes: []int{429}, Headers: []config.HeaderMatch{{Name: "x-again"}}}
		table := routed(t, one(&config.Route{To: &config.Forward{Retry: p}}), c)
		r := table.Retry(c)
		if got := r.Retriable(tt.o); got != tt.want {
			t.Errorf("%q %+v: %v", tt.on, tt.o, got)
		}
	}
	if got := router.UnknownRetryOn("5xx, envoy-ratelimited"); got != "envoy-ratelimited" {
		t.Error(got)
	}
}

func TestRetryFields(t *testing.T) {
	c := request("GET", "h", "/", "x-envoy-retry-on: reset", "x-envoy-max-retries: 4")
	table := routed(t, one(&config.Route{To: to("c")}), c)
	r := table.Retry(c)
	if r.On != config.RetryReset || r.Max != 4 || dump(&c.Req.Head) != "" {
		t.Errorf("%+v, %s", r, dump(&c.Req.Head))
	}
	for n := 1; n < 9; n++ {
		most := min(25*time.Millisecond<<(n-1), 250*time.Millisecond)
		if d := r.Backoff(n, uint64(most)-1); d != most-1 {
			t.Errorf("retry %d: %v, want just under %v", n, d, most)
		}
	}
}

func TestTimeouts(t *testing.T) {
	second := time.Second
	zero := time.Duration(0)
	for _, tt := range []struct {
		f      config.Forward
		fields []string
		want   router.Timeouts
	}{
		{config.Forward{}, nil, router.Timeouts{Total: 15 * second}},
		{config.Forward{Timeout: -1}, nil, router.Timeouts{}},
		{config.Forward{Timeout: second, Retry: &config.Retry{PerTry: 2 * second}}, nil, router.Timeouts{Total: second}},
		{config.Forward{Timeout: 3 * second, Retry: &config.Retry{PerTry: 2 * second}}, nil, router.Timeouts{Total: 3 * second, PerTry: 2 * second}},
		{config.Forward{}, []string{"x-envoy-upstream-rq-timeout-ms: 20", "x-envoy-upstream-rq-per-try-timeout-ms: 5"}, router.Timeouts{Total: 20 * time.Millisecond, PerTry: 5 * time.Millisecond}},
		{config.Forward{}, []string{"x-envoy-upstream-rq-timeout-ms: x"}, router.Timeouts{Total: 15 * second}},
		{config.Forward{}, []string{"content-type: application/grpc", "grpc-timeout: 2S"}, router.Timeouts{Total: 15 * second}},
		{config.Forward{GRPCMax: &zero}, []string{"content-type: application/grpc", "grpc-timeout: 2S"}, router.Timeouts{Total: 2 * second}},
		{config.Forward{GRPCMax: &zero}, []string{"content-type: application/grpc"}, router.Timeouts{}},
		{config.Forward{GRPCMax: &second}, []string{"content-type: application/grpc", "grpc-timeout: 99999999H"}, router.Timeouts{Total: second}},
	} {
		c := request("GET", "h", "/", tt.fields...)
		table := routed(t, one(&config.Route{To: &tt.f}), c)
		r := table.Retry(c)
		if got := r.Timeouts(c); got != tt.want {
			t.Errorf("%+v %v: %+v, want %+v", tt.f, tt.fields, got, tt.want)
		}
	}
}

func TestMirrorHost(t *testing.T) {
	for in, want := range map[string]string{"h": "h-shadow", "h:80": "h-shadow:80", "[::1]:80": "[::1]-shadow:80"} {
		if got := string(router.MirrorHost(nil, []byte(in))); got != want {
			t.Errorf("%s: %s", in, got)
		}
	}
}
