// SPDX-License-Identifier: Apache-2.0

package config

import "time"

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

// HTTP2Options bound an HTTP/2 connection. Zero is the default that stands
// beside each.
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
