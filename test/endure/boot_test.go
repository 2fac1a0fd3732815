// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"fmt"
	"net"
	"strings"

	"redoubt.dev/test/conform/rig"
)

// listener is one address of a bootstrap. Fields that hold YAML are in flow
// style and end with a comma.
type listener struct {
	name   string
	addr   string
	tcp    bool
	to     string // the cluster, or the name of the routes
	tls    *rig.Certs
	mutual bool   // a client certificate is demanded
	extra  string // YAML of the Listener
	chain  string // YAML of the FilterChain
	hcm    string // YAML of the HttpConnectionManager
	route  string // YAML of the RouteAction
	first  string // YAML of network filters before the last
	rds    string // YAML of the ConfigSource of routes; "": in place
	sds    string // YAML of the ConfigSource of the certificate; "": the files of tls
}

// cluster is one cluster of a bootstrap.
type cluster struct {
	name, to string
	h2       bool
	extra    string // YAML of the Cluster
}

const typePrefix = "type.googleapis.com/envoy.extensions."

func (l *listener) yaml() string {
	host, port, _ := net.SplitHostPort(l.addr)
	var filter string
	if l.tcp {
		filter = fmt.Sprintf(`{name: tcp, typed_config: {"@type": %sfilters.network.tcp_proxy.v3.TcpProxy, stat_prefix: %s, %s cluster: %s}}`, typePrefix, l.name, l.hcm, l.to)
	} else {
		routes := fmt.Sprintf(`route_config: {name: %s, virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, route: {%s cluster: %s}}]}]}`, l.name, l.route, l.to)
		if l.rds != "" {
			routes = fmt.Sprintf(`rds: {route_config_name: %s, config_source: %s}`, l.to, l.rds)
		}
		filter = fmt.Sprintf(`{name: http, typed_config: {"@type": %[1]sfilters.network.http_connection_manager.v3.HttpConnectionManager, stat_prefix: %[2]s, %[3]s
          %[4]s,
          http_filters: [{name: router, typed_config: {"@type": %[1]sfilters.http.router.v3.Router}}]}}`, typePrefix, l.name, l.hcm, routes)
	}
	return fmt.Sprintf("  - {name: %s, %s address: {socket_address: {address: %s, port_value: %s}}, filter_chains: [{%s%s filters: [%s %s]}]}\n",
		l.name, l.extra, host, port, l.chain, l.socket(), l.first, filter)
}

func (l *listener) socket() string {
	if l.tls == nil {
		return ""
	}
	alpn, valid := "alpn_protocols: [h2, http/1.1],", "validation_context: {trust_chain_verification: ACCEPT_UNTRUSTED},"
	if l.tcp {
		alpn = ""
	}
	if l.mutual {
		valid = fmt.Sprintf("validation_context: {trusted_ca: {filename: %s}},", l.tls.CAFile)
	}
	cert := fmt.Sprintf("tls_certificates: [{certificate_chain: {filename: %s}, private_key: {filename: %s}}]", l.tls.CertFile, l.tls.KeyFile)
	if l.sds != "" {
		cert = fmt.Sprintf("tls_certificate_sds_secret_configs: [{name: cert, sds_config: %s}]", l.sds)
	}
	return fmt.Sprintf(`transport_socket: {name: tls, typed_config: {"@type": %stransport_sockets.tls.v3.DownstreamTlsContext, require_client_certificate: %v,
        common_tls_context: {%s %s %s}}},`,
		typePrefix, l.mutual, alpn, valid, cert)
}

func (c *cluster) yaml() string {
	h2 := ""
	if c.h2 {
		h2 = `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": ` + typePrefix + `upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}},`
	}
	return fmt.Sprintf("  - {name: %s, type: STATIC, connect_timeout: 2s, %s %s load_assignment: {cluster_name: %s, endpoints: [{lb_endpoints: [{endpoint: {address: %s}}]}]}}\n",
		c.name, h2, c.extra, c.name, addressOf(c.to))
}

// addressOf is an Address: host:port, or the path of a unix socket.
func addressOf(a string) string {
	if strings.HasPrefix(a, "/") {
		return fmt.Sprintf("{pipe: {path: %s}}", a)
	}
	host, port, _ := net.SplitHostPort(a)
	return fmt.Sprintf("{socket_address: {address: %s, port_value: %s}}", host, port)
}

// boot is a bootstrap without its admin section.
func boot(ls []*listener, cs []*cluster) string {
	var b strings.Builder
	b.WriteString("static_resources:\n  listeners:\n")
	for _, l := range ls {
		b.WriteString(l.yaml())
	}
	b.WriteString("  clusters:\n")
	for _, c := range cs {
		b.WriteString(c.yaml())
	}
	return b.String()
}

// roomy lifts a cluster's limits: what is tested is not the breaker.
const roomy = "circuit_breakers: {thresholds: [{max_connections: 65536, max_pending_requests: 65536, max_requests: 65536, max_retries: 65536}]},"
