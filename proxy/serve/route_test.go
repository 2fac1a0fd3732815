// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"fmt"
	"math"
	"net/http"
	"strings"
	"testing"
)

// TestRouting holds all that routes select by.
func TestRouting(t *testing.T) {
	whole(t)
	w := open(t, site{
		hosts: `
- name: shop
  domains: [shop.bank, "shop.bank:*"]
  routes:
  - {match: {path: /exact}, direct_response: {status: 200, body: {inline_string: exact}}}
  - {match: {path: /Case, case_sensitive: false}, direct_response: {status: 200, body: {inline_string: case}}}
  - {match: {path_separated_prefix: /dir}, direct_response: {status: 200, body: {inline_string: dir}}}
  - {match: {safe_regex: {regex: "/acc/[0-9]+"}}, direct_response: {status: 200, body: {inline_string: regex}}}
  - {match: {prefix: /h, headers: [{name: x-tenant, string_match: {exact: gold}}]}, direct_response: {status: 200, body: {inline_string: gold}}}
  - {match: {prefix: /h, headers: [{name: x-n, range_match: {start: 5, end: 10}}]}, direct_response: {status: 200, body: {inline_string: range}}}
  - {match: {prefix: /h, headers: [{name: x-absent, present_match: true, invert_match: true}, {name: ":method", string_match: {exact: DELETE}}]}, direct_response: {status: 200, body: {inline_string: delete}}}
  - {match: {prefix: /h}, direct_response: {status: 200, body: {inline_string: none}}}
  - {match: {prefix: /q, query_parameters: [{name: v, string_match: {prefix: b}}]}, direct_response: {status: 200, body: {inline_string: query}}}
  - {match: {prefix: /q, query_parameters: [{name: w, present_match: true}]}, direct_response: {status: 200, body: {inline_string: present}}}
  - {match: {prefix: /g, grpc: {}}, direct_response: {status: 200, body: {inline_string: grpc}}}
- name: suffix
  domains: ["*.shop.bank"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: suffix}}}]
- name: prefix
  domains: ["api.*"]
  routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: prefix}}}]
- name: rest
  domains: ["*"]
  routes: [{match: {prefix: /only}, direct_response: {status: 204}}]`})
	for _, two := range []bool{false, true} {
		c := plain(t, two)
		for _, x := range []struct {
			target, host string
			fields       []string
			want         string
		}{
			{"/exact", "shop.bank", nil, "200 exact"},
			{"/exact?q=1", "SHOP.bank", nil, "200 exact"},
			{"/exact/", "shop.bank", nil, "404 "},
			{"/exact", "shop.bank:8443", nil, "200 exact"},
			{"/cAsE", "shop.bank", nil, "200 case"},
			{"/dir", "shop.bank", nil, "200 dir"},
			{"/dir/a", "shop.bank", nil, "200 dir"},
			{"/directory", "shop.bank", nil, "404 "},
			{"/acc/12?x=/", "shop.bank", nil, "200 regex"},
			{"/acc/12/3", "shop.bank", nil, "404 "},
			{"/h", "shop.bank", []string{"X-Tenant", "gold"}, "200 gold"},
			{"/h", "shop.bank", []string{"X-Tenant", "golden"}, "200 none"},
			{"/h", "shop.bank", []string{"X-N", "9"}, "200 range"},
			{"/h", "shop.bank", []string{"X-N", "10"}, "200 none"},
			{"DELETE /h", "shop.bank", nil, "200 delete"},
			{"DELETE /h", "shop.bank", []string{"X-Absent", "1"}, "200 none"},
			{"/q?a=1&v=bx", "shop.bank", nil, "200 query"},
			{"/q?v=x&w", "shop.bank", nil, "200 present"},
			{"/q?v=x", "shop.bank", nil, "404 "},
			{"POST /g", "shop.bank", []string{"Content-Type", "application/json"}, "404 "},
			{"/x", "eu.shop.bank", nil, "200 suffix"},
			{"/x", "api.example", nil, "200 prefix"},
			{"/only", "else.where", nil, "204 "},
			{"/other", "else.where", nil, "404 "},
			// What normalises to the same is the same.
			{"/./dir/../exact", "shop.bank", nil, "200 exact"},
			{"/%65xact", "shop.bank", nil, "200 exact"},
		} {
			a := w.ask(c, x.target, "", append([]string{"host", x.host}, x.fields...)...)
			got := fmt.Sprint(a.StatusCode, " ", a.body)
			if a.StatusCode == 404 {
				got = "404 "
			}
			if got != x.want {
				t.Errorf("%s %s %v: %q, want %q", x.host, x.target, x.fields, got, x.want)
			}
		}
	}
}

