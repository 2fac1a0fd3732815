// SPDX-License-Identifier: Apache-2.0

package stock_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/stock"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

func context(method, path string, fields ...string) *filter.Context {
	r := &message.Request{Proto: message.HTTP11, Length: message.NoBody}
	r.Method, r.Authority, r.Path, r.Scheme = r.PutString(method), r.PutString("bank.example"), r.PutString(path), r.PutString("https")
	add(&r.Head, fields...)
	return &filter.Context{
		Conn:   &filter.ConnInfo{Peer: netip.MustParseAddrPort("192.0.2.1:5"), Source: netip.MustParseAddrPort("192.0.2.1:5"), Local: netip.MustParseAddrPort("10.0.0.1:443")},
		Remote: netip.MustParseAddr("192.0.2.1"), Req: r, Rand: func() uint64 { return 50 },
	}
}

func add(h *message.Head, fields ...string) {
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		h.AddString(n, v)
	}
}

func field(h *message.Head, name string) string {
	var all []string
	for i := h.Index(name, 0); i >= 0; i = h.Index(name, i+1) {
		all = append(all, string(h.In(h.Fields[i].Value)))
	}
	return strings.Join(all, "|")
}

func chain(t testing.TB, deps filter.Deps, cfgs ...any) *filter.Chain {
	t.Helper()
	var fs []*config.HTTPFilter
	for i, c := range cfgs {
		fs = append(fs, &config.HTTPFilter{Name: fmt.Sprintf("f%d", i), Config: c})
	}
	fs = append(fs, &config.HTTPFilter{Name: "router", Config: &config.RouterFilter{}})
	ch, err := stock.Chain(fs, deps, nil)
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// exchange runs a request through a chain up to the response's head.
func exchange(ch *filter.Chain, c *filter.Context, status int, fields ...string) filter.Verdict {
	c.Slots = make([]any, ch.Len())
	v := ch.Request(c, 0)
	c.Resp = &message.Response{Status: status, Length: message.Unknown}
	if v == filter.Reply {
		c.Resp.Status = c.Local.Status
		for _, h := range c.Local.Headers {
			c.Resp.AddString(h.Name, h.Value)
		}
	} else {
		add(&c.Resp.Head, fields...)
	}
	ch.Response(c)
	return v
}

func scope(t testing.TB, ch *filter.Chain, c *filter.Context, route *config.Route, per map[string]any) {
	t.Helper()
	route.PerFilter = per
	if route.To == nil {
		route.To = &config.Forward{Cluster: "c"}
	}
	rc := &config.RouteConfig{Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{route}}}}
	table, err := router.Compile(rc)
	if err != nil {
		t.Fatal(err)
	}
	if c.Overrides, err = ch.Scope(rc, nil); err != nil {
		t.Fatal(err)
	}
	c.Routes, c.Route = table, table.Match(c)
}

