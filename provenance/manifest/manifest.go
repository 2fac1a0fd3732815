// SPDX-License-Identifier: Apache-2.0

// Package manifest reads OCI and Docker manifests so that there is one way to
// read them: registry and verifier parse by the same function, and what has
// the marks of two kinds is refused as neither.
//
// The types are go-containerregistry's words in our own digests: a parsed
// Manifest holds only well-formed SHA-256 digests and sizes that are not
// negative.
package manifest

import (
	"fmt"
	"slices"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/strictjson"
)

// Media types that this house writes.
const (
	OCIManifest = string(types.OCIManifestSchema1)
	OCIIndex    = string(types.OCIImageIndex)
	OCIConfig   = string(types.OCIConfigJSON)
	OCILayer    = string(types.OCIUncompressedLayer)
	Empty       = "application/vnd.oci.empty.v1+json"
	SimpleSig   = "application/vnd.dev.cosign.simplesigning.v1+json"
)

// Bounds, in bytes and in numbers. OCI suggests at least 4 MiB for a manifest.
const (
	MaxSize      = 4 << 20
	MaxConfig    = 4 << 20
	maxLayers    = 512
	maxManifests = 512
)

// Descriptor names content (OCI image-spec, descriptor.md).
type Descriptor struct {
	MediaType    string            `json:"mediaType"`
	Digest       artifact.Digest   `json:"digest"`
	Size         int64             `json:"size"`
	ArtifactType string            `json:"artifactType,omitempty"`
	Annotations  map[string]string `json:"annotations,omitempty"`
	Platform     *v1.Platform      `json:"platform,omitempty"`
	URLs         []string          `json:"urls,omitempty"`
	Data         []byte            `json:"data,omitempty"`
}

// Manifest is an image manifest or an index, in either dialect.
type Manifest struct {
	SchemaVersion int               `json:"schemaVersion"`
	MediaType     string            `json:"mediaType,omitempty"`
	ArtifactType  string            `json:"artifactType,omitempty"`
	Config        *Descriptor       `json:"config,omitempty"`
	Layers        []Descriptor      `json:"layers,omitempty"`
	Manifests     []Descriptor      `json:"manifests,omitempty"`
	Subject       *Descriptor       `json:"subject,omitempty"`
	Annotations   map[string]string `json:"annotations,omitempty"`
}

// IsIndex reports whether m lists manifests rather than layers.
func (m Manifest) IsIndex() bool { return types.MediaType(m.MediaType).IsIndex() }

// IsImage reports whether m is a runnable image: its config is an image's.
func (m Manifest) IsImage() bool {
	return m.Config != nil && (m.Config.MediaType == OCIConfig || m.Config.MediaType == string(types.DockerConfigJSON))
}

// Kind is the artifact type that the referrers API reports (distribution-spec
// 1.1, "Listing Referrers"): the manifest's own, else its config's media type.
func (m Manifest) Kind() string {
	if m.ArtifactType != "" || m.Config == nil {
		return m.ArtifactType
	}
	return m.Config.MediaType
}

// Parse reads a manifest. contentType is what the client or the registry
// calls it, "" when only the bytes are at hand; a manifest that says otherwise
// of itself, or has the fields of both kinds, is refused.
func Parse(contentType string, raw []byte) (Manifest, error) {
	var m Manifest
	if len(raw) > MaxSize {
		return m, &errs.Error{Kind: errs.TooLarge, Subject: "manifest", Expected: fmt.Sprintf("at most %d bytes", MaxSize)}
	}
	if err := strictjson.Decode(raw, &m); err != nil {
		return m, fmt.Errorf("parse manifest: %w", err)
	}
	if m.MediaType == "" {
		m.MediaType = contentType
	}
	if m.MediaType == "" {
		// OCI allows the field to be absent; then the fields themselves say it.
		m.MediaType = OCIManifest
		if m.Config == nil && m.Manifests != nil {
			m.MediaType = OCIIndex
		}
	}
	if contentType != "" && contentType != m.MediaType {
		return m, invalid("mediaType", "the media type that it was sent as, "+contentType, m.MediaType)
	}
	return m, m.check()
}

func (m Manifest) check() error {
	t := types.MediaType(m.MediaType)
	switch {
	case m.SchemaVersion != 2:
		return invalid("schemaVersion", "2", fmt.Sprint(m.SchemaVersion))
	case !t.IsIndex() && t != types.OCIManifestSchema1 && t != types.DockerManifestSchema2:
		return invalid("mediaType", "an OCI or Docker manifest or index", m.MediaType)
	case t.IsIndex() && (m.Config != nil || m.Layers != nil):
		return invalid("manifest", "an index without config and layers", "the fields of both")
	case !t.IsIndex() && m.Manifests != nil:
		return invalid("manifest", "an image without manifests", "the fields of both")
	case !t.IsIndex() && m.Config == nil:
		return invalid("config", "a descriptor", "none")
	case len(m.Layers) > maxLayers || len(m.Manifests) > maxManifests:
		return &errs.Error{Kind: errs.TooLarge, Subject: "manifest", Expected: fmt.Sprintf("at most %d entries", maxLayers)}
	}
	all := slices.Concat(m.Layers, m.Manifests)
	if m.Config != nil {
		all = append(all, *m.Config)
	}
	if m.Subject != nil {
		all = append(all, *m.Subject)
	}
	for _, d := range all {
		if d.Digest.IsZero() || d.Size < 0 || d.MediaType == "" || len(d.MediaType) > 255 {
			return invalid("descriptor", "a media type, a digest and a size", fmt.Sprintf("%q %s %d", d.MediaType, d.Digest, d.Size))
		}
	}
	return nil
}

// CheckConfig reads the image config of m strictly. Layers and diff IDs must
// be as many, or verifier and runtime could mean different root file systems.
func CheckConfig(raw []byte, m Manifest) error {
	if len(raw) > MaxConfig {
		return &errs.Error{Kind: errs.TooLarge, Subject: "config", Expected: fmt.Sprintf("at most %d bytes", MaxConfig)}
	}
	var c struct {
		Architecture string `json:"architecture"`
		OS           string `json:"os"`
		RootFS       struct {
			Type    string            `json:"type"`
			DiffIDs []artifact.Digest `json:"diff_ids"`
		} `json:"rootfs"`
	}
	if err := strictjson.Decode(raw, &c); err != nil {
		return fmt.Errorf("parse image config: %w", err)
	}
	if len(c.RootFS.DiffIDs) != len(m.Layers) {
		return invalid("config.rootfs.diff_ids", fmt.Sprintf("%d, one for each layer", len(m.Layers)), fmt.Sprint(len(c.RootFS.DiffIDs)))
	}
	return nil
}

func invalid(field, expected, seen string) error {
	if len(seen) > 128 {
		seen = seen[:128] + "…"
	}
	return &errs.Error{Kind: errs.Invalid, Subject: "manifest", Field: field, Expected: expected, Seen: seen}
}
