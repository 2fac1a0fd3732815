// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"net/url"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tracev3 "github.com/envoyproxy/go-control-plane/envoy/config/trace/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tracingv3 "github.com/envoyproxy/go-control-plane/envoy/type/tracing/v3"

	"redoubt.dev/proxy/config"
)

var codecs = map[hcmv3.HttpConnectionManager_CodecType]config.Codec{
	hcmv3.HttpConnectionManager_AUTO: config.CodecAuto, hcmv3.HttpConnectionManager_HTTP1: config.CodecHTTP1, hcmv3.HttpConnectionManager_HTTP2: config.CodecHTTP2,
}

var serverHeaders = map[hcmv3.HttpConnectionManager_ServerHeaderTransformation]config.ServerHeader{
	hcmv3.HttpConnectionManager_OVERWRITE: config.ServerOverwrite, hcmv3.HttpConnectionManager_APPEND_IF_ABSENT: config.ServerIfAbsent, hcmv3.HttpConnectionManager_PASS_THROUGH: config.ServerPass,
}

var clientCerts = map[hcmv3.HttpConnectionManager_ForwardClientCertDetails]config.ForwardCert{
	hcmv3.HttpConnectionManager_SANITIZE: config.CertSanitize, hcmv3.HttpConnectionManager_FORWARD_ONLY: config.CertForwardOnly,
	hcmv3.HttpConnectionManager_APPEND_FORWARD: config.CertAppendForward, hcmv3.HttpConnectionManager_SANITIZE_SET: config.CertSanitizeSet,
	hcmv3.HttpConnectionManager_ALWAYS_FORWARD_ONLY: config.CertAlwaysForwardOnly,
}

var slashes = map[hcmv3.HttpConnectionManager_PathWithEscapedSlashesAction]config.EscapedSlashes{
	hcmv3.HttpConnectionManager_IMPLEMENTATION_SPECIFIC_DEFAULT: config.SlashKeep, hcmv3.HttpConnectionManager_KEEP_UNCHANGED: config.SlashKeep,
	hcmv3.HttpConnectionManager_REJECT_REQUEST: config.SlashReject, hcmv3.HttpConnectionManager_UNESCAPE_AND_REDIRECT: config.SlashUnescapeRedirect,
	hcmv3.HttpConnectionManager_UNESCAPE_AND_FORWARD: config.SlashUnescapeForward,
}

func choose[K comparable, V any](c *converter, table map[K]V, k K, p *place) V {
	v, ok := table[k]
	if !ok {
		c.unsupported(p, "", k, "see docs/config.md")
	}
	return v
}

