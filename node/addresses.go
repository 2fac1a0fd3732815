// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"

	"redoubt.dev/api/errs"
)

// addresses gives out the addresses of pods and services and the node ports,
// and remembers whose they are. It belongs to the world's goroutine.
type addresses struct {
	Services  map[string]netip.Addr `json:"services"`  // namespace/name → VIP
	NodePorts map[string]uint16     `json:"nodePorts"` // namespace/name/port → port
	LastPod   netip.Addr            `json:"lastPod"`   // addresses are not used again soon: a late packet must not meet another pod
}

const (
	firstNodePort = 30000
	lastNodePort  = 32767
)

// next gives the address after last in p that taken does not hold. The first
// and the last address of a network are left out.
func next(p netip.Prefix, last netip.Addr, taken map[netip.Addr]bool) (netip.Addr, error) {
	first := p.Addr().Next()
	a := last
	if !p.Contains(a) {
		a = first
	}
	for range 1 << (32 - p.Bits()) {
		a = a.Next()
		if !p.Contains(a) || !p.Contains(a.Next()) {
			a = first.Next()
		}
		if !taken[a] {
			return a, nil
		}
	}
	return netip.Addr{}, &errs.Error{Kind: errs.Unavailable, Subject: "network " + p.String(), Expected: "a free address", Seen: "none", Fix: "configure a larger network"}
}

func (a *addresses) service(p netip.Prefix, name string) (netip.Addr, error) {
	if v, ok := a.Services[name]; ok {
		return v, nil
	}
	taken := map[netip.Addr]bool{}
	for _, v := range a.Services {
		taken[v] = true
	}
	v, err := next(p, netip.Addr{}, taken)
	if err == nil {
		a.Services[name] = v
	}
	return v, err
}

// nodePort gives the port of a service's port: the wanted one, or the lowest
// free one.
func (a *addresses) nodePort(name string, want int32) (uint16, error) {
	if v, ok := a.NodePorts[name]; ok && (want == 0 || v == uint16(want)) {
		return v, nil
	}
	taken := map[uint16]string{}
	for n, v := range a.NodePorts {
		if n != name {
			taken[v] = n
		}
	}
	if want != 0 {
		// Who has it was given it and did not ask: it gets another one. Two that
		// ask for the same port do not come this far (manifest.Merge).
		if other, ok := taken[uint16(want)]; ok {
			delete(a.NodePorts, other)
		}
		a.NodePorts[name] = uint16(want)
		return uint16(want), nil
	}
	for p := uint16(firstNodePort); p <= lastNodePort; p++ {
		if taken[p] == "" {
			a.NodePorts[name] = p
			return p, nil
		}
	}
	return 0, &errs.Error{Kind: errs.Unavailable, Subject: "Service " + name, Field: "nodePort", Expected: "a free port", Seen: "none"}
}

// keep forgets what belongs to no service any more.
func (a *addresses) keep(services map[string]bool, ports map[string]bool) {
	for n := range a.Services {
		if !services[n] {
			delete(a.Services, n)
		}
	}
	for n := range a.NodePorts {
		if !ports[n] {
			delete(a.NodePorts, n)
		}
	}
}
