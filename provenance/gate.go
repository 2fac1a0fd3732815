// SPDX-License-Identifier: Apache-2.0

package provenance

import (
	"context"
	"errors"
	"fmt"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/base/obs"
	"redoubt.dev/provenance/verify"
)

// Audit takes one record of each decision; *obs.Audit is one.
type Audit interface {
	Write(obs.Record) error
}

// Gate lets a tag move only to an image that every policy permits which
// guards all namespaces, and never back to an older signature: who could push
// an old image that was signed once could otherwise bring its known holes
// back. Publishing the old image again signs it anew, on record.
//
// It is a registry.Gate. Its fields are set before its first use.
type Gate struct {
	Reader   Reader
	Policies func(artifact.Ref) []policy.TrustPolicy // the ones in force now that may speak for an image
	Root     verify.TrustRoot
	Now      func() time.Time
	Audit    Audit // may be nil
}

// Admit decides about one tag. A decision that cannot be written down is a
// denial.
func (g *Gate) Admit(ctx context.Context, ref artifact.Ref, d artifact.Digest) error {
	p, err := g.decide(ctx, ref, d)
	if g.Audit == nil {
		return err
	}
	r := obs.Record{Action: "tag", Subject: "registry", Object: ref.String() + "@" + d.String(), Decision: obs.Permit}
	if err != nil {
		r.Decision, r.Reason = obs.Deny, err.Error()
	} else {
		r.Reason = fmt.Sprintf("policies %v, signed by %v", p.Policies(), p.Signers())
	}
	return errors.Join(err, g.Audit.Write(r))
}

func (g *Gate) decide(ctx context.Context, ref artifact.Ref, d artifact.Digest) (verify.Permit, error) {
	p, err := g.verify(ctx, ref, d)
	if err != nil {
		return p, err
	}
	before, err := g.Reader.Resolve(ctx, artifact.Ref{Host: ref.Host, Repository: ref.Repository, Tag: ref.Tag})
	if errors.Is(err, errs.NotFound) {
		return p, nil
	}
	if err != nil {
		return verify.Permit{}, err
	}
	if before == d {
		return p, nil
	}
	old, err := g.verify(ctx, ref, before)
	if err != nil {
		return p, nil // what no policy permits any more holds no name
	}
	if p.SignedAt().Before(old.SignedAt()) {
		return verify.Permit{}, &verify.Denied{Kind: errs.Denied, Image: ref.String(), Link: verify.LinkSignature,
			Expected: "a signature not older than that of the image which the tag names, " + old.SignedAt().Format(time.RFC3339),
			Seen:     "signed " + p.SignedAt().Format(time.RFC3339), Fix: "publish the image again to go back to it"}
	}
	return p, nil
}

func (g *Gate) verify(ctx context.Context, ref artifact.Ref, d artifact.Digest) (verify.Permit, error) {
	ref.Digest = d
	ev, err := Collect(ctx, g.Reader, "", ref)
	if err != nil {
		return verify.Permit{}, err
	}
	return verify.Verify(ev, g.Policies(ev.Ref), g.Root, g.Now())
}
