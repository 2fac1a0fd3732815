// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"math"
	"net/netip"
	"strconv"
	"strings"

	xdsmatcherv3 "github.com/cncf/xds/go/xds/type/matcher/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/proxy_protocol/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	limitv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/connection_limit/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	ratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/local_ratelimit/v3"
	netrbacv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/rbac/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	udpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/udp/udp_proxy/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/proxy/config"
)

// listenerValue is a listener with what it still needs.
type listenerValue struct {
	listener *config.Listener
	routes   []ref
	tls      map[*config.CommonTLS]*tlsRefs
}

// slot reports an extension that is supported, but not where it stands.
func (c *converter) slot(p *place, got proto.Message, want string) {
	c.unsupported(p, want, string(got.ProtoReflect().Descriptor().FullName()), "")
}

func (c *converter) listener(m *listenerv3.Listener, p *place) listenerValue {
	l := &config.Listener{
		Name: m.GetName(), Transparent: m.GetTransparent().GetValue(), Inspect: c.duration(m.GetListenerFiltersTimeout(), p.field("listener_filters_timeout")),
		ReadLimit: c.size(m.GetPerConnectionBufferLimitBytes(), 1<<30, p.field("per_connection_buffer_limit_bytes")),
		Backlog:   c.size(m.GetTcpBacklogSize(), 1<<20, p.field("tcp_backlog_size")), AccessLogs: c.accessLogs(m.GetAccessLog(), p),
	}
	v := listenerValue{listener: l, tls: c.tls}
	c.only(m.GetEnableReusePort(), true, p.field("enable_reuse_port"))
	c.only(m.GetBindToPort(), true, p.field("bind_to_port"))
	c.only(m.GetUseOriginalDst(), false, p.field("use_original_dst"))
	if l.Name == "" {
		c.wrong(p.field("name"), "a name", "none", "give it one: statistics and updates go by it")
	}
	at := p.field("address").field("socket_address")
	sa := m.GetAddress().GetSocketAddress()
	if sa == nil {
		c.unsupported(p.field("address"), "a socket_address", "another kind of address", "")
		return v
	}
	l.Addr = c.socketAddr(sa, at)
	udp := sa.GetProtocol() == corev3.SocketAddress_UDP
	if !udp && m.GetUdpListenerConfig() != nil {
		c.wrong(p.field("udp_listener_config"), "none on a TCP listener", "one", "remove it")
	}
	c.listenerFilters(m.GetListenerFilters(), l, udp, p)
	if udp {
		if l.UDP == nil {
			c.wrong(p.field("listener_filters"), "udp_proxy", "none", "")
		}
		if len(m.GetFilterChains()) > 0 || m.GetDefaultFilterChain() != nil {
			c.unsupported(p.field("filter_chains"), "none on a UDP listener", len(m.GetFilterChains()), "")
		}
		return v
	}
	for i, f := range m.GetFilterChains() {
		l.Chains = append(l.Chains, c.filterChain(f, l, &v, p.item("filter_chains", i)))
	}
	if d := m.GetDefaultFilterChain(); d != nil {
		if proto.Size(d.GetFilterChainMatch()) > 0 {
			c.wrong(p.field("default_filter_chain").field("filter_chain_match"), "none", "one", "it takes what no other chain does")
		}
		l.Default = c.filterChain(d, l, &v, p.field("default_filter_chain"))
	}
	if len(l.Chains) == 0 && l.Default == nil {
		c.wrong(p.field("filter_chains"), "at least one", "none", "")
	}
	return v
}

func (c *converter) socketAddr(m *corev3.SocketAddress, p *place) netip.AddrPort {
	a, err := netip.ParseAddr(m.GetAddress())
	if err != nil || a.Zone() != "" {
		c.wrong(p.field("address"), "an IP address", m.GetAddress(), "")
	}
	if m.GetPortValue() == 0 {
		c.wrong(p.field("port_value"), "1 to 65535", 0, "name a port: others must find it")
	}
	return netip.AddrPortFrom(a, c.port(m.GetPortValue(), p.field("port_value")))
}

func (c *converter) listenerFilters(list []*listenerv3.ListenerFilter, l *config.Listener, udp bool, p *place) {
	for i, f := range list {
		at := p.item("listener_filters", i).field("typed_config")
		in := c.unpack(f.GetTypedConfig(), at)
		if in == nil {
			continue
		}
		if x, ok := in.(*udpv3.UdpProxyConfig); ok && udp && l.UDP == nil {
			l.UDP = c.udpProxy(x, at)
			continue
		}
		if udp {
			c.slot(at, in, "one udp_proxy on a UDP listener")
			continue
		}
		switch x := in.(type) {
		case *originaldstv3.OriginalDst:
			l.OriginalDst = true
		case *tlsinspectorv3.TlsInspector, *httpinspectorv3.HttpInspector: // what they find is always looked for where a chain asks
		case *proxyprotocolv3.ProxyProtocol:
			l.ProxyProtocol = c.proxyProtocol(x, at)
			if i > 0 {
				c.unsupported(at, "the PROXY protocol before other listener filters", "after another", "move it to the front")
			}
		default:
			c.slot(at, in, "original_dst, tls_inspector, http_inspector or proxy_protocol")
		}
	}
}

