// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"fmt"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	previousv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/retry/host/previous_hosts/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"

	"redoubt.dev/proxy/config"
)

func (c *converter) routeConfig(m *routev3.RouteConfiguration, p *place) *config.RouteConfig {
	r := &config.RouteConfig{
		Name: m.GetName(), Headers: c.headerOps(m, p), IgnorePort: m.GetIgnorePortInHostMatching(),
		PerFilter: c.perFilter(m.GetTypedPerFilterConfig(), p), MostSpecificHeaderMutationsWins: m.GetMostSpecificHeaderMutationsWins(),
	}
	if v := m.GetValidateClusters(); v != nil && !v.Value {
		all := c.uses
		c.uses = nil
		defer func() { c.uses = all }()
	}
	for i, h := range m.GetInternalOnlyHeaders() {
		r.Internal = append(r.Internal, c.fieldName(h, p.item("internal_only_headers", i), false))
	}
	maxBody := 4096 // the API's default
	if v := m.GetMaxDirectResponseBodySizeBytes(); v != nil {
		maxBody = c.size(v, 1<<20, p.field("max_direct_response_body_size_bytes"))
	}
	mirrors := c.mirrors(m.GetRequestMirrorPolicies(), p)
	for i, v := range m.GetVirtualHosts() {
		h := c.virtualHost(v, maxBody, p.item("virtual_hosts", i))
		if h.Mirrors == nil {
			h.Mirrors = mirrors // the more specific list replaces the other
		}
		r.Hosts = append(r.Hosts, h)
	}
	return r
}

func (c *converter) virtualHost(m *routev3.VirtualHost, maxBody int, p *place) *config.VirtualHost {
	h := &config.VirtualHost{
		Name: m.GetName(), Headers: c.headerOps(m, p), Retry: c.retry(m.GetRetryPolicy(), p.field("retry_policy")), Mirrors: c.mirrors(m.GetRequestMirrorPolicies(), p),
		PerFilter: c.perFilter(m.GetTypedPerFilterConfig(), p), IncludeAttempts: m.GetIncludeRequestAttemptCount(), Limits: c.limits(m.GetRateLimits(), p, "rate_limits"),
	}
	switch m.GetRequireTls() {
	case routev3.VirtualHost_NONE:
	case routev3.VirtualHost_ALL:
		h.RequireTLS = true
	default:
		c.unsupported(p.field("require_tls"), "NONE or ALL", m.GetRequireTls(), "use ALL")
	}
	for i, d := range m.GetDomains() {
		low := strings.ToLower(d)
		if strings.Count(low, "*") > 1 || strings.Contains(strings.Trim(low, "*"), "*") {
			c.wrong(p.item("domains", i), "an exact name, *.suffix, prefix.* or *", d, "")
		}
		h.Domains = append(h.Domains, low)
	}
	h.Routes = make([]*config.Route, 0, len(m.GetRoutes()))
	for i, r := range m.GetRoutes() {
		h.Routes = append(h.Routes, c.route(r, maxBody, p.item("routes", i)))
	}
	return h
}

func (c *converter) route(m *routev3.Route, maxBody int, p *place) *config.Route {
	r := &config.Route{Name: m.GetName(), Headers: c.headerOps(m, p), PerFilter: c.perFilter(m.GetTypedPerFilterConfig(), p), Decorator: m.GetDecorator().GetOperation()}
	r.Match = c.match(m.GetMatch(), p.field("match"))
	switch x := m.GetAction().(type) {
	case *routev3.Route_Route:
		r.To = c.forward(x.Route, p.field("route"))
	case *routev3.Route_Redirect:
		r.Redirect = c.redirect(x.Redirect, r.Match.Kind, p.field("redirect"))
	case *routev3.Route_DirectResponse:
		at := p.field("direct_response")
		d := &config.Direct{Status: int(x.DirectResponse.GetStatus())}
		if b := x.DirectResponse.GetBody(); b != nil {
			d.Body = c.data(b, at.field("body")).bytes
		}
		if len(d.Body) > maxBody {
			c.wrong(at.field("body"), fmt.Sprintf("at most %d bytes", maxBody), len(d.Body), "raise max_direct_response_body_size_bytes of the route configuration")
		}
		if d.Status < 200 || d.Status > 599 {
			c.wrong(at.field("status"), "200 to 599", d.Status, "")
		}
		r.Direct = d
	default:
		c.wrong(p, "route, redirect or direct_response", "none of them", "")
	}
	if r.Match.Kind == config.Connect && r.To == nil && r.Direct == nil {
		c.wrong(p.field("match").field("connect_matcher"), "a route or a direct_response", "a redirect", "")
	}
	return r
}

