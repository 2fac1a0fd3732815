// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"regexp"
	"time"
)

// Config is all that one proxy is told.
type Config struct {
	Admin     string // path of the admin unix socket; "" for none
	Listeners map[string]*Listener
	Clusters  map[string]*Cluster
	Routes    map[string]*RouteConfig // those that listeners name (RDS)

	Here         Place  // where this proxy runs (node.locality); for zone-aware routing
	LocalCluster string // the cluster that this proxy is a host of (cluster_manager.local_cluster_name); "" for none
}

// Place is a locality's name.
type Place struct{ Region, Zone, SubZone string }

// Listener is one address that is listened on.
type Listener struct {
	Name          string
	Addr          netip.AddrPort // unspecified address: all of its family
	UDP           *UDPProxy      // set: a datagram listener, with nothing else
	Transparent   bool           // IP_TRANSPARENT (transparent)
	OriginalDst   bool           // TPROXY'd or redirected: the destination is not the listener's (use_original_dst or the listener filter)
	ProxyProtocol *ProxyProtocol // expected before anything else; nil for none
	Inspect       time.Duration  // how long detection may wait for bytes (listener_filters_timeout); 0: 15 s
	Chains        []*FilterChain // the most specific match wins, as Envoy orders them
	Default       *FilterChain   // when none matches; nil closes
	ReadLimit     int            // bytes read ahead per connection (per_connection_buffer_limit_bytes); 0: 128 KiB
	Backlog       int            // 0: 4096
	AccessLogs    []*AccessLog   // for connections that no chain took
	MaxConns      int64          // 0: no limit of its own
}

// ProxyProtocol says how the PROXY protocol is taken.
type ProxyProtocol struct {
	Optional bool // connections without a header pass (allow_requests_without_proxy_protocol)
	V1, V2   bool // which versions are taken; both false means both
}

// FilterChain is what becomes of a kind of connections. Exactly one of HTTP
// and TCP is set.
type FilterChain struct {
	Name       string
	Match      ChainMatch
	TLS        *ServerTLS    // nil: in clear
	TLSTimeout time.Duration // transport_socket_connect_timeout; 0: 10 s
	ConnLimit  int64         // connection_limit network filter; 0: none
	RateLimit  *RateLimit    // connections (local_ratelimit network filter)
	RBAC       *RBAC         // network RBAC; nil: all may connect
	HTTP       *HTTPManager
	TCP        *TCPProxy
	ReadLimit  int // overrides nothing; copied from the listener
}

// ChainMatch selects connections. Empty parts match all.
type ChainMatch struct {
	DestinationPort   uint16         // 0: any
	PrefixRanges      []netip.Prefix // destination
	ServerNames       []string       // SNI, lower case: exact or "*.suffix"
	TransportProtocol string         // "", "raw_buffer" or "tls"
	ALPN              []string       // application_protocols
	SourcePrefixes    []netip.Prefix
	SourcePorts       []uint16
	DirectSource      []netip.Prefix
}

// ServerTLS is a DownstreamTlsContext.
type ServerTLS struct {
	Common            CommonTLS
	RequireClientCert bool
	NoSessionTickets  bool          // disable_stateless_session_resumption
	TicketKeys        []SecretBytes // 80 bytes each, as Envoy and nginx have them; nil: random, per process
	SessionTimeout    time.Duration // 0: 24 h
	OCSPPolicy        OCSPPolicy
	FullScanSNI       bool
}

// OCSPPolicy says what becomes of a certificate without a fresh staple.
type OCSPPolicy uint8

// The policies, as Envoy names them.
const (
	OCSPLenient OCSPPolicy = iota
	OCSPStrict
	OCSPMust
)

// ClientTLS is an UpstreamTlsContext.
type ClientTLS struct {
	Common  CommonTLS
	SNI     string // "" for none
	AutoSNI bool   // SNI follows the request's authority (upstream_http_protocol_options)
	AutoSAN bool   // the server must prove that name (auto_san_validation)
	// Cache of sessions for resumption; 0: Envoy's default of one per host.
	MaxSessionKeys int
}

