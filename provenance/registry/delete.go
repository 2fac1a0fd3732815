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

// DeleteManifest takes a manifest out of repo, and out of the list of those
// that refer to its subject. One that a tag names is errs.Conflict. The
// content stays until Sweep.
func (s *Store) DeleteManifest(ctx context.Context, repo string, d artifact.Digest) error {
	mt, raw, err := s.Manifest(ctx, repo, d)
	if err != nil {
		return err
	}
	tags, err := s.Tags(ctx, repo)
	if err != nil {
		return err
	}
	for _, t := range tags {
		if named, err := s.readTag(repo, t); err == nil && named == d {
			return &errs.Error{Kind: errs.Conflict, Subject: "manifest " + d.String(), Field: "tag", Expected: "no tag that names it", Seen: t, Fix: "move or delete the tag first"}
		}
	}
	if err := remove(filepath.Join(s.repoPath(repo, "_manifests"), d.Hex())); err != nil {
		return err
	}
	m, err := manifest.Parse(mt, raw)
	if err != nil || m.Subject == nil {
		return err
	}
	return remove(filepath.Join(s.repoPath(repo, "_referrers"), m.Subject.Digest.Hex(), d.Hex()))
}

// DeleteTag takes a name away; what it named stays.
func (s *Store) DeleteTag(_ context.Context, ref artifact.Ref) error {
	if err := s.checkRef(ref); err != nil {
		return err
	}
	if _, err := s.readTag(ref.Repository, ref.Tag); err != nil {
		return err
	}
	return remove(filepath.Join(s.repoPath(ref.Repository, "_tags"), ref.Tag))
}

// DeleteBlob takes a blob out of repo. The content stays until Sweep.
func (s *Store) DeleteBlob(ctx context.Context, repo string, d artifact.Digest) error {
	if _, err := s.StatBlob(ctx, repo, d); err != nil {
		return err
	}
	return remove(filepath.Join(s.repoPath(repo, "_blobs"), d.Hex()))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("delete: %w", err)
	}
	return disk.SyncDir(filepath.Dir(path))
}
