// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"strings"

	xdstypev3 "github.com/cncf/xds/go/xds/type/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	providedv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/cluster_provided/v3"
	lbcommon "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/common/v3"
	leastv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/least_request/v3"
	maglevv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/maglev/v3"
	randomv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/random/v3"
	ringv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/ring_hash/v3"
	roundv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/round_robin/v3"
	subsetv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/subset/v3"
	wrrv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/load_balancing_policies/wrr_locality/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"redoubt.dev/proxy/config"
)

// peakEWMA is the type_url of a TypedStruct that asks for the policy of that
// name, which the API has no message for.
const peakEWMA = "redoubt.dev/peak_ewma"

var lbPolicies = map[clusterv3.Cluster_LbPolicy]config.LBPolicy{
	clusterv3.Cluster_ROUND_ROBIN: config.RoundRobin, clusterv3.Cluster_LEAST_REQUEST: config.LeastRequest, clusterv3.Cluster_RING_HASH: config.RingHash,
	clusterv3.Cluster_RANDOM: config.Random, clusterv3.Cluster_MAGLEV: config.Maglev, clusterv3.Cluster_CLUSTER_PROVIDED: config.ClusterProvided,
	clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG: config.RoundRobin,
}

// maxRing bounds a hash ring, as the API does.
const maxRing = 8 << 20

func (c *converter) lbPolicy(m *clusterv3.Cluster, x *config.Cluster, p *place) {
	x.LB = choose(c, lbPolicies, m.GetLbPolicy(), p.field("lb_policy"))
	if lp := m.GetLoadBalancingPolicy(); lp != nil {
		c.typedPolicy(lp, x, p.field("load_balancing_policy"))
	} else if m.GetLbPolicy() == clusterv3.Cluster_LOAD_BALANCING_POLICY_CONFIG {
		c.wrong(p.field("load_balancing_policy"), "a policy", "none", "")
	}
	given := func(set bool, name string, want config.LBPolicy) bool {
		if set && x.LB != want {
			c.wrong(p.field(name), "the options of lb_policy", m.GetLbPolicy(), "remove it, or change lb_policy")
		}
		return set
	}
	if r := m.GetRingHashLbConfig(); given(r != nil, "ring_hash_lb_config", config.RingHash) {
		c.ring(r.GetMinimumRingSize(), r.GetMaximumRingSize(), r.GetHashFunction() == clusterv3.Cluster_RingHashLbConfig_MURMUR_HASH_2, x, p.field("ring_hash_lb_config"))
	}
	if r := m.GetMaglevLbConfig(); given(r != nil, "maglev_lb_config", config.Maglev) {
		x.Maglev = c.maglevSize(r.GetTableSize(), p.field("maglev_lb_config").field("table_size"))
	}
	if r := m.GetLeastRequestLbConfig(); given(r != nil, "least_request_lb_config", config.LeastRequest) {
		c.least(r.GetChoiceCount(), r.GetActiveRequestBias(), x, p.field("least_request_lb_config"))
		c.slowStart(r.GetSlowStartConfig(), x, p.field("least_request_lb_config").field("slow_start_config"))
	}
	if r := m.GetRoundRobinLbConfig(); given(r != nil, "round_robin_lb_config", config.RoundRobin) {
		c.slowStart(r.GetSlowStartConfig(), x, p.field("round_robin_lb_config").field("slow_start_config"))
	}
	if x.LB == config.ClusterProvided && x.Discovery != config.OrigDst {
		c.wrong(p.field("lb_policy"), "a policy that chooses among the hosts of this type", "CLUSTER_PROVIDED", "it goes with ORIGINAL_DST")
	}
	if o := m.GetOriginalDstLbConfig(); o != nil || x.Discovery == config.OrigDst {
		c.originalDst(o, x, p)
	}
	if s := m.GetLbSubsetConfig(); s != nil {
		c.subsets(s, x, p.field("lb_subset_config"))
	}
}

func (c *converter) originalDst(o *clusterv3.Cluster_OriginalDstLbConfig, x *config.Cluster, p *place) {
	at := p.field("original_dst_lb_config")
	if x.Discovery == config.OrigDst && x.LB != config.ClusterProvided {
		c.wrong(p.field("lb_policy"), "CLUSTER_PROVIDED with ORIGINAL_DST", "another", "set it")
	}
	x.OriginalDst = &config.OriginalDst{}
	if v := o.GetUpstreamPortOverride(); v != nil {
		x.OriginalDst.Port = c.port(v.Value, at.field("upstream_port_override"))
	}
	if o.GetUseHttpHeader() {
		x.OriginalDst.Header = "x-envoy-original-dst-host"
		if h := o.GetHttpHeaderName(); h != "" {
			x.OriginalDst.Header = c.fieldName(h, at.field("http_header_name"), false)
		}
	} else if o.GetHttpHeaderName() != "" {
		c.wrong(at.field("http_header_name"), "use_http_header beside it", "none", "")
	}
}

