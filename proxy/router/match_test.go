// SPDX-License-Identifier: Apache-2.0

package router_test

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"regexp"
	"strings"
	"testing"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// request makes a context; fields are "name: value".
func request(method, host, path string, fields ...string) *filter.Context {
	r := &message.Request{Proto: message.HTTP11}
	r.Method, r.Authority, r.Path, r.Scheme = r.PutString(method), r.PutString(host), r.PutString(path), r.PutString("http")
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		r.AddString(n, v)
	}
	return &filter.Context{Conn: &filter.ConnInfo{}, Req: r, Rand: func() uint64 { return 7 }}
}

func to(cluster string) *config.Forward { return &config.Forward{Cluster: cluster} }

func compile(t testing.TB, rc *config.RouteConfig) *router.Table {
	t.Helper()
	table, err := router.Compile(rc)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func one(routes ...*config.Route) *config.RouteConfig {
	return &config.RouteConfig{Hosts: []*config.VirtualHost{{Name: "v", Domains: []string{"*"}, Routes: routes}}}
}

func name(r *config.Route) string {
	if r == nil {
		return "none"
	}
	return r.Name
}

func TestVirtualHost(t *testing.T) {
	host := func(n string, domains ...string) *config.VirtualHost {
		return &config.VirtualHost{Name: n, Domains: domains, Routes: []*config.Route{{Name: n, To: to("c")}}}
	}
	hosts := []*config.VirtualHost{
		host("exact", "bank.example", "bank.example:8443"), host("suffix", "*.bank.example"), host("longer", "*.pay.bank.example"), host("dash", "*-x.bank.example"),
		host("prefix", "bank.*"), host("longprefix", "bank.exa*"), host("any", "*"),
	}
	for _, ignore := range []bool{false, true} {
		table := compile(t, &config.RouteConfig{Hosts: hosts, IgnorePort: ignore})
		for authority, want := range map[string][2]string{
			"bank.example": {"exact", "exact"}, "BANK.Example": {"exact", "exact"}, "bank.example:8443": {"exact", "exact"},
			"bank.example:80": {"longprefix", "exact"}, "a.bank.example": {"suffix", "suffix"}, "a.pay.bank.example": {"longer", "longer"},
			".bank.example": {"any", "any"}, "a-x.bank.example": {"dash", "dash"}, "bank.org": {"prefix", "prefix"}, "bank.": {"any", "any"}, "": {"any", "any"},
			"a.bank.example:80": {"any", "suffix"}, "[::1]:80": {"any", "any"}, strings.Repeat("a", 300) + ".bank.example": {"any", "any"},
		} {
			w := want[0]
			if ignore {
				w = want[1]
			}
			if got := name(table.Match(request("GET", authority, "/"))); got != w {
				t.Errorf("%q, ports ignored %v: %s, want %s", authority, ignore, got, w)
			}
		}
	}
	if _, err := router.Compile(&config.RouteConfig{Hosts: []*config.VirtualHost{host("a", "x"), host("b", "X")}}); err == nil {
		t.Error("one domain of two virtual hosts was taken")
	}
}

func TestPaths(t *testing.T) {
	route := func(m config.Match) *config.Route { return &config.Route{Name: "r", Match: m, To: to("c")} }
	for _, tt := range []struct {
		m    config.Match
		path string
		want bool
	}{
		{config.Match{Path: "/a"}, "/abc", true},
		{config.Match{Path: "/a"}, "/A", false},
		{config.Match{Path: "/a", IgnoreCase: true}, "/Ab", true},
		{config.Match{Path: "/a?"}, "/a?x", false},
		{config.Match{Kind: config.Exact, Path: "/a"}, "/a?q=1", true},
		{config.Match{Kind: config.Exact, Path: "/a"}, "/a#f", true},
		{config.Match{Kind: config.Exact, Path: "/a"}, "/a/", false},
		{config.Match{Kind: config.Exact, Path: "/A", IgnoreCase: true}, "/a", true},
		{config.Match{Kind: config.PathPrefix, Path: "/a"}, "/a", true},
		{config.Match{Kind: config.PathPrefix, Path: "/a"}, "/a?x", true},
		{config.Match{Kind: config.PathPrefix, Path: "/a"}, "/a/b", true},
		{config.Match{Kind: config.PathPrefix, Path: "/a"}, "/ab", false},
		{config.Match{Kind: config.PathPrefix, Path: "/A/b", IgnoreCase: true}, "/a/B/", true},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`/a|/ab`)}, "/ab", true},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`/a`)}, "/ab", false},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`/a`)}, "/x/a", false},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`/a[0-9]+`)}, "/a12?q", true},
		{config.Match{Kind: config.Regex, Regex: regexp.MustCompile(`(?i)/A`)}, "/a", true},
		{config.Match{Kind: config.Connect}, "/a", false},
	} {
		if got := compile(t, one(route(tt.m))).Match(request("GET", "h", tt.path)) != nil; got != tt.want {
			t.Errorf("%+v on %s: %v", tt.m, tt.path, got)
		}
	}
	table := compile(t, one(&config.Route{Name: "p", Match: config.Match{Path: "/"}, To: to("c")}, &config.Route{Name: "c", Match: config.Match{Kind: config.Connect}, To: to("c")}))
	if got := name(table.Match(request("CONNECT", "h:443", ""))); got != "c" {
		t.Errorf("CONNECT: %s", got)
	}
}