func (c *converter) match(m *routev3.RouteMatch, p *place) (out config.Match) {
	switch x := m.GetPathSpecifier().(type) {
	case *routev3.RouteMatch_Prefix:
		out.Kind, out.Path = config.Prefix, x.Prefix
	case *routev3.RouteMatch_Path:
		out.Kind, out.Path = config.Exact, x.Path
	case *routev3.RouteMatch_PathSeparatedPrefix:
		out.Kind, out.Path = config.PathPrefix, x.PathSeparatedPrefix
	case *routev3.RouteMatch_SafeRegex:
		out.Kind, out.Regex = config.Regex, c.regex(x.SafeRegex, p.field("safe_regex"))
	case *routev3.RouteMatch_ConnectMatcher_:
		out.Kind = config.Connect
	default:
		c.wrong(p, "prefix, path, safe_regex, path_separated_prefix or connect_matcher", "none of them", "")
	}
	if cs := m.GetCaseSensitive(); cs != nil && !cs.Value {
		out.IgnoreCase = true
		if out.Kind == config.Regex {
			c.wrong(p.field("case_sensitive"), "none beside safe_regex", false, "begin the expression with (?i)")
		}
	}
	out.Fraction = c.fraction(m.GetRuntimeFraction(), p.field("runtime_fraction"))
	out.Headers = c.headerMatches(m.GetHeaders(), p, "headers")
	out.Query = c.queryMatches(m.GetQueryParameters(), p, "query_parameters")
	out.GRPC = m.GetGrpc() != nil
	if t := m.GetTlsContext(); t != nil {
		out.TLS = &config.TLSMatch{}
		if t.GetPresented() != nil {
			out.TLS.Presented = &t.GetPresented().Value
		}
		if t.GetValidated() != nil {
			out.TLS.Validated = &t.GetValidated().Value
		}
	}
	return out
}

var notFound = map[routev3.RouteAction_ClusterNotFoundResponseCode]int{
	routev3.RouteAction_SERVICE_UNAVAILABLE: 0, routev3.RouteAction_NOT_FOUND: 404, routev3.RouteAction_INTERNAL_SERVER_ERROR: 500,
}

