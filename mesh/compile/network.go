// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// netpol is a NetworkPolicy with its selectors compiled.
type netpol struct {
	*networkingv1.NetworkPolicy
	pods            labels.Selector
	ingress, egress []netrule
	isIn, isOut     bool // the directions it governs
}

type netrule struct {
	peers []netpeer // nil: any
	ports []networkingv1.NetworkPolicyPort
}

// netpeer is a block, or pods by selectors; a nil namespaces selector means
// the policy's own namespace.
type netpeer struct {
	block      netip.Prefix
	except     []netip.Prefix
	namespaces labels.Selector
	pods       labels.Selector
}

func newNetpol(p *networkingv1.NetworkPolicy) (*netpol, error) {
	fail := func(field string, err error) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "NetworkPolicy " + p.Namespace + "/" + p.Name, Field: field, Err: err}
	}
	out := &netpol{NetworkPolicy: p, isIn: len(p.Spec.PolicyTypes) == 0, isOut: len(p.Spec.PolicyTypes) == 0 && len(p.Spec.Egress) > 0}
	for _, t := range p.Spec.PolicyTypes {
		out.isIn = out.isIn || t == networkingv1.PolicyTypeIngress
		out.isOut = out.isOut || t == networkingv1.PolicyTypeEgress
	}
	var err error
	if out.pods, err = metav1.LabelSelectorAsSelector(&p.Spec.PodSelector); err != nil {
		return nil, fail("spec.podSelector", err)
	}
	for _, r := range p.Spec.Ingress {
		peers, err := newPeers(r.From)
		if err != nil {
			return nil, fail("spec.ingress", err)
		}
		out.ingress = append(out.ingress, netrule{peers, r.Ports})
	}
	for _, r := range p.Spec.Egress {
		peers, err := newPeers(r.To)
		if err != nil {
			return nil, fail("spec.egress", err)
		}
		out.egress = append(out.egress, netrule{peers, r.Ports})
	}
	return out, nil
}

func newPeers(in []networkingv1.NetworkPolicyPeer) ([]netpeer, error) {
	var out []netpeer
	for _, p := range in {
		var n netpeer
		var err error
		if b := p.IPBlock; b != nil {
			if n.block, err = netip.ParsePrefix(b.CIDR); err != nil {
				return nil, err
			}
			for _, e := range b.Except {
				x, err := netip.ParsePrefix(e)
				if err != nil {
					return nil, err
				}
				n.except = append(n.except, x.Masked())
			}
			n.block = n.block.Masked()
			out = append(out, n)
			continue
		}
		n.pods = labels.Everything()
		if p.PodSelector != nil {
			if n.pods, err = metav1.LabelSelectorAsSelector(p.PodSelector); err != nil {
				return nil, err
			}
		}
		if p.NamespaceSelector != nil {
			if n.namespaces, err = metav1.LabelSelectorAsSelector(p.NamespaceSelector); err != nil {
				return nil, err
			}
		}
		out = append(out, n)
	}
	return out, nil
}

// network compiles both directions for p, and gives the policies that select it.
func (w *world) network(p *Pod) (in, out wire.Network, used []*netpol) {
	for _, n := range w.netpols {
		if n.Namespace != p.Namespace || !n.pods.Matches(labels.Set(p.Labels)) {
			continue
		}
		used = append(used, n)
		if n.isIn {
			in.Isolated = true
			for _, r := range n.ingress {
				in.Rules = append(in.Rules, w.ingress(n, r, p)...)
			}
		}
		if n.isOut {
			out.Isolated = true
			for _, r := range n.egress {
				out.Rules = append(out.Rules, w.egress(n, r)...)
			}
		}
	}
	sortRules(in.Rules)
	sortRules(out.Rules)
	return in, out, used
}

// ingress: a named port is one of the pod that is guarded.
func (w *world) ingress(n *netpol, r netrule, p *Pod) []wire.NetRule {
	ports, ok := portRanges(r.ports, p)
	if !ok {
		return nil
	}
	return w.rules(n, r.peers, ports)
}

