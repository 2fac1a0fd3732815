// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
)

const always = "{default_value: {numerator: 100}}"

// TestFaults delays, aborts and slows.
func TestFaults(t *testing.T) {
	whole(t)
	w := open(t, site{filters: `
- name: delay
  typed_config: {$http.fault.v3.HTTPFault, headers: [{name: x-delay, present_match: true}], delay: {fixed_delay: 0.1s, percentage: {numerator: 100}}}
- name: abort
  typed_config: {$http.fault.v3.HTTPFault, headers: [{name: x-abort, present_match: true}], abort: {http_status: 418, percentage: {numerator: 100}}}
- name: grpc
  typed_config: {$http.fault.v3.HTTPFault, headers: [{name: x-grpc, present_match: true}], abort: {grpc_status: 5, percentage: {numerator: 100}}}
- name: rate
  typed_config: {$http.fault.v3.HTTPFault, headers: [{name: x-rate, present_match: true}], response_rate_limit: {fixed_limit: {limit_kbps: 100}, percentage: {numerator: 100}}}`,
		routes: each, clusters: []string{host("one", "", mirrorOf(t))}})
	for _, h2 := range []bool{false, true} {
		c := plain(t, h2)
		began := time.Now()
		if a := w.ask(c, "POST /", "body", "X-Delay", "1"); a.StatusCode != 200 || !strings.HasSuffix(a.body, "body") || time.Since(began) < 100*time.Millisecond {
			t.Error(a, time.Since(began))
		}
		if a := w.ask(c, "POST /", "body", "X-Abort", "1"); a.StatusCode != 418 {
			t.Error(a)
		}
		began = time.Now()
		if a := w.ask(c, "POST /", "body", "X-Abort", "1", "X-Delay", "1"); a.StatusCode != 418 || time.Since(began) < 100*time.Millisecond {
			t.Error(a, time.Since(began))
		}
		if a := w.ask(c, "POST /", "", "X-Grpc", "1", "Content-Type", "application/grpc"); a.StatusCode != 200 || a.Header.Get("Grpc-Status") != "5" {
			t.Error(a)
		}
		began = time.Now()
		body := strings.Repeat("r", 50<<10)
		if a := w.ask(c, "POST /", body, "X-Rate", "1"); !strings.HasSuffix(a.body, body) || time.Since(began) < 300*time.Millisecond {
			t.Error(a.Status, len(a.body), time.Since(began))
		}
		if a := w.ask(c, "/", ""); a.StatusCode != 200 {
			t.Error(a)
		}
	}
}

// TestCORSandCSRF answers browsers.
func TestCORSandCSRF(t *testing.T) {
	whole(t)
	w := open(t, site{filters: `
- {name: cors, typed_config: {$http.cors.v3.Cors}}
- {name: csrf, typed_config: {$http.csrf.v3.CsrfPolicy, filter_enabled: ` + always + `, additional_origins: [{exact: good.bank}]}}`,
		hosts: `
- name: a
  domains: ["*"]
  typed_per_filter_config:
    cors: {$http.cors.v3.CorsPolicy, allow_origin_string_match: [{suffix: .good.bank}], allow_methods: "GET, POST", allow_headers: x-a, expose_headers: x-b, max_age: "600", allow_credentials: true}
  routes: [{match: {prefix: /}, route: {cluster: one}}]`, clusters: []string{host("one", "", says(t, "one"))}})
	c := plain(t, false)
	a := w.ask(c, "OPTIONS /", "", "Origin", "https://app.good.bank", "Access-Control-Request-Method", "POST")
	h := a.Header
	if a.StatusCode != 200 || h.Get("Access-Control-Allow-Origin") != "https://app.good.bank" || h.Get("Access-Control-Allow-Methods") != "GET, POST" || h.Get("Access-Control-Allow-Credentials") != "true" || h.Get("Access-Control-Max-Age") != "600" || a.body == "one" {
		t.Error(a)
	}
	if a := w.ask(c, "/", "", "Origin", "https://app.good.bank"); a.body != "one" || a.Header.Get("Access-Control-Expose-Headers") != "x-b" || a.Header.Get("Access-Control-Allow-Origin") == "" {
		t.Error(a)
	}
	if a := w.ask(c, "/", "", "Origin", "https://evil"); a.body != "one" || a.Header.Get("Access-Control-Allow-Origin") != "" {
		t.Error(a)
	}
	for origin, want := range map[string]int{"http://shop.bank": 200, "https://good.bank": 200, "https://evil.bank": 403, "": 403} {
		fields := []string{"host", "shop.bank"}
		if origin != "" {
			fields = append(fields, "Origin", origin)
		}
		if a := w.ask(c, "POST /", "x", fields...); a.StatusCode != want {
			t.Errorf("%q: %v", origin, a)
		}
		if a := w.ask(c, "GET /", "", fields...); a.StatusCode != 200 {
			t.Errorf("%q: %v", origin, a)
		}
	}
}

