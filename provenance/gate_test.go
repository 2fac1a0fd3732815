// SPDX-License-Identifier: Apache-2.0

package provenance_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/base/obs"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

// TestRollback is attack A13: a signed but older image must not take a tag
// back.
func TestRollback(t *testing.T) {
	t.Parallel()
	now := time.Now().Add(-time.Hour)
	in := provenancetest.NewAt(t, "bank.example", provenancetest.Host, func() time.Time { return now })
	old := in.Publish(t, "bank/ledger:1", "old")
	now = now.Add(time.Minute)
	cur := in.Publish(t, "bank/ledger:1", "new")
	ref := in.Ref(t, "bank/ledger:1")
	err := in.Store.Tag(t.Context(), ref, old.Digest)
	var d *verify.Denied
	if !errors.As(err, &d) || !errors.Is(err, errs.Denied) || d.Link != verify.LinkSignature {
		t.Errorf("back to the older image: %v, want a denial", err)
	}
	if got, err := in.Store.Resolve(t.Context(), ref); err != nil || got != cur.Digest {
		t.Errorf("the tag names %s, %v; want %s", got, err, cur.Digest)
	}
	// A new tag may name the old image, and publishing it again goes back.
	if err := in.Store.Tag(t.Context(), in.Ref(t, "bank/ledger:old"), old.Digest); err != nil {
		t.Error(err)
	}
	now = now.Add(time.Minute)
	if back := in.Publish(t, "bank/ledger:1", "old"); back.Digest != old.Digest {
		t.Errorf("the same image is %s, was %s", back.Digest, old.Digest)
	}
	if got, err := in.Store.Resolve(t.Context(), ref); err != nil || got != old.Digest {
		t.Errorf("after publishing it again, the tag names %s, %v", got, err)
	}
	// What policy no longer permits holds no name against a good image.
	in.Policies = []policy.TrustPolicy{verify.DefaultPolicy(in.Domain)}
	in.Policies[0].Spec.RequireSBOM = true
	if err := in.Store.Tag(t.Context(), ref, cur.Digest); err == nil {
		t.Error("the older signature took the tag")
	}
}

func TestPublishAgain(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	for range 3 {
		in.Publish(t, "bank/ledger:1", "ledger")
	}
	ev := in.Evidence(t, "bank/ledger:1")
	if len(ev.Bundles) != 3 || len(ev.Simple) != 1 {
		t.Errorf("%d bundles and %d older signatures after three times, want 3 and 1", len(ev.Bundles), len(ev.Simple))
	}
}

func TestPublishRefused(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	img := provenancetest.Image(t, "x")
	publish := func(ref artifact.Ref, keys *sign.Authority) error {
		_, err := provenance.Publish(t.Context(), in.Store, keys, ref, img, in.Clock())
		return err
	}
	pinned := in.Ref(t, "bank/x:1")
	pinned.Digest = img.Digest
	if err := publish(pinned, in.Keys); !errors.Is(err, errs.Invalid) {
		t.Errorf("a pinned name: %v, want Invalid", err)
	}
	if err := publish(artifact.Ref{Host: "docker.io", Repository: "bank/x", Tag: "1"}, in.Keys); !errors.Is(err, errs.Invalid) {
		t.Errorf("another registry: %v, want Invalid", err)
	}
	if repos, err := in.Store.Repositories(t.Context()); err != nil || len(repos) != 0 {
		t.Errorf("a refused name left %v, %v", repos, err)
	}
	other := provenancetest.New(t, "bank.example")
	if err := publish(in.Ref(t, "bank/x:1"), other.Keys); !errors.Is(err, errs.Unproven) {
		t.Errorf("signed by another installation: %v, want Unproven", err)
	}
	if tags, err := in.Store.Tags(t.Context(), "bank/x"); err != nil || len(tags) != 1 { // the older signatures' own
		t.Errorf("tags %v, %v", tags, err)
	}
	// Its good signature beside the stranger's is enough.
	if err := publish(in.Ref(t, "bank/x:1"), in.Keys); err != nil {
		t.Error(err)
	}
}