func (c *converter) typedPolicy(m *clusterv3.LoadBalancingPolicy, x *config.Cluster, p *place) {
	if n := len(m.GetPolicies()); n != 1 {
		c.unsupported(p.field("policies"), "one policy", n, "remove the others: the first that is known would be used")
		return
	}
	at := p.item("policies", 0).field("typed_extension_config").field("typed_config")
	switch t := c.unpack(m.GetPolicies()[0].GetTypedExtensionConfig().GetTypedConfig(), at).(type) {
	case nil:
	case *roundv3.RoundRobin:
		x.LB = config.RoundRobin
		c.typedSlowStart(t.GetSlowStartConfig(), x, at.field("slow_start_config"))
		c.locality(t.GetLocalityLbConfig(), x, at.field("locality_lb_config"))
	case *leastv3.LeastRequest:
		x.LB = config.LeastRequest
		c.least(t.GetChoiceCount(), t.GetActiveRequestBias(), x, at)
		c.typedSlowStart(t.GetSlowStartConfig(), x, at.field("slow_start_config"))
		c.locality(t.GetLocalityLbConfig(), x, at.field("locality_lb_config"))
	case *randomv3.Random:
		x.LB = config.Random
		c.locality(t.GetLocalityLbConfig(), x, at.field("locality_lb_config"))
	case *ringv3.RingHash:
		x.LB = config.RingHash
		c.ring(t.GetMinimumRingSize(), t.GetMaximumRingSize(), t.GetHashFunction() == ringv3.RingHash_MURMUR_HASH_2, x, at)
		x.LocalityWeighted = t.GetLocalityWeightedLbConfig() != nil
	case *maglevv3.Maglev:
		x.LB, x.Maglev = config.Maglev, c.maglevSize(t.GetTableSize(), at.field("table_size"))
		x.LocalityWeighted = t.GetLocalityWeightedLbConfig() != nil
	case *providedv3.ClusterProvided:
		x.LB = config.ClusterProvided
	case *wrrv3.WrrLocality:
		c.typedPolicy(t.GetEndpointPickingPolicy(), x, at.field("endpoint_picking_policy"))
		x.LocalityWeighted = true
	case *subsetv3.Subset:
		c.subsets(t, x, at)
		c.typedPolicy(t.GetSubsetLbPolicy(), x, at.field("subset_lb_policy"))
	case *xdstypev3.TypedStruct:
		if name := strings.TrimPrefix(t.GetTypeUrl(), "type.googleapis.com/"); name != peakEWMA || len(t.GetValue().GetFields()) > 0 {
			c.unsupported(at.field("type_url"), peakEWMA+" with an empty value", t.GetTypeUrl(), "")
		}
		x.LB = config.PeakEWMA
	default:
		c.slot(at, t, "a load balancing policy")
	}
}

func (c *converter) locality(m *lbcommon.LocalityLbConfig, x *config.Cluster, p *place) {
	x.LocalityWeighted = m.GetLocalityWeightedLbConfig() != nil
	if z := m.GetZoneAwareLbConfig(); z != nil {
		c.zoneAware(z.GetRoutingEnabled(), z.GetMinClusterSize(), x, p.field("zone_aware_lb_config"))
	}
}

func (c *converter) zoneAware(enabled *typev3.Percent, size *wrapperspb.UInt64Value, x *config.Cluster, p *place) {
	if v := enabled; v != nil && v.GetValue() != 0 && v.GetValue() != 100 {
		c.unsupported(p.field("routing_enabled"), "0 or 100", v.GetValue(), "")
	}
	x.ZoneAware = enabled == nil || enabled.GetValue() == 100
	x.MinZoneAware = c.count64(size, p.field("min_cluster_size"))
}

func (c *converter) commonLB(m *clusterv3.Cluster_CommonLbConfig, x *config.Cluster, p *place) {
	if m == nil {
		return
	}
	if v := m.GetHealthyPanicThreshold(); v != nil {
		if x.PanicThreshold = c.perCent(v, p.field("healthy_panic_threshold")); x.PanicThreshold == 0 {
			x.PanicThreshold = -1
		}
	}
	x.LocalityWeighted = x.LocalityWeighted || m.GetLocalityWeightedLbConfig() != nil
	if z := m.GetZoneAwareLbConfig(); z != nil {
		c.zoneAware(z.GetRoutingEnabled(), z.GetMinClusterSize(), x, p.field("zone_aware_lb_config"))
	}
}

func (c *converter) ring(low, high *wrapperspb.UInt64Value, murmur bool, x *config.Cluster, p *place) {
	x.Ring = config.RingOptions{Min: c.count64(low, p.field("minimum_ring_size")), Max: c.count64(high, p.field("maximum_ring_size")), Murmur: murmur}
	if x.Ring.Min > maxRing || x.Ring.Max > maxRing || x.Ring.Max != 0 && x.Ring.Max < max(x.Ring.Min, 1) {
		c.wrong(p.field("maximum_ring_size"), "minimum_ring_size to 8388608", x.Ring.Max, "")
	}
}