func TestCORS(t *testing.T) {
	policy := &config.CORS{
		Origins: []config.StringMatch{{Kind: config.MatchSuffix, Value: ".bank.example"}}, Methods: "GET,PUT", Headers: "x-a", Expose: "x-b", MaxAge: "60",
		Credentials: true, ForwardUnmatched: true,
	}
	for _, tt := range []struct {
		name   string
		c      *filter.Context
		v      filter.Verdict
		origin string
		extra  string
	}{
		{"simple", context("GET", "/", "Origin: https://a.bank.example"), filter.Next, "https://a.bank.example", "access-control-expose-headers"},
		{"other origin", context("GET", "/", "Origin: https://evil.example"), filter.Next, "", ""},
		{"no origin", context("GET", "/"), filter.Next, "", ""},
		{"preflight", context("OPTIONS", "/", "Origin: https://a.bank.example", "Access-Control-Request-Method: PUT"), filter.Reply, "https://a.bank.example", "access-control-allow-methods"},
		{"preflight of another origin", context("OPTIONS", "/", "Origin: https://evil.example", "Access-Control-Request-Method: PUT"), filter.Next, "", ""},
		{"options without method", context("OPTIONS", "/", "Origin: https://a.bank.example"), filter.Next, "https://a.bank.example", "access-control-expose-headers"},
	} {
		ch := chain(t, filter.Deps{}, &config.CORS{})
		scope(t, ch, tt.c, &config.Route{}, map[string]any{"f0": policy})
		if v := exchange(ch, tt.c, 200); v != tt.v {
			t.Errorf("%s: verdict %d", tt.name, v)
		}
		h := &tt.c.Resp.Head
		if got := field(h, "access-control-allow-origin"); got != tt.origin {
			t.Errorf("%s: allow-origin %q", tt.name, got)
		}
		if tt.extra != "" && field(h, tt.extra) == "" {
			t.Errorf("%s: no %s", tt.name, tt.extra)
		}
		if (field(h, "access-control-allow-credentials") == "true") != (tt.origin != "") {
			t.Errorf("%s: credentials", tt.name)
		}
	}
	c := context("GET", "/", "Origin: https://a.bank.example")
	ch := chain(t, filter.Deps{}, &config.CORS{})
	off := *policy
	off.Enabled = &config.Fraction{Num: 0, Den: 100}
	scope(t, ch, c, &config.Route{}, map[string]any{"f0": &off})
	if exchange(ch, c, 200); field(&c.Resp.Head, "access-control-allow-origin") != "" {
		t.Error("a policy that is off spoke")
	}
}

func TestCSRF(t *testing.T) {
	cfg := &config.CSRF{Enabled: config.Fraction{Num: 100, Den: 100}, Additional: []config.StringMatch{{Kind: config.MatchSuffix, Value: ".friend.example"}}}
	for _, tt := range []struct {
		method string
		fields []string
		v      filter.Verdict
	}{
		{"GET", nil, filter.Next}, {"POST", nil, filter.Reply}, {"POST", []string{"Origin: https://bank.example"}, filter.Next},
		{"PUT", []string{"Origin: https://evil.example"}, filter.Reply}, {"DELETE", []string{"Origin: https://a.friend.example"}, filter.Next},
		{"PATCH", []string{"Origin: null", "Referer: https://bank.example/page"}, filter.Next}, {"POST", []string{"Origin: null"}, filter.Reply},
		{"POST", []string{"Origin: https://bank.example@evil.example"}, filter.Reply}, {"POST", []string{"Origin: https://bank.example:8443"}, filter.Reply},
	} {
		c := context(tt.method, "/", tt.fields...)
		if v := exchange(chain(t, filter.Deps{}, cfg), c, 200); v != tt.v || v == filter.Reply && (c.Local.Status != 403 || c.Local.Detail != "csrf_origin_mismatch") {
			t.Errorf("%s %v: %d", tt.method, tt.fields, v)
		}
	}
}

func TestBuffer(t *testing.T) {
	for _, tt := range []struct {
		length int64
		v      filter.Verdict
		want   int
	}{{message.NoBody, filter.Next, 0}, {10, filter.Next, 10}, {message.Unknown, filter.Next, 10}, {11, filter.Reply, 0}} {
		c := context("POST", "/")
		c.Req.Length = tt.length
		if v := exchange(chain(t, filter.Deps{}, &config.Buffer{Max: 10}), c, 200); v != tt.v || c.BufferRequest != tt.want {
			t.Errorf("%d: %d, %d", tt.length, v, c.BufferRequest)
		}
	}
	c := context("POST", "/")
	c.Req.Length = 11
	ch := chain(t, filter.Deps{}, &config.Buffer{Max: 10})
	scope(t, ch, c, &config.Route{}, map[string]any{"f0": (*config.Buffer)(nil)})
	if v := exchange(ch, c, 200); v != filter.Next {
		t.Error("a filter that the route switches off spoke")
	}
}