// CommonTLS is a CommonTlsContext.
type CommonTLS struct {
	MinVersion, MaxVersion uint16   // crypto/tls versions; 0: TLS 1.2 and 1.3
	CipherSuites           []uint16 // TLS 1.2; nil: ECDHE with AEAD
	Curves                 []uint16 // nil: X25519MLKEM768, X25519, P-256, P-384
	ALPN                   []string // nil: what the chain speaks
	Certs                  []*Cert  // chosen by SNI, then by order
	CertSecrets            []string // SDS names, resolved to Certs when they arrive
	Validation             *Validation
	ValidationSecret       string // SDS name
}

// Cert is one certificate with its key. Files are read again when they change.
type Cert struct {
	Name      string // SDS name, or "" for an inline one
	ChainPEM  []byte
	KeyPEM    SecretBytes
	OCSP      []byte // DER staple; nil for none
	ChainFile string // watched; "" when given inline
	KeyFile   string
	OCSPFile  string
}

// Validation says which peers are believed.
type Validation struct {
	CAs        []byte // PEM
	CAFile     string // watched
	SANs       []SANMatch
	Pins       []string // SHA-256 of SPKI, base64 (verify_certificate_spki)
	Hashes     []string // SHA-256 of the certificate, hex (verify_certificate_hash)
	CRL        []byte   // PEM; nil for none
	AllowEmpty bool     // trust_chain_verification: ACCEPT_UNTRUSTED, spelled out
	SPIFFE     map[string][]byte
}

// SANMatch matches a subject alternative name.
type SANMatch struct {
	Type  string // "DNS", "URI", "EMAIL", "IP"; "" any
	Match StringMatch
}

// HTTPManager is an HttpConnectionManager.
type HTTPManager struct {
	StatPrefix        string
	Codec             Codec
	Routes            *RouteConfig // inline; nil when RouteName is set
	RouteName         string       // RDS
	Filters           []*HTTPFilter
	AccessLogs        []*AccessLog
	Tracing           *Tracing
	ServerName        string        // server field of responses; "": "redoubt"
	ServerHeader      ServerHeader  // server_header_transformation
	IdleTimeout       time.Duration // of a connection without streams; 0: 1 h; negative: none
	StreamIdleTimeout time.Duration // of a stream without bytes; 0: 5 min; negative: off
	RequestTimeout    time.Duration // until the request is whole; 0: off
	HeadTimeout       time.Duration // until the head is whole (request_headers_timeout); 0: 60 s here
	DrainTimeout      time.Duration // 0: 5 s
	MaxConnDuration   time.Duration // 0: none
	MaxStreamDuration time.Duration // 0: none
	MaxRequests       uint32        // per connection; 0: none
	MaxHead           int           // bytes of a request's head (max_request_headers_kb); 0: 60 KiB
	MaxFields         int           // 0: 100
	HTTP2             HTTP2Options
	XFF               XFF
	ForwardClientCert ForwardCert
	CertDetails       CertDetails
	Normalise         bool // normalize_path
	MergeSlashes      bool
	EscapedSlashes    EscapedSlashes
	StripPort         bool // strip_any_host_port
	StripMatchingPort bool
	Upgrades          []string // lower case, "websocket" and others that may pass; nil: none
	GenerateRequestID bool
	KeepRequestID     bool // preserve_external_request_id
	Via               string
}

// Codec says how a connection's protocol is found.
type Codec uint8

// The codecs.
const (
	CodecAuto Codec = iota // ALPN, then the first bytes
	CodecHTTP1
	CodecHTTP2
)

// ServerHeader is a server_header_transformation.
type ServerHeader uint8

// The transformations.
const (
	ServerOverwrite ServerHeader = iota
	ServerIfAbsent
	ServerPass
)