func unpack(t *testing.T, coding, body string) string {
	t.Helper()
	var r io.Reader
	var err error
	switch in := strings.NewReader(body); coding {
	case "gzip":
		r, err = gzip.NewReader(in)
	case "br":
		r = brotli.NewReader(in)
	case "zstd":
		var d *zstd.Decoder
		if d, err = zstd.NewReader(in, zstd.WithDecoderConcurrency(1)); err == nil {
			defer d.Close()
			r = d
		}
	default:
		return body
	}
	if err != nil {
		t.Fatal(coding, err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Error(coding, err)
	}
	return string(b)
}

func library(name, dir, field string) string {
	kind := strings.ToUpper(name[:1]) + name[1:]
	return fmt.Sprintf(`%s_library: {name: %s, typed_config: {"@type": type.googleapis.com/envoy.extensions.compression.%s.%s.v3.%s}}`, dir, name, name, dir, kind)
}

// TestCompression packs responses in each coding, streamed and whole, and
// unpacks requests.
func TestCompression(t *testing.T) {
	whole(t)
	text := strings.Repeat("All work and no play makes Jack a dull boy. ", 20000)
	step := make(chan struct{})
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Header().Set("Content-Type", "text/plain")
		switch r.URL.Path {
		case "/stream":
			io.WriteString(w, "first")
			w.(http.Flusher).Flush()
			<-step
			io.WriteString(w, "second")
		case "/echo":
			fmt.Fprintf(w, "%s|%s|%s", r.Header.Get("Content-Encoding"), r.Header.Get("Content-Length"), b)
		case "/none":
			w.WriteHeader(204)
		default:
			io.WriteString(w, text)
		}
	}), true)
	for _, two := range []string{"", speaks2} {
		w := open(t, site{filters: `
- {name: d1, typed_config: {$http.decompressor.v3.Decompressor, request_direction_config: {advertise_accept_encoding: false}, response_direction_config: {common_config: {enabled: {default_value: false}}}, ` + library("gzip", "decompressor", "") + `}}
- {name: gzip, typed_config: {$http.compressor.v3.Compressor, ` + library("gzip", "compressor", "") + `}}
- {name: br, typed_config: {$http.compressor.v3.Compressor, ` + library("brotli", "compressor", "") + `}}
- {name: zstd, typed_config: {$http.compressor.v3.Compressor, ` + library("zstd", "compressor", "") + `}}`,
			routes: each, clusters: []string{host("one", two, at)}})
		for _, h2 := range []bool{false, true} {
			c := plain(t, h2)
			for _, coding := range []string{"gzip", "br", "zstd", "identity"} {
				a := w.ask(c, "/", "", "Accept-Encoding", coding)
				want := coding
				if coding == "identity" {
					want = ""
				}
				if a.Header.Get("Content-Encoding") != want || unpack(t, want, a.body) != text || want != "" && (len(a.body) > len(text)/10 || !strings.Contains(strings.ToLower(a.Header.Get("Vary")), "accept-encoding")) {
					t.Errorf("%s: %v %v, %d bytes", coding, a.Status, a.Header, len(a.body))
				}
				if a := w.ask(c, "HEAD /", "", "Accept-Encoding", coding); a.StatusCode != 200 || a.body != "" {
					t.Error(a)
				}
				if a := w.ask(c, "/none", "", "Accept-Encoding", coding); a.StatusCode != 204 {
					t.Error(a)
				}
			}
			// What an origin flushes reaches the client before the end.
			r, _ := http.NewRequest("GET", w.url+"/stream", nil)
			r.Header.Set("Accept-Encoding", "gzip")
			resp, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			var got io.Reader = resp.Body
			if resp.Header.Get("Content-Encoding") == "gzip" {
				if got, err = gzip.NewReader(resp.Body); err != nil {
					t.Fatal(err)
				}
			}
			b := make([]byte, 5)
			if _, err := io.ReadFull(got, b); err != nil || string(b) != "first" {
				t.Errorf("%q, %v", b, err)
			}
			step <- struct{}{}
			if rest, err := io.ReadAll(got); string(rest) != "second" || err != nil {
				t.Errorf("%q, %v", rest, err)
			}
			resp.Body.Close()
			// Requests.
			var packed bytes.Buffer
			z := gzip.NewWriter(&packed)
			plainText := text[:2000]
			io.WriteString(z, plainText)
			z.Close()
			if a := w.ask(c, "POST /echo", packed.String(), "Content-Encoding", "gzip", "Accept-Encoding", "identity"); a.body != "||"+plainText {
				t.Errorf("%d bytes, %.40q", len(a.body), a.body)
			}
			if a, err := w.try(c, "POST /echo", "no gzip at all, but long enough", "Content-Encoding", "gzip", "Accept-Encoding", "identity"); err == nil && a.StatusCode != 400 {
				t.Error(a)
			}
			var bomb bytes.Buffer
			z = gzip.NewWriter(&bomb)
			z.Write(make([]byte, 20<<20))
			z.Close()
			if a, err := w.try(c, "POST /echo", bomb.String(), "Content-Encoding", "gzip", "Accept-Encoding", "identity"); err == nil && a.StatusCode < 400 {
				t.Error(a.Status)
			}
		}
	}
}

