// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"math"
	"strconv"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	brotlic "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/compressor/v3"
	brotlid "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/brotli/decompressor/v3"
	gzipc "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/compressor/v3"
	gzipd "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/gzip/decompressor/v3"
	zstdc "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/compressor/v3"
	zstdd "github.com/envoyproxy/go-control-plane/envoy/extensions/compression/zstd/decompressor/v3"
	faultcommon "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/fault/v3"
	bufferv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/buffer/v3"
	compressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/compressor/v3"
	corsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/cors/v3"
	csrfv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/csrf/v3"
	decompressorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/decompressor/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	faultv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/fault/v3"
	grpcwebv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/grpc_web/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	healthv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/health_check/v3"
	ratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"redoubt.dev/proxy/config"
)

func (c *converter) httpFilters(list []*hcmv3.HttpFilter, p *place) (out []*config.HTTPFilter) {
	names := map[string]bool{}
	for i, m := range list {
		at := p.item("http_filters", i)
		if names[m.GetName()] || m.GetName() == "" {
			c.wrong(at.field("name"), "a name of its own", m.GetName(), "routes refer to filters by name")
		}
		names[m.GetName()] = true
		typed := at.field("typed_config")
		in := c.unpack(m.GetTypedConfig(), typed)
		if in == nil {
			continue
		}
		_, router := in.(*routerv3.Router)
		if last := i == len(list)-1; router != last {
			c.wrong(typed, "the router at the end, and only there", string(in.ProtoReflect().Descriptor().FullName()), "")
		}
		if f := c.httpFilter(in, typed); f != nil {
			out = append(out, &config.HTTPFilter{Name: m.GetName(), Config: f})
		}
	}
	if len(list) == 0 {
		c.wrong(p.field("http_filters"), "the router at least", "none", "add envoy.filters.http.router")
	}
	return out
}

// httpFilter gives the configuration of a filter where it stands in a chain.
func (c *converter) httpFilter(in proto.Message, p *place) any {
	switch x := in.(type) {
	case *routerv3.Router:
		r := &config.RouterFilter{NoEnvoyHeaders: x.GetSuppressEnvoyHeaders()}
		for i, h := range x.GetStrictCheckHeaders() {
			r.StrictCheck = append(r.StrictCheck, c.fieldName(h, p.item("strict_check_headers", i), false))
		}
		return r
	case *corsv3.Cors:
		return &config.CORS{}
	case *compressorv3.Compressor:
		return c.compressor(x, p)
	case *decompressorv3.Decompressor:
		return c.decompressor(x, p)
	case *authzv3.ExtAuthz:
		return c.extAuthz(x, p)
	case *mutationv3.HeaderMutation:
		h := c.headerMutation(x.GetMutations(), p.field("mutations"))
		h.MostSpecificWins = x.GetMostSpecificHeaderMutationsWins()
		return h
	case *grpcwebv3.GrpcWeb:
		return &config.GRPCWeb{}
	case *rbacfilterv3.RBAC:
		return c.rbacFilter(x, p)
	case *healthv3.HealthCheck:
		return c.healthFilter(x, p)
	case *bufferv3.Buffer, *ratev3.LocalRateLimit, *csrfv3.CsrfPolicy, *faultv3.HTTPFault:
		return c.sameEverywhere(in, p)
	}
	c.slot(p, in, "an HTTP filter")
	return nil
}

// sameEverywhere takes filters whose routes hold the filter's own type.
func (c *converter) sameEverywhere(in proto.Message, p *place) any {
	switch x := in.(type) {
	case *bufferv3.Buffer:
		return &config.Buffer{Max: c.count(x.GetMaxRequestBytes(), p.field("max_request_bytes"))}
	case *ratev3.LocalRateLimit:
		return c.localRateLimit(x, p)
	case *csrfv3.CsrfPolicy:
		f := c.fraction(x.GetFilterEnabled(), p.field("filter_enabled"))
		r := &config.CSRF{Additional: c.stringMatches(x.GetAdditionalOrigins(), p, "additional_origins")}
		if f != nil {
			r.Enabled = *f
		}
		return r
	case *faultv3.HTTPFault:
		return c.fault(x, p)
	}
	return nil
}

