// SPDX-License-Identifier: Apache-2.0

package build

import (
	"crypto/rand"
	"encoding/json"
	"fmt"

	"redoubt.dev/provenance/slsa"
)

// statement writes the SLSA v1 predicate, except who builds.
func (b *builder) statement(r *Result) error {
	external, err := json.Marshal(slsa.External{
		Kind:   b.kind,
		Source: slsa.Source{Repository: b.origin.repo, Ref: b.origin.ref, Path: b.origin.path},
		Target: "linux/" + b.opt.Arch,
		Image:  b.opt.Image,
	})
	if err != nil {
		return fmt.Errorf("encode provenance: %w", err)
	}
	internal, err := json.Marshal(map[string]any{"epoch": b.epoch().Unix()})
	if err != nil {
		return fmt.Errorf("encode provenance: %w", err)
	}
	r.Provenance.BuildDefinition = slsa.BuildDefinition{
		BuildType:            slsa.BuildType,
		ExternalParameters:   external,
		InternalParameters:   internal,
		ResolvedDependencies: append([]slsa.Resource{b.origin.resource()}, b.deps...),
	}
	r.Provenance.RunDetails.Metadata.InvocationID = rand.Text()
	return nil
}
