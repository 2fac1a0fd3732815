// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"math"
	"net/netip"
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	dnscommon "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/common/dns/v3"
	dnsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/clusters/dns/v3"
	proxyprotocolv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/proxy_protocol/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	upstreamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"redoubt.dev/proxy/config"
)

// upstreamOptions is the only key that typed_extension_protocol_options has.
const upstreamOptions = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"

// clusterValue is a cluster with what it still needs.
type clusterValue struct {
	cluster *config.Cluster
	eds     *ref // nil: the endpoints are known or resolved
	tls     map[*config.CommonTLS]*tlsRefs
}

var discovery = map[clusterv3.Cluster_DiscoveryType]config.Discovery{
	clusterv3.Cluster_STATIC: config.Static, clusterv3.Cluster_STRICT_DNS: config.StrictDNS, clusterv3.Cluster_LOGICAL_DNS: config.LogicalDNS,
	clusterv3.Cluster_EDS: config.EDS, clusterv3.Cluster_ORIGINAL_DST: config.OrigDst,
}

func (c *converter) cluster(m *clusterv3.Cluster, p *place) clusterValue {
	x := &config.Cluster{
		Name: m.GetName(), AltStat: m.GetAltStatName(), ConnectTimeout: c.duration(m.GetConnectTimeout(), p.field("connect_timeout")),
		ReadLimit:  c.size(m.GetPerConnectionBufferLimitBytes(), 1<<30, p.field("per_connection_buffer_limit_bytes")),
		DNSRefresh: c.duration(m.GetDnsRefreshRate(), p.field("dns_refresh_rate")), Outlier: c.outlier(m.GetOutlierDetection(), p.field("outlier_detection")),
		IgnoreHealthOnRemoval: m.GetIgnoreHealthOnHostRemoval(),
	}
	if f := m.GetDnsLookupFamily(); f != 0 {
		x.DNSFamily = f.String()
	}
	v := clusterValue{cluster: x, tls: c.tls}
	switch t := m.GetClusterDiscoveryType().(type) {
	case *clusterv3.Cluster_ClusterType:
		c.customType(t.ClusterType, x, p.field("cluster_type").field("typed_config"))
	default:
		x.Discovery = choose(c, discovery, m.GetType(), p.field("type"))
	}
	c.lbPolicy(m, x, p)
	c.commonLB(m.GetCommonLbConfig(), x, p.field("common_lb_config"))
	for i, h := range m.GetHealthChecks() {
		x.Health = append(x.Health, c.healthCheck(h, p.item("health_checks", i)))
	}
	c.breakers(m.GetCircuitBreakers(), x, p.field("circuit_breakers"))
	c.transport(m.GetTransportSocket(), x, p.field("transport_socket"))
	c.upstream(m, x, p)
	if b := m.GetUpstreamBindConfig(); b != nil {
		at := p.field("upstream_bind_config").field("source_address")
		a, err := netip.ParseAddr(b.GetSourceAddress().GetAddress())
		if err != nil || b.GetSourceAddress().GetPortValue() != 0 {
			c.wrong(at, "an IP address and port 0", b.GetSourceAddress().GetAddress(), "a fixed port allows one connection")
		}
		x.SourceAddr = a
	}
	c.origin(m, &v, p)
	return v
}