// egress: a named port is one of each pod that is spoken to, so a rule with
// names is written out pod by pod. Blocks have no names; they get the numbers.
func (w *world) egress(n *netpol, r netrule) (out []wire.NetRule) {
	if !slices.ContainsFunc(r.ports, func(p networkingv1.NetworkPolicyPort) bool { return p.Port != nil && p.Port.Type == intstr.String }) {
		if ports, ok := portRanges(r.ports, nil); ok {
			return w.rules(n, r.peers, ports)
		}
		return nil
	}
	if ports, ok := portRanges(r.ports, nil); ok {
		out = w.rules(n, r.peers, ports)
	}
	for _, q := range w.pods {
		if !q.Addr.IsValid() || r.peers != nil && !slices.ContainsFunc(r.peers, func(e netpeer) bool { return w.isPeer(n, e, q) }) {
			continue
		}
		if ports, ok := portRanges(r.ports, q); ok {
			out = append(out, wire.NetRule{Policy: n.Namespace + "/" + n.Name, Peers: []netip.Prefix{host(q.Addr)}, Ports: ports})
		}
	}
	return out
}

// rules gives one rule for all pods that are meant, and one for each block,
// as exceptions belong to their block alone. A peer that is nobody gives no
// rule: no peers at all would mean everybody.
func (w *world) rules(n *netpol, peers []netpeer, ports []wire.PortRange) []wire.NetRule {
	name := n.Namespace + "/" + n.Name
	if peers == nil {
		return []wire.NetRule{{Policy: name, Ports: ports}}
	}
	var out []wire.NetRule
	var pods []netip.Prefix
	for _, e := range peers {
		if e.block.IsValid() {
			out = append(out, wire.NetRule{Policy: name, Peers: []netip.Prefix{e.block}, Except: e.except, Ports: ports})
			continue
		}
		for _, q := range w.pods {
			if q.Addr.IsValid() && w.isPeer(n, e, q) {
				pods = append(pods, host(q.Addr))
			}
		}
	}
	if len(pods) > 0 {
		slices.SortFunc(pods, netip.Prefix.Compare)
		out = append(out, wire.NetRule{Policy: name, Peers: slices.Compact(pods), Ports: ports})
	}
	return out
}

func (w *world) isPeer(n *netpol, e netpeer, q *Pod) bool {
	switch {
	case e.pods == nil: // a block
		return e.block.Contains(q.Addr) && !slices.ContainsFunc(e.except, func(x netip.Prefix) bool { return x.Contains(q.Addr) })
	case e.namespaces == nil:
		return q.Namespace == n.Namespace && e.pods.Matches(labels.Set(q.Labels))
	}
	return e.namespaces.Matches(w.namespaceLabels(q.Namespace)) && e.pods.Matches(labels.Set(q.Labels))
}

// namespaceLabels are those of a namespace with its name, which is implied
// and not to be lied about.
func (w *world) namespaceLabels(ns string) labels.Set {
	l, ok := w.namespaces[ns]
	if !ok {
		l = labels.Set(maps.Clone(w.in.Namespaces[ns]))
		if l == nil {
			l = labels.Set{}
		}
		l[corev1.LabelMetadataName] = ns
		w.namespaces[ns] = l
	}
	return l
}

// portRanges gives the TCP ports that are meant on p (nil: names mean
// nothing). ok is false when there were ports and none is left: such a rule
// matches no connection. A pod's edge carries TCP alone, so ports of other
// protocols are left out.
func portRanges(in []networkingv1.NetworkPolicyPort, p *Pod) (out []wire.PortRange, ok bool) {
	for _, port := range in {
		if port.Protocol != nil && *port.Protocol != corev1.ProtocolTCP {
			continue
		}
		switch {
		case port.Port == nil:
			out = append(out, wire.PortRange{First: 1, Last: 65535})
		case port.Port.Type == intstr.String:
			if p != nil {
				if n := named(p, port.Port.StrVal, corev1.ProtocolTCP); n != 0 {
					out = append(out, wire.PortRange{First: n, Last: n})
				}
			}
		default:
			last := port.Port.IntVal
			if port.EndPort != nil {
				last = *port.EndPort
			}
			out = append(out, wire.PortRange{First: uint16(port.Port.IntVal), Last: uint16(last)})
		}
	}
	return out, len(in) == 0 || len(out) > 0
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

func sortRules(r []wire.NetRule) {
	slices.SortStableFunc(r, func(a, b wire.NetRule) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), slices.CompareFunc(a.Peers, b.Peers, netip.Prefix.Compare),
			slices.CompareFunc(a.Ports, b.Ports, func(x, y wire.PortRange) int {
				return cmp.Or(cmp.Compare(x.First, y.First), cmp.Compare(x.Last, y.Last))
			}))
	})
}