// HTTP2Options bound an HTTP/2 connection. Zero values are the defaults given.
type HTTP2Options struct {
	MaxStreams   uint32 // 100 downstream; upstream the peer's word counts
	StreamWindow uint32 // 256 KiB
	ConnWindow   uint32 // 1 MiB
	MaxFrame     uint32 // 16 KiB
	TableSize    uint32 // 4096
	AllowConnect bool   // extended CONNECT (RFC 8441)
	PingInterval time.Duration
	PingTimeout  time.Duration
}

// XFF says how X-Forwarded-For is treated.
type XFF struct {
	UseRemote   bool // use_remote_address
	TrustedHops int  // xff_num_trusted_hops
	SkipAppend  bool
}

// ForwardCert is a forward_client_cert_details.
type ForwardCert uint8

// The ways.
const (
	CertSanitize ForwardCert = iota
	CertForwardOnly
	CertAppendForward
	CertSanitizeSet
	CertAlwaysForwardOnly
)

// CertDetails is set_current_client_cert_details: what is told of the client's
// certificate beside its hash and our own name.
type CertDetails struct{ Subject, Cert, DNS, URI bool }

// EscapedSlashes is a path_with_escaped_slashes_action.
type EscapedSlashes uint8

// The actions.
const (
	SlashKeep EscapedSlashes = iota
	SlashReject
	SlashUnescapeRedirect
	SlashUnescapeForward
)

// HTTPFilter is one filter of the chain, in order. Config's type says which;
// package filter lists them.
type HTTPFilter struct {
	Name   string
	Config any
}

// RouteConfig is a RouteConfiguration.
type RouteConfig struct {
	Name                            string
	Hosts                           []*VirtualHost
	Headers                         HeaderOps
	Internal                        []string // internal_only_headers
	IgnorePort                      bool     // ignore_port_in_host_matching
	PerFilter                       map[string]any
	MostSpecificHeaderMutationsWins bool
}

// VirtualHost is one host's routes.
type VirtualHost struct {
	Name            string
	Domains         []string // lower case: exact, "*.suffix", "prefix.*" or "*"
	Routes          []*Route // the first match wins
	RequireTLS      bool     // redirect plain requests (require_tls: ALL)
	Headers         HeaderOps
	Retry           *Retry
	Mirrors         []Mirror
	PerFilter       map[string]any
	IncludeAttempts bool           // include_request_attempt_count
	Limits          []LimitActions // rate_limits
}

// Route is one route. Exactly one of To, Redirect and Direct is set.
type Route struct {
	Name      string
	Match     Match
	To        *Forward
	Redirect  *Redirect
	Direct    *Direct
	Headers   HeaderOps
	PerFilter map[string]any // by filter name: its own Config type, or nil pointer for "disabled"
	Decorator string         // operation's name in traces
	VHost     *VirtualHost   `json:"-"` // filled by Validate
	Index     int            // dense, per RouteConfig, for counters; filled by Validate
}

// Match selects requests.
type Match struct {
	Kind       PathKind
	Path       string         // for Prefix, Exact and PathPrefix
	Regex      *regexp.Regexp // for Regex: matches the whole path, without query
	IgnoreCase bool           // case_sensitive: false
	Fraction   *Fraction
	Headers    []HeaderMatch
	Query      []QueryMatch
	GRPC       bool
	TLS        *TLSMatch
}

// PathKind says how Match.Path matches.
type PathKind uint8

// The kinds.
const (
	Prefix     PathKind = iota
	Exact               // path
	PathPrefix          // path_separated_prefix
	Regex               // safe_regex
	Connect             // connect_matcher
)

// Fraction is a share of requests: Num of Den.
type Fraction struct{ Num, Den uint32 }

// TLSMatch selects by what the client showed.
type TLSMatch struct{ Presented, Validated *bool }

