// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

var build struct {
	once sync.Once
	path string
	out  []byte
	err  error
}

// Binary builds redoubt-proxy once per test process and gives its path.
func Binary(t testing.TB) string {
	t.Helper()
	build.once.Do(func() {
		_, file, _, _ := runtime.Caller(0)
		root := filepath.Join(filepath.Dir(file), "..", "..", "..")
		build.path = filepath.Join(dirOfProcess(), "redoubt-proxy")
		cmd := exec.Command("go", "build", "-o", build.path, "./cmd/redoubt-proxy")
		cmd.Dir = root
		cmd.Env = append(cmd.Environ(), "CGO_ENABLED=0")
		build.out, build.err = cmd.CombinedOutput()
	})
	if build.err != nil {
		t.Fatalf("build redoubt-proxy: %v\n%s", build.err, build.out)
	}
	usage, _ := exec.Command(build.path, "-h").CombinedOutput()
	if !strings.Contains(string(usage), "-config") {
		t.Skip("needs redoubt-proxy with --config")
	}
	return build.path
}

const yamlHead = `
admin: {address: {pipe: {path: %s}}}
static_resources:
  listeners:
`

const yamlListener = `
  - name: l%[1]d
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]s}}
    filter_chains:
    - filters:
%[3]s%[4]s`

const yamlHTTP = `
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: l%[1]d
          codec_type: AUTO
          request_headers_timeout: %[2]s
          request_timeout: %[3]s
          stream_idle_timeout: %[3]s
          http2_protocol_options: {allow_connect: true}
          upgrade_configs: [{upgrade_type: websocket}]
          route_config:
            name: r%[1]d
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                route: {cluster: c%[1]d, timeout: 0s, idle_timeout: %[3]s}
          http_filters:
%[4]s          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

const yamlGRPCWeb = `          - name: envoy.filters.http.grpc_web
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.grpc_web.v3.GrpcWeb}
`

const yamlTCP = `
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: l%[1]d
          cluster: c%[1]d
`

const yamlTLS = `
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: %[4]v
          common_tls_context:
            alpn_protocols: [%[5]s]
            tls_certificates: [{certificate_chain: {filename: %[1]s}, private_key: {filename: %[2]s}}]
            %[6]svalidation_context: {trusted_ca: {filename: %[3]s}}
`

const yamlCluster = `
  - name: c%[1]d
    type: STATIC
    connect_timeout: 2s
%[4]s    load_assignment:
      cluster_name: c%[1]d
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]
`

const yamlUpHTTP2 = `    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {allow_connect: true}}
`

// bootstrap writes the Envoy v3 configuration.
func bootstrap(s *Setup, addrs []string, admin string) string {
	var b strings.Builder
	fmt.Fprintf(&b, yamlHead, admin)
	for i, l := range s.Listeners {
		filter, tls := fmt.Sprintf(yamlTCP, i), ""
		if !l.TCP {
			web := ""
			if l.GRPCWeb {
				web = yamlGRPCWeb
			}
			filter = fmt.Sprintf(yamlHTTP, i, seconds(s.Patience), seconds(2*s.Patience), web)
		}
		if c := l.TLS; c != nil {
			alpn, mark := "h2, http/1.1", "#"
			if l.TCP {
				alpn = ""
			}
			if l.Mutual {
				mark = ""
			}
			tls = fmt.Sprintf(yamlTLS, c.CertFile, c.KeyFile, c.CAFile, l.Mutual, alpn, mark)
		}
		_, port, _ := net.SplitHostPort(addrs[i])
		fmt.Fprintf(&b, yamlListener, i, port, filter, tls)
	}
	b.WriteString("\n  clusters:\n")
	for i, l := range s.Listeners {
		host, port, _ := net.SplitHostPort(l.To)
		proto := ""
		if l.ToHTTP2 {
			proto = yamlUpHTTP2
		}
		fmt.Fprintf(&b, yamlCluster, i, host, port, proto)
	}
	return b.String()
}

func seconds(d time.Duration) string { return fmt.Sprintf("%gs", d.Seconds()) }

// nginxConf does the same by nginx, HTTP/1.1 only.
func nginxConf(s *Setup, addrs []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "daemon off; user root; master_process on; worker_processes %d; pid nginx.pid; error_log stderr error;\nevents { worker_connections 4096; }\n", s.Loops)
	b.WriteString("http { access_log off; client_body_temp_path b; proxy_temp_path p; fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n" +
		"proxy_http_version 1.1; proxy_request_buffering off; proxy_buffering off; underscores_in_headers on; large_client_header_buffers 4 64k; client_max_body_size 0;\n")
	p := int(s.Patience.Milliseconds())
	fmt.Fprintf(&b, "client_header_timeout %dms; client_body_timeout %dms; proxy_read_timeout %dms; keepalive_timeout %dms; keepalive_requests 1000000;\n", p, 2*p, 2*p, 2*p)
	b.WriteString("map $http_upgrade $up { default upgrade; '' ''; }\nmap $http_host $name { default $http_host; '' $proxy_host; }\n")
	for i, l := range s.Listeners {
		fmt.Fprintf(&b, "upstream u%d { server %s; keepalive 16; }\n", i, l.To)
		flags := ""
		if l.TLS != nil {
			flags = " ssl"
		}
		fmt.Fprintf(&b, "server { listen %s%s backlog=4096;\n", addrs[i], flags)
		if c := l.TLS; c != nil {
			fmt.Fprintf(&b, "ssl_certificate %s; ssl_certificate_key %s;\n", c.CertFile, c.KeyFile)
			if l.Mutual {
				fmt.Fprintf(&b, "ssl_client_certificate %s; ssl_verify_client on;\n", c.CAFile)
			}
		}
		fmt.Fprintf(&b, "location / { proxy_pass http://u%d; proxy_set_header Host $name; proxy_set_header Connection $up; proxy_set_header Upgrade $http_upgrade; } }\n", i)
	}
	b.WriteString("}\n")
	return b.String()
}

// haproxyConf does the same by haproxy, HTTP/1.1 and HTTP/2.
func haproxyConf(s *Setup, addrs []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "global\n nbthread %d\n maxconn 8192\n tune.h2.max-concurrent-streams 100\n tune.http.maxhdr 256\n", s.Loops)
	fmt.Fprintf(&b, "defaults\n timeout connect 2s\n timeout client %[2]dms\n timeout server %[2]dms\n timeout http-request %[1]dms\n timeout http-keep-alive %[2]dms\n timeout tunnel 60s\n option http-no-delay\n", s.Patience.Milliseconds(), 2*s.Patience.Milliseconds())
	for i, l := range s.Listeners {
		mode, tls, proto := "http", "", ""
		if l.TCP {
			mode = "tcp"
		}
		if c := l.TLS; c != nil {
			tls = " ssl crt " + c.BothFile
			if !l.TCP {
				tls += " alpn h2,http/1.1"
			}
			if l.Mutual {
				tls += " verify required ca-file " + c.CAFile
			}
		}
		if l.ToHTTP2 {
			proto = " proto h2"
		}
		fmt.Fprintf(&b, "listen l%d\n mode %s\n bind %s%s\n server s %s%s\n", i, mode, addrs[i], tls, l.To, proto)
		if !l.TCP {
			b.WriteString(" http-reuse safe\n")
		}
	}
	return b.String()
}
