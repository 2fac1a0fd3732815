// SPDX-License-Identifier: Apache-2.0

package authz

import (
	"net/netip"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// Network is a compiled wire.Network. It is immutable.
type Network struct {
	isolated bool
	rules    []wire.NetRule
	grants   []*grant // of each rule
}

// CompileNetwork reads the policy of one direction.
func CompileNetwork(n *wire.Network) (*Network, error) {
	c := &Network{isolated: n.Isolated, rules: n.Rules}
	for i := range n.Rules {
		r := &n.Rules[i]
		c.grants = append(c.grants, &grant{rule: r.Policy})
		if err := prefixes("network.peers", r.Peers); err != nil {
			return nil, err
		}
		if err := prefixes("network.except", r.Except); err != nil {
			return nil, err
		}
		for _, p := range r.Ports {
			if p.First > p.Last {
				return nil, &errs.Error{Kind: errs.Invalid, Subject: r.Policy, Field: "network.ports", Expected: "first ≤ last"}
			}
		}
	}
	return c, nil
}

var notIsolated = Permit{&grant{rule: "not isolated"}}

// Exposed permits what a gateway was declared for: its declaration is the
// decision, and the backend's own policy still judges the gateway's identity.
var Exposed = Permit{&grant{rule: "gateway"}}

// Decide permits traffic with the other side's address and port, by the rule
// that lets it pass. The zero Permit means no.
func (n *Network) Decide(a netip.Addr, port uint16) Permit {
	if !n.isolated {
		return notIsolated
	}
	for i := range n.rules {
		if allows(&n.rules[i], a, port) {
			return Permit{n.grants[i]}
		}
	}
	return Permit{}
}

func allows(r *wire.NetRule, a netip.Addr, port uint16) bool {
	if r.Peers != nil && !within(r.Peers, a) || within(r.Except, a) {
		return false
	}
	if r.Ports == nil {
		return true
	}
	for _, p := range r.Ports {
		if p.First <= port && port <= p.Last {
			return true
		}
	}
	return false
}