// TestWeights draws 10,000 times and holds the shares to chi-square.
func TestWeights(t *testing.T) {
	whole(t)
	w := open(t, site{routes: `
- match: {prefix: /w}
  route: {weighted_clusters: {clusters: [{name: a, weight: 50}, {name: b, weight: 30}, {name: c, weight: 20}, {name: d, weight: 0}]}}
- match: {prefix: /f, runtime_fraction: {default_value: {numerator: 25, denominator: HUNDRED}}}
  route: {cluster: a}
- match: {prefix: /f}
  route: {cluster: b}`,
		clusters: []string{host("a", "", says(t, "a")), host("b", "", says(t, "b")), host("c", "", says(t, "c")), host("d", "", says(t, "d"))}})
	c := plain(t, false)
	for _, x := range []struct {
		path  string
		share map[string]float64
		limit float64 // chi-square at 0.0001
	}{{"/w", map[string]float64{"a": .5, "b": .3, "c": .2}, 18.42}, {"/f", map[string]float64{"a": .25, "b": .75}, 15.14}} {
		const n = 10000
		got := map[string]float64{}
		for range n {
			got[w.ask(c, x.path, "").body]++
		}
		chi := 0.0
		for name, p := range x.share {
			chi += math.Pow(got[name]-p*n, 2) / (p * n)
		}
		if chi > x.limit || len(got) != len(x.share) {
			t.Errorf("%s: %v, chi-square %.1f", x.path, got, chi)
		}
	}
}

// TestRewrites changes what the origin sees.
func TestRewrites(t *testing.T) {
	whole(t)
	at := mirrorOf(t)
	w := open(t, site{
		manager: "use_remote_address: true\nvia: edge\ngenerate_request_id: true\nstrip_matching_host_port: true",
		routes: `
- {match: {prefix: /pre/}, route: {cluster: one, prefix_rewrite: /new/}}
- {match: {safe_regex: {regex: "/re/.*"}}, route: {cluster: one, regex_rewrite: {pattern: {regex: "^/re/([^/]+)/(.*)$"}, substitution: '/\2/\1'}}}
- {match: {prefix: /lit}, route: {cluster: one, host_rewrite_literal: inner.bank, append_x_forwarded_host: true}}
- {match: {prefix: /hdr}, route: {cluster: one, host_rewrite_header: x-host}}
- {match: {prefix: /auto}, route: {cluster: named, auto_host_rewrite: true}}
- match: {prefix: /ops}
  route: {cluster: one}
  request_headers_to_add:
  - {header: {key: x-client, value: "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}, append_action: OVERWRITE_IF_EXISTS_OR_ADD}
  - {header: {key: x-mixed, value: "a-%REQ(x-in)%-%PROTOCOL%"}}
  - {header: {key: x-if, value: new}, append_action: ADD_IF_ABSENT}
  request_headers_to_remove: [x-secret]
  response_headers_to_add: [{header: {key: x-route, value: "%ROUTE_NAME%|%UPSTREAM_CLUSTER%|%RESPONSE_CODE%"}}]
  response_headers_to_remove: [x-powered-by]
  name: ops
- {match: {prefix: /}, route: {cluster: one}}`,
		clusters: []string{host("one", "", at),
			fmt.Sprintf("{name: named, load_assignment: {cluster_name: named, endpoints: [{lb_endpoints: [{endpoint: {hostname: ledger.internal, address: {socket_address: {address: %s, port_value: %d}}}}]}]}}", at.Addr(), at.Port())}})
	for _, two := range []bool{false, true} {
		c := plain(t, two)
		for _, x := range []struct {
			target string
			fields []string
			want   string // first line
			has    []string
			not    []string
		}{
			{"/pre/a?b=c", []string{"host", "x"}, "GET x /new/a?b=c", []string{"X-Envoy-Original-Path: /pre/a?b=c"}, nil},
			{"/re/one/two?q", []string{"host", "x"}, "GET x /two/one?q", nil, nil},
			{"/lit", []string{"host", "outer.bank"}, "GET inner.bank /lit", []string{"X-Forwarded-Host: outer.bank"}, nil},
			{"/hdr", []string{"host", "x", "X-Host", "by.field"}, "GET by.field /hdr", nil, nil},
			{"/auto", []string{"host", "x"}, "GET ledger.internal /auto", nil, nil},
			{"/ops", []string{"host", "x", "X-Secret", "s", "X-In", "v", "X-If", "old", "X-Client", "forged"}, "GET x /ops",
				[]string{"X-Client: 127.0.0.1", "X-If: old", "X-Mixed: a-v-HTTP/"}, []string{"X-Secret", "forged"}},
			{"/y", []string{"host", "x", "X-Forwarded-For", "6.6.6.6"}, "GET x /y", []string{"X-Forwarded-For: 6.6.6.6, 127.0.0.1", "X-Forwarded-Proto: http", "X-Request-Id: ", "Via: edge"}, nil},
		} {
			a := w.ask(c, x.target, "", x.fields...)
			first, rest, _ := strings.Cut(a.body, "\n")
			if first != x.want {
				t.Errorf("%s: %q, want %q", x.target, first, x.want)
			}
			for _, h := range x.has {
				if !strings.Contains(rest, h) {
					t.Errorf("%s: no %q in %q", x.target, h, rest)
				}
			}
			for _, h := range x.not {
				if strings.Contains(rest, h) {
					t.Errorf("%s: %q in %q", x.target, h, rest)
				}
			}
			if x.target == "/ops" && a.Header.Get("X-Route") != "ops|one|200" {
				t.Errorf("x-route %q", a.Header.Get("X-Route"))
			}
		}
	}
}

