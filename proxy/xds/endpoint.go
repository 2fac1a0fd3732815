// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"path/filepath"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"redoubt.dev/proxy/config"
)

// endpointsValue is a load assignment; a part of its policy belongs to the
// cluster.
type endpointsValue struct {
	endpoints *config.Endpoints
	over      uint32 // overprovisioning_factor; 0: the default
}

// Bounds of what discovery may say.
const (
	maxPriority  = 128
	maxEndpoints = 200_000
)

func (c *converter) endpoints(m *endpointv3.ClusterLoadAssignment, names bool, p *place) endpointsValue {
	e := &config.Endpoints{}
	v := endpointsValue{endpoints: e, over: c.count(m.GetPolicy().GetOverprovisioningFactor(), p.field("policy").field("overprovisioning_factor"))}
	for i, d := range m.GetPolicy().GetDropOverloads() {
		f := c.fractionOf(d.GetDropPercentage(), p.field("policy").item("drop_overloads", i).field("drop_percentage"))
		// Categories drop one after the other from what is left.
		e.DropPerCent += (100 - e.DropPerCent) * float64(f.Num) / float64(max(f.Den, 1))
	}
	total := 0
	for i, l := range m.GetEndpoints() {
		at := p.item("endpoints", i)
		x := &config.Locality{Region: l.GetLocality().GetRegion(), Zone: l.GetLocality().GetZone(), SubZone: l.GetLocality().GetSubZone(), Priority: l.GetPriority(), Weight: c.count(l.GetLoadBalancingWeight(), at.field("load_balancing_weight"))}
		if x.Priority > maxPriority {
			c.wrong(at.field("priority"), "at most 128", x.Priority, "")
		}
		if total += len(l.GetLbEndpoints()); total > maxEndpoints {
			c.wrong(at.field("lb_endpoints"), fmt.Sprintf("at most %d hosts", maxEndpoints), "more", "split the cluster")
			break
		}
		x.Hosts = make([]*config.Endpoint, 0, len(l.GetLbEndpoints()))
		for j, h := range l.GetLbEndpoints() {
			x.Hosts = append(x.Hosts, c.host(h, names, at.item("lb_endpoints", j)))
		}
		e.Localities = append(e.Localities, x)
	}
	c.priorities(e, p)
	return v
}

// priorities must be used from 0 on without a gap: one that is left out is a
// slip that would send its traffic elsewhere.
func (c *converter) priorities(e *config.Endpoints, p *place) {
	used := map[uint32]bool{}
	for _, l := range e.Localities {
		used[l.Priority] = true
	}
	for i := range uint32(len(used)) {
		if !used[i] {
			c.wrong(p.field("endpoints"), "priorities from 0 on without a gap", slices.Sorted(maps.Keys(used)), "")
			return
		}
	}
}

var healthStates = map[corev3.HealthStatus]config.HealthStatus{
	corev3.HealthStatus_UNKNOWN: config.Unset, corev3.HealthStatus_HEALTHY: config.Healthy, corev3.HealthStatus_UNHEALTHY: config.Unhealthy,
	corev3.HealthStatus_DRAINING: config.Draining, corev3.HealthStatus_TIMEOUT: config.Timeout, corev3.HealthStatus_DEGRADED: config.Degraded,
}

func (c *converter) host(m *endpointv3.LbEndpoint, names bool, p *place) *config.Endpoint {
	h := &config.Endpoint{Weight: c.count(m.GetLoadBalancingWeight(), p.field("load_balancing_weight")), Health: choose(c, healthStates, m.GetHealthStatus(), p.field("health_status"))}
	e, at := m.GetEndpoint(), p.field("endpoint")
	switch a := e.GetAddress().GetAddress().(type) {
	case *corev3.Address_SocketAddress:
		c.hostAddr(a.SocketAddress, h, names, at.field("address").field("socket_address"))
	case *corev3.Address_Pipe:
		if h.Pipe = a.Pipe.GetPath(); !filepath.IsAbs(h.Pipe) || len(h.Pipe) > 107 || a.Pipe.GetMode() != 0 {
			c.wrong(at.field("address").field("pipe"), "an absolute path of at most 107 bytes, without mode", h.Pipe, "")
		}
	default:
		c.unsupported(at.field("address"), "a socket_address or a pipe", "another", "")
	}
	if n := e.GetHostname(); n != "" {
		h.Host = c.authority(n, at.field("hostname"))
	}
	if x := e.GetHealthCheckConfig(); x != nil {
		h.HealthPort, h.HealthHost = c.port(x.GetPortValue(), at.field("health_check_config").field("port_value")), x.GetHostname()
	}
	for name := range m.GetMetadata().GetFilterMetadata() {
		if name != "envoy.lb" && name != "redoubt.dev" {
			c.unsupported(p.field("metadata").entry("filter_metadata", name), "envoy.lb or redoubt.dev", name, "remove it")
		}
	}
	h.Metadata = c.stringMap(structOf(m.GetMetadata(), "envoy.lb"), p.field("metadata").entry("filter_metadata", "envoy.lb"))
	for k, v := range c.stringMap(structOf(m.GetMetadata(), "redoubt.dev"), p.field("metadata").entry("filter_metadata", "redoubt.dev")) {
		if k != "identity" {
			c.unsupported(p.field("metadata").entry("filter_metadata", "redoubt.dev").field(k), "identity", k, "remove it")
		}
		h.Identity = v
	}
	return h
}

