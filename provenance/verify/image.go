// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"slices"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/manifest"
)

// image is what the first link proves: the bytes at hand, and the digests by
// which they may be signed.
type image struct {
	digest   artifact.Digest   // of the manifest that would run
	names    []artifact.Digest // digest, and the index's that lists it
	manifest manifest.Manifest
}

// readImage checks that ev's manifest, config and index belong together, and
// are what ev.Ref named.
func readImage(ev Evidence) (image, error) {
	im := image{digest: artifact.DigestOf(ev.Manifest)}
	im.names = []artifact.Digest{im.digest}
	m, err := manifest.Parse("", ev.Manifest)
	if err != nil {
		return im, err
	}
	if m.IsIndex() {
		return im, &errs.Error{Kind: errs.Invalid, Field: "manifest", Expected: "one image", Seen: "an index of images"}
	}
	if !m.IsImage() {
		return im, &errs.Error{Kind: errs.Invalid, Field: "manifest", Expected: "an image, with an image config", Seen: "an artifact whose config is " + m.Config.MediaType}
	}
	im.manifest = m
	if d := artifact.DigestOf(ev.Config); d != m.Config.Digest || int64(len(ev.Config)) != m.Config.Size {
		return im, &errs.Error{Kind: errs.Unproven, Field: "config", Expected: m.Config.Digest.String(), Seen: d.String()}
	}
	if err := manifest.CheckConfig(ev.Config, m); err != nil {
		return im, err
	}
	if len(ev.Index) > 0 {
		x, err := manifest.Parse("", ev.Index)
		if err != nil {
			return im, err
		}
		if !x.IsIndex() {
			return im, &errs.Error{Kind: errs.Invalid, Field: "index", Expected: "an index of images", Seen: x.MediaType}
		}
		if !slices.ContainsFunc(x.Manifests, func(d manifest.Descriptor) bool {
			return d.Digest == im.digest && d.Size == int64(len(ev.Manifest))
		}) {
			return im, &errs.Error{Kind: errs.Unproven, Field: "index", Expected: "an entry for " + im.digest.String(), Seen: fmt.Sprintf("%d other entries", len(x.Manifests))}
		}
		im.names = append(im.names, artifact.DigestOf(ev.Index))
	}
	if d := ev.Ref.Digest; !d.IsZero() && d != im.names[len(im.names)-1] && d != im.digest {
		return im, &errs.Error{Kind: errs.Unproven, Field: "digest", Expected: d.String(), Seen: im.names[len(im.names)-1].String()}
	}
	return im, nil
}
