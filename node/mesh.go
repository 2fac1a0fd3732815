// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
	"redoubt.dev/identity"
	"redoubt.dev/mesh/compile"
	"redoubt.dev/node/pod"
	"redoubt.dev/sandbox/edge"
)

// network is what pods meet as pod.Network: it gives them an identity and
// waits until their edges are served.
type network struct {
	n *Node

	mu       sync.Mutex
	attached map[string]*pod.Record
}

const attachTimeout = 20 * time.Second

// Attach gives the pod an SVID and returns when the proxy serves its edge.
func (w *network) Attach(ctx context.Context, r *pod.Record) error {
	if err := w.admit(r); err != nil {
		return err
	}
	w.n.kick()
	ctx, cancel := context.WithTimeout(ctx, attachTimeout)
	defer cancel()
	return w.n.proxy.Await(ctx, func(s *wire.Snapshot) bool {
		for i := range s.Pods {
			if s.Pods[i].UID == r.UID {
				return true
			}
		}
		return false
	})
}

// admit gives the pod an SVID and a place in the next snapshot.
func (w *network) admit(r *pod.Record) error {
	who, err := id.Workload(w.n.trustDomain, r.Pod.Namespace, r.ServiceAccount())
	if err != nil {
		return err
	}
	if _, err := w.n.issuer.Admit(identity.Record{UID: r.UID, ID: who}); err != nil {
		return fmt.Errorf("issue identity: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.attached[r.UID] = r
	return nil
}

// Detach takes the pod's identity and edge away, and returns when the proxy
// has let go of it, or soon after: its sockets would hold the namespace.
func (w *network) Detach(uid string) {
	w.mu.Lock()
	_, was := w.attached[uid]
	delete(w.attached, uid)
	w.mu.Unlock()
	w.n.issuer.Forget(uid)
	if !was {
		return
	}
	w.n.kick()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(w.n.ctx), 2*time.Second)
	defer cancel()
	_ = w.n.proxy.Await(ctx, func(s *wire.Snapshot) bool {
		for i := range s.Pods {
			if s.Pods[i].UID == uid {
				return false
			}
		}
		return true
	})
}

func (w *network) has(uid string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.attached[uid]
	return ok
}

// gatewayUID names the gateway's SVID in the issuer.
const (
	gatewayUID     = "gateway"
	gatewayAccount = "redoubt-gateway"
)

// compileMesh makes the snapshot of the world as it is.
func (w *world) compileMesh() (*wire.Snapshot, error) {
	n := w.n
	svids := n.issuer.SVIDs()
	in := compile.Input{
		TrustDomain: n.trustDomain, Roots: n.ca.Roots(), Namespaces: map[string]map[string]string{},
		Authorizations: w.all.Authorizations, PeerAuths: w.all.PeerAuths, NetworkPolicies: w.all.NetworkPolicies,
	}
	for _, ns := range w.all.Namespaces {
		in.Namespaces[ns.Name] = ns.Labels
	}
	for _, s := range w.all.Services {
		in.Services = append(in.Services, compile.Service{Service: s, VIP: w.addrs.Services[s.Namespace+"/"+s.Name]})
	}
	for _, uid := range sortedNames(w.pods) {
		r, st := w.pods[uid].Record(), w.pods[uid].Status()
		if st.Gone || st.Phase == string(corev1.PodSucceeded) || st.Phase == string(corev1.PodFailed) || !n.net.has(uid) {
			continue
		}
		p := compile.Pod{
			UID: uid, Namespace: r.Pod.Namespace, Name: r.Pod.Name, Labels: r.Pod.Labels, ServiceAccount: r.ServiceAccount(),
			Hostname: r.Pod.Spec.Hostname, Subdomain: r.Pod.Spec.Subdomain, Addr: r.Addr, Ready: (st.Ready || w.assumed(uid, st)) && !w.ending[uid],
			NetNS: edge.At(n.netnsDir(), uid, r.Addr).Pod, SVID: svids[uid],
		}
		for _, c := range append(append([]corev1.Container(nil), r.Pod.Spec.InitContainers...), r.Pod.Spec.Containers...) {
			for _, port := range c.Ports {
				p.Ports = append(p.Ports, compile.Port{Name: port.Name, Port: uint16(port.ContainerPort), Protocol: port.Protocol})
			}
		}
		in.Pods = append(in.Pods, p)
	}
	in.Gateways = w.gateways(svids[gatewayUID])
	return compile.Compile(in)
}

// assumed says that a pod which an earlier node left running is taken for
// ready until it was looked at: else a node that comes back would take all
// endpoints away for a moment.
func (w *world) assumed(uid string, st pod.Status) bool {
	until, ok := w.resumed[uid]
	if ok && (st.Ready || time.Now().After(until)) {
		delete(w.resumed, uid)
		ok = false
	}
	return ok
}

// gateways gives the listeners of Services that are reached from outside.
func (w *world) gateways(svid wire.SVID) []wire.Gateway {
	var out []wire.Gateway
	taken := map[netip.AddrPort]string{w.n.cfg.RegistryListen: "of the registry"}
	w.clashes = nil
	for _, s := range w.all.Services {
		for _, p := range s.Spec.Ports {
			for _, at := range w.external(s, p) {
				// The proxy would refuse the whole snapshot, and with it every
				// later one.
				if other, ok := taken[at]; ok {
					w.clashes = append(w.clashes, fmt.Sprintf("Service %s/%s is not reached at %s: Service %s is", s.Namespace, s.Name, at, other))
					continue
				}
				taken[at] = s.Namespace + "/" + s.Name
				out = append(out, wire.Gateway{Listen: at, Namespace: s.Namespace, Service: s.Name, Port: uint16(p.Port), SVID: svid})
			}
		}
	}
	return out
}

// external gives the addresses of this machine at which a service's port is
// reached: its node port and, for a LoadBalancer, the port itself.
func (w *world) external(s *corev1.Service, p corev1.ServicePort) []netip.AddrPort {
	var out []netip.AddrPort
	gw := w.n.cfg.GatewayAddress
	if np, ok := w.addrs.NodePorts[nodePortKey(s, p)]; ok {
		out = append(out, netip.AddrPortFrom(gw, np))
		if s.Spec.Type == corev1.ServiceTypeLoadBalancer {
			out = append(out, netip.AddrPortFrom(gw, uint16(p.Port)))
		}
	}
	return out
}

func nodePortKey(s *corev1.Service, p corev1.ServicePort) string {
	return s.Namespace + "/" + s.Name + "/" + strconv.Itoa(int(p.Port))
}
