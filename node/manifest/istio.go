// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"redoubt.dev/api/errs"
	"redoubt.dev/mesh/compile"
	"redoubt.dev/node/manifest/internal/tree"
)

// What an Istio policy may say is known to one place, the compiler of it:
// what it would refuse is refused here, with the line it stands on.

func (d *document) authorizationPolicy(p compile.AuthorizationPolicy) {
	d.labels("spec.selector.matchLabels", p.Spec.GetSelector().GetMatchLabels())
	d.compiled(p.Check())
}

func (d *document) peerAuthentication(p compile.PeerAuthentication) {
	d.labels("spec.selector.matchLabels", p.Spec.GetSelector().GetMatchLabels())
	d.compiled(p.Check())
}

func (d *document) compiled(list []*errs.Error) {
	for _, e := range list {
		d.fault(e.Kind, tree.Path(e.Field), e.Expected, e.Seen, e.Fix)
	}
}