// TestBufferAndRate refuses what is too much.
func TestBufferAndRate(t *testing.T) {
	whole(t)
	w := open(t, site{filters: `
- {name: b, typed_config: {$http.buffer.v3.Buffer, max_request_bytes: 1000}}
- {name: l, typed_config: {$http.local_ratelimit.v3.LocalRateLimit, stat_prefix: l}}`, routes: `
- match: {prefix: /limited}
  route: {cluster: one}
  typed_per_filter_config:
    l: {$http.local_ratelimit.v3.LocalRateLimit, stat_prefix: l, token_bucket: {max_tokens: 3, fill_interval: 3600s}, filter_enabled: ` + always + `, filter_enforced: ` + always + `, enable_x_ratelimit_headers: DRAFT_VERSION_03, response_headers_to_add: [{header: {key: x-limited, value: "yes"}}]}
- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", "", mirrorOf(t))}})
	for _, h2 := range []bool{false, true} {
		c := plain(t, h2)
		for _, chunked := range []bool{false, true} {
			for n, want := range map[int]int{1: 200, 1000: 200, 1001: 413, 100000: 413} {
				body := io.Reader(strings.NewReader(strings.Repeat("x", n)))
				if chunked {
					body = io.MultiReader(body)
				}
				r, _ := http.NewRequest("POST", w.url+"/", body)
				resp, err := c.Do(r)
				if err != nil {
					t.Errorf("h2=%v chunked=%v %d: %v", h2, chunked, n, err)
					continue
				}
				b, _ := io.ReadAll(resp.Body)
				resp.Body.Close()
				if resp.StatusCode != want || want == 200 && !strings.Contains(string(b), fmt.Sprintf("Content-Length: %d", n)) {
					t.Errorf("h2=%v chunked=%v %d: %s %.200s", h2, chunked, n, resp.Status, b)
				}
			}
		}
	}
	c := plain(t, false)
	got := map[int]int{}
	for range 6 {
		a := w.ask(c, "/limited", "")
		got[a.StatusCode]++
		if a.StatusCode == 429 && (a.Header.Get("X-Limited") != "yes" || a.Header.Get("X-Ratelimit-Remaining") != "0") {
			t.Error(a)
		}
	}
	if got[200] != 3 || got[429] != 3 {
		t.Error(got)
	}
}

// TestAuthzHTTP asks a service for leave.
func TestAuthzHTTP(t *testing.T) {
	whole(t)
	var mode, bodies sync.Map
	var asked atomic.Int64
	judge := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		b, _ := io.ReadAll(r.Body)
		bodies.Store("last", string(b))
		switch m, _ := mode.Load("mode"); m {
		case "deny":
			w.Header().Set("X-Why", "no account")
			w.WriteHeader(401)
			io.WriteString(w, "denied")
		case "error":
			w.WriteHeader(500)
		case "slow":
			<-r.Context().Done()
		default:
			w.Header().Set("X-User", "alice")
		}
	}), true)
	filter := func(name, to, more string) string {
		return `
- name: ` + name + `
  typed_config: {$http.ext_authz.v3.ExtAuthz, transport_api_version: V3, ` + more + `http_service: {server_uri: {uri: "http://judge", cluster: ` + to + `, timeout: 0.3s}, authorization_response: {allowed_upstream_headers: {patterns: [{exact: x-user}]}, allowed_client_headers: {patterns: [{exact: x-why}]}}}}`
	}
	for _, x := range []struct {
		name, mode, to, more string
		want                 int
	}{
		{"allow", "", "judge", "", 200},
		{"allow with body", "", "judge", "with_request_body: {max_request_bytes: 1000}, ", 200},
		{"deny", "deny", "judge", "", 401},
		{"error closed", "error", "judge", "", 403},
		{"error open", "error", "judge", "failure_mode_allow: true, ", 200},
		{"slow closed", "slow", "judge", "", 403},
		{"slow open", "slow", "judge", "failure_mode_allow: true, ", 200},
		{"down closed", "", "down", "", 403},
		{"down open", "", "down", "failure_mode_allow: true, ", 200},
		{"down status", "", "down", "status_on_error: {code: 503}, ", 503},
	} {
		t.Run(x.name, func(t *testing.T) {
			mode.Store("mode", x.mode)
			w := open(t, site{filters: filter("authz", x.to, x.more), routes: each, clusters: []string{host("one", "", mirrorOf(t)), host("judge", "", judge), host("down", "", dead(t))}})
			for _, h2 := range []bool{false, true} {
				c := plain(t, h2)
				for _, body := range []string{"", "body"} {
					a := w.ask(c, "POST /", body, "X-User", "forged")
					if a.StatusCode != x.want || x.want == 200 && !strings.HasSuffix(a.body, body) {
						t.Errorf("%q: %v", body, a)
					}
					if strings.HasPrefix(x.name, "allow") && (!strings.Contains(a.body, "X-User: alice") || strings.Contains(a.body, "forged")) {
						t.Error(a)
					}
					if x.mode == "deny" && (a.Header.Get("X-Why") != "no account" || a.body != "denied") {
						t.Error(a)
					}
					if last, _ := bodies.Load("last"); x.name == "allow with body" && last != body {
						t.Errorf("the judge saw %q", last)
					}
				}
			}
		})
	}
	// A client that leaves while it is judged.
	mode.Store("mode", "slow")
	w := open(t, site{filters: filter("authz", "judge", ""), routes: each, clusters: []string{host("one", "", mirrorOf(t)), host("judge", "", judge)}})
	n := asked.Load()
	k := dialTo(t, w.at)
	k.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	until(t, func() string { return map[bool]string{true: "a question"}[asked.Load() == n] })
	k.Close()
}

// TestRBAC allows and denies requests, and connections.
func TestRBAC(t *testing.T) {
	whole(t)
	w := open(t, site{filters: `
- name: rbac
  typed_config:
    $http.rbac.v3.RBAC
    rules:
      action: DENY
      policies:
        admin: {permissions: [{url_path: {path: {prefix: /admin}}}], principals: [{not_id: {header: {name: x-role, string_match: {exact: admin}}}}]}
    shadow_rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}`,
		routes: each, clusters: []string{host("one", "", says(t, "one"))}, listeners: `
- name: closed
  address: {socket_address: {address: 127.0.0.1, port_value: {{closed}}}}
  filter_chains:
  - filters:
    - {name: r, typed_config: {$network.rbac.v3.RBAC, stat_prefix: r, rules: {action: ALLOW, policies: {a: {permissions: [{any: true}], principals: [{direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 8}}]}}}}}
    - {name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: one}}
