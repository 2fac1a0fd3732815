// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	ratecommon "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	authzv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/ext_authz/v3"
	ratev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/local_ratelimit/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"redoubt.dev/proxy/config"
)

func (c *converter) localRateLimit(m *ratev3.LocalRateLimit, p *place) *config.LocalRateLimit {
	r := &config.LocalRateLimit{
		Bucket: c.tokenBucket(m.GetTokenBucket(), p.field("token_bucket")), Limits: c.limits(m.GetRateLimits(), p, "rate_limits"), Stage: m.GetStage(),
		AlwaysDefault: m.GetAlwaysConsumeDefaultTokenBucket() == nil || m.GetAlwaysConsumeDefaultTokenBucket().GetValue(),
		ResponseAdd:   c.headerAdds(m.GetResponseHeadersToAdd(), p, "response_headers_to_add"), RequestAdd: c.headerAdds(m.GetRequestHeadersToAddWhenNotEnforced(), p, "request_headers_to_add_when_not_enforced"),
		GRPCExhausted: m.GetRateLimitedAsResourceExhausted(),
		XRateLimit:    m.GetEnableXRatelimitHeaders() == ratecommon.XRateLimitHeadersRFCVersion_DRAFT_VERSION_03,
	}
	if f := c.fraction(m.GetFilterEnabled(), p.field("filter_enabled")); f != nil {
		r.Enabled = *f
	}
	if f := c.fraction(m.GetFilterEnforced(), p.field("filter_enforced")); f != nil {
		r.Enforced = *f
	}
	r.Status = c.errorStatus(int(m.GetStatus().GetCode()), p.field("status"))
	switch m.GetVhRateLimits() {
	case ratecommon.VhRateLimitsOptions_OVERRIDE:
		r.VirtualHostToo = config.LimitOverride
	case ratecommon.VhRateLimitsOptions_INCLUDE:
		r.VirtualHostToo = config.LimitInclude
	case ratecommon.VhRateLimitsOptions_IGNORE:
		r.VirtualHostToo = config.LimitIgnore
	}
	for i, d := range m.GetDescriptors() {
		at := p.item("descriptors", i)
		x := config.LimitDescriptor{Shadow: d.GetShadowMode()}
		for j, e := range d.GetEntries() {
			if e.GetValue() == "" {
				c.unsupported(at.item("entries", j).field("value"), "a value", "none: a bucket for each value", "name the values")
			}
			x.Entries = append(x.Entries, config.LimitEntry{Key: e.GetKey(), Value: e.GetValue()})
		}
		if b := c.tokenBucket(d.GetTokenBucket(), at.field("token_bucket")); b != nil {
			x.Bucket = *b
		}
		r.Descriptors = append(r.Descriptors, x)
	}
	return r
}

// errorStatus is the status of a refusal; a success is not one.
func (c *converter) errorStatus(code int, p *place) int {
	if code != 0 && (code < 400 || code > 599) {
		c.wrong(p.field("code"), "a status of 400 to 599", code, "")
	}
	return code
}

func (c *converter) limits(list []*routev3.RateLimit, p *place, name string) (out []config.LimitActions) {
	for i, m := range list {
		at := p.item(name, i)
		x := config.LimitActions{Stage: m.GetStage().GetValue(), DisableKey: m.GetDisableKey()}
		for j, a := range m.GetActions() {
			x.Actions = append(x.Actions, c.limitAction(a, at.item("actions", j)))
		}
		out = append(out, x)
	}
	return out
}

func (c *converter) limitAction(m *routev3.RateLimit_Action, p *place) (a config.LimitAction) {
	switch x := m.GetActionSpecifier().(type) {
	case *routev3.RateLimit_Action_GenericKey_:
		a.Kind, a.Key, a.Value = config.LimitGenericKey, x.GenericKey.GetDescriptorKey(), x.GenericKey.GetDescriptorValue()
	case *routev3.RateLimit_Action_RequestHeaders_:
		a.Kind, a.Header = config.LimitRequestHeader, c.fieldName(x.RequestHeaders.GetHeaderName(), p.field("request_headers").field("header_name"), true)
		a.Key, a.Optional = x.RequestHeaders.GetDescriptorKey(), x.RequestHeaders.GetSkipIfAbsent()
	case *routev3.RateLimit_Action_RemoteAddress_:
		a.Kind = config.LimitRemoteAddress
	case *routev3.RateLimit_Action_DestinationCluster_:
		a.Kind = config.LimitDestinationCluster
	case *routev3.RateLimit_Action_HeaderValueMatch_:
		a.Kind, a.Key, a.Value = config.LimitHeaderMatch, x.HeaderValueMatch.GetDescriptorKey(), x.HeaderValueMatch.GetDescriptorValue()
		a.Headers = c.headerMatches(x.HeaderValueMatch.GetHeaders(), p.field("header_value_match"), "headers")
		a.ExpectMatch = x.HeaderValueMatch.GetExpectMatch() == nil || x.HeaderValueMatch.GetExpectMatch().GetValue()
	case *routev3.RateLimit_Action_QueryParameters_:
		a.Kind, a.Query, a.Key, a.Optional = config.LimitQueryParameter, x.QueryParameters.GetQueryParameterName(), x.QueryParameters.GetDescriptorKey(), x.QueryParameters.GetSkipIfAbsent()
	case *routev3.RateLimit_Action_QueryParameterValueMatch_:
		q := x.QueryParameterValueMatch
		a.Kind, a.Key, a.Value = config.LimitQueryMatch, q.GetDescriptorKey(), q.GetDescriptorValue()
		a.Params = c.queryMatches(q.GetQueryParameters(), p.field("query_parameter_value_match"), "query_parameters")
		a.ExpectMatch = q.GetExpectMatch() == nil || q.GetExpectMatch().GetValue()
	case *routev3.RateLimit_Action_MaskedRemoteAddress_:
		a.Kind = config.LimitMaskedRemote
		a.PrefixV4 = c.mask(x.MaskedRemoteAddress.GetV4PrefixMaskLen(), 32, p.field("masked_remote_address").field("v4_prefix_mask_len"))
		a.PrefixV6 = c.mask(x.MaskedRemoteAddress.GetV6PrefixMaskLen(), 128, p.field("masked_remote_address").field("v6_prefix_mask_len"))
	default:
		c.unsupported(p, "an action that docs/config.md lists", "another", "")
	}
	return a
}

