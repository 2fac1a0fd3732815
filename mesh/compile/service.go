// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/api/wire"
)

// service gives one service with its ready endpoints.
func (w *world) service(s Service) wire.Service {
	out := wire.Service{Namespace: s.Namespace, Name: s.Name, VIP: s.VIP, Ports: []wire.ServicePort{}}
	if s.Spec.ClusterIP == corev1.ClusterIPNone {
		out.VIP = netip.Addr{}
	}
	pods := w.selected(s)
	for _, port := range s.Spec.Ports {
		sp := wire.ServicePort{Name: port.Name, Port: uint16(port.Port), Protocol: protocol(port.AppProtocol, port.Name), Endpoints: []wire.Backend{}}
		for _, p := range pods {
			if n := target(port, p); n != 0 && serves(p) {
				sp.Endpoints = append(sp.Endpoints, wire.Backend{Addr: netip.AddrPortFrom(p.Addr, n), ID: w.ids[p].String()})
			}
		}
		out.Ports = append(out.Ports, sp)
	}
	slices.SortFunc(out.Ports, func(a, b wire.ServicePort) int { return cmp.Compare(a.Port, b.Port) })
	if headless(s) {
		for _, p := range pods {
			// A StatefulSet names its service as the subdomain of its pods.
			if serves(p) && p.Hostname != "" && p.Subdomain == s.Name {
				out.Hosts = append(out.Hosts, wire.HostAddr{Host: p.Hostname, Addr: p.Addr})
			}
		}
		slices.SortFunc(out.Hosts, func(a, b wire.HostAddr) int {
			return cmp.Or(cmp.Compare(a.Host, b.Host), a.Addr.Compare(b.Addr))
		})
	}
	return out
}

// serves tells whether p can be spoken to. A pod of this machine whose SVID is
// gone could only refuse.
func serves(p *Pod) bool { return p.Ready && (p.NetNS == "" || len(p.SVID.Chain) > 0) }

func headless(s Service) bool { return s.Spec.ClusterIP == corev1.ClusterIPNone || !s.VIP.IsValid() }

// selected gives the pods of s that have an address, in order. An empty
// selector selects nothing, as for Kubernetes' endpoints.
func (w *world) selected(s Service) (out []*Pod) {
	if len(s.Spec.Selector) == 0 {
		return nil
	}
	for _, p := range w.pods {
		if p.Namespace == s.Namespace && p.Addr.IsValid() && matches(s.Spec.Selector, p.Labels) {
			out = append(out, p)
		}
	}
	return out
}

// target gives the container port that port means on p, 0 for none.
func target(port corev1.ServicePort, p *Pod) uint16 {
	t := port.TargetPort
	if t.Type == intstr.String {
		return named(p, t.StrVal, corev1.ProtocolTCP)
	}
	if t.IntVal == 0 {
		t.IntVal = port.Port
	}
	return uint16(t.IntVal)
}

func named(p *Pod, name string, proto corev1.Protocol) uint16 {
	for _, c := range p.Ports {
		if c.Name == name && cmp.Or(c.Protocol, corev1.ProtocolTCP) == proto {
			return c.Port
		}
	}
	return 0
}

// protocol reads a declaration as Istio does: appProtocol, else the name of
// the port up to its first '-'. What the edge does not parse (TLS of the
// application's own, databases) is TCP; what it tells apart better by the
// first bytes (HTTP/2 and gRPC, which begin with a preface) is auto.
func protocol(app *string, name string) string {
	word := ""
	if app != nil {
		word = strings.TrimPrefix(strings.ToLower(*app), "kubernetes.io/")
	} else {
		word, _, _ = strings.Cut(strings.ToLower(name), "-")
	}
	switch word {
	case "http", "ws":
		return wire.ProtoHTTP
	case "tcp", "tls", "https", "wss", "mongo", "mysql", "redis", "postgres", "postgresql":
		return wire.ProtoTCP
	}
	return wire.ProtoAuto
}

// protocols gives the declared protocols of a pod's ports: what the services
// before it say, else what its own port names say. Two services that disagree
// leave it to the first bytes.
func (w *world) protocols(p *Pod) map[uint16]string {
	out := map[uint16]string{}
	for _, s := range w.in.Services {
		if s.Namespace != p.Namespace || len(s.Spec.Selector) == 0 || !matches(s.Spec.Selector, p.Labels) {
			continue
		}
		for _, port := range s.Spec.Ports {
			n := target(port, p)
			v := protocol(port.AppProtocol, port.Name)
			if before, ok := out[n]; ok && before != v {
				v = wire.ProtoAuto
			}
			if n != 0 {
				out[n] = v
			}
		}
	}
	for _, c := range p.Ports {
		if _, ok := out[c.Port]; !ok && cmp.Or(c.Protocol, corev1.ProtocolTCP) == corev1.ProtocolTCP {
			out[c.Port] = protocol(nil, c.Name)
		}
	}
	for n, v := range out {
		if v == wire.ProtoAuto {
			delete(out, n) // absent means the same
		}
	}
	return out
}
