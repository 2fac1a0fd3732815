// SPDX-License-Identifier: Apache-2.0

package config

import (
	"net/netip"
	"time"
)

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