// origin reads where the hosts come from.
func (c *converter) origin(m *clusterv3.Cluster, v *clusterValue, p *place) {
	x := v.cluster
	switch x.Discovery {
	case config.EDS:
		x.EDSName = x.Name
		if n := m.GetEdsClusterConfig().GetServiceName(); n != "" {
			x.EDSName = n
		}
		if s, wait, ok := c.source(m.GetEdsClusterConfig().GetEdsConfig(), p.field("eds_cluster_config").field("eds_config")); ok {
			v.eds = &ref{s, x.EDSName, wait}
		}
		if m.GetLoadAssignment() != nil {
			c.wrong(p.field("load_assignment"), "none with EDS", "one", "remove it")
		}
		return
	case config.OrigDst:
		if m.GetLoadAssignment() != nil {
			c.wrong(p.field("load_assignment"), "none with ORIGINAL_DST", "one", "remove it")
		}
	default:
		if m.GetLoadAssignment() == nil {
			c.wrong(p.field("load_assignment"), "the cluster's hosts", "none", "")
			return
		}
		e := c.endpoints(m.GetLoadAssignment(), x.Discovery == config.StrictDNS || x.Discovery == config.LogicalDNS, p.field("load_assignment"))
		x.Endpoints, x.Overprovision = e.endpoints, e.over
		if n := len(e.endpoints.Localities); x.Discovery == config.LogicalDNS && (n != 1 || len(e.endpoints.Localities[0].Hosts) != 1) {
			c.wrong(p.field("load_assignment"), "one host for LOGICAL_DNS", n, "use STRICT_DNS")
		}
	}
	if m.GetEdsClusterConfig() != nil {
		c.wrong(p.field("eds_cluster_config"), "none without type EDS", "one", "set type: EDS")
	}
	if o := m.GetOriginalDstLbConfig(); (o != nil) && x.Discovery != config.OrigDst {
		c.wrong(p.field("original_dst_lb_config"), "none without type ORIGINAL_DST", "one", "")
	}
}

func (c *converter) customType(m *clusterv3.Cluster_CustomClusterType, x *config.Cluster, p *place) {
	in := c.unpack(m.GetTypedConfig(), p)
	d, ok := in.(*dnsv3.DnsCluster)
	if !ok {
		if in != nil {
			c.slot(p, in, "DnsCluster")
		}
		return
	}
	x.Discovery = config.StrictDNS
	if d.GetAllAddressesInSingleEndpoint() {
		x.Discovery = config.LogicalDNS
	}
	x.DNSRefresh = c.duration(d.GetDnsRefreshRate(), p.field("dns_refresh_rate"))
	if f := d.GetDnsLookupFamily(); f != dnscommon.DnsLookupFamily_UNSPECIFIED {
		x.DNSFamily = f.String()
	}
}

func (c *converter) breakers(m *clusterv3.CircuitBreakers, x *config.Cluster, p *place) {
	for i, t := range m.GetThresholds() {
		at := p.item("thresholds", i)
		if t.GetPriority() != corev3.RoutingPriority_DEFAULT && t.GetPriority() != corev3.RoutingPriority_HIGH {
			c.unsupported(at.field("priority"), "DEFAULT or HIGH", t.GetPriority(), "")
			continue
		}
		b := &x.Breakers[t.GetPriority()]
		if *b != (config.Breakers{}) {
			c.wrong(at.field("priority"), "each priority once", t.GetPriority(), "remove one")
		}
		*b = config.Breakers{
			MaxConns: c.count(t.GetMaxConnections(), at.field("max_connections")), MaxPending: c.count(t.GetMaxPendingRequests(), at.field("max_pending_requests")),
			MaxRequests: c.count(t.GetMaxRequests(), at.field("max_requests")), MaxRetries: c.count(t.GetMaxRetries(), at.field("max_retries")),
		}
		if r := t.GetRetryBudget(); r != nil {
			b.Budget = &config.RetryBudget{PerCent: c.perCent(r.GetBudgetPercent(), at.field("retry_budget").field("budget_percent")), Min: c.count(r.GetMinRetryConcurrency(), at.field("retry_budget").field("min_retry_concurrency"))}
		}
	}
}

