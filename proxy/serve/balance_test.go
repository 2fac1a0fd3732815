// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// endpoints is a cluster with localities spelled out.
func endpoints(name, more, localities string) string {
	return fmt.Sprintf("{name: %s, connect_timeout: 1s, %s, load_assignment: {cluster_name: %s, endpoints: %s}}", name, more, name, localities)
}

func ep(a netip.AddrPort, more string) string {
	return fmt.Sprintf("{endpoint: {address: {socket_address: {address: %s, port_value: %d}}}%s}", a.Addr(), a.Port(), more)
}

const each = `- {match: {prefix: /}, route: {cluster: one}}`

// TestEjection takes a failing host out, and keeps serving.
func TestEjection(t *testing.T) {
	whole(t)
	var bad atomic.Int64
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { bad.Add(1); w.WriteHeader(500) }), false)
	w := open(t, site{routes: each, clusters: []string{host("one", "outlier_detection: {consecutive_5xx: 3, base_ejection_time: 60s, max_ejection_percent: 100}", at, says(t, "good"), says(t, "good"))}})
	c := plain(t, false)
	until(t, func() string {
		w.ask(c, "/", "")
		return map[bool]string{true: "an ejection"}[w.s.Hosts("one")[at.String()] == "healthy"]
	})
	n := bad.Load()
	for range 100 {
		if a := w.ask(c, "/", ""); a.body != "good" {
			t.Fatal(a)
		}
	}
	if bad.Load() != n {
		t.Error("an ejected host was asked")
	}
}

// TestHealthChecks takes a host that says it is ill out and in again, and in a
// panic asks all.
func TestHealthChecks(t *testing.T) {
	whole(t)
	var ill [2]atomic.Bool
	var ats []netip.AddrPort
	for i := range ill {
		ats = append(ats, origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/healthz" && ill[i].Load() {
				w.WriteHeader(503)
			}
			fmt.Fprint(w, i)
		}), false))
	}
	w := open(t, site{routes: each, clusters: []string{host("one", "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, http_health_check: {path: /healthz}}]", ats...)}})
	c := plain(t, false)
	health := func(want ...bool) {
		t.Helper()
		until(t, func() string {
			h := w.s.Hosts("one")
			for i, ok := range want {
				if (h[ats[i].String()] == "healthy") != ok {
					return fmt.Sprint(h, want)
				}
			}
			return ""
		})
	}
	answers := func(want ...string) {
		t.Helper()
		seen := map[string]bool{}
		until(t, func() string { // a change is in force some moments later
			clear(seen)
			for range 40 {
				seen[w.ask(c, "/", "").body] = true
			}
			for _, k := range want {
				if !seen[k] {
					return fmt.Sprint(seen, want)
				}
			}
			if len(seen) != len(want) {
				return fmt.Sprint(seen, want)
			}
			return ""
		})
	}
	health(true, true)
	answers("0", "1")
	ill[0].Store(true)
	health(false, true)
	answers("1")
	ill[1].Store(true)
	health(false, false)
	answers("0", "1") // panic: below 50 per cent all are asked
	ill[0].Store(false)
	ill[1].Store(false)
	health(true, true)
}

// TestFailover goes to the next priority and locality when one is down, and
// draws by subset and weight.
func TestFailover(t *testing.T) {
	whole(t)
	meta := func(v string) string { return `, metadata: {filter_metadata: {envoy.lb: {v: "` + v + `"}}}` }
	w := open(t, site{routes: `
- {match: {prefix: /sub1}, route: {cluster: sub, metadata_match: {filter_metadata: {envoy.lb: {v: "1"}}}}}
- {match: {prefix: /sub2}, route: {cluster: sub, metadata_match: {filter_metadata: {envoy.lb: {v: "2"}}}}}
- {match: {prefix: /sub3}, route: {cluster: sub, metadata_match: {filter_metadata: {envoy.lb: {v: "3"}}}}}
- {match: {prefix: /}, route: {cluster: prio}}`, clusters: []string{
		endpoints("prio", "health_checks: [{timeout: 1s, interval: 0.05s, no_traffic_interval: 0.05s, unhealthy_threshold: 1, healthy_threshold: 1, tcp_health_check: {}}]", fmt.Sprintf("[{locality: {region: a}, priority: 0, lb_endpoints: [%s]}, {locality: {region: b}, priority: 1, lb_endpoints: [%s]}]", ep(dead(t), ""), ep(says(t, "second"), ""))),
		endpoints("sub", `lb_subset_config: {fallback_policy: NO_FALLBACK, subset_selectors: [{keys: [v]}]}`, fmt.Sprintf("[{lb_endpoints: [%s, %s]}]", ep(says(t, "v1"), meta("1")), ep(says(t, "v2"), meta("2")))),
	}})
	c := plain(t, false)
	until(t, func() string {
		if a := w.ask(c, "/", ""); a.body != "second" {
			return a.String()
		}
		return ""
	})
	for range 20 {
		if a := w.ask(c, "/", ""); a.body != "second" {
			t.Error(a)
		}
		if a := w.ask(c, "/sub1", ""); a.body != "v1" {
			t.Error(a)
		}
		if a := w.ask(c, "/sub2", ""); a.body != "v2" {
			t.Error(a)
		}
	}
	if a := w.ask(c, "/sub3", ""); a.StatusCode != 503 {
		t.Error(a)
	}
}

