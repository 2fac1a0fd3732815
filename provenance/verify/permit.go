// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"slices"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/policy"
)

// Link is one proven step, named by digests.
type Link struct {
	Name     string            `json:"name"`
	Subject  artifact.Digest   `json:"subject"`           // what it is about
	Signer   string            `json:"signer,omitempty"`  // SPIFFE ID, or "key sha256:…" for a static key
	Evidence artifact.Digest   `json:"evidence,omitzero"` // digest of the bundle, payload or policy that proves it
	Type     string            `json:"type,omitempty"`    // predicate type, or the form of the signature
	Time     time.Time         `json:"time,omitzero"`     // when it was signed, by a timestamp authority
	Detail   map[string]string `json:"detail,omitempty"`  // what the statement says, e.g. "revision"
}

// Permit proves that every policy that covers an image was met. Only Verify
// mints one; the zero Permit opens nothing.
type Permit struct{ grant *grant }

type grant struct {
	ref      artifact.Ref
	policies []string
	rules    []policy.TrustPolicy
	digest   artifact.Digest // of the policies
	links    []Link
	at       time.Time
	evidence Evidence
}

// Valid reports whether p was minted by Verify. Whoever starts a workload
// checks it first.
func (p Permit) Valid() bool { return p.grant != nil }

// Digest is the digest of the manifest that may run, zero for the zero Permit.
func (p Permit) Digest() artifact.Digest {
	if p.grant == nil {
		return artifact.Digest{}
	}
	return p.grant.ref.Digest
}

// Ref is the image pinned to Digest.
func (p Permit) Ref() artifact.Ref {
	if p.grant == nil {
		return artifact.Ref{}
	}
	return p.grant.ref
}

// Policies names the policies that were met, namespace/name.
func (p Permit) Policies() []string {
	if p.grant == nil {
		return nil
	}
	return slices.Clone(p.grant.policies)
}

// Rules are the policies that were met, whole.
func (p Permit) Rules() []policy.TrustPolicy {
	if p.grant == nil {
		return nil
	}
	return slices.Clone(p.grant.rules)
}

// PolicyDigest is the digest of the policies that were met, as PolicyBytes
// writes Rules.
func (p Permit) PolicyDigest() artifact.Digest {
	if p.grant == nil {
		return artifact.Digest{}
	}
	return p.grant.digest
}

// Signers lists who signed what was relied on, each once.
func (p Permit) Signers() []string {
	var out []string
	for _, l := range p.Links() {
		if l.Signer != "" && !slices.Contains(out, l.Signer) {
			out = append(out, l.Signer)
		}
	}
	return out
}

// Links are the proven steps, in the order of the chain.
func (p Permit) Links() []Link {
	if p.grant == nil {
		return nil
	}
	return slices.Clone(p.grant.links)
}

// Time is the time at which Verify was asked.
func (p Permit) Time() time.Time {
	if p.grant == nil {
		return time.Time{}
	}
	return p.grant.at
}

// SignedAt is the time of the newest signature that was relied on; zero when
// it was made by a static key, which proves no time.
func (p Permit) SignedAt() time.Time {
	var t time.Time
	for _, l := range p.Links() {
		if l.Name == LinkSignature && l.Time.After(t) {
			t = l.Time
		}
	}
	return t
}

// Evidence gives the part of the evidence that was relied on: asked again
// with it, the same policies and the same time, Verify says the same.
func (p Permit) Evidence() Evidence {
	if p.grant == nil {
		return Evidence{}
	}
	return p.grant.evidence
}
