// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/proxy/xds"
)

// TestKeepAlive ends HTTP/2 connections whose peer does not answer a ping, on
// both sides, and keeps those that do.
func TestKeepAlive(t *testing.T) {
	whole(t)
	var conns atomic.Int64
	mute := tcpOrigin(t, func(c *net.TCPConn) { // takes requests, and never says anything but its settings
		conns.Add(1)
		c.Write([]byte{0, 0, 0, frameSettings, 0, 0, 0, 0, 0})
		io.Copy(io.Discard, struct{ io.Reader }{c})
	})
	keep := "{connection_keepalive: {interval: 0.1s, timeout: 0.1s}}"
	two := `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: ` + keep + `}}}`
	w := open(t, site{manager: "http2_protocol_options: " + keep, routes: "- {match: {prefix: /mute}, route: {cluster: mute, timeout: 20s}}\n- {match: {prefix: /}, route: {cluster: one}}",
		clusters: []string{host("mute", two, mute), host("one", two, origin2(t))}})
	c := plain(t, true)
	began := time.Now()
	if a := w.ask(c, "POST /mute", "x"); a.StatusCode != 503 || time.Since(began) > 10*time.Second {
		t.Error(a, time.Since(began))
	}
	if a := w.ask(c, "/", ""); a.body != "hello" {
		t.Error(a)
	}
	<-time.After(500 * time.Millisecond)
	if a := w.ask(c, "/", ""); a.body != "hello" {
		t.Error(a)
	}
	if _, dials, _, _, _ := w.s.Count("one"); dials != 1 {
		t.Errorf("%d connections to a host that answers", dials)
	}
	// A client that does not answer.
	k := dialTo(t, w.at)
	k.say(preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00")
	io.Copy(io.Discard, k)
}

// TestNoEffect refuses, by name, what would have none.
func TestNoEffect(t *testing.T) {
	for _, x := range []struct{ field, yaml string }{
		{"internal_redirect_policy", (&site{routes: "- {match: {prefix: /}, route: {cluster: one, internal_redirect_policy: {}}}"}).yaml(port)},
		{"per_try_idle_timeout", (&site{routes: "- {match: {prefix: /}, route: {cluster: one, retry_policy: {retry_on: 5xx, per_try_idle_timeout: 1s}}}"}).yaml(port)},
		{"max_outbound_frames", (&site{manager: "http2_protocol_options: {max_outbound_frames: 10}", routes: each}).yaml(port)},
		{"track_remaining", (&site{routes: each, clusters: []string{"{name: one, circuit_breakers: {thresholds: [{track_remaining: true}]}}"}}).yaml(port)},
		{"close_connections_on_host_health_failure", (&site{routes: each, clusters: []string{"{name: one, close_connections_on_host_health_failure: true}"}}).yaml(port)},
		{"shadow_enabled", (&site{filters: "- {name: c, typed_config: {$http.csrf.v3.CsrfPolicy, filter_enabled: " + always + ", shadow_enabled: " + always + "}}", routes: each}).yaml(port)},
		{"tunneling_config", (&site{routes: each, listeners: "- {name: t, address: {socket_address: {address: 127.0.0.1, port_value: {{t}}}}, filter_chains: [{filters: [{name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: one, tunneling_config: {hostname: x}}}]}]}"}).yaml(port)},
	} {
		if _, err := xds.Parse([]byte(x.yaml), "x"); err == nil || !strings.Contains(err.Error(), x.field) {
			t.Errorf("%s: %v", x.field, err)
		}
	}
}

func port(string) uint16 { return 80 }

// TestOwnZone keeps requests in the proxy's zone.
func TestOwnZone(t *testing.T) {
	whole(t)
	zone := func(name string, eps ...string) string {
		return fmt.Sprintf("{locality: {zone: %s}, lb_endpoints: [%s]}", name, strings.Join(eps, ", "))
	}
	a, b := says(t, "a"), says(t, "b")
	w := open(t, site{more: "node: {id: x, cluster: x, locality: {zone: a}}\ncluster_manager: {local_cluster_name: own}", routes: each, clusters: []string{
		endpoints("one", "common_lb_config: {zone_aware_lb_config: {min_cluster_size: 1}}", "["+zone("a", ep(a, ""))+", "+zone("b", ep(b, ""))+"]"),
		endpoints("own", "lb_policy: RANDOM", "["+zone("a", ep(dead(t), ""))+", "+zone("b", ep(dead(t), ""))+"]")}})
	c := plain(t, false)
	for range 50 {
		if x := w.ask(c, "/", ""); x.body != "a" {
			t.Fatal(x)
		}
	}
}

// TestRetryAfter waits as long as the host asks.
func TestRetryAfter(t *testing.T) {
	whole(t)
	at := failing(t, 1, status(503, "Retry-After", "1"))
	w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one, timeout: 10s, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 0.001s}, rate_limited_retry_back_off: {reset_headers: [{name: retry-after, format: SECONDS}]}}}}`, clusters: []string{host("one", "", at)}})
	began := time.Now()
	if a := w.ask(plain(t, false), "/", ""); a.StatusCode != http.StatusOK || time.Since(began) < time.Second {
		t.Error(a, time.Since(began))
	}
}

// TestSmallReads holds bodies through small buffers.
func TestSmallReads(t *testing.T) {
	whole(t)
	w := open(t, site{listener: "per_connection_buffer_limit_bytes: 4096", routes: each, clusters: []string{host("one", "per_connection_buffer_limit_bytes: 4096", mirrorOf(t))}})
	body := strings.Repeat("0123456789", 100_000)
	for _, h2 := range []bool{false, true} {
		if a := w.ask(plain(t, h2), "POST /", body); !strings.HasSuffix(a.body, body) {
			t.Error(a.Status, len(a.body))
		}
	}
}