func (c *converter) forward(m *routev3.RouteAction, p *place) *config.Forward {
	f := &config.Forward{
		Subset: c.metadataLB(m.GetMetadataMatch(), p.field("metadata_match")), PrefixRewrite: m.GetPrefixRewrite(), RegexRewrite: c.rewrite(m.GetRegexRewrite(), p.field("regex_rewrite")),
		Timeout: c.orNever(m.GetTimeout(), p.field("timeout")), IdleTimeout: c.orNever(m.GetIdleTimeout(), p.field("idle_timeout")),
		Retry: c.retry(m.GetRetryPolicy(), p.field("retry_policy")), Mirrors: c.mirrors(m.GetRequestMirrorPolicies(), p), Hash: c.hashPolicies(m.GetHashPolicy(), p),
		Upgrades: c.upgrades(m.GetUpgradeConfigs(), p),
		Limits:   c.limits(m.GetRateLimits(), p, "rate_limits"), Priority: uint8(m.GetPriority()),
	}
	switch x := m.GetClusterSpecifier().(type) {
	case *routev3.RouteAction_Cluster:
		f.Cluster = c.use(x.Cluster, p.field("cluster"))
	case *routev3.RouteAction_ClusterHeader:
		f.ClusterHeader = c.fieldName(x.ClusterHeader, p.field("cluster_header"), true)
	case *routev3.RouteAction_WeightedClusters:
		f.Weighted = c.weighted(x.WeightedClusters, p.field("weighted_clusters"))
	default:
		c.wrong(p, "cluster, cluster_header or weighted_clusters", "none of them", "")
	}
	code, ok := notFound[m.GetClusterNotFoundResponseCode()]
	if !ok {
		c.unsupported(p.field("cluster_not_found_response_code"), "a known code", m.GetClusterNotFoundResponseCode(), "")
	}
	f.NotFound = code
	if m.GetPrefixRewrite() != "" && m.GetRegexRewrite() != nil {
		c.wrong(p.field("regex_rewrite"), "one of prefix_rewrite and regex_rewrite", "both", "remove one")
	}
	switch x := m.GetHostRewriteSpecifier().(type) {
	case *routev3.RouteAction_HostRewriteLiteral:
		f.Host.Literal = c.authority(x.HostRewriteLiteral, p.field("host_rewrite_literal"))
	case *routev3.RouteAction_AutoHostRewrite:
		f.Host.Auto = x.AutoHostRewrite.GetValue()
	case *routev3.RouteAction_HostRewriteHeader:
		f.Host.Header = c.fieldName(x.HostRewriteHeader, p.field("host_rewrite_header"), false)
	case *routev3.RouteAction_HostRewritePathRegex:
		f.Host.PathRegex = c.rewrite(x.HostRewritePathRegex, p.field("host_rewrite_path_regex"))
	}
	f.Host.AppendXFH = m.GetAppendXForwardedHost()
	if d := m.GetMaxStreamDuration().GetMaxStreamDuration(); d != nil {
		f.MaxDuration = c.span(d, p.field("max_stream_duration").field("max_stream_duration"))
	}
	if d := m.GetMaxStreamDuration().GetGrpcTimeoutHeaderMax(); d != nil {
		v := c.span(d, p.field("max_stream_duration").field("grpc_timeout_header_max"))
		f.GRPCMax = &v
	}
	return f
}

func (c *converter) authority(v string, p *place) string {
	if v == "" || strings.ContainsAny(v, " \t\r\n/?#@\\") {
		c.wrong(p, "a host with optional port", v, "")
	}
	return v
}

func (c *converter) weighted(m *routev3.WeightedCluster, p *place) (out []config.Weighted) {
	var sum uint64
	for i, w := range m.GetClusters() {
		at := p.item("clusters", i)
		out = append(out, config.Weighted{
			Cluster: c.use(w.GetName(), at.field("name")), Weight: w.GetWeight().GetValue(), Subset: c.metadataLB(w.GetMetadataMatch(), at.field("metadata_match")),
			Headers: c.headerOps(w, at), HostRewrite: w.GetHostRewriteLiteral(), PerFilter: c.perFilter(w.GetTypedPerFilterConfig(), at),
		})
		sum += uint64(w.GetWeight().GetValue())
		if w.GetName() == "" {
			c.wrong(at.field("name"), "a cluster's name", "", "")
		}
	}
	if sum == 0 || sum >= 1<<32 {
		c.wrong(p.field("clusters"), "weights that sum up to 1 to 4294967295", sum, "")
	}
	return out
}

func (c *converter) upgrades(list []*routev3.RouteAction_UpgradeConfig, p *place) map[string]bool {
	if len(list) == 0 {
		return nil
	}
	out := make(map[string]bool, len(list))
	for i, u := range list {
		kind := strings.ToLower(u.GetUpgradeType())
		if _, twice := out[kind]; twice {
			c.wrong(p.item("upgrade_configs", i).field("upgrade_type"), "each type once", kind, "remove one")
		}
		out[kind] = u.GetEnabled() == nil || u.GetEnabled().GetValue()
	}
	return out
}

func (c *converter) mirrors(list []*routev3.RouteAction_RequestMirrorPolicy, p *place) (out []config.Mirror) {
	for i, m := range list {
		at := p.item("request_mirror_policies", i)
		if m.GetCluster() == "" {
			c.wrong(at.field("cluster"), "a cluster's name", "", "")
		}
		out = append(out, config.Mirror{Cluster: c.use(m.GetCluster(), at.field("cluster")), Fraction: c.fraction(m.GetRuntimeFraction(), at.field("runtime_fraction"))})
	}
	return out
}