func (c *converter) maglevSize(v *wrapperspb.UInt64Value, p *place) uint64 {
	n := c.count64(v, p)
	prime := n == 0 || n == 2 || n > 2 && n%2 == 1
	for d := uint64(3); prime && n > 0 && d*d <= n && n <= 5000011; d += 2 {
		prime = n%d != 0
	}
	if !prime || n > 5000011 {
		c.wrong(p, "a prime of at most 5000011", n, "use 65537")
	}
	return n
}

func (c *converter) least(choices *wrapperspb.UInt32Value, bias *corev3.RuntimeDouble, x *config.Cluster, p *place) {
	if x.LeastChoices = c.count(choices, p.field("choice_count")); choices != nil && (x.LeastChoices < 2 || x.LeastChoices > 1000) {
		c.wrong(p.field("choice_count"), "2 to 1000", x.LeastChoices, "")
	}
	if bias != nil {
		if x.LeastBias = bias.GetDefaultValue(); !(x.LeastBias > 0 && x.LeastBias <= 100) {
			c.wrong(p.field("active_request_bias"), "above 0, at most 100", x.LeastBias, "")
		}
	}
}

type slowStart interface {
	GetSlowStartWindow() *durationpb.Duration
	GetAggression() *corev3.RuntimeDouble
	GetMinWeightPercent() *typev3.Percent
}

func (c *converter) slowStart(m *clusterv3.Cluster_SlowStartConfig, x *config.Cluster, p *place) {
	if m != nil {
		c.slowStartOf(m, x, p)
	}
}

func (c *converter) typedSlowStart(m *lbcommon.SlowStartConfig, x *config.Cluster, p *place) {
	if m != nil {
		c.slowStartOf(m, x, p)
	}
}

func (c *converter) slowStartOf(m slowStart, x *config.Cluster, p *place) {
	s := &config.SlowStart{Window: c.duration(m.GetSlowStartWindow(), p.field("slow_start_window")), MinWeight: c.perCent(m.GetMinWeightPercent(), p.field("min_weight_percent"))}
	if s.Window == 0 {
		c.wrong(p.field("slow_start_window"), "a duration above 0", "none", "")
	}
	if a := m.GetAggression(); a != nil {
		if s.Aggression = a.GetDefaultValue(); !(s.Aggression > 0 && s.Aggression <= 100) {
			c.wrong(p.field("aggression"), "above 0, at most 100", s.Aggression, "")
		}
	}
	x.SlowStart = s
}

// subsetOptions are what the cluster's and the typed form have in common.
func (c *converter) subsets(m any, x *config.Cluster, p *place) {
	s := &config.Subsets{}
	fallback := ""
	switch m := m.(type) {
	case *clusterv3.Cluster_LbSubsetConfig:
		for i, q := range m.GetSubsetSelectors() {
			s.Keys = append(s.Keys, c.selector(q.GetKeys(), int(q.GetFallbackPolicy()), p.item("subset_selectors", i)))
		}
		s.Default, fallback = c.stringMap(m.GetDefaultSubset(), p.field("default_subset")), m.GetFallbackPolicy().String()
		s.PanicAny, s.ScaleLocality = m.GetPanicModeAny(), m.GetScaleLocalityWeight()
	case *subsetv3.Subset:
		for i, q := range m.GetSubsetSelectors() {
			s.Keys = append(s.Keys, c.selector(q.GetKeys(), int(q.GetFallbackPolicy()), p.item("subset_selectors", i)))
		}
		s.Default, fallback = c.stringMap(m.GetDefaultSubset(), p.field("default_subset")), m.GetFallbackPolicy().String()
		s.PanicAny, s.ScaleLocality = m.GetPanicModeAny(), m.GetScaleLocalityWeight()
	}
	switch s.Fallback = fallback; fallback {
	case "NO_FALLBACK", "ANY_ENDPOINT":
	case "DEFAULT_SUBSET":
		if len(s.Default) == 0 {
			c.wrong(p.field("default_subset"), "a subset", "none", "")
		}
	default:
		c.unsupported(p.field("fallback_policy"), "NO_FALLBACK, ANY_ENDPOINT or DEFAULT_SUBSET", fallback, "")
	}
	x.Subsets = s
}

func (c *converter) selector(keys []string, fallback int, p *place) []string {
	if fallback != 0 {
		c.unsupported(p.field("fallback_policy"), "that of the whole", "one of its own", "remove it")
	}
	if len(keys) == 0 {
		c.wrong(p.field("keys"), "at least one", "none", "")
	}
	return sortedKeys(keys)
}

func structOf(m *corev3.Metadata, name string) *structpb.Struct { return m.GetFilterMetadata()[name] }