// TestCollectDecay holds that changed bytes on disk are an error for
// admission, whichever they are, and never a permit.
func TestCollectDecay(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	layers := 0
	err := filepath.WalkDir(filepath.Join(in.Dir, "blobs"), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		raw[len(raw)/2] ^= 1
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return err
		}
		ev, err := provenance.Collect(t.Context(), in.Store, "", in.Ref(t, "bank/ledger:1"))
		if err == nil {
			p, err := verify.Verify(ev, in.Policies, in.Root, in.Clock())
			if err == nil && p.Digest() != pub.Digest {
				t.Errorf("a permit for %s", p.Ref())
			}
			layers++ // what admission need not read: the layer, or "{}"
		} else if !errors.Is(err, errs.Unproven) {
			t.Errorf("%s changed: %v, want Unproven", d.Name(), err)
		}
		raw[len(raw)/2] ^= 1
		return os.WriteFile(path, raw, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
	if layers > 3 {
		t.Errorf("%d changed files were not noticed; want the layer, the empty config and the older signature's config at most", layers)
	}
	if _, err := provenance.Collect(t.Context(), in.Store, "", in.Ref(t, "bank/none:1")); !errors.Is(err, errs.NotFound) {
		t.Errorf("no such image: %v, want NotFound", err)
	}
}

func TestGateWritesDown(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	path := filepath.Join(t.TempDir(), "audit")
	log, err := obs.OpenAudit(path, "gate", in.Clock)
	if err != nil {
		t.Fatal(err)
	}
	g := &provenance.Gate{Reader: in.Store, Policies: func(artifact.Ref) []policy.TrustPolicy { return in.Policies }, Root: in.Root, Now: in.Clock, Audit: log}
	if err := g.Admit(t.Context(), in.Ref(t, "bank/ledger:1"), pub.Digest); err != nil {
		t.Error(err)
	}
	in.Policies = nil
	if err := g.Admit(t.Context(), in.Ref(t, "bank/ledger:1"), pub.Digest); !errors.Is(err, errs.Denied) {
		t.Errorf("without policy: %v, want Denied", err)
	}
	in.Policies = []policy.TrustPolicy{verify.DefaultPolicy(in.Domain)}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if last, _, err := obs.VerifyAudit(f); err != nil || last.Seq != 2 || last.Decision != obs.Deny || last.Reason == "" {
		t.Errorf("audit %+v, %v", last, err)
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	if err := g.Admit(t.Context(), in.Ref(t, "bank/ledger:1"), pub.Digest); err == nil {
		t.Error("a decision that could not be written down was a permit")
	}
}

// BenchmarkAdmission is what the node does for a pod: collect from disk and
// verify, cold.
func BenchmarkAdmission(b *testing.B) {
	in := provenancetest.New(b, "bank.example")
	in.Publish(b, "bank/ledger:1", "ledger")
	for b.Loop() {
		if _, err := verify.Verify(in.Evidence(b, "bank/ledger:1"), in.Policies, in.Root, in.Clock()); err != nil {
			b.Fatal(err)
		}
	}
}

// TestJunk attaches as much junk as the registry takes: large bundles and
// signatures by strangers. The image is admitted all the same, or the junk is
// refused.
func TestJunk(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	stranger := provenancetest.New(t, "bank.example").Keys
	st, err := bundle.NewStatement("", pub.Digest, bundle.Signature, map[string]string{"pad": strings.Repeat("x", 100)})
	if err != nil {
		t.Fatal(err)
	}
	put := func(b []byte) manifest.Descriptor {
		d := artifact.DigestOf(b)
		if _, err := in.Store.PutBlob(t.Context(), "bank/ledger", d, bytes.NewReader(b)); err != nil {
			t.Fatal(err)
		}
		return manifest.Descriptor{MediaType: bundle.MediaType, Digest: d, Size: int64(len(b))}
	}
	empty := put([]byte("{}"))
	empty.MediaType = manifest.Empty
	refused := 0
	for i := range 270 {
		raw := bytes.Repeat([]byte(strconv.Itoa(i)), 200<<10) // 600 kB of no bundle: 150 MB in all
		if i%2 == 0 {
			if raw, err = stranger.Sign(sign.Builder(in.Domain), st); err != nil {
				t.Fatal(err)
			}
		}
		m, err := json.Marshal(manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, ArtifactType: bundle.MediaType, Config: &empty,
			Layers: []manifest.Descriptor{put(raw)}, Subject: &manifest.Descriptor{MediaType: manifest.OCIManifest, Digest: pub.Digest, Size: 1}})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := in.Store.PutManifest(t.Context(), "bank/ledger", manifest.OCIManifest, m, artifact.Digest{}); errors.Is(err, errs.TooLarge) {
			refused++
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if refused != 270+3-verify.MaxBundles {
		t.Errorf("%d refused, want all beyond %d", refused, verify.MaxBundles)
	}
	begin := time.Now()
	ev := in.Evidence(t, "bank/ledger:1")
	p, err := verify.Verify(ev, in.Policies, in.Root, in.Clock())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bundles in %s", len(ev.Bundles), time.Since(begin))
	if n := len(p.Evidence().Bundles); n != 3 {
		t.Errorf("the permit keeps %d bundles, want the 3 that it rests on", n)
	}
}