// StringMatch is a StringMatcher. Exactly one of the patterns is set; an
// Exact with an empty string matches the empty string.
type StringMatch struct {
	Kind       StringKind
	Value      string
	Regex      *regexp.Regexp
	IgnoreCase bool
}

// StringKind is the kind of a StringMatch.
type StringKind uint8

// The kinds.
const (
	MatchExact StringKind = iota
	MatchPrefix
	MatchSuffix
	MatchContains
	MatchRegex
)

// HeaderMatch matches a field of the request. Name may be ":method",
// ":authority", ":path" or ":scheme".
type HeaderMatch struct {
	Name           string // lower case
	Present        *bool  // set: nothing else is
	Range          *Range
	String         *StringMatch
	Invert         bool
	MissingIsEmpty bool // treat_missing_header_as_empty
}

// Range is [From, To).
type Range struct{ From, To int64 }

// QueryMatch matches a query parameter.
type QueryMatch struct {
	Name    string
	Present *bool
	String  *StringMatch
}

// Forward sends a request to a cluster.
type Forward struct {
	Cluster       string // one of Cluster, ClusterHeader and Weighted is set
	ClusterHeader string // lower case
	Weighted      []Weighted
	NotFound      int               // cluster_not_found_response_code; 0: 503
	Subset        map[string]string // metadata_match, filter "envoy.lb"
	PrefixRewrite string
	RegexRewrite  *RegexRewrite
	Host          HostRewrite
	Timeout       time.Duration // of the whole response; 0: 15 s; negative: none
	IdleTimeout   time.Duration // of the stream; 0: the manager's; negative: none
	MaxDuration   time.Duration
	GRPCMax       *time.Duration // grpc_timeout_header_max: set, grpc-timeout counts instead of Timeout, up to so much; 0: without bound
	Retry         *Retry
	Mirrors       []Mirror
	Hash          []HashPolicy
	Priority      uint8           // 0 default, 1 high: which circuit breakers count
	Upgrades      map[string]bool // overrides the manager's
	Limits        []LimitActions  // rate_limits
}

// Weighted is one share of a weighted cluster.
type Weighted struct {
	Cluster     string
	Weight      uint32
	Subset      map[string]string
	Headers     HeaderOps
	HostRewrite string
	PerFilter   map[string]any
}

// RegexRewrite replaces what matches in the path.
type RegexRewrite struct {
	Regex *regexp.Regexp
	Subst string // \1 and so on
}

// HostRewrite says which authority leaves. At most one is set.
type HostRewrite struct {
	Literal   string
	Auto      bool   // the endpoint's host name
	Header    string // lower case
	PathRegex *RegexRewrite
	AppendXFH bool // append_x_forwarded_host
}

// HashPolicy is one source of a request's hash.
type HashPolicy struct {
	Header        string // lower case
	HeaderRewrite *RegexRewrite
	Cookie        string
	CookieTTL     *time.Duration // set: a cookie is made when there is none
	CookiePath    string
	SourceIP      bool
	Query         string
	Terminal      bool
}

// Mirror sends a copy of requests elsewhere.
type Mirror struct {
	Cluster  string
	Fraction *Fraction
}

// Retry is a RetryPolicy.
type Retry struct {
	On               RetryOn
	Codes            []int         // retriable_status_codes
	Headers          []HeaderMatch // retriable_headers
	Num              uint32        // 0: 1
	PerTry           time.Duration // 0: none
	BackoffBase      time.Duration // 0: 25 ms
	BackoffMax       time.Duration // 0: 10 × base
	HostAttempts     int           // host_selection_retry_max_attempts
	AvoidPrevious    bool          // previous_hosts predicate
	RateLimitedReset bool          // a Retry-After of the response counts instead of the backoff (rate_limited_retry_back_off)
}

// RetryOn is a set of conditions.
type RetryOn uint32