func (c *converter) httpManager(m *hcmv3.HttpConnectionManager, v *listenerValue, p *place) *config.HTTPManager {
	h := &config.HTTPManager{
		StatPrefix: m.GetStatPrefix(), Codec: choose(c, codecs, m.GetCodecType(), p.field("codec_type")), AccessLogs: c.accessLogs(m.GetAccessLog(), p),
		Tracing: c.tracing(m.GetTracing(), p.field("tracing")), ServerName: c.fieldValue(m.GetServerName(), p.field("server_name")),
		ServerHeader:      choose(c, serverHeaders, m.GetServerHeaderTransformation(), p.field("server_header_transformation")),
		StreamIdleTimeout: c.orNever(m.GetStreamIdleTimeout(), p.field("stream_idle_timeout")), HeadTimeout: c.duration(m.GetRequestHeadersTimeout(), p.field("request_headers_timeout")),
		DrainTimeout: c.duration(m.GetDrainTimeout(), p.field("drain_timeout")), MaxHead: c.size(m.GetMaxRequestHeadersKb(), 8192, p.field("max_request_headers_kb")) << 10,
		XFF:               config.XFF{UseRemote: m.GetUseRemoteAddress().GetValue(), TrustedHops: int(min(m.GetXffNumTrustedHops(), 1<<20)), SkipAppend: m.GetSkipXffAppend()},
		ForwardClientCert: choose(c, clientCerts, m.GetForwardClientCertDetails(), p.field("forward_client_cert_details")),
		MergeSlashes:      m.GetMergeSlashes(), EscapedSlashes: choose(c, slashes, m.GetPathWithEscapedSlashesAction(), p.field("path_with_escaped_slashes_action")),
		// Unlike Envoy paths are normalised unless told otherwise: what
		// authorises by path and what serves it must see the same one.
		Normalise: m.GetNormalizePath() == nil || m.GetNormalizePath().GetValue(),
		StripPort: m.GetStripAnyHostPort(), StripMatchingPort: m.GetStripMatchingHostPort(), Via: c.fieldValue(m.GetVia(), p.field("via")),
		GenerateRequestID: m.GetGenerateRequestId() == nil || m.GetGenerateRequestId().GetValue(), KeepRequestID: m.GetPreserveExternalRequestId(),
	}
	if d := m.GetRequestTimeout(); d != nil {
		h.RequestTimeout = c.span(d, p.field("request_timeout")) // 0 is off, and the default
	}
	if o := m.GetCommonHttpProtocolOptions(); o != nil {
		c.commonDownstream(o, h, p.field("common_http_protocol_options"))
	}
	h.HTTP2 = c.http2(m.GetHttp2ProtocolOptions(), p.field("http2_protocol_options"))
	for i, u := range m.GetUpgradeConfigs() {
		if kind := strings.ToLower(u.GetUpgradeType()); u.GetEnabled() == nil || u.GetEnabled().GetValue() {
			c.fieldName(kind, p.item("upgrade_configs", i).field("upgrade_type"), false)
			h.Upgrades = append(h.Upgrades, kind)
		}
	}
	if d := m.GetSetCurrentClientCertDetails(); d != nil {
		h.CertDetails = config.CertDetails{Subject: d.GetSubject().GetValue(), Cert: d.GetCert(), DNS: d.GetDns(), URI: d.GetUri()}
	}
	h.Filters = c.httpFilters(m.GetHttpFilters(), p)
	switch x := m.GetRouteSpecifier().(type) {
	case *hcmv3.HttpConnectionManager_RouteConfig:
		h.Routes = c.routeConfig(x.RouteConfig, p.field("route_config"))
	case *hcmv3.HttpConnectionManager_Rds:
		h.RouteName = x.Rds.GetRouteConfigName()
		if h.RouteName == "" {
			c.wrong(p.field("rds").field("route_config_name"), "a name", "", "")
		}
		if s, wait, ok := c.source(x.Rds.GetConfigSource(), p.field("rds").field("config_source")); ok {
			r := ref{s, h.RouteName, wait}
			v.routes, h.RouteName = append(v.routes, r), routeName(r)
		}
	default:
		c.wrong(p, "route_config or rds", "none of them", "")
	}
	return h
}

func (c *converter) commonDownstream(o *corev3.HttpProtocolOptions, h *config.HTTPManager, p *place) {
	h.IdleTimeout = c.orNever(o.GetIdleTimeout(), p.field("idle_timeout"))
	h.MaxConnDuration = c.duration(o.GetMaxConnectionDuration(), p.field("max_connection_duration"))
	h.MaxStreamDuration = c.duration(o.GetMaxStreamDuration(), p.field("max_stream_duration"))
	h.MaxFields = c.size(o.GetMaxHeadersCount(), 10_000, p.field("max_headers_count"))
	h.MaxRequests = o.GetMaxRequestsPerConnection().GetValue()
}

func (c *converter) http2(o *corev3.Http2ProtocolOptions, p *place) config.HTTP2Options {
	x := config.HTTP2Options{
		MaxStreams: c.count(o.GetMaxConcurrentStreams(), p.field("max_concurrent_streams")), StreamWindow: c.count(o.GetInitialStreamWindowSize(), p.field("initial_stream_window_size")),
		ConnWindow: c.count(o.GetInitialConnectionWindowSize(), p.field("initial_connection_window_size")), TableSize: c.count(o.GetHpackTableSize(), p.field("hpack_table_size")),
		AllowConnect: o.GetAllowConnect(),
	}
	if x.TableSize > 1<<20 {
		c.wrong(p.field("hpack_table_size"), "at most 1048576", x.TableSize, "")
	}
	if k := o.GetConnectionKeepalive(); k != nil {
		at := p.field("connection_keepalive")
		x.PingInterval, x.PingTimeout = c.duration(k.GetInterval(), at.field("interval")), c.duration(k.GetTimeout(), at.field("timeout"))
	}
	return x
}