// TestSticky holds consistent hashing to what it hashes.
func TestSticky(t *testing.T) {
	whole(t)
	var ats []netip.AddrPort
	for i := range 5 {
		ats = append(ats, says(t, fmt.Sprint("host", i)))
	}
	for _, lb := range []string{"RING_HASH", "MAGLEV"} {
		w := open(t, site{routes: `
- {match: {prefix: /header}, route: {cluster: one, hash_policy: [{header: {header_name: x-user}}]}}
- {match: {prefix: /cookie}, route: {cluster: one, hash_policy: [{cookie: {name: stick, ttl: 60s, path: /cookie}}]}}
- {match: {prefix: /ip}, route: {cluster: one, hash_policy: [{connection_properties: {source_ip: true}}]}}
- {match: {prefix: /query}, route: {cluster: one, hash_policy: [{query_parameter: {name: k}}]}}`, clusters: []string{host("one", "lb_policy: "+lb, ats...)}})
		c := plain(t, false)
		seen := map[string]bool{}
		for u := range 40 {
			first := w.ask(c, "/header", "", "X-User", fmt.Sprint(u)).body
			seen[first] = true
			for range 5 {
				if got := w.ask(c, "/header", "", "X-User", fmt.Sprint(u)).body; got != first {
					t.Errorf("%s: user %d at %s and %s", lb, u, first, got)
				}
				if a, b := w.ask(c, fmt.Sprintf("/query?k=%d", u), "").body, w.ask(c, fmt.Sprintf("/query?x=1&k=%d", u), "").body; a != b {
					t.Errorf("%s: %s and %s", lb, a, b)
				}
			}
		}
		if len(seen) < 4 {
			t.Errorf("%s: 40 users on %d of 5 hosts", lb, len(seen))
		}
		a := w.ask(c, "/cookie", "")
		cs := a.Cookies()
		if len(cs) != 1 || cs[0].Name != "stick" || cs[0].MaxAge != 60 || cs[0].Path != "/cookie" || !cs[0].HttpOnly {
			t.Fatal(a)
		}
		ip := w.ask(c, "/ip", "").body
		for range 10 {
			b := w.ask(c, "/cookie", "", "Cookie", "stick="+cs[0].Value)
			if b.body != a.body || len(b.Cookies()) != 0 {
				t.Error(b)
			}
			if got := w.ask(plain(t, false), "/ip", "").body; got != ip {
				t.Error(ip, got)
			}
		}
	}
}

// TestOriginalDestination sends requests where a field says.
func TestOriginalDestination(t *testing.T) {
	whole(t)
	a, b := says(t, "a"), says(t, "b")
	w := open(t, site{routes: each, clusters: []string{"{name: one, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, connect_timeout: 1s, original_dst_lb_config: {use_http_header: true, http_header_name: x-to}}"}})
	c := plain(t, false)
	for range 3 {
		if x := w.ask(c, "/", "", "X-To", a.String()); x.body != "a" {
			t.Error(x)
		}
		if x := w.ask(c, "/", "", "X-To", b.String()); x.body != "b" {
			t.Error(x)
		}
	}
	for _, to := range []string{"", "nowhere", "127.0.0.1", dead(t).String()} {
		if x := w.ask(c, "/", "", "X-To", to); x.StatusCode != 503 {
			t.Error(to, x)
		}
	}
}

// TestUnixSocket has a host behind a unix socket.
func TestUnixSocket(t *testing.T) {
	whole(t)
	path := t.TempDir() + "/s"
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(echo)}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	w := open(t, site{routes: each, clusters: []string{fmt.Sprintf("{name: one, load_assignment: {cluster_name: one, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %s}}}}]}]}}", path)}})
	c := plain(t, false)
	big := strings.Repeat("x", 3<<20)
	for range 3 {
		if a := w.ask(c, "/", big); a.body != big {
			t.Error(a.Status, len(a.body))
		}
	}
}

