// SPDX-License-Identifier: Apache-2.0

package build

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/slsa"
)

// image writes config and manifest.
func (b *builder) image(r *Result) error {
	im := b.opt.Image
	layer := r.Layers[0]
	hash, err := v1.NewHash(layer.Digest.String())
	if err != nil {
		return err
	}
	c := v1.ConfigFile{
		Architecture: b.opt.Arch,
		OS:           "linux",
		Created:      v1.Time{Time: b.epoch()},
		RootFS:       v1.RootFS{Type: "layers", DiffIDs: []v1.Hash{hash}},
		History:      []v1.History{{Created: v1.Time{Time: b.epoch()}, CreatedBy: "redoubt build (" + b.kind + ")"}},
		Config: v1.Config{
			Entrypoint: im.Entrypoint,
			Cmd:        im.Cmd,
			Env:        im.Env,
			User:       im.User,
			WorkingDir: im.WorkDir,
			Labels:     im.Labels,
		},
	}
	if !slices.ContainsFunc(c.Config.Env, func(e string) bool { return strings.HasPrefix(e, "PATH=") }) {
		c.Config.Env = append([]string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/app"}, c.Config.Env...)
	}
	if len(im.Ports) > 0 {
		c.Config.ExposedPorts = map[string]struct{}{}
		for _, p := range im.Ports {
			c.Config.ExposedPorts[p] = struct{}{}
		}
	}
	if r.Config, err = json.Marshal(c); err != nil {
		return fmt.Errorf("encode image config: %w", err)
	}
	cd := descriptor(manifest.OCIConfig, artifact.DigestOf(r.Config), int64(len(r.Config)))
	m := manifest.Manifest{
		SchemaVersion: 2,
		MediaType:     manifest.OCIManifest,
		Config:        &cd,
		Layers:        []manifest.Descriptor{descriptor(manifest.OCILayer, layer.Digest, layer.Size)},
		Annotations:   b.annotations(),
	}
	if r.Manifest, err = json.Marshal(m); err != nil {
		return fmt.Errorf("encode manifest: %w", err)
	}
	r.Digest = artifact.DigestOf(r.Manifest)
	return nil
}

// annotations carry only what is the same each time.
func (b *builder) annotations() map[string]string {
	if b.origin.commit == "" || b.origin.dirty() {
		return nil
	}
	return map[string]string{"org.opencontainers.image.revision": b.origin.commit}
}

var (
	portRE = regexp.MustCompile(`^[0-9]{1,5}(/(tcp|udp|sctp))?$`)
	userRE = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]*(:[a-zA-Z0-9_][a-zA-Z0-9_.-]*)?$`)
)

func checkImage(im slsa.Image) error {
	bad := func(field, expected, seen string) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "image", Field: field, Expected: expected, Seen: fmt.Sprintf("%.128q", seen)}
	}
	for _, p := range im.Ports {
		if !portRE.MatchString(p) {
			return bad("ports", "a number, with /tcp or /udp", p)
		}
	}
	if im.User != "" && !userRE.MatchString(im.User) {
		return bad("user", "a user or user:group", im.User)
	}
	if im.WorkDir != "" && !strings.HasPrefix(im.WorkDir, "/") {
		return bad("workdir", "an absolute path", im.WorkDir)
	}
	for _, e := range im.Env {
		if k, _, ok := strings.Cut(e, "="); !ok || k == "" || strings.ContainsRune(e, 0) {
			return bad("env", "NAME=value", e)
		}
	}
	return nil
}
