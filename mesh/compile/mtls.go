// SPDX-License-Identifier: Apache-2.0

package compile

import (
	"fmt"
	"maps"
	"slices"

	istio "istio.io/api/security/v1beta1"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// Check says all that keeps the policy from being compiled.
func (p PeerAuthentication) Check() []*errs.Error {
	var out []*errs.Error
	bad := func(k errs.Kind, field, expected, seen, fix string) {
		out = append(out, &errs.Error{Kind: k, Subject: "PeerAuthentication " + p.Namespace + "/" + p.Name, Field: field, Expected: expected, Seen: seen, Fix: fix})
	}
	if p.Spec == nil {
		bad(errs.Invalid, "spec", "a spec", "none", "")
		return out
	}
	mode := func(at string, m *istio.PeerAuthentication_MutualTLS) {
		if v := m.GetMode(); v != istio.PeerAuthentication_MutualTLS_UNSET && modes[v] == "" {
			bad(errs.Unsupported, at, "STRICT or PERMISSIVE", v.String(), "use PERMISSIVE while peers outside the mesh remain")
		}
	}
	mode("spec.mtls.mode", p.Spec.Mtls)
	for _, port := range slices.Sorted(maps.Keys(p.Spec.PortLevelMtls)) {
		at := fmt.Sprintf("spec.portLevelMtls[%q]", fmt.Sprint(port))
		if port == 0 || port > 65535 {
			bad(errs.Invalid, at, "a port from 1 to 65535", fmt.Sprint(port), "")
		}
		mode(at+".mode", p.Spec.PortLevelMtls[port])
	}
	if len(p.Spec.PortLevelMtls) > 0 && len(p.Spec.Selector.GetMatchLabels()) == 0 {
		bad(errs.Invalid, "spec.portLevelMtls", "a selector beside it, as ports belong to workloads", "none", "add spec.selector.matchLabels")
	}
	return out
}

// modes are those that are carried out. DISABLE is not among them: no byte
// between pods crosses a wire in clear by decree.
var modes = map[istio.PeerAuthentication_MutualTLS_Mode]string{
	istio.PeerAuthentication_MutualTLS_STRICT:     wire.MTLSStrict,
	istio.PeerAuthentication_MutualTLS_PERMISSIVE: wire.MTLSPermissive,
}

// mtls gives the modes of a pod's ports: workload before namespace before
// mesh, and a port's own before all, as Istio composes them. UNSET inherits;
// where nothing is set it is STRICT, where Istio would be PERMISSIVE.
//
// Where Istio takes the oldest of several policies of one level, we have no
// age to go by: the strictest holds.
func (w *world) mtls(p *Pod) (mode string, ports map[uint16]string, used []PeerAuthentication) {
	var level [3]string // mesh, namespace, workload
	for _, pa := range w.in.PeerAuths {
		sel := pa.Spec.Selector.GetMatchLabels()
		if pa.Namespace != p.Namespace && pa.Namespace != RootNamespace || !matches(sel, p.Labels) {
			continue
		}
		used = append(used, pa)
		l := 2
		if len(sel) == 0 {
			if l = 1; pa.Namespace == RootNamespace {
				l = 0
			}
		}
		level[l] = stricter(level[l], modes[pa.Spec.Mtls.GetMode()])
		for port, m := range pa.Spec.PortLevelMtls {
			if v := modes[m.GetMode()]; v != "" {
				if ports == nil {
					ports = map[uint16]string{}
				}
				ports[uint16(port)] = stricter(ports[uint16(port)], v)
			}
		}
	}
	mode = wire.MTLSStrict
	for _, v := range level {
		if v != "" {
			mode = v
		}
	}
	return mode, ports, used
}

func stricter(a, b string) string {
	if a == wire.MTLSStrict || b == "" {
		return a
	}
	return b
}

// matches tells whether labels has all of want; an empty want matches all.
func matches(want, labels map[string]string) bool {
	for k, v := range want {
		if got, ok := labels[k]; !ok || got != v {
			return false
		}
	}
	return true
}
