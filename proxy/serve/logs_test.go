// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"testing"
)

// admin asks the admin interface of s.
func admin(t testing.TB, w *world) func(target string) string {
	t.Helper()
	path := t.TempDir() + "/admin"
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.s.Admin(ctx, path) }()
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", path) }}
	t.Cleanup(func() {
		tr.CloseIdleConnections()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return func(target string) string {
		method, target, _ := strings.Cut(target, " ")
		var out string
		until(t, func() string {
			r, err := http.NewRequest(method, "http://admin"+target, nil)
			if err != nil {
				return err.Error()
			}
			resp, err := tr.RoundTrip(r)
			if err != nil {
				return err.Error() // it may not listen yet
			}
			defer resp.Body.Close()
			b, _ := io.ReadAll(resp.Body)
			out = string(b)
			return ""
		})
		return out
	}
}

// lines waits until a file has n lines.
func lines(t testing.TB, path string, n int) (out []string) {
	t.Helper()
	until(t, func() string {
		b, _ := os.ReadFile(path)
		if out = strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"); len(out) != n || len(b) == 0 {
			return fmt.Sprintf("%s: %d lines, not %d", path, len(out), n)
		}
		return ""
	})
	return out
}

// TestAccessLogs writes text and JSON, selects, and follows a rotation.
func TestAccessLogs(t *testing.T) {
	whole(t)
	dir := t.TempDir()
	at := says(t, "one")
	w := open(t, site{manager: fmt.Sprintf(`
access_log:
- name: text
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: %[1]s/text
    log_format: {text_format_source: {inline_string: "%%REQ(:METHOD)%% %%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%% %%PROTOCOL%% %%RESPONSE_CODE%% %%RESPONSE_FLAGS%% %%BYTES_RECEIVED%% %%BYTES_SENT%% %%UPSTREAM_CLUSTER%% %%UPSTREAM_HOST%% %%RESPONSE_CODE_DETAILS%% %%ROUTE_NAME%% %%REQ(X-INJ)%%\n"}}
- name: json
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: %[1]s/json
    log_format: {json_format: {method: "%%REQ(:METHOD)%%", code: "%%RESPONSE_CODE%%", inj: "%%REQ(X-INJ)%%", local: "%%UPSTREAM_LOCAL_ADDRESS%%", sent: "%%REQUEST_TX_DURATION%%", deep: {cluster: "%%UPSTREAM_CLUSTER%%"}}}
- name: bad
  filter: {and_filter: {filters: [{status_code_filter: {comparison: {op: GE, value: {default_value: 400, runtime_key: x}}}}, {response_flag_filter: {flags: [NR, UH, UF]}}]}}
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
    path: %[1]s/bad`, dir), routes: `
- {name: first, match: {prefix: /a}, route: {cluster: one, prefix_rewrite: /b}}
- {name: second, match: {prefix: /dead}, route: {cluster: none}}
- {name: third, match: {prefix: /own}, direct_response: {status: 418}}`, clusters: []string{host("one", "", at), host("none", "", dead(t))}})
	c := plain(t, false)
	w.ask(c, "POST /a/x?q=1", "body", "X-Inj", "a\"b\\")
	w.ask(c, "/dead", "")
	w.ask(c, "/own", "")
	w.ask(c, "/nowhere", "")
	text := lines(t, dir+"/text", 4)
	for i, want := range []string{"POST /a/x?q=1 HTTP/1.1 200 - 4 3 one " + at.String() + " via_upstream first a\\x22b\\x5c", "GET /dead HTTP/1.1 503 UF", "GET /own HTTP/1.1 418 - 0 ", "GET /nowhere HTTP/1.1 404 NR 0 "} {
		if !strings.HasPrefix(text[i], want) {
			t.Errorf("%q, want %q", text[i], want)
		}
	}
	js := lines(t, dir+"/json", 4)
	var v struct {
		Method, Inj, Local string
		Code               int
		Sent               any
		Deep               struct{ Cluster string }
	}
	if err := json.Unmarshal([]byte(js[0]), &v); err != nil || v.Method != "POST" || v.Code != 200 || v.Inj != `a"b\` || v.Deep.Cluster != "one" || !strings.HasPrefix(v.Local, "127.0.0.1:") || v.Sent == nil {
		t.Errorf("%s: %+v, %v", js[0], v, err)
	}
	for _, j := range js {
		if !json.Valid([]byte(j)) {
			t.Error(j)
		}
	}
	lines(t, dir+"/bad", 2)
	// Rotation.
	if err := os.Rename(dir+"/text", dir+"/text.1"); err != nil {
		t.Fatal(err)
	}
	if got := admin(t, w)("POST /reopen_logs"); got != "OK\n" {
		t.Error(got)
	}
	w.ask(c, "/own", "")
	lines(t, dir+"/text", 1)
	lines(t, dir+"/text.1", 4)
}

// TestTracing sends spans to a collector, by HTTP and by gRPC, and passes the
// context on.
func TestTracing(t *testing.T) {
	whole(t)
	const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, grpc := range []bool{false, true} {
		var mu sync.Mutex
		var got []byte
		collector := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			b, _ := io.ReadAll(r.Body)
			mu.Lock()
			got = append(got, b...)
			mu.Unlock()
			if grpc {
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Trailer", "Grpc-Status")
				w.Write(make([]byte, 5))
				w.Header().Set("Grpc-Status", "0")
			}
		}), true)
		provider, two := `http_service: {http_uri: {uri: "http://collector/v1/traces", cluster: collector, timeout: 1s}}`, ""
		if grpc {
			provider, two = "grpc_service: {envoy_grpc: {cluster_name: collector}}", speaks2
		}
		w := open(t, site{manager: `tracing: {random_sampling: {value: 100}, provider: {name: otel, typed_config: {"@type": type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: edge-proxy, ` + provider + `}}}`,
			routes: "- {match: {prefix: /}, decorator: {operation: pay-bill}, route: {cluster: one}}", clusters: []string{host("one", "", mirrorOf(t)), host("collector", two, collector)}})
		a := w.ask(plain(t, false), "/", "", "Traceparent", parent)
		if !strings.Contains(a.body, "Traceparent: 00-0af7651916cd43dd8448eb211c80319c-") || strings.Contains(a.body, "b7ad6b7169203331") {
			t.Error(a.body)
		}
		until(t, func() string {
			mu.Lock()
			defer mu.Unlock()
			for _, want := range []string{"edge-proxy", "pay-bill", "\x0a\xf7\x65\x19\x16\xcd\x43\xdd\x84\x48\xeb\x21\x1c\x80\x31\x9c", "\xb7\xad\x6b\x71\x69\x20\x33\x31"} {
				if !bytes.Contains(got, []byte(want)) {
					return fmt.Sprintf("%q in spans (gRPC %v)", want, grpc)
				}
			}
			return ""
		})
	}
}

// TestMetrics counts by listener, manager, cluster and route.
func TestMetrics(t *testing.T) {
	whole(t)
	w := open(t, site{routes: "- {name: r1, match: {prefix: /a}, route: {cluster: one}}\n- {name: r2, match: {prefix: /b}, direct_response: {status: 500}}", clusters: []string{host("one", "", says(t, "x"))}})
	c := plain(t, false)
	for range 3 {
		w.ask(c, "/a", "")
	}
	w.ask(c, "/b", "")
	ask := admin(t, w)
	stats := ask("GET /stats?format=prometheus")
	for _, want := range []string{`redoubt_proxy_http_requests_total{class="2xx",manager="web"} 3`, `redoubt_proxy_http_requests_total{class="5xx",manager="web"} 1`, `redoubt_proxy_cluster_requests_total{class="2xx",cluster="one"} 3`,
		`redoubt_proxy_route_requests_total{route="web.all.r1"} 3`, `redoubt_proxy_listener_connections_total{listener="web"} 1`, `redoubt_proxy_http_requests_active{manager="web"} 0`, `redoubt_proxy_cluster_dials_total{cluster="one",result="ok"} 1`} {
		if !strings.Contains(stats, want+"\n") {
			t.Errorf("no %s in %s", want, stats)
		}
	}
	for target, want := range map[string]string{"GET /ready": "LIVE", "GET /clusters": "one", "GET /listeners": w.at, "GET /config_dump": `"r1"`, "GET /server_info": "LIVE"} {
		if got := ask(target); !strings.Contains(got, want) {
			t.Errorf("%s: %s", target, got)
		}
	}
}
