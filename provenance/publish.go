// SPDX-License-Identifier: Apache-2.0

package provenance

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/registry"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

// Published is what Publish put into the registry.
type Published struct {
	Ref     artifact.Ref      `json:"-"`     // pinned to Digest
	Image   string            `json:"image"` // Ref, as text
	Digest  artifact.Digest   `json:"digest"`
	Bundles []artifact.Digest `json:"bundles"` // manifests of signature, provenance and SBOM
}

// publisher is one run of Publish; its methods are the steps.
type publisher struct {
	store *registry.Store
	keys  *sign.Authority
	ref   artifact.Ref
	img   *build.Result
	who   id.ID
	now   time.Time
	out   Published
}

// Publish pushes a built image to ref's repository, signs it as the
// installation's builder, attaches signature, provenance and SBOM as
// referrers and the older signature for Debian's podman and skopeo, and then
// asks the gate to let ref's tag name it. When the gate refuses, image and
// evidence stay under their digests and the tag stays where it was.
//
// Publishing the same image again replaces the builder's earlier evidence
// about it.
func Publish(ctx context.Context, store *registry.Store, keys *sign.Authority, ref artifact.Ref, img *build.Result, now time.Time) (Published, error) {
	p := &publisher{store: store, keys: keys, ref: ref, img: img, who: sign.Builder(keys.TrustDomain()), now: now.UTC()}
	if ref.Tag == "" || !ref.Digest.IsZero() {
		return Published{}, &errs.Error{Kind: errs.Invalid, Subject: ref.String(), Field: "tag", Expected: "a tag and no digest", Seen: "another form", Fix: "name the image as host/repository:tag"}
	}
	if ref.Host != store.Host() {
		return Published{}, &errs.Error{Kind: errs.Invalid, Subject: ref.String(), Field: "registry", Expected: store.Host(), Seen: ref.Host, Fix: "name the image as " + store.Host() + "/" + ref.Repository + ":" + ref.Tag}
	}
	for _, step := range []func(context.Context) error{p.content, p.attach, p.older, p.tag} {
		if err := step(ctx); err != nil {
			return Published{}, fmt.Errorf("publish %s: %w", ref, err)
		}
	}
	return p.out, nil
}

func (p *publisher) content(ctx context.Context) error {
	repo := p.ref.Repository
	for _, l := range p.img.Layers {
		r, err := l.Open()
		if err != nil {
			return err
		}
		_, err = p.store.PutBlob(ctx, repo, l.Digest, r)
		if err = errors.Join(err, r.Close()); err != nil {
			return err
		}
	}
	if _, err := p.put(ctx, p.img.Config); err != nil {
		return err
	}
	_, err := p.store.PutManifest(ctx, repo, manifest.OCIManifest, p.img.Manifest, p.img.Digest)
	p.out = Published{Ref: p.ref.At(p.img.Digest), Image: p.ref.At(p.img.Digest).String(), Digest: p.img.Digest}
	return err
}

// attach signs and stores the three statements, then drops what they replace.
func (p *publisher) attach(ctx context.Context) error {
	prov := p.img.Provenance
	prov.RunDetails.Builder.ID = p.who.String()
	old, err := p.earlier(ctx)
	if err != nil {
		return err
	}
	for _, s := range []struct {
		kind string
		body any
	}{
		{bundle.SBOM, json.RawMessage(p.img.SBOM)},
		{bundle.Provenance, prov},
		{bundle.Signature, struct{}{}}, // last: what is signed is complete
	} {
		st, err := bundle.NewStatement(p.ref.Name(), p.img.Digest, s.kind, s.body)
		if err != nil {
			return err
		}
		raw, err := p.keys.Sign(p.who, st)
		if err != nil {
			return err
		}
		d, err := p.refer(ctx, s.kind, raw)
		if err != nil {
			return err
		}
		p.out.Bundles = append(p.out.Bundles, d)
	}
	for _, d := range old {
		if err := p.store.DeleteManifest(ctx, p.ref.Repository, d); err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
	}
	return nil
}

// refer stores one bundle as an OCI 1.1 referrer, as cosign's bundle
// specification lays it out.
func (p *publisher) refer(ctx context.Context, predicateType string, raw []byte) (artifact.Digest, error) {
	if len(raw) > bundle.MaxSize {
		return artifact.Digest{}, &errs.Error{Kind: errs.TooLarge, Subject: "statement " + predicateType, Expected: fmt.Sprintf("at most %d bytes, which is what verifiers read", bundle.MaxSize), Seen: fmt.Sprint(len(raw))}
	}
	layer, err := p.put(ctx, raw)
	if err != nil {
		return artifact.Digest{}, err
	}
	layer.MediaType = bundle.MediaType
	config, err := p.put(ctx, []byte("{}"))
	if err != nil {
		return artifact.Digest{}, err
	}
	config.MediaType = manifest.Empty
	m, err := json.Marshal(manifest.Manifest{
		SchemaVersion: 2,
		MediaType:     manifest.OCIManifest,
		ArtifactType:  bundle.MediaType,
		Config:        &config,
		Layers:        []manifest.Descriptor{layer},
		Subject:       &manifest.Descriptor{MediaType: manifest.OCIManifest, Digest: p.img.Digest, Size: int64(len(p.img.Manifest))},
		Annotations: map[string]string{
			"dev.sigstore.bundle.content":       "dsse-envelope",
			"dev.sigstore.bundle.predicateType": predicateType,
			"org.opencontainers.image.created":  p.now.Format(time.RFC3339),
		},
	})
	if err != nil {
		return artifact.Digest{}, fmt.Errorf("encode referrer: %w", err)
	}
	return p.store.PutManifest(ctx, p.ref.Repository, manifest.OCIManifest, m, artifact.Digest{})
}

