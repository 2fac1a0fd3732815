// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) networkPolicy(v *networkingv1.NetworkPolicy) {
	s := &v.Spec
	defaultNetworkPolicy(s)
	d.selector("spec.podSelector", &s.PodSelector)
	for i, r := range s.Ingress {
		p := tree.Path("spec.ingress").Index(i)
		d.peers(p.Field("from"), r.From)
		d.networkPorts(p.Field("ports"), r.Ports)
	}
	for i, r := range s.Egress {
		p := tree.Path("spec.egress").Index(i)
		d.peers(p.Field("to"), r.To)
		d.networkPorts(p.Field("ports"), r.Ports)
	}
	has := func(t networkingv1.PolicyType) bool {
		for _, p := range s.PolicyTypes {
			if p == t {
				return true
			}
		}
		return false
	}
	// Rules of a direction that the policy does not govern would have no effect.
	if len(s.Ingress) > 0 && !has(networkingv1.PolicyTypeIngress) {
		d.bad("spec.ingress", "Ingress among the policyTypes", "", "add Ingress to policyTypes, or remove the rules")
	}
	if len(s.Egress) > 0 && !has(networkingv1.PolicyTypeEgress) {
		d.bad("spec.egress", "Egress among the policyTypes", "", "add Egress to policyTypes, or remove the rules")
	}
}

func (d *document) peers(p tree.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i, peer := range peers {
		q := p.Index(i)
		selects := peer.PodSelector != nil || peer.NamespaceSelector != nil
		switch {
		case peer.IPBlock == nil && !selects:
			d.bad(q, "a podSelector, namespaceSelector or ipBlock", "none", "")
		case peer.IPBlock != nil && selects:
			d.bad(q, "either selectors or an ipBlock", "both", "make a peer of each")
		}
		if peer.PodSelector != nil {
			d.selector(q.Field("podSelector"), peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			d.selector(q.Field("namespaceSelector"), peer.NamespaceSelector)
		}
		if b := peer.IPBlock; b != nil {
			q = q.Field("ipBlock")
			block, ok := d.cidr(q.Field("cidr"), b.CIDR)
			for j, e := range b.Except {
				r := q.Field("except").Index(j)
				ex, eok := d.cidr(r, e)
				if ok && eok && !(block.Contains(ex.Addr()) && ex.Bits() > block.Bits()) {
					d.bad(r, "a block within "+block.String(), ex.String(), "")
				}
			}
		}
	}
}

func (d *document) cidr(p tree.Path, s string) (netip.Prefix, bool) {
	b, err := netip.ParsePrefix(s)
	switch {
	case err != nil || b.Addr().Is4In6():
		d.bad(p, "a block such as 10.0.0.0/8", tree.Quote(s), "")
	case b.Masked() != b:
		d.bad(p, "the first address of the block", tree.Quote(s), "write "+b.Masked().String())
	default:
		return b, true
	}
	return netip.Prefix{}, false
}

func (d *document) networkPorts(p tree.Path, ports []networkingv1.NetworkPolicyPort) {
	for i, n := range ports {
		q := p.Index(i)
		switch {
		case n.Port == nil:
			if n.EndPort != nil {
				d.bad(q.Field("endPort"), "a port beside endPort", "none", "")
			}
		case n.Port.Type == intstr.String:
			d.named(q.Field("port"), n.Port.StrVal, portName)
			if n.EndPort != nil {
				d.bad(q.Field("endPort"), "a port number beside endPort", "a name", "")
			}
		default:
			d.port(q.Field("port"), n.Port.IntVal)
			if n.EndPort != nil && (*n.EndPort < n.Port.IntVal || *n.EndPort > 65535) {
				d.bad(q.Field("endPort"), fmt.Sprintf("a port from %d to 65535", n.Port.IntVal), fmt.Sprint(*n.EndPort), "")
			}
		}
	}
}
