// SPDX-License-Identifier: Apache-2.0

package provenance

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/registry"
	"redoubt.dev/provenance/verify"
)

// Reader is what Collect needs of a registry; *registry.Store is one. Content
// that does not match its digest must be an error.
type Reader interface {
	Resolve(ctx context.Context, ref artifact.Ref) (artifact.Digest, error)
	Manifest(ctx context.Context, repo string, d artifact.Digest) (mediaType string, raw []byte, err error)
	Blob(ctx context.Context, repo string, d artifact.Digest) (io.ReadCloser, int64, error)
	Referrers(ctx context.Context, repo string, d artifact.Digest, artifactType string) ([]manifest.Descriptor, error)
}

// annotationSignature carries the signature in cosign's older form.
const annotationSignature = "dev.cosignproject.cosign/signature"

// collector is one run of Collect.
type collector struct {
	r    Reader
	repo string
	ev   verify.Evidence
	left int64 // bytes of evidence that may still be read
}

// Collect gathers the image that ref names and all evidence about it, for a
// pod of namespace. It judges nothing; evidence that is absent or of another
// form is left out. An index is followed to its image for this machine.
// Errors are of kind NotFound when there is no such image, Unproven when
// stored bytes have changed.
func Collect(ctx context.Context, r Reader, namespace string, ref artifact.Ref) (verify.Evidence, error) {
	c := &collector{r: r, repo: ref.Repository, left: verify.MaxEvidence, ev: verify.Evidence{Namespace: namespace, Ref: ref}}
	if err := c.run(ctx); err != nil {
		return verify.Evidence{}, fmt.Errorf("collect evidence of %s: %w", ref, err)
	}
	return c.ev, nil
}

func (c *collector) run(ctx context.Context) error {
	top, err := c.r.Resolve(ctx, c.ev.Ref)
	if err != nil {
		return err
	}
	names := []artifact.Digest{top}
	mt, raw, err := c.r.Manifest(ctx, c.repo, top)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(mt, raw)
	if err != nil {
		return err
	}
	if m.IsIndex() {
		child, err := forThisMachine(m)
		if err != nil {
			return err
		}
		c.ev.Index = raw
		names = append(names, child)
		if mt, raw, err = c.r.Manifest(ctx, c.repo, child); err != nil {
			return err
		}
		if m, err = manifest.Parse(mt, raw); err != nil {
			return err
		}
	}
	c.ev.Manifest = raw
	if m.Config != nil {
		if c.ev.Config, err = c.read(ctx, m.Config.Digest, manifest.MaxConfig); err != nil {
			return err
		}
	}
	for _, d := range names {
		if err := errors.Join(c.bundles(ctx, d), c.simple(ctx, d)); err != nil {
			return err
		}
	}
	return nil
}

// forThisMachine picks the image of an index as containerd does on Linux.
func forThisMachine(m manifest.Manifest) (artifact.Digest, error) {
	for _, d := range m.Manifests {
		if p := d.Platform; p != nil && p.OS == "linux" && p.Architecture == runtime.GOARCH && (p.Variant == "" || p.Variant == "v8") {
			return d.Digest, nil
		}
	}
	return artifact.Digest{}, &errs.Error{Kind: errs.NotFound, Subject: "index", Expected: "an image for linux/" + runtime.GOARCH, Seen: fmt.Sprintf("%d others", len(m.Manifests)), Fix: "build the image for this machine"}
}

// bundles reads the Sigstore bundles that refer to d.
func (c *collector) bundles(ctx context.Context, d artifact.Digest) error {
	list, err := c.r.Referrers(ctx, c.repo, d, bundle.MediaType)
	if err != nil {
		return err
	}
	var found []manifest.Descriptor
	for _, ref := range list {
		_, raw, err := c.r.Manifest(ctx, c.repo, ref.Digest)
		if err != nil {
			return err
		}
		m, err := manifest.Parse(ref.MediaType, raw)
		if err != nil || len(m.Layers) != 1 || m.Layers[0].MediaType != bundle.MediaType || m.Layers[0].Size > bundle.MaxSize {
			continue // not a bundle, whatever it calls itself
		}
		found = append(found, m.Layers[0])
	}
	// The smallest first: signatures and provenance are small, and large junk
	// must not use up what may be read.
	slices.SortStableFunc(found, func(a, b manifest.Descriptor) int { return cmp.Compare(a.Size, b.Size) })
	for _, l := range found {
		if len(c.ev.Bundles) == verify.MaxBundles {
			return nil
		}
		b, err := c.read(ctx, l.Digest, bundle.MaxSize)
		if err != nil {
			return err
		}
		if c.left -= int64(len(b)); c.left < 0 {
			return nil
		}
		c.ev.Bundles = append(c.ev.Bundles, b)
	}
	return nil
}

// simple reads cosign's older signatures of d.
func (c *collector) simple(ctx context.Context, d artifact.Digest) error {
	tag := c.ev.Ref
	tag.Tag, tag.Digest = registry.EvidenceTag(d), artifact.Digest{}
	sig, err := c.r.Resolve(ctx, tag)
	if errors.Is(err, errs.NotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	mt, raw, err := c.r.Manifest(ctx, c.repo, sig)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(mt, raw)
	if err != nil {
		return err
	}
	for _, l := range m.Layers {
		s, err := base64.StdEncoding.DecodeString(l.Annotations[annotationSignature])
		if err != nil || l.MediaType != manifest.SimpleSig || l.Size > 64<<10 || len(c.ev.Simple) == verify.MaxSimple {
			continue
		}
		payload, err := c.read(ctx, l.Digest, 64<<10)
		if err != nil {
			return err
		}
		c.ev.Simple = append(c.ev.Simple, verify.Simple{Payload: payload, Signature: s})
	}
	return nil
}

func (c *collector) read(ctx context.Context, d artifact.Digest, max int64) ([]byte, error) {
	r, _, err := c.r.Blob(ctx, c.repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return conf.ReadAll(r, "blob "+d.String(), max)
}
