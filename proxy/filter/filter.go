// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/message"
)

// Verdict is what becomes of a request after a filter.
type Verdict uint8

// The verdicts.
const (
	Next     Verdict = iota // go on with the next filter
	Hold                    // Context.Resume will be called with the verdict, once, on the loop
	Reply                   // Context.Local says what is answered; the request goes no further
	NeedBody                // read the body into Context.Body, as BufferRequest and BufferPartial say, and ask the same filter again
)

// Filter looks at a request's head before it leaves.
type Filter interface{ Request(c *Context) Verdict }

// Responder is what a Filter adds to look at the head of the final response,
// the proxy's own included.
type Responder interface{ Response(c *Context) }

// Ender is what a Filter adds to be told that the exchange is over, however it
// ended. It is called once for each request that the filter has seen.
type Ender interface{ End(c *Context) }

// Transform changes a body as it passes. One belongs to one body.
type Transform interface {
	// Append appends what becomes of p to dst. end says that p is the last;
	// trailers, not nil then, may be changed. What it holds back is bounded.
	Append(dst, p []byte, end bool, trailers *message.Head) ([]byte, error)
	// Close releases what the transform holds; also after an early end.
	Close()
}

// ConnInfo is what is known of a downstream connection. It does not change
// after the first request.
type ConnInfo struct {
	Listener  string
	Chain     string
	Peer      netip.AddrPort // the direct peer
	Source    netip.AddrPort // the peer, or whom the PROXY protocol named
	Local     netip.AddrPort // the destination: after interception, the original one
	TLS       *TLSInfo       // nil in clear
	Transport message.Proto
	ID        uint64
}

// TLSInfo is what a handshake established.
type TLSInfo struct {
	Version, Suite uint16
	SNI, ALPN      string
	Resumed        bool
	PeerPresented  bool // a client certificate was shown, and verified unless the listener accepts any
	PeerValidated  bool
	PeerURIs       []string
	PeerDNS        []string
	PeerSubject    string // RFC 2253
	PeerIssuer     string
	PeerSerial     string // lower case hex
	PeerHash       string // SHA-256 of the DER, lower case hex
	PeerPEM        string // URL-escaped, for x-forwarded-client-cert
	LocalSerial    string // lower case hex
	LocalURIs      []string
	LocalSubject   string
	NotAfter       time.Time
}

// LocalReply is an answer of the proxy's own.
type LocalReply struct {
	Status  int
	Body    []byte             // not copied; "" for none
	Detail  string             // for logs: why, in Envoy's words where it has some
	Headers []config.HeaderAdd // literal values; Content-Type is text/plain unless given
	GRPC    int                // grpc-status for gRPC requests; 0: derived from Status
}

// Flags are response flags of the access log.
type Flags uint32

// The flags, with Envoy's short names.
const (
	FlagNoHealthy        Flags = 1 << iota // UH
	FlagUpstreamConnect                    // UF
	FlagUpstreamOverflow                   // UO
	FlagNoRoute                            // NR
	FlagRetryLimit                         // URX
	FlagNoCluster                          // NC
	FlagDownstreamGone                     // DC
	FlagUpstreamReset                      // UR
	FlagUpstreamGone                       // UC
	FlagUpstreamTimeout                    // UT
	FlagIdleTimeout                        // SI
	FlagDenied                             // UAEX
	FlagRateLimited                        // RL
	FlagDelay                              // DI
	FlagAbort                              // FI
	FlagLocalReset                         // LR
	FlagProtocol                           // DPE
	FlagUpstreamProtocol                   // UPE
	FlagMaxDuration                        // DT
	FlagOverload                           // OM
	FlagDrop                               // DO
)

// Context is one request on its way. It belongs to its loop, is reused, and
// must not be kept after End.
type Context struct {
	Conn *ConnInfo
	Req  *message.Request
	Resp *message.Response // nil before there is one
	// Trailers of the response, set before End when there were some.
	RespTrailers *message.Head

	Routes   Router           // in force when the request came; nil when none is known yet
	Route    *config.Route    // nil before routing, or without a match
	Weighted *config.Weighted // the share that was chosen, if the route is weighted
	Cluster  string           // where it leads, once known
	Local    *LocalReply      // set by who answers Reply
	Flags    Flags
	Detail   string

	Remote      netip.Addr // the client, after X-Forwarded-For
	Internal    bool       // Remote is a private address and nothing untrusted was passed on
	RequestID   []byte
	HealthCheck bool         // a health checking filter knew it as such
	Sampled     bool         // traced
	TraceParent [16 + 8]byte // trace and span id of the request's own span

	Began             int64 // engine.Mono of the first byte of the head
	HeadSent          int64 // … when the request's head left; 0 before
	RequestWhole      int64 // … when the request's last byte came; 0 before
	RequestSent       int64 // … when the request's last byte left; 0 before
	UpstreamHead      int64 // … when the response's head came
	Ended             int64
	BytesIn, BytesOut uint64 // body bytes
	Attempts          int
	Host              netip.AddrPort // that answered, or was tried last
	HostName          string
	UpstreamLocal     netip.AddrPort
	UpstreamTLS       *TLSInfo

	// What a filter asks of the exchange, in Request or Response:
	BufferRequest  int       // hold the head until the body is whole, at most so many bytes; 413 above. 0: stream
	BufferPartial  bool      // with NeedBody: BufferRequest bytes will do when the body is longer
	RequestBody    Transform // nil: pass
	ResponseBody   Transform
	RequestTimeout time.Duration // from a trusted header, e.g. grpc-timeout; 0: the route's
	Delay          time.Duration // fault: wait so long before doing what the verdict says; reset by who waited
	RequestRate    uint64        // bytes per second of bodies; 0: no limit (fault's rate limit)
	ResponseRate   uint64

	Resume func(Verdict)     // set by the exchange before each Request call; may be kept until it was called
	Post   func(func()) bool // runs a function on the request's loop, from anywhere; false when the loop has ended
	Rand   func() uint64     // of the loop; needs no secrecy

	Body      []byte // after NeedBody: what was read; not to be changed or kept
	BodyWhole bool   // Body is all of it

	Slots     []any      // one per filter of the chain; cleared by Chain.End
	Overrides *Overrides // what the route configuration in force says of the chain's filters
	At        int        // the filter that was asked last
	entered   uint64     // filters that saw the request
}

// Router finds routes. Package router's Table is one.
type Router interface {
	// Match finds the route for c.Req. It does not change c.
	Match(c *Context) *config.Route
}

// Deps is what filters are built with.
type Deps struct {
	// Call does a request to a cluster off the loops. See callout.go.
	Call Caller
	Now  func() time.Time
	// Healthy gives the share of a cluster's hosts that are healthy, per cent;
	// false for an unknown cluster. Draining tells that the proxy wants no new
	// work. Both may be asked on any loop; nil means not known.
	Healthy  func(cluster string) (perCent float64, ok bool)
	Draining func() bool
}

// Caller asks a cluster, off the loops: for ext_authz, and trace export. It
// bounds what is under way.
type Caller interface {
	// HTTP does one request with net/http's semantics to a host of cluster.
	HTTP(cluster string) (Doer, error)
}