// The conditions, by Envoy's names.
const (
	Retry5xx RetryOn = 1 << iota
	RetryGateway
	RetryReset
	RetryResetBeforeRequest
	RetryConnectFailure
	RetryRetriable4xx
	RetryRefusedStream
	RetryStatusCodes
	RetryHeaders
	RetryGRPCCancelled
	RetryGRPCDeadline
	RetryGRPCInternal
	RetryGRPCExhausted
	RetryGRPCUnavailable
)

// Redirect is a RedirectAction.
type Redirect struct {
	Code               int // 301, 302, 303, 307 or 308
	HTTPS              bool
	Scheme, Host       string
	Port               uint16
	Path, Prefix       string
	PathSet, PrefixSet bool
	RegexRewrite       *RegexRewrite
	StripQuery         bool
}

// Direct is a DirectResponseAction.
type Direct struct {
	Status int
	Body   []byte
}

// HeaderOps changes heads on their way.
type HeaderOps struct {
	RequestAdd, ResponseAdd       []HeaderAdd
	RequestRemove, ResponseRemove []string // lower case
}

// HeaderAdd sets or appends a field. Value may hold command operators, as in
// access log formats.
type HeaderAdd struct {
	Name      string // lower case
	Value     string
	Action    AddAction
	KeepEmpty bool
}

// AddAction is a HeaderAppendAction.
type AddAction uint8

// The actions.
const (
	AppendOrAdd AddAction = iota
	AddIfAbsent
	OverwriteOrAdd
	OverwriteIfExists
)

// TCPProxy carries a connection byte by byte.
type TCPProxy struct {
	StatPrefix         string
	Cluster            string
	Weighted           []Weighted
	IdleTimeout        time.Duration // 0: 1 h; negative: none
	MaxDuration        time.Duration
	MaxConnectAttempts uint32 // 0: 1
	AccessLogs         []*AccessLog
	HashSourceIP       bool
	Subset             map[string]string
}

// UDPProxy is a udp_proxy listener filter.
type UDPProxy struct {
	Cluster      string
	IdleTimeout  time.Duration // 0: 1 min
	HashSourceIP bool
	PerPacket    bool // use_per_packet_load_balancing
	MaxSessions  int  // 0: 65536
	AccessLogs   []*AccessLog
}

// AccessLog is one sink with its format.
type AccessLog struct {
	Path      string      // file; "/dev/stdout" and "/dev/stderr" are known
	Format    string      // command operators; "": Envoy's default
	JSON      []JSONField // instead of Format
	OmitEmpty bool
	Filter    *LogFilter
}

// JSONField is one key of a JSON access log, in order.
type JSONField struct {
	Key    string
	Format string
	Object []JSONField // nested; Format is then empty
}

// LogFilter selects what is logged. One of the kinds is set.
type LogFilter struct {
	Kind     string // "status", "duration", "not_health_check", "fraction", "and", "or", "header", "flags", "grpc_status"
	Op       string // "EQ", "GE", "LE"
	Value    uint32
	Fraction *Fraction
	Header   *HeaderMatch
	Flags    []string
	Codes    []uint32
	Exclude  bool
	All      []*LogFilter
}

// Tracing says which requests are traced and where spans go.
type Tracing struct {
	Client, Random, Overall Fraction
	Service                 string
	Cluster                 string // that takes OTLP over HTTP or gRPC
	Path                    string // of the OTLP/HTTP collector
	GRPC                    bool
	Timeout                 time.Duration // of an export; 0: 10 s
	MaxTag                  int
	Tags                    []TraceTag
}

// TraceTag is a custom tag.
type TraceTag struct{ Name, Literal, RequestHeader, Default string }

// RateLimit is a token bucket.
type RateLimit struct {
	Max      uint32
	PerFill  uint32
	Interval time.Duration
}

// RBAC is compiled by package filter, for connections and requests alike.
type RBAC struct {
	Action   string // "ALLOW", "DENY", "LOG"
	Policies map[string]*RBACPolicy
	Shadow   *RBAC
}

// RBACPolicy allows any of its principals any of its permissions.
type RBACPolicy struct {
	Permissions []*RBACRule
	Principals  []*RBACRule
}

