// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"

	"redoubt.dev/api/errs"
)

// Merge joins sets that were loaded apart. An object that two of them declare
// is errs.Conflict, except a Namespace, which several may need: the first
// one's labels hold. The sets stay as they are.
func Merge(sets ...*Set) (Set, error) {
	out := Set{sources: map[Key]Source{}}
	var all []error
	for _, s := range sets {
		for _, ns := range s.Namespaces {
			if _, ok := out.sources[Key{Kind: "Namespace", Name: ns.Name}]; !ok {
				out.Namespaces = append(out.Namespaces, ns)
			}
		}
		for _, k := range s.Keys() {
			if old, ok := out.sources[k]; ok {
				if k.Kind != "Namespace" {
					all = append(all, &errs.Error{Kind: errs.Conflict, Subject: k.String(), Expected: "one declaration", Seen: fmt.Sprintf("one in %s and one in %s", old.File, s.sources[k].File), Fix: "take one of them down"})
				}
				continue
			}
			out.sources[k] = s.sources[k]
		}
		out.ServiceAccounts = append(out.ServiceAccounts, s.ServiceAccounts...)
		out.ConfigMaps = append(out.ConfigMaps, s.ConfigMaps...)
		out.Secrets = append(out.Secrets, s.Secrets...)
		out.Services = append(out.Services, s.Services...)
		out.Pods = append(out.Pods, s.Pods...)
		out.Deployments = append(out.Deployments, s.Deployments...)
		out.StatefulSets = append(out.StatefulSets, s.StatefulSets...)
		out.Jobs = append(out.Jobs, s.Jobs...)
		out.NetworkPolicies = append(out.NetworkPolicies, s.NetworkPolicies...)
		out.Authorizations = append(out.Authorizations, s.Authorizations...)
		out.PeerAuths = append(out.PeerAuths, s.PeerAuths...)
		out.TrustPolicies = append(out.TrustPolicies, s.TrustPolicies...)
	}
	out.sort()
	return out, errors.Join(append(all, out.together()...)...)
}