func TestFault(t *testing.T) {
	all := config.Fraction{Num: 100, Den: 100}
	half := config.Fraction{Num: 50, Den: 100} // the draw is 50
	for _, tt := range []struct {
		name   string
		cfg    config.Fault
		fields []string
		status int
		grpc   int
		delay  time.Duration
		rate   uint64
	}{
		{"delay", config.Fault{Delay: &config.FaultDelay{Fixed: time.Second, Fraction: all}}, nil, 0, 0, time.Second, 0},
		{"delay, other half", config.Fault{Delay: &config.FaultDelay{Fixed: time.Second, Fraction: half}}, nil, 0, 0, 0, 0},
		{"delay by field", config.Fault{Delay: &config.FaultDelay{FromHeader: true, Fraction: all}}, []string{"x-envoy-fault-delay-request: 20"}, 0, 0, 20 * time.Millisecond, 0},
		{"delay by field, lowered", config.Fault{Delay: &config.FaultDelay{FromHeader: true, Fraction: all}}, []string{"x-envoy-fault-delay-request: 20", "x-envoy-fault-delay-request-percentage: 50"}, 0, 0, 0, 0},
		{"delay by field, not raised", config.Fault{Delay: &config.FaultDelay{FromHeader: true, Fraction: half}}, []string{"x-envoy-fault-delay-request: 20", "x-envoy-fault-delay-request-percentage: 100"}, 0, 0, 0, 0},
		{"abort", config.Fault{Abort: &config.FaultAbort{Status: 503, Fraction: all}}, nil, 503, 0, 0, 0},
		{"abort in gRPC's terms", config.Fault{Abort: &config.FaultAbort{GRPC: 14, Fraction: all}}, nil, 503, 14, 0, 0},
		{"abort by field", config.Fault{Abort: &config.FaultAbort{FromHeader: true, Fraction: all}}, []string{"x-envoy-fault-abort-request: 418"}, 418, 0, 0, 0},
		{"abort by bad field", config.Fault{Abort: &config.FaultAbort{FromHeader: true, Fraction: all}}, []string{"x-envoy-fault-abort-request: 999"}, 0, 0, 0, 0},
		{"both", config.Fault{Delay: &config.FaultDelay{Fixed: time.Second, Fraction: all}, Abort: &config.FaultAbort{Status: 500, Fraction: all}}, nil, 500, 0, time.Second, 0},
		{"rate", config.Fault{Rate: &config.FaultRate{KiBps: 2, Fraction: all}}, nil, 0, 0, 0, 2048},
		{"other cluster", config.Fault{Cluster: "x", Abort: &config.FaultAbort{Status: 500, Fraction: all}}, nil, 0, 0, 0, 0},
		{"other headers", config.Fault{Headers: []config.HeaderMatch{{Name: "x-chaos"}}, Abort: &config.FaultAbort{Status: 500, Fraction: all}}, nil, 0, 0, 0, 0},
	} {
		c := context("GET", "/", tt.fields...)
		v := exchange(chain(t, filter.Deps{}, &tt.cfg), c, 200)
		if (v == filter.Reply) != (tt.status != 0) || v == filter.Reply && (c.Local.Status != tt.status || c.Local.GRPC != tt.grpc || c.Flags&filter.FlagAbort == 0) || c.Delay != tt.delay || c.ResponseRate != tt.rate {
			t.Errorf("%s: %d %+v delay %v rate %d", tt.name, v, c.Local, c.Delay, c.ResponseRate)
		}
	}
	ch := chain(t, filter.Deps{}, &config.Fault{MaxActive: 1, Abort: &config.FaultAbort{Status: 500, Fraction: all}})
	one, two := context("GET", "/"), context("GET", "/")
	if exchange(ch, one, 200) != filter.Reply || exchange(ch, two, 200) != filter.Next {
		t.Error("the bound of active faults")
	}
	ch.End(one)
	ch.End(two)
	if exchange(ch, two, 200) != filter.Reply {
		t.Error("a fault that is over still counts")
	}
}