- name: few
  address: {socket_address: {address: 127.0.0.1, port_value: {{few}}}}
  filter_chains:
  - filters:
    - {name: c, typed_config: {$network.connection_limit.v3.ConnectionLimit, stat_prefix: c, max_connections: 2}}
    - {name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: one}}`})
	c := plain(t, false)
	for _, x := range []struct {
		target, role string
		want         int
	}{{"/", "", 200}, {"/admin", "", 403}, {"/admin/x", "user", 403}, {"/admin", "admin", 200}, {"/%61dmin", "", 403}, {"/x/../admin", "", 403}, {"/.//admin", "", 200}} {
		if a := w.ask(c, x.target, "", "X-Role", x.role); a.StatusCode != x.want {
			t.Error(x, a)
		}
	}
	if k := dialTo(t, w.s.Addr("closed").String()); !k.ended() {
		t.Error("a connection that no policy allows lives")
	}
	get := func() *wire {
		k := dialTo(t, w.s.Addr("few").String())
		io.WriteString(k, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		return k
	}
	a, b := get(), get()
	if a.response("GET").body != "one" || b.response("GET").body != "one" {
		t.Error("no answer")
	}
	if !get().ended() {
		t.Error("a third connection lives")
	}
	a.Close()
	until(t, func() string {
		k := get()
		defer k.Close()
		if _, err := k.r.Peek(1); err != nil {
			return "a connection in the place of the first"
		}
		return ""
	})
}

// TestHealthFilter answers for a path itself, and says no when a cluster is
// down.
func TestHealthFilter(t *testing.T) {
	whole(t)
	w := open(t, site{filters: `
- {name: h, typed_config: {$http.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /ready}}], cluster_min_healthy_percentages: {one: {value: 50}}}}
- {name: live, typed_config: {$http.health_check.v3.HealthCheck, pass_through_mode: false, headers: [{name: ":path", string_match: {exact: /live}}]}}`,
		routes: each, clusters: []string{host("one", "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]", dead(t))}})
	c := plain(t, false)
	if a := w.ask(c, "/live", ""); a.StatusCode != 200 {
		t.Error(a)
	}
	until(t, func() string {
		if a := w.ask(c, "/ready", ""); a.StatusCode != 503 {
			return a.String()
		}
		return ""
	})
}
