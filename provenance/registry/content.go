// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/internal/disk"
	"redoubt.dev/provenance/manifest"
)

// PutManifest stores a manifest under its own digest; want, unless zero, must
// be that digest. All that it lists must be in the repository already, except
// its subject (distribution-spec 1.1, "Pushing Manifests").
func (s *Store) PutManifest(ctx context.Context, repo, mediaType string, raw []byte, want artifact.Digest) (artifact.Digest, error) {
	if err := checkRepo(repo); err != nil {
		return artifact.Digest{}, err
	}
	m, err := manifest.Parse(mediaType, raw)
	if err != nil {
		return artifact.Digest{}, err
	}
	d := artifact.DigestOf(raw)
	if !want.IsZero() && want != d {
		return d, mismatch(want, d)
	}
	unlock, err := lockFile(s.sweepLock(), syscall.LOCK_SH) // Sweep must not take what was just found complete
	if err != nil {
		return d, fmt.Errorf("store manifest: %w", err)
	}
	defer unlock()
	if err := s.complete(ctx, repo, m); err != nil {
		return d, err
	}
	// The referrer's mark comes first: a mark without manifest is skipped by
	// readers, a manifest without mark would be evidence that is not found.
	if m.Subject != nil {
		if err := s.refer(repo, m.Subject.Digest, d); err != nil {
			return d, err
		}
	}
	path := s.blobPath(d)
	if err := disk.MkdirAll(filepath.Dir(path)); err != nil {
		return d, fmt.Errorf("store manifest: %w", err)
	}
	if err := disk.WriteFile(s.tmp(), path, raw, 0o600); err != nil {
		return d, fmt.Errorf("store manifest: %w", err)
	}
	dir := s.repoPath(repo, "_manifests")
	if err := disk.MkdirAll(dir); err != nil {
		return d, fmt.Errorf("store manifest: %w", err)
	}
	if err := disk.WriteFile(s.tmp(), filepath.Join(dir, d.Hex()), []byte(m.MediaType), 0o600); err != nil {
		return d, fmt.Errorf("store manifest: %w", err)
	}
	return d, nil
}

// complete refuses a manifest that lists what the repository has not.
func (s *Store) complete(ctx context.Context, repo string, m manifest.Manifest) error {
	lists := m.Layers
	if m.Config != nil {
		lists = append([]manifest.Descriptor{*m.Config}, lists...)
	}
	for _, d := range lists {
		size, err := s.StatBlob(ctx, repo, d.Digest)
		if err != nil {
			return &errs.Error{Kind: errs.Conflict, Subject: "manifest", Field: "blob", Expected: d.Digest.String() + " in " + repo, Seen: "no such blob", Fix: "push the blob first"}
		}
		if size != d.Size {
			return &errs.Error{Kind: errs.Invalid, Subject: "manifest", Field: "size of " + d.Digest.String(), Expected: fmt.Sprint(size), Seen: fmt.Sprint(d.Size)}
		}
	}
	for _, d := range m.Manifests {
		if !exists(filepath.Join(s.repoPath(repo, "_manifests"), d.Digest.Hex())) {
			return &errs.Error{Kind: errs.Conflict, Subject: "manifest", Field: "manifest", Expected: d.Digest.String() + " in " + repo, Seen: "no such manifest", Fix: "push the manifest first"}
		}
	}
	return nil
}

// Manifest reads a manifest that repo has, and its media type. Bytes that do
// not match d are errs.Unproven.
func (s *Store) Manifest(_ context.Context, repo string, d artifact.Digest) (mediaType string, raw []byte, err error) {
	if err := checkRepo(repo); err != nil {
		return "", nil, err
	}
	if d.IsZero() {
		return "", nil, missing("manifest of "+repo, "a digest")
	}
	mt, err := conf.ReadFile(filepath.Join(s.repoPath(repo, "_manifests"), d.Hex()), 255)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, missing("manifest of "+repo, d.String())
	}
	if err != nil {
		return "", nil, fmt.Errorf("read manifest: %w", err)
	}
	raw, err = conf.ReadFile(s.blobPath(d), manifest.MaxSize)
	if err != nil {
		return "", nil, &errs.Error{Kind: errs.Unproven, Subject: "manifest " + d.String(), Expected: "its content", Err: err, Fix: "push it again"}
	}
	if got := artifact.DigestOf(raw); got != d {
		return "", nil, mismatch(d, got)
	}
	return string(mt), raw, nil
}