func (c *converter) hashPolicies(list []*routev3.RouteAction_HashPolicy, p *place) (out []config.HashPolicy) {
	for i, m := range list {
		at, h := p.item("hash_policy", i), config.HashPolicy{Terminal: m.GetTerminal()}
		switch x := m.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			h.Header = c.fieldName(x.Header.GetHeaderName(), at.field("header").field("header_name"), true)
			h.HeaderRewrite = c.rewrite(x.Header.GetRegexRewrite(), at.field("header").field("regex_rewrite"))
		case *routev3.RouteAction_HashPolicy_Cookie_:
			h.Cookie, h.CookiePath = x.Cookie.GetName(), x.Cookie.GetPath()
			if strings.ContainsAny(h.Cookie+h.CookiePath, ";, \t\r\n\"") {
				c.wrong(at.field("cookie"), "a cookie's name and path", h.Cookie+" "+h.CookiePath, "")
			}
			if d := x.Cookie.GetTtl(); d != nil {
				ttl := c.span(d, at.field("cookie").field("ttl"))
				h.CookieTTL = &ttl
			}
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if h.SourceIP = x.ConnectionProperties.GetSourceIp(); !h.SourceIP {
				c.wrong(at.field("connection_properties").field("source_ip"), "true", false, "remove the policy")
			}
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			h.Query = x.QueryParameter.GetName()
		default:
			c.unsupported(at, "header, cookie, connection_properties or query_parameter", "another", "")
		}
		out = append(out, h)
	}
	return out
}

var redirectCodes = map[routev3.RedirectAction_RedirectResponseCode]int{
	routev3.RedirectAction_MOVED_PERMANENTLY: 301, routev3.RedirectAction_FOUND: 302, routev3.RedirectAction_SEE_OTHER: 303,
	routev3.RedirectAction_TEMPORARY_REDIRECT: 307, routev3.RedirectAction_PERMANENT_REDIRECT: 308,
}

func (c *converter) redirect(m *routev3.RedirectAction, kind config.PathKind, p *place) *config.Redirect {
	r := &config.Redirect{Code: redirectCodes[m.GetResponseCode()], HTTPS: m.GetHttpsRedirect(), Scheme: strings.ToLower(m.GetSchemeRedirect()), Port: c.port(m.GetPortRedirect(), p.field("port_redirect")), StripQuery: m.GetStripQuery()}
	if r.Code == 0 {
		c.unsupported(p.field("response_code"), "a known code", m.GetResponseCode(), "")
	}
	if r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https" {
		c.wrong(p.field("scheme_redirect"), "http or https", r.Scheme, "")
	}
	if m.GetHostRedirect() != "" {
		r.Host = c.authority(m.GetHostRedirect(), p.field("host_redirect"))
	}
	switch x := m.GetPathRewriteSpecifier().(type) {
	case *routev3.RedirectAction_PathRedirect:
		r.Path, r.PathSet = c.fieldValue(x.PathRedirect, p.field("path_redirect")), true
	case *routev3.RedirectAction_PrefixRewrite:
		r.Prefix, r.PrefixSet = c.fieldValue(x.PrefixRewrite, p.field("prefix_rewrite")), true
		if kind == config.Regex {
			c.wrong(p.field("prefix_rewrite"), "a route that matches a prefix or a path", "safe_regex", "use regex_rewrite")
		}
	case *routev3.RedirectAction_RegexRewrite:
		r.RegexRewrite = c.rewrite(x.RegexRewrite, p.field("regex_rewrite"))
	}
	return r
}

var retryOn = map[string]config.RetryOn{
	"5xx": config.Retry5xx, "gateway-error": config.RetryGateway, "reset": config.RetryReset, "reset-before-request": config.RetryResetBeforeRequest,
	"connect-failure": config.RetryConnectFailure, "retriable-4xx": config.RetryRetriable4xx, "refused-stream": config.RetryRefusedStream,
	"retriable-status-codes": config.RetryStatusCodes, "retriable-headers": config.RetryHeaders, "cancelled": config.RetryGRPCCancelled,
	"deadline-exceeded": config.RetryGRPCDeadline, "internal": config.RetryGRPCInternal, "resource-exhausted": config.RetryGRPCExhausted, "unavailable": config.RetryGRPCUnavailable,
}