// earlier lists the referrers that this builder made before: republishing an
// unchanged image must not heap evidence up until the registry's bound.
func (p *publisher) earlier(ctx context.Context) ([]artifact.Digest, error) {
	root, err := verify.ParseTrustRoot(p.keys.TrustRoot())
	if err != nil {
		return nil, err
	}
	list, err := p.store.Referrers(ctx, p.ref.Repository, p.img.Digest, bundle.MediaType)
	if err != nil {
		return nil, err
	}
	var out []artifact.Digest
	for _, r := range list {
		_, raw, err := p.store.Manifest(ctx, p.ref.Repository, r.Digest)
		if err != nil {
			return nil, err
		}
		m, err := manifest.Parse(r.MediaType, raw)
		if err != nil || len(m.Layers) != 1 {
			continue
		}
		b, err := p.store.ReadBlob(ctx, p.ref.Repository, m.Layers[0].Digest, bundle.MaxSize)
		if err != nil {
			continue
		}
		if a, err := verify.Attest(b, root, p.now); err == nil && a.Signer == p.who.String() {
			out = append(out, r.Digest)
		}
	}
	return out, nil
}

// older adds cosign's older signature, beside those that others made.
func (p *publisher) older(ctx context.Context) error {
	payload, sig, err := p.keys.SimpleSign(p.ref.Name()+":"+p.ref.Tag, p.img.Digest)
	if err != nil {
		return err
	}
	layer, err := p.put(ctx, payload)
	if err != nil {
		return err
	}
	layer.MediaType = manifest.SimpleSig
	layer.Annotations = map[string]string{annotationSignature: base64.StdEncoding.EncodeToString(sig)}
	tag := artifact.Ref{Host: p.ref.Host, Repository: p.ref.Repository, Tag: registry.EvidenceTag(p.img.Digest)}
	layers, err := p.otherLayers(ctx, tag, layer.Digest)
	if err != nil {
		return err
	}
	layers = append(layers, layer)
	var diff []artifact.Digest
	for _, l := range layers {
		diff = append(diff, l.Digest)
	}
	c, err := json.Marshal(map[string]any{"architecture": "", "os": "", "config": struct{}{}, "rootfs": map[string]any{"type": "layers", "diff_ids": diff}})
	if err != nil {
		return fmt.Errorf("encode signature config: %w", err)
	}
	config, err := p.put(ctx, c)
	if err != nil {
		return err
	}
	config.MediaType = manifest.OCIConfig
	m, err := json.Marshal(manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: &config, Layers: layers})
	if err != nil {
		return fmt.Errorf("encode signature manifest: %w", err)
	}
	d, err := p.store.PutManifest(ctx, p.ref.Repository, manifest.OCIManifest, m, artifact.Digest{})
	if err != nil {
		return err
	}
	return p.store.Tag(ctx, tag, d)
}

// otherLayers gives the signatures under tag except the one of payload.
func (p *publisher) otherLayers(ctx context.Context, tag artifact.Ref, payload artifact.Digest) ([]manifest.Descriptor, error) {
	d, err := p.store.Resolve(ctx, tag)
	if errors.Is(err, errs.NotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	mt, raw, err := p.store.Manifest(ctx, tag.Repository, d)
	if err != nil {
		return nil, err
	}
	m, err := manifest.Parse(mt, raw)
	if err != nil {
		return nil, err
	}
	var out []manifest.Descriptor
	for _, l := range m.Layers {
		if l.Digest != payload && len(out) < verify.MaxSimple-1 {
			out = append(out, l)
		}
	}
	return out, nil
}

func (p *publisher) tag(ctx context.Context) error {
	return p.store.Tag(ctx, p.ref, p.img.Digest)
}

// put stores small content; the caller says what it is.
func (p *publisher) put(ctx context.Context, b []byte) (manifest.Descriptor, error) {
	d := artifact.DigestOf(b)
	_, err := p.store.PutBlob(ctx, p.ref.Repository, d, bytes.NewReader(b))
	return manifest.Descriptor{Digest: d, Size: int64(len(b))}, err
}