func (c *converter) tracing(m *hcmv3.HttpConnectionManager_Tracing, p *place) *config.Tracing {
	if m == nil {
		return nil
	}
	t := &config.Tracing{
		Client: c.percent(m.GetClientSampling(), 100, p.field("client_sampling")), Random: c.percent(m.GetRandomSampling(), 100, p.field("random_sampling")),
		Overall: c.percent(m.GetOverallSampling(), 100, p.field("overall_sampling")), MaxTag: c.size(m.GetMaxPathTagLength(), 1<<16, p.field("max_path_tag_length")),
	}
	for i, tag := range m.GetCustomTags() {
		x := config.TraceTag{Name: tag.GetTag()}
		switch y := tag.GetType().(type) {
		case *tracingv3.CustomTag_Literal_:
			x.Literal = y.Literal.GetValue()
		case *tracingv3.CustomTag_RequestHeader:
			x.RequestHeader, x.Default = c.fieldName(y.RequestHeader.GetName(), p.item("custom_tags", i), true), y.RequestHeader.GetDefaultValue()
		default:
			c.unsupported(p.item("custom_tags", i), "literal or request_header", "another", "")
		}
		t.Tags = append(t.Tags, x)
	}
	at := p.field("provider").field("typed_config")
	if m.GetProvider() == nil {
		c.unsupported(p.field("provider"), "an OpenTelemetryConfig", "none", "name one here; the bootstrap has no default")
		return t
	}
	in := c.unpack(m.GetProvider().GetTypedConfig(), at)
	o, ok := in.(*tracev3.OpenTelemetryConfig)
	if !ok {
		if in != nil {
			c.slot(at, in, "OpenTelemetryConfig")
		}
		return t
	}
	c.openTelemetry(o, t, at)
	return t
}

func (c *converter) openTelemetry(o *tracev3.OpenTelemetryConfig, t *config.Tracing, p *place) {
	t.Service = o.GetServiceName()
	switch {
	case o.GetGrpcService() != nil && o.GetHttpService() != nil, o.GetGrpcService() == nil && o.GetHttpService() == nil:
		c.wrong(p, "one of grpc_service and http_service", "both or none", "")
	case o.GetGrpcService() != nil:
		at := p.field("grpc_service")
		t.GRPC, t.Cluster = true, c.grpcCluster(o.GetGrpcService(), at)
		t.Timeout = c.duration(o.GetGrpcService().GetTimeout(), at.field("timeout"))
		if len(o.GetGrpcService().GetInitialMetadata()) > 0 {
			c.unsupported(at.field("initial_metadata"), "none", "some", "")
		}
	default:
		at := p.field("http_service").field("http_uri")
		_, t.Path = c.httpURI(o.GetHttpService().GetHttpUri(), at)
		c.use(o.GetHttpService().GetHttpUri().GetCluster(), at.field("cluster"))
		t.Cluster, t.Timeout = o.GetHttpService().GetHttpUri().GetCluster(), c.duration(o.GetHttpService().GetHttpUri().GetTimeout(), at.field("timeout"))
	}
}

// httpURI gives host and path of an HttpUri, whose host decides nothing: the
// cluster is named beside it.
func (c *converter) httpURI(m *corev3.HttpUri, p *place) (host, path string) {
	u, err := url.Parse(m.GetUri())
	if err != nil || u.Host == "" && !strings.HasPrefix(m.GetUri(), "/") && strings.Contains(m.GetUri(), "/") || u.User != nil || u.Fragment != "" {
		c.wrong(p.field("uri"), "a URI such as http://collector/v1/traces", m.GetUri(), "")
		return "", ""
	}
	if m.GetCluster() == "" {
		c.wrong(p.field("cluster"), "a cluster's name", "", "")
	}
	if u.Scheme == "" && u.Host == "" && !strings.HasPrefix(u.Path, "/") { // "authz:8080" or "authz"
		return m.GetUri(), ""
	}
	return u.Host, u.RequestURI()
}

// grpcCluster takes the service of a cluster; only management servers may be
// named by target.
func (c *converter) grpcCluster(m *corev3.GrpcService, p *place) string {
	if m.GetEnvoyGrpc() == nil {
		c.unsupported(p, "envoy_grpc", "another", "define a cluster and name it")
		return ""
	}
	return c.use(m.GetEnvoyGrpc().GetClusterName(), p.field("envoy_grpc").field("cluster_name"))
}