func TestConditions(t *testing.T) {
	yes, no := true, false
	text := func(v string) *config.StringMatch { return &config.StringMatch{Value: v} }
	for _, tt := range []struct {
		name string
		m    config.Match
		c    *filter.Context
		want bool
	}{
		{"header exact", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1")}}}, request("GET", "h", "/", "X: 1"), true},
		{"header on two lines", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1")}}}, request("GET", "h", "/", "X: 1", "X: 2"), false},
		{"header on two lines, joined", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1,2")}}}, request("GET", "h", "/", "X: 1", "X: 2"), true},
		{"inverted", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1"), Invert: true}}}, request("GET", "h", "/", "X: 2"), true},
		{"inverted and missing", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1"), Invert: true}}}, request("GET", "h", "/"), false},
		{"inverted, missing is empty", config.Match{Headers: []config.HeaderMatch{{Name: "x", String: text("1"), Invert: true, MissingIsEmpty: true}}}, request("GET", "h", "/"), true},
		{"present", config.Match{Headers: []config.HeaderMatch{{Name: "x", Present: &yes}}}, request("GET", "h", "/", "X: "), true},
		{"absent", config.Match{Headers: []config.HeaderMatch{{Name: "x", Present: &no}}}, request("GET", "h", "/"), true},
		{"absent inverted", config.Match{Headers: []config.HeaderMatch{{Name: "x", Present: &no, Invert: true}}}, request("GET", "h", "/"), false},
		{"range", config.Match{Headers: []config.HeaderMatch{{Name: "x", Range: &config.Range{From: -10, To: 0}}}}, request("GET", "h", "/", "X: -1"), true},
		{"range end", config.Match{Headers: []config.HeaderMatch{{Name: "x", Range: &config.Range{From: -10, To: 0}}}}, request("GET", "h", "/", "X: 0"), false},
		{"range text", config.Match{Headers: []config.HeaderMatch{{Name: "x", Range: &config.Range{From: -10, To: 10}}}}, request("GET", "h", "/", "X: 1a"), false},
		{"method", config.Match{Headers: []config.HeaderMatch{{Name: ":method", String: text("GET")}}}, request("GET", "h", "/"), true},
		{"query", config.Match{Query: []config.QueryMatch{{Name: "a", String: text("1")}}}, request("GET", "h", "/?b=2&a=1"), true},
		{"query first counts", config.Match{Query: []config.QueryMatch{{Name: "a", String: text("1")}}}, request("GET", "h", "/?a=2&a=1"), false},
		{"query present", config.Match{Query: []config.QueryMatch{{Name: "a", Present: &yes}}}, request("GET", "h", "/?a"), true},
		{"query absent", config.Match{Query: []config.QueryMatch{{Name: "a", Present: &no}}}, request("GET", "h", "/?a"), false},
		{"grpc", config.Match{GRPC: true}, request("POST", "h", "/", "Content-Type: application/grpc+proto"), true},
		{"not grpc", config.Match{GRPC: true}, request("POST", "h", "/", "Content-Type: application/grpc-web"), false},
		{"fraction in", config.Match{Fraction: &config.Fraction{Num: 8, Den: 100}}, request("GET", "h", "/"), true},
		{"fraction out", config.Match{Fraction: &config.Fraction{Num: 7, Den: 100}}, request("GET", "h", "/"), false},
		{"no certificate", config.Match{TLS: &config.TLSMatch{Presented: &no}}, request("GET", "h", "/"), true},
		{"certificate", config.Match{TLS: &config.TLSMatch{Presented: &yes}}, request("GET", "h", "/"), false},
	} {
		tt.m.Path = "/"
		if got := compile(t, one(&config.Route{Match: tt.m, To: to("c")})).Match(tt.c) != nil; got != tt.want {
			t.Errorf("%s: %v", tt.name, got)
		}
	}
}

func TestRequireTLS(t *testing.T) {
	rc := one(&config.Route{Name: "r", Match: config.Match{Path: "/"}, To: to("c")})
	rc.Hosts[0].RequireTLS = true
	table := compile(t, rc)
	c := request("GET", "bank.example:80", "/a?b")
	c.Route = table.Match(c)
	if c.Route == nil || c.Route.Redirect == nil || c.Route.Index >= table.Len() {
		t.Fatalf("%+v", c.Route)
	}
	if got := string(table.Location(nil, c)); got != "https://bank.example/a?b" {
		t.Error(got)
	}
	c.Req.Scheme = c.Req.PutString("https")
	if got := name(table.Match(c)); got != "r" {
		t.Error(got)
	}
}

// naive is the definition: the first route of the list that matches.
func naive(rc *config.RouteConfig, c *filter.Context) *config.Route {
	p := c.Req.PathOnly()
	for _, r := range rc.Hosts[0].Routes {
		m := &r.Match
		path, want := string(p), m.Path
		if m.IgnoreCase {
			path, want = strings.ToLower(path), strings.ToLower(want)
		}
		ok := false
		switch m.Kind {
		case config.Prefix:
			ok = strings.HasPrefix(path, want)
		case config.Exact:
			ok = path == want
		case config.PathPrefix:
			ok = path == want || strings.HasPrefix(path, want+"/")
		case config.Regex:
			loc := regexp.MustCompile(`\A(?:` + m.Regex.String() + `)\z`).FindIndex(p)
			ok = loc != nil
		}
		for _, h := range m.Headers {
			v, there := c.Req.Find(h.Name)
			ok = ok && there && string(v) == h.String.Value
		}
		if ok {
			return r
		}
	}
	return nil
}

func TestMatchIsTheLinearScan(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	words := []string{"a", "b", "ab", "A", "aB", "abc", "", "x", "api", "v1"}
	somePath := func(depth int) string {
		var b strings.Builder
		for range rnd.IntN(depth) + 1 {
			b.WriteString("/" + words[rnd.IntN(len(words))])
		}
		return b.String()
	}
	for round := range 400 {
		var routes []*config.Route
		depth := 4
		if round%10 == 0 {
			depth = 40 // nests deeper than one search merges
		}
		for i := range rnd.IntN(60) + 1 {
			m := config.Match{Kind: config.PathKind(rnd.IntN(4)), Path: somePath(depth), IgnoreCase: rnd.IntN(3) == 0}
			switch m.Kind {
			case config.PathPrefix:
				if m.Path = "/p" + strings.TrimRight(m.Path, "/"); rnd.IntN(2) == 0 {
					m.Path = "/" + words[rnd.IntN(6)]
				}
			case config.Regex:
				exprs := []string{`/a.*`, `.*b`, `/(a|b)/?`, regexp.QuoteMeta(m.Path) + `[^/]*`, `/api/v\d`}
				m.Regex, m.IgnoreCase = regexp.MustCompile(exprs[rnd.IntN(len(exprs))]), false
			}
			if rnd.IntN(3) == 0 {
				m.Headers = []config.HeaderMatch{{Name: "x-k", String: &config.StringMatch{Value: fmt.Sprint(rnd.IntN(3))}}}
			}
			routes = append(routes, &config.Route{Name: fmt.Sprint(i), Match: m, To: to("c")})
		}
		rc := one(routes...)
		table := compile(t, rc)
		for range 60 {
			c := request("GET", "h", somePath(depth)+[]string{"", "?q", "/"}[rnd.IntN(3)], "X-K: "+fmt.Sprint(rnd.IntN(3)))
			if got, want := table.Match(c), naive(rc, c); got != want {
				t.Fatalf("%s: route %s, a linear scan says %s", c.Req.In(c.Req.Path), name(got), name(want))
			}
		}
	}
}

func many(n int) (*config.RouteConfig, []*filter.Context) {
	rc := one()
	v := rc.Hosts[0]
	var cs []*filter.Context
	for i := range n {
		m := config.Match{Kind: config.PathKind(i % 3), Path: fmt.Sprintf("/bank/service-%05d/accounts", i)}
		v.Routes = append(v.Routes, &config.Route{Name: fmt.Sprint(i), Match: m, To: to("c")})
		if i%max(n/16, 1) == 0 {
			cs = append(cs, request("GET", "bank.example", m.Path, "User-Agent: test", "Accept: */*"))
		}
	}
	return rc, cs
}

func TestMatchDoesNotAllocate(t *testing.T) {
	rc, cs := many(10000)
	rc.Hosts[0].Domains = []string{"bank.example", "*.bank.example"}
	table := compile(t, rc)
	cs = append(cs, request("GET", "a.bank.example", "/none"))
	if n := testing.AllocsPerRun(100, func() {
		for _, c := range cs {
			table.Match(c)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	for _, n := range []int{10, 101, 10000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			rc, cs := many(n)
			table := compile(b, rc)
			b.ReportAllocs()
			for i := range b.N {
				if table.Match(cs[i%len(cs)]) == nil {
					b.Fatal("no route")
				}
			}
		})
	}
}

func BenchmarkCompile10000(b *testing.B) {
	rc, _ := many(10000)
	for b.Loop() {
		compile(b, rc)
	}
}

func TestLocation(t *testing.T) {
	for _, tt := range []struct {
		m          config.Match
		r          config.Redirect
		scheme     string
		host, path string
		want       string
	}{
		{config.Match{Path: "/"}, config.Redirect{HTTPS: true}, "http", "h:80", "/a", "https://h/a"},
		{config.Match{Path: "/"}, config.Redirect{HTTPS: true}, "http", "h:8080", "/a", "https://h:8080/a"},
		{config.Match{Path: "/"}, config.Redirect{Scheme: "http"}, "https", "[::1]:443", "/", "http://[::1]/"},
		{config.Match{Path: "/"}, config.Redirect{Port: 8443}, "http", "h:80", "/a", "http://h:8443/a"},
		{config.Match{Path: "/"}, config.Redirect{Host: "n", Port: 1}, "http", "h", "/a?q", "http://n:1/a?q"},
		{config.Match{Path: "/"}, config.Redirect{Path: "/new"}, "http", "h", "/a?q=1", "http://h/new?q=1"},
		{config.Match{Path: "/"}, config.Redirect{Path: "/new?x", StripQuery: true}, "http", "h", "/a?q=1", "http://h/new?x"},
		{config.Match{Path: "/"}, config.Redirect{Path: "/new", StripQuery: true}, "http", "h", "/a?q=1", "http://h/new"},
		{config.Match{Path: "/a"}, config.Redirect{Prefix: "/n", PrefixSet: true}, "http", "h", "/a/b?q", "http://h/n/b?q"},
		{config.Match{Path: "/a/"}, config.Redirect{Prefix: "/", PrefixSet: true}, "http", "h", "/a/b?q", "http://h/b?q"},
		{config.Match{Path: "/"}, config.Redirect{RegexRewrite: &config.RegexRewrite{Regex: regexp.MustCompile(`/(\w+)/(\w+)`), Subst: `/\2/\1`}}, "http", "h", "/a/b?q=/x/y", "http://h/b/a?q=/x/y"},
	} {
		table := compile(t, one(&config.Route{Match: tt.m, Redirect: &tt.r}))
		c := request("GET", tt.host, tt.path)
		c.Req.Scheme = c.Req.PutString(tt.scheme)
		if c.Route = table.Match(c); c.Route == nil {
			t.Fatalf("%+v: no route", tt)
		}
		if got := string(table.Location(nil, c)); got != tt.want {
			t.Errorf("%+v %s %s: %s, want %s", tt.r, tt.host, tt.path, got, tt.want)
		}
	}
}

func dump(h *message.Head) string {
	var b bytes.Buffer
	for i := range h.Fields {
		if f := &h.Fields[i]; !f.Drop {
			fmt.Fprintf(&b, "%s=%s;", bytes.ToLower(h.In(f.Name)), h.In(f.Value))
		}
	}
	return b.String()
}