// TestMirror has copies arrive, with bodies that were streamed, buffered and
// replayed, and changes nothing when the mirror fails or is slow.
func TestMirror(t *testing.T) {
	whole(t)
	type seen struct{ host, path, body string }
	got := make(chan seen, 100)
	mirror := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.Host, r.URL.Path, string(b)}
		if r.URL.Path == "/bad" {
			panic(http.ErrAbortHandler)
		}
	}), true)
	slow := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}), true)
	main := mirrorOf(t)
	to := func(c string) string {
		return "{cluster: one, timeout: 1s, request_mirror_policies: [{cluster: " + c + "}]}"
	}
	for _, two := range []string{"", speaks2} {
		w := open(t, site{filters: `- {name: b, typed_config: {$http.buffer.v3.Buffer, max_request_bytes: 100000}}`, routes: `
- {match: {prefix: /slow}, route: ` + to("slow") + `}
- {match: {prefix: /dead}, route: ` + to("dead") + `}
- {match: {prefix: /high}, route: {cluster: one, priority: HIGH, request_mirror_policies: [{cluster: copy}]}}
- {match: {prefix: /part}, route: {cluster: one, request_mirror_policies: [{cluster: copy, runtime_fraction: {default_value: {numerator: 0}}}]}}
- match: {prefix: /stream}
  route: ` + to("copy") + `
  typed_per_filter_config: {b: {$http.buffer.v3.BufferPerRoute, disabled: true}}
- {match: {prefix: /}, route: ` + to("copy") + `}`, clusters: []string{host("one", two, main), host("copy", two, mirror), host("slow", two, slow), host("dead", two, dead(t))}})
		for _, h2 := range []bool{false, true} {
			c := plain(t, h2)
			for _, x := range []struct{ target, body string }{{"/a", ""}, {"POST /buffered", "body"}, {"POST /stream", "body"}, {"POST /high", strings.Repeat("h", 50000)}, {"POST /bad", "b"}, {"POST /stream/big", strings.Repeat("s", 400000)}} {
				a := w.ask(c, x.target, x.body, "host", "bank:8443")
				if !strings.HasSuffix(a.body, x.body) || !strings.Contains(a.body, "bank:8443") {
					t.Errorf("%s: %.200s", x.target, a)
				}
				select {
				case s := <-got:
					if !strings.HasSuffix(x.target, s.path) || s.host != "bank-shadow:8443" || s.body != x.body {
						t.Errorf("%s: copy for %s %s with %d bytes", x.target, s.host, s.path, len(s.body))
					}
				case <-time.After(10 * time.Second):
					t.Fatalf("%s: no copy", x.target)
				}
			}
			for _, target := range []string{"POST /slow", "POST /dead", "POST /part"} {
				began := time.Now()
				if a := w.ask(c, target, "body"); !strings.HasSuffix(a.body, "body") || time.Since(began) > 5*time.Second {
					t.Error(target, a)
				}
			}
		}
		select {
		case s := <-got:
			t.Errorf("a copy of %s beyond its fraction", s.path)
		default:
		}
	}
}

// TestStrictDNS finds hosts by name: localhost, from the machine's own file.
func TestStrictDNS(t *testing.T) {
	whole(t)
	at := says(t, "named")
	w := open(t, site{routes: each, clusters: []string{fmt.Sprintf("{name: one, type: STRICT_DNS, dns_lookup_family: V4_ONLY, connect_timeout: 1s, load_assignment: {cluster_name: one, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: localhost, port_value: %d}}}}]}]}}", at.Port())}})
	c := plain(t, false)
	until(t, func() string {
		if a := w.ask(c, "/", ""); a.body != "named" {
			return a.String()
		}
		return ""
	})
}

// TestSlowStart has a new host begin with little.
func TestSlowStart(t *testing.T) {
	whole(t)
	w := open(t, site{routes: each, clusters: []string{host("one", "round_robin_lb_config: {slow_start_config: {slow_start_window: 60s}}", says(t, "a"), says(t, "b"))}})
	c := plain(t, false)
	got := map[string]int{}
	for range 100 {
		got[w.ask(c, "/", "").body]++
	}
	if got["a"] < 30 || got["b"] < 30 {
		t.Error(got)
	}
}