func TestMutation(t *testing.T) {
	set := func(v string) []config.Mutation {
		return []config.Mutation{{Add: &config.HeaderAdd{Name: "x-m", Value: v, Action: config.OverwriteOrAdd}}}
	}
	for specific, want := range map[bool]string{false: "config", true: "route"} {
		cfg := &config.HeaderMutation{MostSpecificWins: specific, Request: append(set("filter"), config.Mutation{Remove: "X-Gone"}, config.Mutation{RemoveOnMatch: &config.StringMatch{Kind: config.MatchPrefix, Value: "x-internal-"}}),
			Response: set("%REQ(x-m)%")}
		ch := chain(t, filter.Deps{}, cfg)
		c := context("GET", "/", "x-gone: 1", "X-Internal-A: 1", "x-kept: 1")
		rc := &config.RouteConfig{PerFilter: map[string]any{"f0": &config.HeaderMutation{Request: set("config")}}, Hosts: []*config.VirtualHost{{Domains: []string{"*"}, Routes: []*config.Route{
			{To: &config.Forward{Cluster: "c"}, PerFilter: map[string]any{"f0": &config.HeaderMutation{Request: set("route")}}}}}}}
		table, err := router.Compile(rc)
		if err != nil {
			t.Fatal(err)
		}
		if c.Overrides, err = ch.Scope(rc, nil); err != nil {
			t.Fatal(err)
		}
		c.Route = table.Match(c)
		exchange(ch, c, 200)
		if got := field(&c.Req.Head, "x-m"); got != want || field(&c.Resp.Head, "x-m") != want {
			t.Errorf("most specific wins %v: %s, %s", specific, got, field(&c.Resp.Head, "x-m"))
		}
		if field(&c.Req.Head, "x-gone")+field(&c.Req.Head, "x-internal-a") != "" || field(&c.Req.Head, "x-kept") != "1" {
			t.Error("removals")
		}
	}
}

func TestRBAC(t *testing.T) {
	anyone := []*config.RBACRule{{Any: true}}
	path := []*config.RBACRule{{Path: &config.StringMatch{Kind: config.MatchPrefix, Value: "/open"}}}
	admin := []*config.RBACRule{{Principal: &config.StringMatch{Value: "spiffe://bank/admin"}}}
	rules := &config.RBAC{Action: "ALLOW", Policies: map[string]*config.RBACPolicy{
		"open": {Permissions: path, Principals: anyone}, "admin": {Permissions: anyone, Principals: admin},
	}}
	deny := &config.RBAC{Action: "DENY", Policies: map[string]*config.RBACPolicy{
		"net": {Permissions: anyone, Principals: []*config.RBACRule{{And: []*config.RBACRule{{RemoteIP: ptr(netip.MustParsePrefix("192.0.2.0/24"))}, {Not: &config.RBACRule{Header: &config.HeaderMatch{Name: "x-pass"}}}}}}},
	}}
	with := func(c *filter.Context, validated bool, uris ...string) *filter.Context {
		c.Conn.TLS = &filter.TLSInfo{PeerPresented: true, PeerValidated: validated, PeerURIs: uris}
		return c
	}
	for _, tt := range []struct {
		name  string
		rules *config.RBAC
		c     *filter.Context
		why   string // "" allowed
	}{
		{"open", rules, context("GET", "/open?x"), ""},
		{"closed", rules, context("GET", "/x"), "none"},
		{"admin", rules, with(context("GET", "/x"), true, "spiffe://bank/admin"), ""},
		{"admin, not verified", rules, with(context("GET", "/x"), false, "spiffe://bank/admin"), "none"},
		{"another", rules, with(context("GET", "/x"), true, "spiffe://bank/clerk"), "none"},
		{"denied", deny, context("GET", "/x"), "net"},
		{"not denied", deny, context("GET", "/x", "x-pass: 1"), ""},
		{"no rules", nil, context("GET", "/x"), ""},
		{"nobody", &config.RBAC{Action: "ALLOW"}, context("GET", "/x"), "none"},
	} {
		v := exchange(chain(t, filter.Deps{}, &config.RBACFilter{Rules: tt.rules, Shadow: deny}), tt.c, 200)
		if (v == filter.Reply) != (tt.why != "") || v == filter.Reply && tt.c.Local.Detail != "rbac_access_denied_matched_policy["+tt.why+"]" {
			t.Errorf("%s: %d %+v", tt.name, v, tt.c.Local)
		}
	}
	if _, err := stock.Chain([]*config.HTTPFilter{{Name: "r", Config: &config.RBACFilter{Rules: &config.RBAC{Policies: map[string]*config.RBACPolicy{"x": {Permissions: []*config.RBACRule{{}}, Principals: anyone}}}}}, {Name: "router", Config: &config.RouterFilter{}}}, filter.Deps{}, nil); err == nil {
		t.Error("an empty rule was taken")
	}
}