func (c *converter) retry(m *routev3.RetryPolicy, p *place) *config.Retry {
	if m == nil {
		return nil
	}
	r := &config.Retry{Num: m.GetNumRetries().GetValue(), Headers: c.headerMatches(m.GetRetriableHeaders(), p, "retriable_headers")}
	for w := range strings.FieldsFuncSeq(m.GetRetryOn(), func(x rune) bool { return x == ',' || x == ' ' }) {
		on, ok := retryOn[w]
		if !ok {
			c.unsupported(p.field("retry_on"), "conditions that docs/config.md lists", w, "remove it")
		}
		r.On |= on
	}
	if n := m.GetNumRetries(); n != nil && n.Value == 0 {
		return &config.Retry{} // no condition: never, also where a virtual host would
	}
	for i, code := range m.GetRetriableStatusCodes() {
		if code < 200 || code > 599 {
			c.wrong(p.item("retriable_status_codes", i), "200 to 599", code, "")
		}
		r.Codes = append(r.Codes, int(code))
	}
	if d := m.GetPerTryTimeout(); d != nil {
		r.PerTry = c.span(d, p.field("per_try_timeout"))
	}
	if b := m.GetRetryBackOff(); b != nil {
		at := p.field("retry_back_off")
		r.BackoffBase, r.BackoffMax = c.duration(b.GetBaseInterval(), at.field("base_interval")), c.duration(b.GetMaxInterval(), at.field("max_interval"))
		if b.GetMaxInterval() != nil && r.BackoffMax < r.BackoffBase {
			c.wrong(at.field("max_interval"), "no less than base_interval", r.BackoffMax, "")
		}
	}
	if n := m.GetHostSelectionRetryMaxAttempts(); n < 0 || n > 1000 {
		c.wrong(p.field("host_selection_retry_max_attempts"), "0 to 1000", n, "")
	} else {
		r.HostAttempts = int(n)
	}
	for i, h := range m.GetRetryHostPredicate() {
		at := p.item("retry_host_predicate", i)
		if in := c.unpack(h.GetTypedConfig(), at.field("typed_config")); in == nil {
			continue
		} else if _, ok := in.(*previousv3.PreviousHostsPredicate); ok {
			r.AvoidPrevious = true
		} else {
			c.slot(at.field("typed_config"), in, "PreviousHostsPredicate")
		}
	}
	r.RateLimitedReset = c.rateLimitedReset(m.GetRateLimitedRetryBackOff(), p.field("rate_limited_retry_back_off"))
	return r
}

// rateLimitedReset takes the one form that is honoured: Retry-After in
// seconds.
func (c *converter) rateLimitedReset(m *routev3.RetryPolicy_RateLimitedRetryBackOff, p *place) bool {
	for i, h := range m.GetResetHeaders() {
		if !strings.EqualFold(h.GetName(), "retry-after") || h.GetFormat() != routev3.RetryPolicy_SECONDS {
			c.unsupported(p.item("reset_headers", i), "retry-after in SECONDS", h.GetName()+" in "+h.GetFormat().String(), "")
		}
	}
	if d := m.GetMaxInterval(); d != nil && d.AsDuration() != durationpb.New(300e9).AsDuration() {
		c.unsupported(p.field("max_interval"), "300s, the default", d.AsDuration(), "remove it")
	}
	return len(m.GetResetHeaders()) > 0
}

// perFilter converts what stands in the place of filters' configurations.
func (c *converter) perFilter(m map[string]*anypb.Any, p *place) map[string]any {
	if len(m) == 0 {
		return nil
	}
	out := make(map[string]any, len(m))
	for name, a := range m {
		at := p.entry("typed_per_filter_config", name)
		in := c.unpack(a, at)
		if in == nil {
			continue
		}
		if f, ok := in.(*routev3.FilterConfig); ok {
			if f.GetDisabled() {
				out[name] = nil
				continue
			}
			if in = c.unpack(f.GetConfig(), at.field("config")); in == nil {
				continue
			}
		}
		out[name] = c.perRoute(in, at)
	}
	return out
}
