// SPDX-License-Identifier: Apache-2.0

package route_test

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/proxy/route"
)

func snapshot(t testing.TB, ca *proxytest.CA) *wire.Snapshot {
	t.Helper()
	id := ca.ID("bank", "b")
	return &wire.Snapshot{Version: 3, TrustDomain: ca.Domain, Roots: [][]byte{ca.Root()},
		Services:  []wire.Service{{Namespace: "bank", Name: "s", VIP: netip.MustParseAddr("10.96.0.1"), Ports: []wire.ServicePort{{Port: 80, Protocol: wire.ProtoHTTP, Endpoints: []wire.Backend{{Addr: netip.MustParseAddrPort("10.0.0.1:8080"), ID: id}}}}}},
		Workloads: []wire.Peer{{Namespace: "bank", Name: "b-0", Addr: netip.MustParseAddr("10.0.0.1"), ID: id}},
		Pods: []wire.Pod{{UID: "u", Namespace: "bank", Name: "b-0", Addr: netip.MustParseAddr("10.0.0.1"), NetNS: "/run/netns/b", SVID: ca.Issue(t, id, time.Hour),
			Inbound: wire.Authz{MTLS: wire.MTLSStrict, Ports: map[uint16]string{9090: wire.MTLSPermissive}, AppPort: map[uint16]string{9090: wire.ProtoTCP}}}},
		Gateways: []wire.Gateway{{Listen: netip.MustParseAddrPort("0.0.0.0:443"), Namespace: "bank", Service: "s", Port: 80, SVID: ca.Issue(t, ca.ID("edge", "gw"), time.Hour)}},
		Revoked:  []string{"abc"}}
}

func TestLookup(t *testing.T) {
	ca := proxytest.NewCA(t, "bank.example")
	s := snapshot(t, ca)
	tab, err := route.Compile(s, nil, route.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for dst, want := range map[string]string{
		"10.96.0.1:80":  "bank/s:80",
		"10.96.0.1:81":  "service has no such port",
		"10.0.0.1:1234": "bank/b-0",
		"8.8.8.8:53":    "destination is not in the mesh",
	} {
		target, reason := tab.Lookup(netip.MustParseAddrPort(dst))
		got := reason
		if target != nil {
			got = target.Name
		}
		if got != want {
			t.Errorf("%s: %s, want %s", dst, got, want)
		}
	}
	p := tab.Pods["u"]
	if p.Permissive(80) || !p.Permissive(9090) || p.Proto(9090) != route.TCP || p.Proto(80) != route.Auto {
		t.Error("ports")
	}
	g := tab.Gateways[netip.MustParseAddrPort("0.0.0.0:443")]
	if g.Target == nil || g.Target.Name != "bank/s:80" || !tab.IsGateway(ca.ID("edge", "gw")) || tab.IsGateway(ca.ID("bank", "b")) {
		t.Error("gateway")
	}
	if !tab.Revoked("abc") || tab.Revoked("abd") {
		t.Error("revoked")
	}
	// What has not changed is taken over, what has is not.
	next, err := route.Compile(s, tab, route.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if next.Pods["u"].Identity != p.Identity || next.Trust != tab.Trust {
		t.Error("parsed anew without need")
	}
	s.Pods[0].SVID = ca.Issue(t, ca.ID("bank", "b"), time.Hour)
	if next, err = route.Compile(s, tab, route.Options{}); err != nil || next.Pods["u"].Identity == p.Identity {
		t.Errorf("the old SVID stayed: %v", err)
	}
}

func TestCompileRefuses(t *testing.T) {
	ca, other := proxytest.NewCA(t, "bank.example"), proxytest.NewCA(t, "evil.example")
	ip, ap := netip.MustParseAddr, netip.MustParseAddrPort
	for name, f := range map[string]func(*wire.Snapshot){
		"trust domain":         func(s *wire.Snapshot) { s.TrustDomain = "Bank Example" },
		"no roots":             func(s *wire.Snapshot) { s.Roots = nil },
		"foreign SVID":         func(s *wire.Snapshot) { s.Pods[0].SVID = other.Issue(t, other.ID("bank", "b"), time.Hour) },
		"loopback pod":         func(s *wire.Snapshot) { s.Pods[0].Addr = ip("127.0.0.1") },
		"link-local pod":       func(s *wire.Snapshot) { s.Pods[0].Addr = ip("169.254.1.1") },
		"no address":           func(s *wire.Snapshot) { s.Pods[0].Addr = netip.Addr{} },
		"IPv6 pod":             func(s *wire.Snapshot) { s.Pods[0].Addr = ip("fd00::1") },
		"relative netns":       func(s *wire.Snapshot) { s.Pods[0].NetNS = "netns/b" },
		"pod twice":            func(s *wire.Snapshot) { s.Pods = append(s.Pods, s.Pods[0]) },
		"no UID":               func(s *wire.Snapshot) { s.Pods[0].UID = "" },
		"mode":                 func(s *wire.Snapshot) { s.Pods[0].Inbound.MTLS = "DISABLE" },
		"no mode":              func(s *wire.Snapshot) { s.Pods[0].Inbound.MTLS = "" },
		"mode of a port":       func(s *wire.Snapshot) { s.Pods[0].Inbound.Ports[9090] = "off" },
		"protocol of a port":   func(s *wire.Snapshot) { s.Pods[0].Inbound.AppPort[9090] = "h3" },
		"protocol of service":  func(s *wire.Snapshot) { s.Services[0].Ports[0].Protocol = "h3" },
		"VIP twice":            func(s *wire.Snapshot) { s.Services = append(s.Services, s.Services[0]) },
		"loopback VIP":         func(s *wire.Snapshot) { s.Services[0].VIP = ip("127.0.0.1") },
		"endpoint without ID":  func(s *wire.Snapshot) { s.Services[0].Ports[0].Endpoints[0].ID = "" },
		"endpoint on loopback": func(s *wire.Snapshot) { s.Services[0].Ports[0].Endpoints[0].Addr = ap("127.0.0.1:80") },
		"endpoint port 0":      func(s *wire.Snapshot) { s.Services[0].Ports[0].Endpoints[0].Addr = ap("10.0.0.1:0") },
		"workload twice":       func(s *wire.Snapshot) { s.Workloads = append(s.Workloads, s.Workloads[0]) },
		"workload without ID":  func(s *wire.Snapshot) { s.Workloads[0].ID = "" },
		"gateway twice":        func(s *wire.Snapshot) { s.Gateways = append(s.Gateways, s.Gateways[0]) },
		"gateway without port": func(s *wire.Snapshot) { s.Gateways[0].Listen = ap("0.0.0.0:0") },
		"gateway without SVID": func(s *wire.Snapshot) { s.Gateways[0].SVID = wire.SVID{} },
		"bad prefix":           func(s *wire.Snapshot) { s.Pods[0].Egress.Rules = []wire.NetRule{{Peers: []netip.Prefix{{}}}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := snapshot(t, ca)
			f(s)
			tab, err := route.Compile(s, nil, route.Options{})
			if err == nil || tab != nil {
				t.Fatal("taken")
			}
			if strings.Contains(err.Error(), string(s.Pods[0].SVID.Key)) {
				t.Error("the key is in the error")
			}
		})
	}
}