func (c *converter) mask(v *wrapperspb.UInt32Value, limit uint32, p *place) uint8 {
	n := c.count(v, p)
	if n > limit {
		c.wrong(p, "a prefix of the address", n, "")
	}
	return uint8(min(n, limit))
}

func (c *converter) list(m *matcherv3.ListStringMatcher, p *place) []config.StringMatch {
	return c.stringMatches(m.GetPatterns(), p, "patterns")
}

func (c *converter) extAuthz(m *authzv3.ExtAuthz, p *place) *config.ExtAuthz {
	r := &config.ExtAuthz{
		FailOpen: m.GetFailureModeAllow(), FailOpenHeader: m.GetFailureModeAllowHeaderAdd(), StatusOnError: c.errorStatus(int(m.GetStatusOnError().GetCode()), p.field("status_on_error")),
		Body: c.authzBody(m.GetWithRequestBody(), p.field("with_request_body")), ClearRoute: m.GetClearRouteCache(), AllowedHeaders: c.list(m.GetAllowedHeaders(), p.field("allowed_headers")),
		DisallowedHeaders: c.list(m.GetDisallowedHeaders(), p.field("disallowed_headers")), PeerCert: m.GetIncludePeerCertificate(), TLSSession: m.GetIncludeTlsSession(),
		Enabled: c.fraction(m.GetFilterEnabled(), p.field("filter_enabled")), DenyAtDisable: c.enabled(m.GetDenyAtDisable(), false), ValidateMutations: m.GetValidateMutations(),
	}
	if v := m.GetTransportApiVersion(); v != 0 && v.String() != "V3" {
		c.unsupported(p.field("transport_api_version"), "V3", v, "set it to V3")
	}
	switch x := m.GetServices().(type) {
	case *authzv3.ExtAuthz_GrpcService:
		at := p.field("grpc_service")
		r.GRPC = &config.AuthzGRPC{
			Cluster: c.grpcCluster(x.GrpcService, at), Authority: x.GrpcService.GetEnvoyGrpc().GetAuthority(),
			Timeout: c.duration(x.GrpcService.GetTimeout(), at.field("timeout")), Metadata: c.literalHeaders(x.GrpcService.GetInitialMetadata(), at, "initial_metadata"),
		}
	case *authzv3.ExtAuthz_HttpService:
		r.HTTP = c.authzHTTP(x.HttpService, p.field("http_service"))
	default:
		c.wrong(p, "grpc_service or http_service", "none of them", "")
	}
	return r
}

func (c *converter) authzHTTP(m *authzv3.HttpService, p *place) *config.AuthzHTTP {
	req, resp := m.GetAuthorizationRequest(), m.GetAuthorizationResponse()
	rq, rs := p.field("authorization_request"), p.field("authorization_response")
	host, path := c.httpURI(m.GetServerUri(), p.field("server_uri"))
	if path != "" && path != "/" {
		c.unsupported(p.field("server_uri").field("uri"), "no path", path, "put it into path_prefix")
	}
	return &config.AuthzHTTP{
		Cluster: c.use(m.GetServerUri().GetCluster(), p.field("server_uri").field("cluster")), Host: host, PathPrefix: c.fieldValue(m.GetPathPrefix(), p.field("path_prefix")), Timeout: c.duration(m.GetServerUri().GetTimeout(), p.field("server_uri").field("timeout")),
		Add: c.literalHeaders(req.GetHeadersToAdd(), rq, "headers_to_add"), AllowedHeaders: c.list(req.GetAllowedHeaders(), rq.field("allowed_headers")),
		Upstream: c.list(resp.GetAllowedUpstreamHeaders(), rs.field("allowed_upstream_headers")), UpstreamAppend: c.list(resp.GetAllowedUpstreamHeadersToAppend(), rs.field("allowed_upstream_headers_to_append")),
		Client: c.list(resp.GetAllowedClientHeaders(), rs.field("allowed_client_headers")), ClientOnSuccess: c.list(resp.GetAllowedClientHeadersOnSuccess(), rs.field("allowed_client_headers_on_success")),
	}
}

// maxAuthzBody bounds what of a body is held for a check, in bytes.
const maxAuthzBody = 64 << 20

func (c *converter) authzBody(m *authzv3.BufferSettings, p *place) *config.AuthzBody {
	if m == nil {
		return nil
	}
	if n := m.GetMaxRequestBytes(); n == 0 || n > maxAuthzBody {
		c.wrong(p.field("max_request_bytes"), "1 to 67108864", n, "")
	}
	return &config.AuthzBody{Max: m.GetMaxRequestBytes(), Partial: m.GetAllowPartialMessage(), Raw: m.GetPackAsBytes()}
}