func ptr[T any](v T) *T { return &v }

func TestHealth(t *testing.T) {
	health := 50.0
	draining := false
	now := time.Unix(1e9, 0)
	deps := filter.Deps{Healthy: func(string) (float64, bool) { return health, true }, Draining: func() bool { return draining }, Now: func() time.Time { return now }}
	match := []config.HeaderMatch{{Name: ":path", String: &config.StringMatch{Value: "/healthz"}}}
	ch := chain(t, deps, &config.HealthFilter{Headers: match, MinHealthy: map[string]float64{"c": 50}})
	ask := func(ch *filter.Chain, path string, status int) string {
		c := context("GET", path)
		if exchange(ch, c, status) == filter.Reply {
			return c.Local.Detail
		}
		return ""
	}
	if got := ask(ch, "/healthz", 200); got != "health_check_ok" {
		t.Error(got)
	}
	if got := ask(ch, "/other", 200); got != "" {
		t.Error(got)
	}
	health = 49
	if got := ask(ch, "/healthz", 200); got != "health_check_failed_cluster_unhealthy" {
		t.Error(got)
	}
	draining = true
	if got := ask(ch, "/healthz", 200); got != "health_check_failed" {
		t.Error(got)
	}
	draining = false
	cached := chain(t, deps, &config.HealthFilter{PassThrough: true, Headers: match, CacheTime: time.Second})
	if ask(cached, "/healthz", 500) != "" || ask(cached, "/healthz", 200) != "health_check_cached" {
		t.Error("an answer was not remembered")
	}
	now = now.Add(2 * time.Second)
	if ask(cached, "/healthz", 200) != "" {
		t.Error("an answer was remembered for too long")
	}
}

func TestRateLimit(t *testing.T) {
	always := config.Fraction{Num: 100, Den: 100}
	hour := time.Hour
	bucket := &config.RateLimit{Max: 2, PerFill: 1, Interval: hour}
	ch := chain(t, filter.Deps{}, &config.LocalRateLimit{Bucket: bucket, Enabled: always, Enforced: always, XRateLimit: true, ResponseAdd: []config.HeaderAdd{{Name: "x-who", Value: "%REQ(:path)%"}}})
	for i, want := range []filter.Verdict{filter.Next, filter.Next, filter.Reply} {
		c := context("GET", "/a")
		if v := exchange(ch, c, 200); v != want {
			t.Fatalf("request %d: %d", i, v)
		}
		if field(&c.Resp.Head, "x-ratelimit-limit") != "2" || field(&c.Resp.Head, "x-ratelimit-remaining") != fmt.Sprint(max(1-i, 0)) {
			t.Errorf("request %d: %s of %s", i, field(&c.Resp.Head, "x-ratelimit-remaining"), field(&c.Resp.Head, "x-ratelimit-limit"))
		}
		if want == filter.Reply && (c.Local.Status != 429 || c.Flags != filter.FlagRateLimited || field(&c.Resp.Head, "x-who") != "/a") {
			t.Errorf("%+v %s", c.Local, field(&c.Resp.Head, "x-who"))
		}
	}
	shadow := chain(t, filter.Deps{}, &config.LocalRateLimit{Bucket: &config.RateLimit{Max: 1, Interval: hour}, Enabled: always, RequestAdd: []config.HeaderAdd{{Name: "x-over", Value: "1"}}})
	exchange(shadow, context("GET", "/"), 200)
	c := context("GET", "/")
	if exchange(shadow, c, 200) != filter.Next || field(&c.Req.Head, "x-over") != "1" {
		t.Error("what is not enforced")
	}
}

