// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	istio "istio.io/api/security/v1beta1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// RootNamespace is where a policy holds for the whole mesh.
const RootNamespace = "redoubt-system"

// Input is all that a snapshot is made from. Compile only reads it.
type Input struct {
	Version     uint64
	TrustDomain id.TrustDomain
	Roots       [][]byte // DER, the current one first
	// Namespaces are the labels of each namespace. One that is absent has
	// only the implied kubernetes.io/metadata.name.
	Namespaces      map[string]map[string]string
	Services        []Service
	Pods            []Pod
	Authorizations  []AuthorizationPolicy
	PeerAuths       []PeerAuthentication
	NetworkPolicies []*networkingv1.NetworkPolicy
	Gateways        []wire.Gateway
	Revoked         []string // serials, lower case hex
}

// Service is a declared service and the address that the node gave it; a
// headless one has none.
type Service struct {
	*corev1.Service
	VIP netip.Addr
}

// Pod is a pod of the mesh that has not ended. Those on this machine have a
// NetNS and an SVID.
type Pod struct {
	UID            string
	Namespace      string
	Name           string
	Labels         map[string]string
	ServiceAccount string // "" means "default"
	Hostname       string // with Subdomain: a name of its own under that headless service
	Subdomain      string
	Addr           netip.Addr // invalid while it has none
	Ready          bool       // false also while it terminates
	Ports          []Port
	NetNS          string // path of the POD network namespace; "" when it runs elsewhere
	SVID           wire.SVID
}

// Port is a declared container port.
type Port struct {
	Name     string
	Port     uint16
	Protocol corev1.Protocol // "" means TCP
}

// AuthorizationPolicy is an Istio AuthorizationPolicy, security.istio.io/v1.
type AuthorizationPolicy struct {
	Namespace string
	Name      string
	Spec      *istio.AuthorizationPolicy
}

// PeerAuthentication is an Istio PeerAuthentication, security.istio.io/v1.
type PeerAuthentication struct {
	Namespace string
	Name      string
	Spec      *istio.PeerAuthentication
}

// Compile makes the snapshot. An error (errors.Join of errs.Error, all of
// them) means that there is none.
func Compile(in Input) (*wire.Snapshot, error) {
	w, err := newWorld(in)
	if err != nil {
		return nil, fmt.Errorf("compile snapshot %d: %w", in.Version, err)
	}
	out := &wire.Snapshot{Version: in.Version, TrustDomain: in.TrustDomain.Name(), Roots: in.Roots,
		Services: []wire.Service{}, Workloads: []wire.Peer{}, Pods: []wire.Pod{}, Gateways: slices.Clone(in.Gateways), Revoked: slices.Clone(in.Revoked)}
	for _, s := range w.in.Services {
		out.Services = append(out.Services, w.service(s))
	}
	for _, p := range w.pods {
		if p.Addr.IsValid() {
			out.Workloads = append(out.Workloads, wire.Peer{Namespace: p.Namespace, Name: p.Name, Addr: p.Addr, ID: w.ids[p].String()})
		}
		// Without an SVID (it expired, it could not be renewed) the pod is no
		// part of the mesh: its edge stays closed, and all others go on.
		if p.NetNS != "" && p.Addr.IsValid() && len(p.SVID.Chain) > 0 {
			out.Pods = append(out.Pods, w.pod(p))
		}
	}
	slices.SortFunc(out.Gateways, func(a, b wire.Gateway) int { return a.Listen.Compare(b.Listen) })
	slices.Sort(out.Revoked)
	out.Revoked = slices.Compact(out.Revoked)
	return out, nil
}

// pod gives one pod of this machine with all that governs its edge.
func (w *world) pod(p *Pod) wire.Pod {
	out := wire.Pod{UID: p.UID, Namespace: p.Namespace, Name: p.Name, Addr: p.Addr, NetNS: p.NetNS, SVID: p.SVID}
	var authz []AuthorizationPolicy
	for _, a := range w.authz {
		if a.policy.Namespace != p.Namespace && a.policy.Namespace != RootNamespace || !matches(a.policy.Spec.Selector.GetMatchLabels(), p.Labels) {
			continue
		}
		authz = append(authz, a.policy)
		if a.policy.Spec.Action == istio.AuthorizationPolicy_DENY {
			out.Inbound.Deny = append(out.Inbound.Deny, a.rules...)
		} else {
			out.Inbound.Allow = append(out.Inbound.Allow, a.rules...)
		}
	}
	var peers []PeerAuthentication
	var nets []*netpol
	out.Inbound.MTLS, out.Inbound.Ports, peers = w.mtls(p)
	out.Inbound.AppPort = w.protocols(p)
	out.Inbound.Network, out.Egress, nets = w.network(p)
	out.Inbound.Digest = inForce(authz, peers, nets)
	return out
}