// TestRedirects answers with where to go.
func TestRedirects(t *testing.T) {
	whole(t)
	w := open(t, site{hosts: `
- name: tls
  domains: [tls.bank]
  require_tls: ALL
  routes: [{match: {prefix: /}, direct_response: {status: 200}}]
- name: all
  domains: ["*"]
  routes:
  - {match: {prefix: /https}, redirect: {https_redirect: true}}
  - {match: {prefix: /host}, redirect: {host_redirect: other.bank, port_redirect: 8443, response_code: FOUND}}
  - {match: {prefix: /path}, redirect: {path_redirect: "/new?x=1", response_code: PERMANENT_REDIRECT}}
  - {match: {prefix: /pre}, redirect: {prefix_rewrite: /post, strip_query: true, response_code: SEE_OTHER}}
  - {match: {prefix: /re}, redirect: {regex_rewrite: {pattern: {regex: "^/re/(.*)$"}, substitution: '/\1/r'}, response_code: TEMPORARY_REDIRECT}}
  - {match: {prefix: /text}, direct_response: {status: 403, body: {inline_string: "no"}}, response_headers_to_add: [{header: {key: x-why, value: because}}]}`})
	c := plain(t, false)
	for _, x := range []struct{ target, host, want string }{
		{"/https?a=b", "bank:80", "301 https://bank/https?a=b"},
		{"/x", "tls.bank", "301 https://tls.bank/x"},
		{"/host/a", "x", "302 http://other.bank:8443/host/a"},
		{"/path?y=2", "x", "308 http://x/new?x=1"},
		{"/prefix/a?b", "x", "303 http://x/postfix/a"},
		{"/re/a/b?c", "x", "307 http://x/a/b/r?c"},
		{"/text", "x", "403 "},
	} {
		a := w.ask(c, x.target, "", "host", x.host)
		if got := fmt.Sprint(a.StatusCode, " ", a.Header.Get("Location")); got != x.want {
			t.Errorf("%s: %q, want %q", x.target, got, x.want)
		}
	}
	if a := w.ask(c, "/text", ""); a.body != "no" || a.Header.Get("X-Why") != "because" {
		t.Error(a)
	}
	// A body nobody reads does not cost the connection, if it came whole.
	k := dialTo(t, w.at)
	for range 3 {
		k.say("POST /text HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello")
		if a := k.response("POST"); a.StatusCode != http.StatusForbidden {
			t.Error(a)
		}
	}
}