func (c *converter) transport(m *corev3.TransportSocket, x *config.Cluster, p *place) {
	if m == nil {
		return
	}
	at := p.field("typed_config")
	switch t := c.unpack(m.GetTypedConfig(), at).(type) {
	case nil, *rawv3.RawBuffer:
	case *tlsv3.UpstreamTlsContext:
		x.TLS = c.clientTLS(t, at)
	case *proxyprotocolv3.ProxyProtocolUpstreamTransport:
		if x.ProxyProtocol != 0 {
			c.slot(at, t, "one PROXY header")
			return
		}
		x.ProxyProtocol = 1
		if t.GetConfig().GetVersion() == corev3.ProxyProtocolConfig_V2 {
			x.ProxyProtocol = 2
		}
		c.transport(t.GetTransportSocket(), x, at.field("transport_socket"))
	default:
		c.slot(at, t, "UpstreamTlsContext, RawBuffer or ProxyProtocolUpstreamTransport")
	}
}

// upstream reads what is spoken to the hosts: the typed options, or the
// deprecated fields of the cluster with the same meaning.
func (c *converter) upstream(m *clusterv3.Cluster, x *config.Cluster, p *place) {
	x.MaxRequests = m.GetMaxRequestsPerConnection().GetValue()
	c.commonUpstream(m.GetCommonHttpProtocolOptions(), x, p.field("common_http_protocol_options"))
	c.autoNames(m.GetUpstreamHttpProtocolOptions(), x, p.field("upstream_http_protocol_options"))
	if o := m.GetHttp2ProtocolOptions(); o != nil {
		x.Upstream, x.HTTP2 = config.UpHTTP2, c.http2(o, p.field("http2_protocol_options"))
	}
	for name, a := range m.GetTypedExtensionProtocolOptions() {
		at := p.entry("typed_extension_protocol_options", name)
		in := c.unpack(a, at)
		o, ok := in.(*upstreamv3.HttpProtocolOptions)
		if !ok || name != upstreamOptions {
			if in != nil {
				c.slot(at, in, upstreamOptions)
			}
			continue
		}
		if x.Upstream != config.UpHTTP1 {
			c.wrong(p.field("http2_protocol_options"), "none beside typed_extension_protocol_options", "both", "remove it")
		}
		c.httpOptions(o, x, at)
	}
}

func (c *converter) httpOptions(o *upstreamv3.HttpProtocolOptions, x *config.Cluster, p *place) {
	c.commonUpstream(o.GetCommonHttpProtocolOptions(), x, p.field("common_http_protocol_options"))
	c.autoNames(o.GetUpstreamHttpProtocolOptions(), x, p.field("upstream_http_protocol_options"))
	switch u := o.GetUpstreamProtocolOptions().(type) {
	case *upstreamv3.HttpProtocolOptions_ExplicitHttpConfig_:
		if h2 := u.ExplicitHttpConfig.GetHttp2ProtocolOptions(); h2 != nil {
			x.Upstream, x.HTTP2 = config.UpHTTP2, c.http2(h2, p.field("explicit_http_config").field("http2_protocol_options"))
		}
	case *upstreamv3.HttpProtocolOptions_AutoConfig:
		x.Upstream, x.HTTP2 = config.UpAuto, c.http2(u.AutoConfig.GetHttp2ProtocolOptions(), p.field("auto_config").field("http2_protocol_options"))
		if x.TLS == nil {
			c.wrong(p.field("auto_config"), "a TLS transport_socket, whose ALPN decides", "none", "use explicit_http_config")
		}
	case *upstreamv3.HttpProtocolOptions_UseDownstreamProtocolConfig:
		x.Upstream, x.HTTP2 = config.UpDownstream, c.http2(u.UseDownstreamProtocolConfig.GetHttp2ProtocolOptions(), p.field("use_downstream_protocol_config").field("http2_protocol_options"))
	}
}

