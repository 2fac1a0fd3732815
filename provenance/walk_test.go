// SPDX-License-Identifier: Apache-2.0

package provenance_test

import (
	"errors"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/verify"
)

// TestWalk goes from a Go main package to a Permit.
func TestWalk(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	img, err := build.Build(t.Context(), build.Source{Go: provenancetest.GoMain(t, "hello")}, build.Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	ref := in.Ref(t, "bank/hello:1")
	pub, err := provenance.Publish(t.Context(), in.Store, in.Keys, ref, img, in.Clock())
	if err != nil {
		t.Fatal(err)
	}
	ev, err := provenance.Collect(t.Context(), in.Store, "bank", ref)
	if err != nil {
		t.Fatal(err)
	}
	p, err := verify.Verify(ev, in.Policies, in.Root, in.Clock())
	if err != nil {
		t.Fatal(err)
	}
	if !p.Valid() || p.Digest() != pub.Digest || p.Ref().String() != pub.Image {
		t.Errorf("permit for %s, published %s", p.Ref(), pub.Image)
	}
	names := ""
	for _, l := range p.Links() {
		names += l.Name + " "
	}
	if names != "image policy signature provenance source sbom " {
		t.Errorf("links %q", names)
	}
	// What was relied on is enough to say the same again.
	if _, err := verify.Verify(p.Evidence(), p.Rules(), in.Root, p.Time()); err != nil {
		t.Errorf("again with the permit's evidence: %v", err)
	}
	// Another installation believes none of it.
	other := provenancetest.New(t, "other.example")
	_, err = verify.Verify(ev, in.Policies, other.Root, in.Clock())
	var d *verify.Denied
	if !errors.As(err, &d) || d.Link != verify.LinkSignature || !errors.Is(err, errs.Unproven) {
		t.Errorf("under another root: %v", err)
	}
}
