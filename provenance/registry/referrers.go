// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/disk"
	"redoubt.dev/provenance/manifest"
)

// refer notes that by refers to subject.
func (s *Store) refer(repo string, subject, by artifact.Digest) error {
	dir := filepath.Join(s.repoPath(repo, "_referrers"), subject.Hex())
	if err := disk.MkdirAll(dir); err != nil {
		return fmt.Errorf("store referrer: %w", err)
	}
	path := filepath.Join(dir, by.Hex())
	if !exists(path) {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return fmt.Errorf("store referrer: %w", err)
		}
		if len(entries) >= s.cfg.MaxReferrers {
			return &errs.Error{Kind: errs.TooLarge, Subject: "referrers of " + subject.String(), Expected: fmt.Sprintf("at most %d", s.cfg.MaxReferrers)}
		}
	}
	if err := disk.Mark(path); err != nil {
		return fmt.Errorf("store referrer: %w", err)
	}
	return nil
}

// Referrers lists the manifests of repo whose subject is d, sorted by digest,
// each with its true artifact type and annotations; those of artifactType
// only, unless it is "". No referrers, or no such subject, is an empty list.
func (s *Store) Referrers(ctx context.Context, repo string, d artifact.Digest, artifactType string) ([]manifest.Descriptor, error) {
	if err := checkRepo(repo); err != nil {
		return nil, err
	}
	out := []manifest.Descriptor{}
	if d.IsZero() {
		return out, nil
	}
	entries, err := os.ReadDir(filepath.Join(s.repoPath(repo, "_referrers"), d.Hex()))
	if errors.Is(err, fs.ErrNotExist) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list referrers: %w", err)
	}
	for _, e := range entries {
		by, err := artifact.ParseDigest("sha256:" + e.Name())
		if err != nil {
			continue
		}
		mt, raw, err := s.Manifest(ctx, repo, by)
		if errors.Is(err, errs.NotFound) {
			continue // its push was cut short
		}
		if err != nil {
			return nil, err
		}
		m, err := manifest.Parse(mt, raw)
		if err != nil {
			return nil, err
		}
		if artifactType != "" && m.Kind() != artifactType {
			continue
		}
		out = append(out, manifest.Descriptor{MediaType: mt, Digest: by, Size: int64(len(raw)), ArtifactType: m.Kind(), Annotations: m.Annotations})
	}
	return out, nil
}
