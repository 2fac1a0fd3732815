// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// The configurations of HTTP filters. HTTPFilter.Config holds a pointer to one
// of them; RouteConfig, VirtualHost, Route and Weighted hold in PerFilter,
// under the filter's name, what stands in its place there: the same type
// unless the type's comment names another, or nil (also a typed nil pointer)
// for "disabled". The most specific one counts alone; nothing is merged.

// CORS answers preflight requests and adds to responses what browsers ask for.
// In HTTPFilter it is empty (the policy is the route's); a nil policy, or
// Enabled of zero per cent, does nothing.
type CORS struct {
	Origins          []StringMatch // allow_origin_string_match
	Methods          string        // allow_methods, sent as it is
	Headers          string        // allow_headers
	Expose           string        // expose_headers
	MaxAge           string        // max_age, seconds
	Credentials      bool          // allow_credentials
	PrivateNetwork   bool          // allow_private_network_access
	ForwardUnmatched bool          // forward_not_matching_preflights; Envoy's default is true, which the reader of the API fills in
	Enabled          *Fraction     // filter_enabled; nil: always
}

// Compression is a content coding.
type Compression uint8

// The codings.
const (
	Gzip Compression = iota
	Brotli
	Zstd
)

// Compressor compresses responses, and requests if told to. Per route:
// *CompressorRoute.
type Compressor struct {
	Library              Compression
	Level                int      // of the library's own scale; 0: gzip 6, brotli 3, zstd 3
	MinLength            uint32   // bytes below which nothing is compressed; 0: 30
	ContentTypes         []string // nil: Envoy's list of text types
	OffWithETag          bool     // disable_on_etag_header
	RemoveAcceptEncoding bool     // remove_accept_encoding_header
	ResponseOff          bool     // response_direction_config disabled
	Requests             bool     // request_direction_config enabled
	RequestMinLength     uint32   // 0: 30
	RequestTypes         []string // nil: as ContentTypes' default
	ChooseFirst          bool     // choose_first: wins over the client's equal preference for others
	UncompressibleCodes  []int    // uncompressible_response_codes
}

// CompressorRoute is what a route says of a Compressor.
type CompressorRoute struct {
	Off                  bool  // disabled
	RemoveAcceptEncoding *bool // nil: the filter's
}

// Decompressor undoes a content coding of requests and responses.
type Decompressor struct {
	Library      Compression
	RequestsOff  bool   // request_direction_config disabled
	ResponsesOff bool   // response_direction_config disabled
	NoAdvertise  bool   // advertise_accept_encoding: false
	MaxRatio     uint32 // output bytes per input byte; 0: 100. A bomb is an error
}

// Buffer holds a request until it is whole.
type Buffer struct {
	Max uint32 // max_request_bytes; above: 413
}

// LocalRateLimit bounds requests by token buckets that all loops share.
type LocalRateLimit struct {
	Bucket         *RateLimit        // nil: no limit but the descriptors'
	Descriptors    []LimitDescriptor // the first that matches counts; Bucket too when AlwaysDefault
	AlwaysDefault  bool              // always_consume_default_token_bucket; Envoy's default is true
	Limits         []LimitActions    // rate_limits: which descriptors a request has; nil: those of route and virtual host
	Stage          uint32
	Enabled        Fraction    // filter_enabled; zero: never, as Envoy
	Enforced       Fraction    // filter_enforced; zero: never, as Envoy
	Status         int         // 0: 429
	ResponseAdd    []HeaderAdd // response_headers_to_add, to limited responses
	RequestAdd     []HeaderAdd // request_headers_to_add_when_not_enforced
	XRateLimit     bool        // enable_x_ratelimit_headers: DRAFT_VERSION_03
	GRPCExhausted  bool        // rate_limited_as_resource_exhausted
	VirtualHostToo LimitVHost  // vh_rate_limits
}

// LimitVHost says whether the virtual host's limits count beside the route's.
type LimitVHost uint8

// The ways, as vh_rate_limits.
const (
	LimitOverride LimitVHost = iota // only when the route has none
	LimitInclude
	LimitIgnore
)

// LimitDescriptor is a bucket for requests with certain descriptor entries.
type LimitDescriptor struct {
	Entries []LimitEntry
	Bucket  RateLimit
	Shadow  bool // shadow_mode
}

// LimitEntry is one key and value of a descriptor.
type LimitEntry struct{ Key, Value string } // an empty Value (a bucket per value) is refused

// LimitActions make one descriptor of a request; if one of them has nothing
// to give, and is not optional, there is no descriptor.
type LimitActions struct {
	Stage      uint32
	DisableKey string
	Actions    []LimitAction
}

// LimitAction gives one entry. Kind says which of the fields count.
type LimitAction struct {
	Kind        LimitKind
	Key, Value  string        // generic_key, header_value_match, query_parameter_value_match: descriptor_key ("" for the default) and descriptor_value
	Header      string        // request_headers, lower case
	Query       string        // query_parameters
	Optional    bool          // skip_if_absent
	Headers     []HeaderMatch // header_value_match
	Params      []QueryMatch  // query_parameter_value_match
	ExpectMatch bool          // expect_match; Envoy's default is true
	PrefixV4    uint8         // masked_remote_address; 0: 32
	PrefixV6    uint8         // 0: 128
}

// LimitKind is a kind of LimitAction.
type LimitKind uint8