func (c *converter) hostAddr(m *corev3.SocketAddress, h *config.Endpoint, names bool, p *place) {
	h.Port = c.port(m.GetPortValue(), p.field("port_value"))
	if h.Port == 0 {
		c.wrong(p.field("port_value"), "1 to 65535", 0, "")
	}
	a, err := netip.ParseAddr(m.GetAddress())
	switch {
	case err == nil && a.Zone() == "":
		h.Addr = netip.AddrPortFrom(a.Unmap(), h.Port)
	case names && err != nil:
		h.Host = c.authority(m.GetAddress(), p.field("address"))
	default:
		c.wrong(p.field("address"), "an IP address", m.GetAddress(), "use type STRICT_DNS for a name")
	}
}

func (c *converter) healthCheck(m *corev3.HealthCheck, p *place) *config.HealthCheck {
	h := &config.HealthCheck{
		Interval: c.duration(m.GetInterval(), p.field("interval")), Timeout: c.duration(m.GetTimeout(), p.field("timeout")), JitterPerCent: m.GetIntervalJitterPercent(),
		NoTraffic: c.duration(m.GetNoTrafficInterval(), p.field("no_traffic_interval")), UnhealthyAfter: c.count(m.GetUnhealthyThreshold(), p.field("unhealthy_threshold")), HealthyAfter: c.count(m.GetHealthyThreshold(), p.field("healthy_threshold")),
		UnhealthyInterval: c.duration(m.GetUnhealthyInterval(), p.field("unhealthy_interval")), UnhealthyEdge: c.duration(m.GetUnhealthyEdgeInterval(), p.field("unhealthy_edge_interval")), HealthyEdge: c.duration(m.GetHealthyEdgeInterval(), p.field("healthy_edge_interval")),
		NoReuse: m.GetReuseConnection() != nil && !m.GetReuseConnection().GetValue(), AlwaysLogFailures: m.GetAlwaysLogHealthCheckFailures(),
	}
	if d := m.GetIntervalJitter(); d != nil {
		h.Jitter = c.span(d, p.field("interval_jitter"))
	}
	if d := m.GetInitialJitter(); d != nil {
		h.InitialJitter = c.span(d, p.field("initial_jitter"))
	}
	if h.JitterPerCent > 1000 {
		c.wrong(p.field("interval_jitter_percent"), "at most 1000", h.JitterPerCent, "")
	}
	switch x := m.GetHealthChecker().(type) {
	case *corev3.HealthCheck_HttpHealthCheck_:
		h.HTTP = c.httpCheck(x.HttpHealthCheck, p.field("http_health_check"))
	case *corev3.HealthCheck_TcpHealthCheck_:
		at := p.field("tcp_health_check")
		h.TCP = &config.TCPCheck{Send: c.payload(x.TcpHealthCheck.GetSend(), at.field("send")), Receive: c.payloads(x.TcpHealthCheck.GetReceive(), at)}
	case *corev3.HealthCheck_GrpcHealthCheck_:
		h.GRPC = &config.GRPCCheck{Service: x.GrpcHealthCheck.GetServiceName(), Authority: x.GrpcHealthCheck.GetAuthority()}
	default:
		c.unsupported(p, "http_health_check, tcp_health_check or grpc_health_check", "another", "")
	}
	return h
}

func (c *converter) httpCheck(m *corev3.HealthCheck_HttpHealthCheck, p *place) *config.HTTPCheck {
	h := &config.HTTPCheck{
		Host: m.GetHost(), Path: c.fieldValue(m.GetPath(), p.field("path")), Expected: c.ranges(m.GetExpectedStatuses(), p, "expected_statuses"), Retriable: c.ranges(m.GetRetriableStatuses(), p, "retriable_statuses"),
		Add: c.headerAdds(m.GetRequestHeadersToAdd(), p, "request_headers_to_add"), Remove: c.removes(m.GetRequestHeadersToRemove(), p, "request_headers_to_remove"),
		Receive: c.payloads(m.GetReceive(), p),
	}
	if m.GetMethod() != corev3.RequestMethod_METHOD_UNSPECIFIED {
		h.Method = m.GetMethod().String()
	}
	switch m.GetCodecClientType() {
	case typev3.CodecClientType_HTTP1:
	case typev3.CodecClientType_HTTP2:
		h.HTTP2 = true
	default:
		c.unsupported(p.field("codec_client_type"), "HTTP1 or HTTP2", m.GetCodecClientType(), "")
	}
	if s := m.GetServiceNameMatcher(); s != nil {
		x := c.stringMatch(s, p.field("service_name_matcher"))
		h.Service = &x
	}
	return h
}

func (c *converter) ranges(list []*typev3.Int64Range, p *place, name string) (out [][2]int) {
	for i, r := range list {
		if r.GetStart() < 100 || r.GetEnd() > 600 || r.GetStart() >= r.GetEnd() {
			c.wrong(p.item(name, i), "start below end, in 100 to 600", fmt.Sprint(r.GetStart(), "-", r.GetEnd()), "the end is not part of the range")
			continue
		}
		out = append(out, [2]int{int(r.GetStart()), int(r.GetEnd())})
	}
	return out
}

func (c *converter) payloads(list []*corev3.HealthCheck_Payload, p *place) (out [][]byte) {
	for i, m := range list {
		out = append(out, c.payload(m, p.item("receive", i)))
	}
	return out
}

func (c *converter) payload(m *corev3.HealthCheck_Payload, p *place) []byte {
	if m.GetText() == "" {
		return m.GetBinary()
	}
	b, err := hex.DecodeString(m.GetText())
	if err != nil {
		c.failed(p.field("text"), "hexadecimal digits", err, "write \"PING\" as 50494e47")
	}
	return b
}