// world is the input, sorted, checked and indexed.
type world struct {
	in         Input
	pods       []*Pod
	ids        map[*Pod]id.ID
	authz      []compiledAuthz
	netpols    []*netpol
	namespaces map[string]labels.Set // filled by namespaceLabels
}

type compiledAuthz struct {
	policy AuthorizationPolicy
	rules  []wire.Rule
}

func newWorld(in Input) (*world, error) {
	in.Services, in.Pods = slices.Clone(in.Services), slices.Clone(in.Pods)
	in.Authorizations, in.PeerAuths = slices.Clone(in.Authorizations), slices.Clone(in.PeerAuths)
	slices.SortFunc(in.Services, func(a, b Service) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(in.Pods, func(a, b Pod) int {
		return cmp.Or(byName(a.Namespace, a.Name, b.Namespace, b.Name), cmp.Compare(a.UID, b.UID))
	})
	slices.SortFunc(in.Authorizations, func(a, b AuthorizationPolicy) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	slices.SortFunc(in.PeerAuths, func(a, b PeerAuthentication) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	w := &world{in: in, ids: map[*Pod]id.ID{}, namespaces: map[string]labels.Set{}}
	var all []error
	if in.TrustDomain.IsZero() {
		all = append(all, &errs.Error{Kind: errs.Invalid, Field: "trust domain", Expected: "a name", Seen: "none"})
	}
	all = append(all, w.indexPods()...)
	all = append(all, w.checkServices()...)
	for _, a := range in.Authorizations {
		c := &authz{policy: a, domain: in.TrustDomain}
		rules := c.compile()
		for _, e := range c.errs {
			all = append(all, e)
		}
		w.authz = append(w.authz, compiledAuthz{a, rules})
	}
	for _, p := range in.PeerAuths {
		for _, e := range p.Check() {
			all = append(all, e)
		}
	}
	for _, p := range in.NetworkPolicies {
		n, err := newNetpol(p)
		if err != nil {
			all = append(all, err)
			continue
		}
		w.netpols = append(w.netpols, n)
	}
	slices.SortFunc(w.netpols, func(a, b *netpol) int { return byName(a.Namespace, a.Name, b.Namespace, b.Name) })
	return w, errors.Join(all...)
}

// indexPods gives each pod its ID. Two pods with one address would make one
// answer for the other, and a pod with another's SVID would speak for it.
func (w *world) indexPods() (all []error) {
	addrs := map[netip.Addr]*Pod{}
	for i := range w.in.Pods {
		p := &w.in.Pods[i]
		name := "pod " + p.Namespace + "/" + p.Name
		v, err := id.Workload(w.in.TrustDomain, p.Namespace, cmp.Or(p.ServiceAccount, "default"))
		if err != nil {
			all = append(all, fmt.Errorf("%s: %w", name, err))
			continue
		}
		if len(p.SVID.Chain) > 0 && p.SVID.ID != v.String() {
			all = append(all, &errs.Error{Kind: errs.Internal, Subject: name, Field: "svid", Expected: v.String(), Seen: p.SVID.ID})
		}
		if other := addrs[p.Addr]; p.Addr.IsValid() && other != nil {
			all = append(all, &errs.Error{Kind: errs.Conflict, Subject: name, Field: "addr", Expected: "an address of its own", Seen: p.Addr.String() + ", also of " + other.Namespace + "/" + other.Name})
		}
		addrs[p.Addr] = p
		w.ids[p] = v
		w.pods = append(w.pods, p)
	}
	return all
}

func (w *world) checkServices() (all []error) {
	vips := map[netip.Addr]string{}
	for _, s := range w.in.Services {
		name := s.Namespace + "/" + s.Name
		if other, ok := vips[s.VIP]; ok && s.VIP.IsValid() {
			all = append(all, &errs.Error{Kind: errs.Conflict, Subject: "Service " + name, Field: "vip", Expected: "an address of its own", Seen: s.VIP.String() + ", also of " + other})
		}
		vips[s.VIP] = name
	}
	return all
}

func byName(ns, name, ns2, name2 string) int {
	return cmp.Or(cmp.Compare(ns, ns2), cmp.Compare(name, name2))
}
