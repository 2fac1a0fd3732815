// SPDX-License-Identifier: Apache-2.0

package config

import (
	"regexp"
	"time"
)

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
