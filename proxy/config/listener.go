// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"
)

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
	ReadLimit  int // the listener's
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

// RateLimit is a token bucket.
type RateLimit struct {
	Max      uint32
	PerFill  uint32
	Interval time.Duration
}