func TestRateLimitDescriptors(t *testing.T) {
	always := config.Fraction{Num: 100, Den: 100}
	cfg := &config.LocalRateLimit{
		Bucket: &config.RateLimit{Max: 100, Interval: time.Hour}, Enabled: always, Enforced: always,
		Descriptors: []config.LimitDescriptor{
			{Entries: []config.LimitEntry{{Key: "client", Value: "a"}, {Key: "remote_address", Value: "192.0.2.1"}}, Bucket: config.RateLimit{Max: 1, Interval: time.Hour}},
			{Entries: []config.LimitEntry{{Key: "path", Value: "/x"}}, Bucket: config.RateLimit{Max: 2, Interval: time.Hour}},
		},
	}
	route := &config.Route{To: &config.Forward{Cluster: "c", Limits: []config.LimitActions{
		{Actions: []config.LimitAction{{Kind: config.LimitRequestHeader, Key: "client", Header: "x-client"}, {Kind: config.LimitRemoteAddress}}},
		{Actions: []config.LimitAction{{Kind: config.LimitRequestHeader, Key: "path", Header: ":path"}}},
		{Stage: 1, Actions: []config.LimitAction{{Kind: config.LimitGenericKey, Key: "client", Value: "a"}}},
	}}}
	ch := chain(t, filter.Deps{}, cfg)
	var o *filter.Overrides
	send := func(path, client string) filter.Verdict {
		c := context("GET", path, "x-client: "+client)
		scope(t, ch, c, route, nil)
		if o == nil {
			o = c.Overrides
		}
		c.Overrides = o
		return exchange(ch, c, 200)
	}
	for i, tt := range []struct {
		path, client string
		want         filter.Verdict
	}{
		{"/", "a", filter.Next}, {"/", "a", filter.Reply}, {"/", "b", filter.Next}, {"/x", "b", filter.Next}, {"/x", "c", filter.Next}, {"/x", "c", filter.Reply}, {"/y", "c", filter.Next},
	} {
		if v := send(tt.path, tt.client); v != tt.want {
			t.Errorf("%d: %s %s: %d", i, tt.path, tt.client, v)
		}
	}
}

func TestRateLimitIsExactAcrossLoops(t *testing.T) {
	always := config.Fraction{Num: 100, Den: 100}
	ch := chain(t, filter.Deps{}, &config.LocalRateLimit{Bucket: &config.RateLimit{Max: 1000, Interval: time.Hour}, Enabled: always, Enforced: always})
	var wg sync.WaitGroup
	passed := make([]int, 8)
	for i := range passed {
		wg.Go(func() {
			for range 500 {
				if exchange(ch, context("GET", "/"), 200) == filter.Next {
					passed[i]++
				}
			}
		})
	}
	wg.Wait()
	sum := 0
	for _, n := range passed {
		sum += n
	}
	if sum != 1000 {
		t.Errorf("%d of 1000 tokens were taken", sum)
	}
}

func TestBucketsOutliveConfigurations(t *testing.T) {
	always := config.Fraction{Num: 100, Den: 100}
	per := &config.LocalRateLimit{Bucket: &config.RateLimit{Max: 1, Interval: time.Hour}, Enabled: always, Enforced: always}
	cfgs := []*config.HTTPFilter{{Name: "l", Config: &config.LocalRateLimit{}}, {Name: "router", Config: &config.RouterFilter{}}}
	rc := func() *config.RouteConfig {
		return &config.RouteConfig{Hosts: []*config.VirtualHost{{Domains: []string{"*"}, PerFilter: map[string]any{"l": per}, Routes: []*config.Route{{To: &config.Forward{Cluster: "c"}}, {To: &config.Forward{Cluster: "d"}}}}}}
	}
	var ch *filter.Chain
	var o *filter.Overrides
	for i, want := range []filter.Verdict{filter.Next, filter.Reply} {
		var err error
		if ch, err = stock.Chain(cfgs, filter.Deps{}, ch); err != nil {
			t.Fatal(err)
		}
		cfg := rc()
		if _, err = router.Compile(cfg); err != nil {
			t.Fatal(err)
		}
		if o, err = ch.Scope(cfg, o); err != nil {
			t.Fatal(err)
		}
		c := context("GET", "/")
		c.Overrides, c.Route = o, cfg.Hosts[0].Routes[i] // one bucket for all routes of the host
		if v := exchange(ch, c, 200); v != want {
			t.Errorf("request %d: %d", i, v)
		}
	}
}