// RBACRule is one node of a permission or principal tree; one kind is set.
type RBACRule struct {
	Any           bool
	And, Or       []*RBACRule
	Not           *RBACRule
	Header        *HeaderMatch
	Path          *StringMatch
	DestIP        *netip.Prefix
	DestPort      *Range
	SourceIP      *netip.Prefix // direct_remote_ip
	RemoteIP      *netip.Prefix // after X-Forwarded-For
	Principal     *StringMatch  // authenticated; nil inside a set Authenticated means any
	Authenticated bool
	SNI           *StringMatch
}

// Cluster is a set of hosts that serve the same.
type Cluster struct {
	Name                  string
	AltStat               string
	Discovery             Discovery
	Endpoints             *Endpoints // static, strict DNS, or what EDS said last; nil while it has said nothing
	EDSName               string
	DNSRefresh            time.Duration // 0: 5 s
	DNSFamily             string        // "V4_ONLY", "V6_ONLY", "AUTO", "V4_PREFERRED", "ALL"
	OriginalDst           *OriginalDst
	LB                    LBPolicy
	Ring                  RingOptions
	LeastChoices          uint32  // choice_count; 0: 2
	LeastBias             float64 // active_request_bias; 0: 1
	Maglev                uint64  // table size, a prime; 0: 65537
	SlowStart             *SlowStart
	PanicThreshold        float64 // per cent; 0: 50; negative: never
	LocalityWeighted      bool    // locality_weighted_lb_config
	ZoneAware             bool
	MinZoneAware          uint64 // min_cluster_size; 0: 6
	Overprovision         uint32 // per cent; 0: 140
	Subsets               *Subsets
	ConnectTimeout        time.Duration // 0: 5 s
	TLS                   *ClientTLS
	Upstream              UpstreamProto
	HTTP2                 HTTP2Options
	MaxRequests           uint32        // per connection (max_requests_per_connection); 0: none
	IdleTimeout           time.Duration // of pooled connections; 0: 1 h in Envoy, 55 s here
	MaxConnDuration       time.Duration
	Health                []*HealthCheck
	Outlier               *Outlier
	Breakers              [2]Breakers // by priority: default, high
	ProxyProtocol         int         // 1 or 2 sends a header upstream; 0 none
	SourceAddr            netip.Addr  // bind_config
	IgnoreHealthOnRemoval bool
	ReadLimit             int
}

// Discovery says where hosts come from.
type Discovery uint8

// The kinds.
const (
	Static Discovery = iota
	StrictDNS
	LogicalDNS
	EDS
	OrigDst
)

// OriginalDst is an ORIGINAL_DST cluster's options.
type OriginalDst struct {
	Header string // "" or the field that names the destination
	Port   uint16 // upstream_port_override
}

// UpstreamProto says what is spoken to a cluster.
type UpstreamProto uint8

// The protocols.
const (
	UpHTTP1 UpstreamProto = iota
	UpHTTP2
	UpAuto       // ALPN (auto_config)
	UpDownstream // what the client speaks (use_downstream_protocol_config)
)

// LBPolicy is how a host is chosen.
type LBPolicy uint8

// The policies.
const (
	RoundRobin LBPolicy = iota // weighted when hosts are
	LeastRequest
	Random
	RingHash
	Maglev
	PeakEWMA
	ClusterProvided // ORIGINAL_DST
)

// RingOptions bound a hash ring. 0: 1024 and 8 Mi.
type RingOptions struct {
	Min, Max uint64
	Murmur   bool
}

// SlowStart raises a new host's weight over a window.
type SlowStart struct {
	Window     time.Duration
	Aggression float64 // 0: 1
	MinWeight  float64 // per cent; 0: 10
}

// Subsets is an LbSubsetConfig.
type Subsets struct {
	Keys          [][]string // each sorted
	Fallback      string     // "NO_FALLBACK", "ANY_ENDPOINT", "DEFAULT_SUBSET"
	Default       map[string]string
	PanicAny      bool
	ScaleLocality bool
}

