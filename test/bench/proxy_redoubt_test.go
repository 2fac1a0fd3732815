// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

func redoubtVersion() string {
	out, err := exec.Command("git", "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(out))
}

// redoubtCommand runs the proxy stand-alone with a bootstrap file in the
// Envoy v3 form.
func redoubtCommand(b *bench, w work, front netip.AddrPort) (*exec.Cmd, error) {
	bin, err := filepath.Abs(*proxyBin)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(bin); err != nil {
		return nil, unable("%s is not built", *proxyBin)
	}
	usage, _ := exec.Command(bin, "-h").CombinedOutput()
	if !strings.Contains(string(usage), "-config") {
		return nil, unable("%s has no stand-alone mode (--config)", *proxyBin)
	}
	conf := b.file(fmt.Sprintf("redoubt%d.yaml", front.Port()), bootstrap(w, front, b.adminOf(front)))
	return exec.Command(bin, "--config", conf, "--loops", strconv.Itoa(w.loops)), nil
}

// adminOf is the administration socket of the redoubt that listens on front.
func (b *bench) adminOf(front netip.AddrPort) string {
	return filepath.Join(b.dir, fmt.Sprintf("admin%d.sock", front.Port()))
}

func bootstrap(w work, front netip.AddrPort, admin string) string {
	return fmt.Sprintf(`admin: {address: {pipe: {path: %q}}}
static_resources:
  listeners:
  - name: in
    address: {socket_address: {address: %s, port_value: %d}}
    filter_chains:
    - filters:
%s%s  clusters:
%s`, admin, front.Addr(), front.Port(), networkFilter(w), downstreamTLS(w.tls), originCluster(w))
}

func networkFilter(w work) string {
	if w.front == tcp {
		return `      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: in
          cluster: origin
`
	}
	codec := "HTTP1"
	if w.front != http1 {
		codec = "HTTP2"
	}
	var routes strings.Builder
	if w.routes == 0 {
		routes.WriteString(routeTo("/"))
	}
	for i := range w.routes {
		routes.WriteString(routeTo(prefix(i)))
	}
	return fmt.Sprintf(`      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: %s
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            name: routes
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
%s`, codec, routes.String())
}

// routeTo has no deadline: a stream of gRPC lasts as long as the turn.
func routeTo(prefix string) string {
	return fmt.Sprintf("              - {match: {prefix: %q}, route: {cluster: origin, timeout: 0s}}\n", prefix)
}

func downstreamTLS(p *pki) string {
	if p == nil {
		return ""
	}
	return fmt.Sprintf(`      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_params: {tls_minimum_protocol_version: TLSv1_3}
            tls_certificates:
            - certificate_chain: {filename: %q}
              private_key: {filename: %q}
            validation_context: {trusted_ca: {filename: %q}}
`, p.cert, p.key, p.root)
}

func originCluster(w work) string {
	options := ""
	if w.back == grpc || w.back == http2 {
		options = `    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`
	}
	return fmt.Sprintf(`  - name: origin
    type: STATIC
    connect_timeout: 5s
    circuit_breakers:
      thresholds:
      - {max_connections: 100000, max_pending_requests: 100000, max_requests: 100000}
%s    load_assignment:
      cluster_name: origin
      endpoints:
      - lb_endpoints:
        - endpoint: {address: {socket_address: {address: %s, port_value: %d}}}
`, options, w.origin.Addr(), w.origin.Port())
}

// profile takes a CPU profile of a redoubt through its administration socket
// while load runs, and keeps it under -profiles.
func (b *bench) profile(r *running, cell string, load func()) {
	if *profiles == "" || !strings.HasPrefix(r.name, "redoubt") {
		return
	}
	done := make(chan error, 1)
	go func() { done <- b.fetchProfile(r, cell) }()
	load()
	if err := <-done; err != nil {
		fmt.Fprintf(os.Stderr, "profile of %s: %v\n", cell, err)
	}
}

func (b *bench) fetchProfile(r *running, cell string) error {
	t := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", b.adminOf(r.front))
	}}
	defer t.CloseIdleConnections()
	res, err := (&http.Client{Transport: t, Timeout: time.Minute}).Get(fmt.Sprintf("http://admin/debug/pprof/profile?seconds=%d", max(1, int(span.Seconds()))))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 64<<20))
	if err != nil || res.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %w: %.200s", res.Status, err, text)
	}
	if err := os.MkdirAll(*profiles, 0o755); err != nil {
		return err
	}
	name := strings.NewReplacer("/", "_", " ", "_", ",", "").Replace(r.name+"-"+cell) + ".pprof"
	return os.WriteFile(filepath.Join(*profiles, name), text, 0o644)
}