func (c *converter) proxyProtocol(m *proxyprotocolv3.ProxyProtocol, p *place) *config.ProxyProtocol {
	x := &config.ProxyProtocol{Optional: m.GetAllowRequestsWithoutProxyProtocol()}
	if len(m.GetDisallowedVersions()) == 0 {
		return x
	}
	x.V1, x.V2 = true, true
	for _, v := range m.GetDisallowedVersions() {
		switch v {
		case corev3.ProxyProtocolConfig_V1:
			x.V1 = false
		case corev3.ProxyProtocolConfig_V2:
			x.V2 = false
		}
	}
	if !x.V1 && !x.V2 {
		c.wrong(p.field("disallowed_versions"), "one version at least that is allowed", "none", "remove the filter")
	}
	return x
}

func (c *converter) udpProxy(m *udpv3.UdpProxyConfig, p *place) *config.UDPProxy {
	u := &config.UDPProxy{
		IdleTimeout: c.duration(m.GetIdleTimeout(), p.field("idle_timeout")),
		PerPacket:   m.GetUsePerPacketLoadBalancing(), AccessLogs: c.accessLogs(m.GetAccessLog(), p),
	}
	switch x := m.GetRouteSpecifier().(type) {
	case *udpv3.UdpProxyConfig_Cluster:
		u.Cluster = c.use(x.Cluster, p.field("cluster"))
	case *udpv3.UdpProxyConfig_Matcher:
		u.Cluster = c.udpRoute(x.Matcher, p.field("matcher"))
	default:
		c.wrong(p, "cluster or matcher", "none of them", "")
	}
	for i, h := range m.GetHashPolicies() {
		if !h.GetSourceIp() {
			c.unsupported(p.item("hash_policies", i), "source_ip", "another", "")
		}
		u.HashSourceIP = true
	}
	return u
}

// udpRoute takes the form of a matcher that has one outcome.
func (c *converter) udpRoute(m *xdsmatcherv3.Matcher, p *place) string {
	at := p.field("on_no_match").field("action").field("typed_config")
	in := c.unpack(m.GetOnNoMatch().GetAction().GetTypedConfig(), at)
	if r, ok := in.(*udpv3.Route); ok {
		return c.use(r.GetCluster(), at.field("cluster"))
	}
	if in != nil {
		c.slot(at, in, "udp_proxy.v3.Route")
	}
	return ""
}

func (c *converter) filterChain(m *listenerv3.FilterChain, l *config.Listener, v *listenerValue, p *place) *config.FilterChain {
	f := &config.FilterChain{
		Name: m.GetName(), Match: c.chainMatch(m.GetFilterChainMatch(), p.field("filter_chain_match")),
		TLSTimeout: c.duration(m.GetTransportSocketConnectTimeout(), p.field("transport_socket_connect_timeout")), ReadLimit: l.ReadLimit,
	}
	if ts := m.GetTransportSocket(); ts != nil {
		at := p.field("transport_socket").field("typed_config")
		switch x := c.unpack(ts.GetTypedConfig(), at).(type) {
		case nil, *rawv3.RawBuffer:
		case *tlsv3.DownstreamTlsContext:
			f.TLS = c.serverTLS(x, at)
		default:
			c.slot(at, x, "DownstreamTlsContext or RawBuffer")
		}
	}
	if f.TLS != nil && f.Match.TransportProtocol == "raw_buffer" {
		c.wrong(p.field("transport_socket"), "none where transport_protocol is raw_buffer", "TLS", "")
	}
	c.networkFilters(m.GetFilters(), f, v, p)
	return f
}

func (c *converter) chainMatch(m *listenerv3.FilterChainMatch, p *place) config.ChainMatch {
	x := config.ChainMatch{
		PrefixRanges: c.prefixes(m.GetPrefixRanges(), p, "prefix_ranges"), SourcePrefixes: c.prefixes(m.GetSourcePrefixRanges(), p, "source_prefix_ranges"),
		DirectSource: c.prefixes(m.GetDirectSourcePrefixRanges(), p, "direct_source_prefix_ranges"), ALPN: m.GetApplicationProtocols(), TransportProtocol: m.GetTransportProtocol(),
	}
	if v := m.GetDestinationPort(); v != nil {
		x.DestinationPort = c.port(c.count(v, p.field("destination_port")), p.field("destination_port"))
	}
	for i, v := range m.GetSourcePorts() {
		x.SourcePorts = append(x.SourcePorts, c.port(v, p.item("source_ports", i)))
	}
	for i, s := range m.GetServerNames() {
		low := strings.ToLower(s)
		if rest := strings.TrimPrefix(low, "*."); rest == "" || strings.ContainsAny(rest, "*: /") {
			c.wrong(p.item("server_names", i), "an exact name or *.suffix", s, "")
		}
		x.ServerNames = append(x.ServerNames, low)
	}
	switch x.TransportProtocol {
	case "", "raw_buffer", "tls":
	default:
		c.unsupported(p.field("transport_protocol"), "raw_buffer or tls", x.TransportProtocol, "")
	}
	return x
}

