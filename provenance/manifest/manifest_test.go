// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/provenance/manifest"
)

var hex = artifact.DigestOf(nil).String()

func descriptor(mediaType string) string {
	return `{"mediaType":"` + mediaType + `","digest":"` + hex + `","size":1}`
}

func TestParse(t *testing.T) {
	t.Parallel()
	image := `{"schemaVersion":2,"config":` + descriptor(manifest.OCIConfig) + `,"layers":[` + descriptor(manifest.OCILayer) + `]}`
	index := `{"schemaVersion":2,"manifests":[` + descriptor(manifest.OCIManifest) + `]}`
	for name, c := range map[string]struct {
		ct, raw string
		kind    string // "" is refused
	}{
		"image":                 {"", image, manifest.OCIManifest},
		"image, sent as one":    {manifest.OCIManifest, image, manifest.OCIManifest},
		"index":                 {"", index, manifest.OCIIndex},
		"index, sent as one":    {manifest.OCIIndex, index, manifest.OCIIndex},
		"image sent as index":   {manifest.OCIIndex, image, ""},
		"index sent as image":   {manifest.OCIManifest, index, ""},
		"both":                  {"", strings.Replace(image, `{`, `{"manifests":[],`, 1), ""},
		"sha512":                {"", strings.Replace(image, "sha256:", "sha512:", 1), ""},
		"capital digest":        {"", strings.Replace(image, hex, strings.ToUpper(hex), 1), ""},
		"no digest":             {"", strings.Replace(image, hex, "", 1), ""},
		"no media type":         {"", strings.Replace(image, manifest.OCILayer, "", 1), ""},
		"fractional size":       {"", strings.Replace(image, `"size":1`, `"size":1.5`, 1), ""},
		"layers an object":      {"", strings.Replace(image, `[`, `{"a":[`, 1), ""},
		"null":                  {"", "null", ""},
		"too many layers":       {"", `{"schemaVersion":2,"config":` + descriptor(manifest.OCIConfig) + `,"layers":[` + strings.TrimSuffix(strings.Repeat(descriptor(manifest.OCILayer)+",", 600), ",") + `]}`, ""},
		"nothing":               {"", "{}", ""},
		"schema version absent": {"", strings.Replace(image, `"schemaVersion":2,`, "", 1), ""},
	} {
		m, err := manifest.Parse(c.ct, []byte(c.raw))
		if (err == nil) != (c.kind != "") || err == nil && m.MediaType != c.kind {
			t.Errorf("%s: %q, %v; want %q", name, m.MediaType, err, c.kind)
		}
	}
}

// FuzzParse holds that what is accepted means the same to another reader, the
// library of most registry clients.
func FuzzParse(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":2,"config":` + descriptor(manifest.OCIConfig) + `,"layers":[` + descriptor(manifest.OCILayer) + `],"annotations":{"a":"b"}}`))
	f.Add([]byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[` + descriptor(manifest.OCIManifest) + `]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, err := manifest.Parse("", raw)
		if err != nil {
			return
		}
		if m.IsIndex() {
			o, err := v1.ParseIndexManifest(bytes.NewReader(raw))
			if err != nil || len(o.Manifests) != len(m.Manifests) {
				t.Fatalf("another reader: %v", err)
			}
			return
		}
		o, err := v1.ParseManifest(bytes.NewReader(raw))
		if err != nil || o.Config.Digest.String() != m.Config.Digest.String() || len(o.Layers) != len(m.Layers) {
			t.Fatalf("another reader: %v", err)
		}
		for i := range o.Layers {
			if o.Layers[i].Digest.String() != m.Layers[i].Digest.String() || o.Layers[i].Size != m.Layers[i].Size {
				t.Fatalf("layer %d differs", i)
			}
		}
	})
}

func FuzzConfig(f *testing.F) {
	f.Add([]byte(`{"os":"linux","rootfs":{"type":"layers","diff_ids":["` + hex + `"]}}`))
	m := manifest.Manifest{Layers: make([]manifest.Descriptor, 1)}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if manifest.CheckConfig(raw, m) != nil {
			return
		}
		var c v1.ConfigFile
		if err := json.Unmarshal(raw, &c); err == nil && len(c.RootFS.DiffIDs) != 1 {
			t.Fatalf("another reader sees %d layers", len(c.RootFS.DiffIDs))
		}
	})
}