// The kinds, as Envoy names them.
const (
	LimitGenericKey LimitKind = iota
	LimitRequestHeader
	LimitRemoteAddress
	LimitDestinationCluster
	LimitHeaderMatch
	LimitQueryParameter
	LimitQueryMatch
	LimitMaskedRemote
)

// CSRF refuses requests that change something and come from another origin.
type CSRF struct {
	Enabled    Fraction      // filter_enabled
	Additional []StringMatch // additional_origins, host and port
}

// ExtAuthz asks a service whether a request may pass. Exactly one of HTTP and
// GRPC is set. Per route: *ExtAuthzRoute.
type ExtAuthz struct {
	HTTP              *AuthzHTTP
	GRPC              *AuthzGRPC
	FailOpen          bool          // failure_mode_allow
	FailOpenHeader    bool          // failure_mode_allow_header_add
	StatusOnError     int           // 0: 403
	Body              *AuthzBody    // with_request_body
	ClearRoute        bool          // clear_route_cache
	AllowedHeaders    []StringMatch // allowed_headers of the check request; nil with gRPC: all
	DisallowedHeaders []StringMatch
	PeerCert          bool      // include_peer_certificate
	TLSSession        bool      // include_tls_session
	Enabled           *Fraction // filter_enabled; nil: always
	DenyAtDisable     bool
	ValidateMutations bool
}

// AuthzHTTP is a check by HTTP.
type AuthzHTTP struct {
	Cluster         string
	Host            string        // authority of the check request
	PathPrefix      string        // before the request's own path
	Timeout         time.Duration // 0: 200 ms
	Add             []HeaderAdd   // authorization_request.headers_to_add; literal values
	AllowedHeaders  []StringMatch // authorization_request.allowed_headers, beside authority, method, path and Authorization
	Upstream        []StringMatch // allowed_upstream_headers: set on the request
	UpstreamAppend  []StringMatch // allowed_upstream_headers_to_append
	Client          []StringMatch // allowed_client_headers: of a denial; nil: all but authority, status and method
	ClientOnSuccess []StringMatch // allowed_client_headers_on_success
}

// AuthzGRPC is a check by envoy.service.auth.v3.Authorization/Check.
type AuthzGRPC struct {
	Cluster   string
	Authority string        // "": the cluster's name
	Timeout   time.Duration // 0: 200 ms
	Metadata  []HeaderAdd   // initial_metadata; literal values
}

// AuthzBody says how much of a body a check sees.
type AuthzBody struct {
	Max     uint32 // max_request_bytes
	Partial bool   // allow_partial_message: a longer one is cut; else 413
	Raw     bool   // pack_as_bytes
}

// ExtAuthzRoute is what a route says of an ExtAuthz.
type ExtAuthzRoute struct {
	Off     bool              // disabled
	Context map[string]string // context_extensions, gRPC only
	NoBody  bool              // disable_request_body_buffering
	Body    *AuthzBody        // with_request_body
}

// HeaderMutation changes heads, in order.
type HeaderMutation struct {
	Request  []Mutation
	Response []Mutation
	// MostSpecificWins reverses the order of filter, route configuration,
	// virtual host and route (most_specific_header_mutations_wins). All
	// levels apply, unlike other filters' configurations.
	MostSpecificWins bool
}

// Mutation is one change; exactly one of its kinds is set.
type Mutation struct {
	Remove        string       // lower case
	RemoveOnMatch *StringMatch // names
	Add           *HeaderAdd
}

// Fault delays, aborts and slows requests.
type Fault struct {
	Delay     *FaultDelay
	Abort     *FaultAbort
	Rate      *FaultRate // response_rate_limit
	Cluster   string     // upstream_cluster: only requests that lead there; "": all
	Headers   []HeaderMatch
	MaxActive uint32 // max_active_faults; 0: no limit
}

// FaultDelay holds requests back.
type FaultDelay struct {
	Fixed      time.Duration
	FromHeader bool // x-envoy-fault-delay-request, milliseconds, and …-percentage
	Fraction   Fraction
}

// FaultAbort refuses requests.
type FaultAbort struct {
	Status     int // 0 with GRPC or FromHeader
	GRPC       int // grpc_status, 1 to 16, with Status 0; 0: none
	FromHeader bool
	Fraction   Fraction
}

// FaultRate slows responses.
type FaultRate struct {
	KiBps      uint64 // limit_kbps
	FromHeader bool   // x-envoy-fault-throughput-response, KiB per second
	Fraction   Fraction
}

// GRPCWeb lets browsers speak to gRPC services.
type GRPCWeb struct{}

// RBACFilter allows and denies requests. Rules.Shadow, or Shadow here, is
// evaluated and counted, not enforced.
type RBACFilter struct {
	Rules  *RBAC // nil: nothing is enforced
	Shadow *RBAC
}

// RouterFilter ends every chain: it sends the request on.
type RouterFilter struct {
	NoEnvoyHeaders bool     // suppress_envoy_headers
	StrictCheck    []string // strict_check_headers: x-envoy-… fields whose malformed values are refused with 400
}

// HealthFilter answers for a path itself.
type HealthFilter struct {
	PassThrough bool          // pass_through_mode
	Headers     []HeaderMatch // all must match; ":path" names the path
	CacheTime   time.Duration // of a passed-through answer; 0: none
	// MinHealthy maps clusters to the per cent of healthy hosts that each
	// needs (cluster_min_healthy_percentages).
	MinHealthy map[string]float64
}