// Endpoints is a ClusterLoadAssignment.
type Endpoints struct {
	Localities  []*Locality
	DropPerCent float64
}

// Locality is the hosts of one place.
type Locality struct {
	Region, Zone, SubZone string
	Priority              uint32
	Weight                uint32
	Hosts                 []*Endpoint
}

// Endpoint is one host.
type Endpoint struct {
	Addr       netip.AddrPort // zero when Host must be resolved
	Host       string         // name to resolve, or of the endpoint (hostname)
	Port       uint16
	Pipe       string            // unix socket instead
	Weight     uint32            // 0: 1
	Health     HealthStatus      // as discovery says
	Metadata   map[string]string // filter "envoy.lb"
	HealthPort uint16            // health_check_config; 0: the same
	HealthHost string
	Identity   string // that it must prove; "" what the cluster's TLS says
}

// HealthStatus is what discovery says of a host.
type HealthStatus uint8

// The states.
const (
	Unset HealthStatus = iota
	Healthy
	Unhealthy
	Draining
	Timeout
	Degraded
)

// HealthCheck is one active check.
type HealthCheck struct {
	Interval, Timeout                             time.Duration
	Jitter                                        time.Duration
	JitterPerCent                                 uint32
	InitialJitter                                 time.Duration
	NoTraffic                                     time.Duration // 0: 60 s
	UnhealthyAfter, HealthyAfter                  uint32        // 0: 1
	UnhealthyInterval, UnhealthyEdge, HealthyEdge time.Duration // 0: Interval
	HTTP                                          *HTTPCheck
	TCP                                           *TCPCheck
	GRPC                                          *GRPCCheck
	NoReuse                                       bool // reuse_connection: false
	AlwaysLogFailures                             bool
}

// HTTPCheck asks for a path.
type HTTPCheck struct {
	Host, Path, Method string
	Expected           [][2]int // half-open ranges; nil: 200
	Retriable          [][2]int
	Add                []HeaderAdd
	Remove             []string
	HTTP2              bool
	Service            *StringMatch
	Receive            [][]byte
}

// TCPCheck connects, and may send and expect bytes.
type TCPCheck struct {
	Send    []byte
	Receive [][]byte
}

// GRPCCheck is grpc.health.v1.
type GRPCCheck struct{ Service, Authority string }

// Outlier is an OutlierDetection. Zero values are Envoy's defaults; a
// negative number switches a kind off.
type Outlier struct {
	Consecutive5xx                                 int           // 5
	ConsecutiveGateway                             int           // 5
	ConsecutiveLocal                               int           // 5
	Interval                                       time.Duration // 10 s
	BaseEjection                                   time.Duration // 30 s
	MaxEjection                                    time.Duration // 300 s
	MaxPercent                                     int           // 10
	Enforcing5xx, EnforcingGateway, EnforcingLocal int           // per cent: 100, 0, 100; -1 is 0
	EnforcingSuccess                               int           // 100
	SuccessMinHosts                                int           // 5
	SuccessVolume                                  int           // 100
	SuccessStdevFactor                             int           // 1900
	EnforcingFailure                               int           // 0
	FailureThreshold                               int           // 85
	FailureMinHosts                                int           // 5
	FailureVolume                                  int           // 50
	SplitLocal                                     bool
	Jitter                                         time.Duration
	AlwaysOne                                      bool
}

// Breakers are a cluster's circuit breakers. 0: 1024, retries 3; MaxUint32 is
// no limit.
type Breakers struct {
	MaxConns, MaxPending, MaxRequests, MaxRetries uint32
	Budget                                        *RetryBudget // instead of MaxRetries
}

// RetryBudget bounds retries by what is under way.
type RetryBudget struct {
	PerCent float64 // 0: 20
	Min     uint32  // 0: 3
}