// networkFilters takes connection_limit, local_ratelimit and rbac, each at
// most once and in this order, the order in which they act, and behind them
// the one that ends the chain.
func (c *converter) networkFilters(list []*listenerv3.Filter, f *config.FilterChain, v *listenerValue, p *place) {
	const order = "connection_limit, local_ratelimit, rbac, each at most once and in this order"
	stage, ended := 0, false
	next := func(n int, at *place, got proto.Message) {
		if n <= stage || ended {
			c.slot(at, got, order)
		}
		stage = n
	}
	for i, m := range list {
		at := p.item("filters", i).field("typed_config")
		switch x := c.unpack(m.GetTypedConfig(), at).(type) {
		case nil:
			ended = ended || i == len(list)-1 // said already
		case *limitv3.ConnectionLimit:
			next(1, at, x)
			f.ConnLimit = c.connLimit(x, at)
		case *ratev3.LocalRateLimit:
			next(2, at, x)
			if c.whenEnabled(x.GetRuntimeEnabled(), at) {
				f.RateLimit = c.tokenBucket(x.GetTokenBucket(), at.field("token_bucket"))
			}
		case *netrbacv3.RBAC:
			next(3, at, x)
			f.RBAC = c.networkRBAC(x, at)
		case *hcmv3.HttpConnectionManager:
			next(4, at, x)
			f.HTTP, ended = c.httpManager(x, v, at), true
			chain := *p
			chain.up = nil
			c.hcm[chain.String()] = "filters[" + strconv.Itoa(i) + "].typed_config"
		case *tcpv3.TcpProxy:
			next(4, at, x)
			f.TCP, ended = c.tcpProxy(x, at), true
		default:
			c.slot(at, x, "a network filter")
		}
	}
	if !ended {
		c.wrong(p.field("filters"), "http_connection_manager or tcp_proxy at the end", "neither", "")
	}
}

func (c *converter) whenEnabled(f *corev3.RuntimeFeatureFlag, p *place) bool {
	if !c.enabled(f, true) {
		c.unsupported(p.field("runtime_enabled"), "true", false, "remove the filter")
		return false
	}
	return true
}

func (c *converter) connLimit(m *limitv3.ConnectionLimit, p *place) int64 {
	c.whenEnabled(m.GetRuntimeEnabled(), p)
	n := c.count64(m.GetMaxConnections(), p.field("max_connections"))
	if n > math.MaxInt64 {
		c.wrong(p.field("max_connections"), "at most 9223372036854775807", n, "")
	}
	return int64(min(n, math.MaxInt64))
}

func (c *converter) tcpProxy(m *tcpv3.TcpProxy, p *place) *config.TCPProxy {
	t := &config.TCPProxy{
		StatPrefix: m.GetStatPrefix(), IdleTimeout: c.orNever(m.GetIdleTimeout(), p.field("idle_timeout")),
		MaxConnectAttempts: c.count(m.GetMaxConnectAttempts(), p.field("max_connect_attempts")), AccessLogs: c.accessLogs(m.GetAccessLog(), p),
		Subset: c.metadataLB(m.GetMetadataMatch(), p.field("metadata_match")), MaxDuration: c.duration(m.GetMaxDownstreamConnectionDuration(), p.field("max_downstream_connection_duration")),
	}
	switch x := m.GetClusterSpecifier().(type) {
	case *tcpv3.TcpProxy_Cluster:
		t.Cluster = c.use(x.Cluster, p.field("cluster"))
	case *tcpv3.TcpProxy_WeightedClusters:
		var sum uint64
		for i, w := range x.WeightedClusters.GetClusters() {
			t.Weighted = append(t.Weighted, config.Weighted{Cluster: c.use(w.GetName(), p.field("weighted_clusters").item("clusters", i).field("name")), Weight: w.GetWeight(), Subset: c.metadataLB(w.GetMetadataMatch(), p.field("weighted_clusters").item("clusters", i).field("metadata_match"))})
			sum += uint64(w.GetWeight())
		}
		if sum == 0 || sum > math.MaxUint32 {
			c.wrong(p.field("weighted_clusters").field("clusters"), "weights that sum up to 1 to 4294967295", sum, "")
		}
	default:
		c.wrong(p, "cluster or weighted_clusters", "none of them", "")
	}
	t.HashSourceIP = c.sourceIPHash(m.GetHashPolicy(), p)
	return t
}

func (c *converter) sourceIPHash(list []*typev3.HashPolicy, p *place) bool {
	for i, h := range list {
		if h.GetSourceIp() == nil {
			c.unsupported(p.item("hash_policy", i), "source_ip", "another", "")
		}
	}
	return len(list) > 0
}