// perRoute gives what stands in the place of a filter's configuration; nil
// for "disabled".
func (c *converter) perRoute(in proto.Message, p *place) any {
	switch x := in.(type) {
	case *corsv3.CorsPolicy:
		return c.cors(x, p)
	case *compressorv3.CompressorPerRoute:
		r := &config.CompressorRoute{Off: x.GetDisabled()}
		if v := x.GetOverrides().GetResponseDirectionConfig().GetRemoveAcceptEncodingHeader(); v != nil {
			r.RemoveAcceptEncoding = &v.Value
		}
		return r
	case *bufferv3.BufferPerRoute:
		if x.GetDisabled() {
			return nil
		}
		return c.sameEverywhere(x.GetBuffer(), p.field("buffer"))
	case *authzv3.ExtAuthzPerRoute:
		s, at := x.GetCheckSettings(), p.field("check_settings")
		return &config.ExtAuthzRoute{Off: x.GetDisabled(), Context: s.GetContextExtensions(), NoBody: s.GetDisableRequestBodyBuffering(), Body: c.authzBody(s.GetWithRequestBody(), at.field("with_request_body"))}
	case *mutationv3.HeaderMutationPerRoute:
		return c.headerMutation(x.GetMutations(), p.field("mutations"))
	case *rbacfilterv3.RBACPerRoute:
		if x.GetRbac() == nil {
			return nil
		}
		return c.rbacFilter(x.GetRbac(), p.field("rbac"))
	case *ratev3.LocalRateLimit, *csrfv3.CsrfPolicy, *faultv3.HTTPFault:
		return c.sameEverywhere(in, p)
	}
	c.slot(p, in, "what a filter takes per route")
	return nil
}

func (c *converter) cors(m *corsv3.CorsPolicy, p *place) *config.CORS {
	r := &config.CORS{
		Origins: c.stringMatches(m.GetAllowOriginStringMatch(), p, "allow_origin_string_match"), Methods: c.fieldValue(m.GetAllowMethods(), p.field("allow_methods")),
		Headers: c.fieldValue(m.GetAllowHeaders(), p.field("allow_headers")), Expose: c.fieldValue(m.GetExposeHeaders(), p.field("expose_headers")), MaxAge: m.GetMaxAge(),
		Credentials: m.GetAllowCredentials().GetValue(), PrivateNetwork: m.GetAllowPrivateNetworkAccess().GetValue(),
		ForwardUnmatched: m.GetForwardNotMatchingPreflights() == nil || m.GetForwardNotMatchingPreflights().GetValue(),
		Enabled:          c.fraction(m.GetFilterEnabled(), p.field("filter_enabled")),
	}
	if _, err := strconv.ParseUint(r.MaxAge, 10, 31); err != nil && r.MaxAge != "" {
		c.wrong(p.field("max_age"), "seconds", r.MaxAge, "")
	}
	return r
}

func (c *converter) library(m *corev3.TypedExtensionConfig, p *place) (lib config.Compression, level int) {
	at := p.field("typed_config")
	switch x := c.unpack(m.GetTypedConfig(), at).(type) {
	case nil:
	case *gzipc.Gzip:
		switch l := x.GetCompressionLevel(); l {
		case gzipc.Gzip_DEFAULT_COMPRESSION:
		default: // COMPRESSION_LEVEL_n is n
			level = int(l)
		}
		return config.Gzip, level
	case *brotlic.Brotli:
		return config.Brotli, int(c.count(x.GetQuality(), at.field("quality")))
	case *zstdc.Zstd:
		return config.Zstd, int(c.count(x.GetCompressionLevel(), at.field("compression_level")))
	case *gzipd.Gzip:
		return config.Gzip, 0
	case *brotlid.Brotli:
		return config.Brotli, 0
	case *zstdd.Zstd:
		return config.Zstd, 0
	default:
		c.slot(at, x, "gzip, brotli or zstd")
	}
	return lib, 0
}

func (c *converter) compressor(m *compressorv3.Compressor, p *place) *config.Compressor {
	r, resp, req := &config.Compressor{ChooseFirst: m.GetChooseFirst()}, m.GetResponseDirectionConfig(), m.GetRequestDirectionConfig()
	r.Library, r.Level = c.library(m.GetCompressorLibrary(), p.field("compressor_library"))
	if resp != nil {
		at, common := p.field("response_direction_config"), resp.GetCommonConfig()
		r.ResponseOff = !c.enabled(common.GetEnabled(), true)
		r.MinLength, r.ContentTypes = c.count(common.GetMinContentLength(), at.field("common_config").field("min_content_length")), common.GetContentType()
		r.OffWithETag, r.RemoveAcceptEncoding = resp.GetDisableOnEtagHeader(), resp.GetRemoveAcceptEncodingHeader()
		for i, code := range resp.GetUncompressibleResponseCodes() {
			if code < 200 || code > 599 {
				c.wrong(at.item("uncompressible_response_codes", i), "200 to 599", code, "")
			}
			r.UncompressibleCodes = append(r.UncompressibleCodes, int(code))
		}
	}
	if req != nil {
		at, common := p.field("request_direction_config").field("common_config"), req.GetCommonConfig()
		r.Requests = c.enabled(common.GetEnabled(), false)
		r.RequestMinLength, r.RequestTypes = c.count(common.GetMinContentLength(), at.field("min_content_length")), common.GetContentType()
	}
	return r
}