func (c *converter) commonUpstream(o *corev3.HttpProtocolOptions, x *config.Cluster, p *place) {
	if o == nil {
		return
	}
	x.IdleTimeout = c.duration(o.GetIdleTimeout(), p.field("idle_timeout"))
	x.MaxConnDuration = c.duration(o.GetMaxConnectionDuration(), p.field("max_connection_duration"))
	if v := o.GetMaxRequestsPerConnection(); v != nil {
		x.MaxRequests = v.Value
	}
	if o.GetMaxStreamDuration() != nil {
		c.unsupported(p.field("max_stream_duration"), "none in a cluster", o.GetMaxStreamDuration().AsDuration(), "set it on the route")
	}
	if o.GetMaxHeadersCount() != nil {
		c.unsupported(p.field("max_headers_count"), "none in a cluster", o.GetMaxHeadersCount().Value, "remove it")
	}
}

func (c *converter) autoNames(o *corev3.UpstreamHttpProtocolOptions, x *config.Cluster, p *place) {
	if !o.GetAutoSni() && !o.GetAutoSanValidation() {
		return
	}
	if x.TLS == nil {
		c.wrong(p, "a TLS transport_socket", "none", "add UpstreamTlsContext")
		return
	}
	x.TLS.AutoSNI, x.TLS.AutoSAN = o.GetAutoSni(), o.GetAutoSanValidation()
}

// orOff gives -1 for a set 0: package config has 0 for the default.
func orOff(v *wrapperspb.UInt32Value) int {
	if v != nil && v.Value == 0 {
		return -1
	}
	return int(min(v.GetValue(), math.MaxInt32))
}

func (c *converter) outlier(m *clusterv3.OutlierDetection, p *place) *config.Outlier {
	if m == nil {
		return nil
	}
	per := func(v *wrapperspb.UInt32Value, name string) int {
		if v.GetValue() > 100 {
			c.wrong(p.field(name), "0 to 100", v.GetValue(), "")
		}
		return orOff(v)
	}
	o := &config.Outlier{
		Consecutive5xx: orOff(m.GetConsecutive_5Xx()), ConsecutiveGateway: orOff(m.GetConsecutiveGatewayFailure()), ConsecutiveLocal: orOff(m.GetConsecutiveLocalOriginFailure()),
		Interval: c.duration(m.GetInterval(), p.field("interval")), BaseEjection: c.duration(m.GetBaseEjectionTime(), p.field("base_ejection_time")), MaxEjection: c.duration(m.GetMaxEjectionTime(), p.field("max_ejection_time")),
		MaxPercent: per(m.GetMaxEjectionPercent(), "max_ejection_percent"), Enforcing5xx: per(m.GetEnforcingConsecutive_5Xx(), "enforcing_consecutive_5xx"),
		EnforcingGateway: per(m.GetEnforcingConsecutiveGatewayFailure(), "enforcing_consecutive_gateway_failure"), EnforcingLocal: per(m.GetEnforcingConsecutiveLocalOriginFailure(), "enforcing_consecutive_local_origin_failure"),
		EnforcingSuccess: per(m.GetEnforcingSuccessRate(), "enforcing_success_rate"), SuccessMinHosts: orOff(m.GetSuccessRateMinimumHosts()), SuccessVolume: orOff(m.GetSuccessRateRequestVolume()),
		SuccessStdevFactor: orOff(m.GetSuccessRateStdevFactor()), EnforcingFailure: per(m.GetEnforcingFailurePercentage(), "enforcing_failure_percentage"),
		FailureThreshold: per(m.GetFailurePercentageThreshold(), "failure_percentage_threshold"), FailureMinHosts: orOff(m.GetFailurePercentageMinimumHosts()),
		FailureVolume: orOff(m.GetFailurePercentageRequestVolume()), SplitLocal: m.GetSplitExternalLocalOriginErrors(), AlwaysOne: m.GetAlwaysEjectOneHost().GetValue(),
	}
	if d := m.GetMaxEjectionTimeJitter(); d != nil {
		o.Jitter = c.span(d, p.field("max_ejection_time_jitter"))
	}
	return o
}

func sortedKeys(keys []string) []string {
	keys = slices.Clone(keys)
	slices.Sort(keys)
	return slices.Compact(keys)
}