func TestChainRefuses(t *testing.T) {
	r := func(n string) *config.HTTPFilter { return &config.HTTPFilter{Name: n, Config: &config.RouterFilter{}} }
	b := &config.HTTPFilter{Name: "b", Config: &config.Buffer{Max: 1}}
	for name, fs := range map[string][]*config.HTTPFilter{
		"none": nil, "no router": {b}, "router first": {r("r"), b, r("s")}, "one name twice": {b, b, r("r")}, "unknown": {{Name: "x", Config: 1}, r("r")},
		"no limit": {{Name: "x", Config: &config.Buffer{}}, r("r")}, "wildcard": {{Name: "x", Config: &config.LocalRateLimit{Descriptors: []config.LimitDescriptor{{Entries: []config.LimitEntry{{Key: "k"}}, Bucket: config.RateLimit{Max: 1, Interval: time.Second}}}}}, r("r")},
	} {
		if _, err := stock.Chain(fs, filter.Deps{}, nil); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	ch := chain(t, filter.Deps{}, &config.GRPCWeb{})
	if _, err := ch.Scope(&config.RouteConfig{Hosts: []*config.VirtualHost{{Routes: []*config.Route{{PerFilter: map[string]any{"f0": &config.CORS{}}}}}}}, nil); err == nil {
		t.Error("a configuration per route that the filter does not have was taken")
	}
}

func TestStrictCheck(t *testing.T) {
	ch, err := stock.Chain([]*config.HTTPFilter{{Name: "r", Config: &config.RouterFilter{StrictCheck: []string{"x-envoy-max-retries", "x-envoy-retry-on"}}}}, filter.Deps{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[string]filter.Verdict{"x-envoy-max-retries: 3": filter.Next, "x-envoy-max-retries: x": filter.Reply, "x-envoy-retry-on: 5xx,reset": filter.Next, "x-envoy-retry-on: whim": filter.Reply} {
		if v := exchange(ch, context("GET", "/", f), 200); v != want {
			t.Errorf("%s: %d", f, v)
		}
	}
}

func TestChainDoesNotAllocate(t *testing.T) {
	always := config.Fraction{Num: 100, Den: 100}
	anyone := []*config.RBACRule{{Any: true}}
	ch := chain(t, filter.Deps{},
		&config.CORS{}, &config.CSRF{Enabled: always}, &config.Fault{Headers: []config.HeaderMatch{{Name: "x-chaos"}}},
		&config.LocalRateLimit{Bucket: &config.RateLimit{Max: 1 << 30, Interval: time.Second}, Enabled: always, Enforced: always, XRateLimit: true},
		&config.RBACFilter{Rules: &config.RBAC{Policies: map[string]*config.RBACPolicy{"all": {Permissions: anyone, Principals: anyone}}}},
		&config.HeaderMutation{Request: []config.Mutation{{Add: &config.HeaderAdd{Name: "x-a", Value: "%REQ(:method)%"}}}},
		&config.Compressor{}, &config.GRPCWeb{}, &config.Buffer{Max: 100})
	c := context("GET", "/", "Origin: https://a", "Accept: */*")
	scope(t, ch, c, &config.Route{}, map[string]any{"f0": &config.CORS{Origins: []config.StringMatch{{Value: "https://a"}}}})
	c.Slots = make([]any, ch.Len())
	c.Resp = &message.Response{Status: 200}
	buf, fields := len(c.Req.Buf), len(c.Req.Fields)
	if n := testing.AllocsPerRun(100, func() {
		c.Req.Buf, c.Req.Fields = c.Req.Buf[:buf], c.Req.Fields[:fields]
		c.Resp.Reset()
		c.Resp.Status = 200
		if ch.Request(c, 0) != filter.Next {
			t.Fatal("refused")
		}
		ch.Response(c)
		ch.End(c)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