func (c *converter) decompressor(m *decompressorv3.Decompressor, p *place) *config.Decompressor {
	r := &config.Decompressor{}
	r.Library, _ = c.library(m.GetDecompressorLibrary(), p.field("decompressor_library"))
	if d := m.GetRequestDirectionConfig(); d != nil {
		r.RequestsOff = !c.enabled(d.GetCommonConfig().GetEnabled(), true)
		r.NoAdvertise = d.GetAdvertiseAcceptEncoding() != nil && !d.GetAdvertiseAcceptEncoding().GetValue()
	}
	if d := m.GetResponseDirectionConfig(); d != nil {
		r.ResponsesOff = !c.enabled(d.GetCommonConfig().GetEnabled(), true)
	}
	return r
}

func (c *converter) headerMutation(m *mutationv3.Mutations, p *place) *config.HeaderMutation {
	return &config.HeaderMutation{Request: c.mutations(m.GetRequestMutations(), p, "request_mutations"), Response: c.mutations(m.GetResponseMutations(), p, "response_mutations")}
}

func (c *converter) rbacFilter(m *rbacfilterv3.RBAC, p *place) *config.RBACFilter {
	return &config.RBACFilter{Rules: c.rbac(m.GetRules(), p.field("rules"), false), Shadow: c.rbac(m.GetShadowRules(), p.field("shadow_rules"), false)}
}

func (c *converter) healthFilter(m *healthv3.HealthCheck, p *place) *config.HealthFilter {
	r := &config.HealthFilter{PassThrough: m.GetPassThroughMode().GetValue(), Headers: c.headerMatches(m.GetHeaders(), p, "headers"), CacheTime: c.duration(m.GetCacheTime(), p.field("cache_time"))}
	for name, v := range m.GetClusterMinHealthyPercentages() {
		if r.MinHealthy == nil {
			r.MinHealthy = map[string]float64{}
		}
		r.MinHealthy[c.use(name, p.entry("cluster_min_healthy_percentages", name))] = c.perCent(v, p.entry("cluster_min_healthy_percentages", name))
	}
	if r.PassThrough && r.MinHealthy != nil || !r.PassThrough && r.CacheTime != 0 {
		c.wrong(p.field("pass_through_mode"), "cache_time only with it, cluster_min_healthy_percentages only without", r.PassThrough, "")
	}
	return r
}

func (c *converter) fault(m *faultv3.HTTPFault, p *place) *config.Fault {
	r := &config.Fault{Cluster: m.GetUpstreamCluster(), Headers: c.headerMatches(m.GetHeaders(), p, "headers"), MaxActive: c.count(m.GetMaxActiveFaults(), p.field("max_active_faults"))}
	if d := m.GetDelay(); d != nil {
		r.Delay = &config.FaultDelay{FromHeader: d.GetHeaderDelay() != nil, Fixed: c.duration(d.GetFixedDelay(), p.field("delay").field("fixed_delay")), Fraction: c.fractionOf(d.GetPercentage(), p.field("delay").field("percentage"))}
	}
	if a := m.GetAbort(); a != nil {
		r.Abort = &config.FaultAbort{GRPC: -1, Fraction: c.fractionOf(a.GetPercentage(), p.field("abort").field("percentage"))}
		switch x := a.GetErrorType().(type) {
		case *faultv3.FaultAbort_HttpStatus:
			r.Abort.Status = int(x.HttpStatus)
		case *faultv3.FaultAbort_GrpcStatus:
			r.Abort.GRPC = int(min(x.GrpcStatus, math.MaxInt16))
		case *faultv3.FaultAbort_HeaderAbort_:
			r.Abort.FromHeader = true
		}
	}
	r.Rate = c.faultRate(m.GetResponseRateLimit(), p.field("response_rate_limit"))
	return r
}

func (c *converter) faultRate(m *faultcommon.FaultRateLimit, p *place) *config.FaultRate {
	if m == nil {
		return nil
	}
	return &config.FaultRate{KiBps: m.GetFixedLimit().GetLimitKbps(), FromHeader: m.GetHeaderLimit() != nil, Fraction: c.fractionOf(m.GetPercentage(), p.field("percentage"))}
}
