// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"redoubt.dev/api/artifact"
	"redoubt.dev/provenance/manifest"
)

func (s *Store) sweepLock() string { return filepath.Join(s.dir, "sweep.lock") }

// Sweep removes content that no manifest lists and that nobody has touched for
// a day, and gives the bytes that were freed. Manifests stay until they are
// deleted, whether tagged or not. Pushes of manifests wait meanwhile.
//
// A manifest that cannot be read ends the sweep before anything is removed:
// what it lists is not known.
func (s *Store) Sweep(ctx context.Context) (freed int64, err error) {
	unlock, err := lockFile(s.sweepLock(), syscall.LOCK_EX)
	if err != nil {
		return 0, fmt.Errorf("sweep registry: %w", err)
	}
	defer unlock()
	if err := s.sweep(filepath.Join(s.dir, "uploads")); err != nil {
		return 0, fmt.Errorf("sweep registry: %w", err)
	}
	live := map[string]bool{} // by hex digits
	repos, err := s.allRepos()
	if err != nil {
		return 0, fmt.Errorf("sweep registry: %w", err)
	}
	lists := make([]map[string]bool, len(repos))
	for i, repo := range repos {
		if lists[i], err = s.listed(ctx, repo); err != nil {
			return 0, fmt.Errorf("sweep registry: %s: %w", repo, err)
		}
	}
	for i, repo := range repos {
		if err := s.sweepMarks(repo, lists[i], live); err != nil {
			return 0, fmt.Errorf("sweep registry: %s: %w", repo, err)
		}
	}
	return s.sweepBlobs(ctx, live)
}

// allRepos lists repositories that hold anything, also blobs only.
func (s *Store) allRepos() ([]string, error) {
	root := filepath.Join(s.dir, "repos")
	seen := map[string]bool{}
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() != "_blobs" && d.Name() != "_manifests" {
			return nil
		}
		rel, err := filepath.Rel(root, filepath.Dir(p))
		if err != nil {
			return err
		}
		if repo := filepath.ToSlash(rel); !seen[repo] {
			seen[repo] = true
			out = append(out, repo)
		}
		return filepath.SkipDir
	})
	return out, err
}

// listed gives the manifests of repo and all that they list, by hex digits.
func (s *Store) listed(ctx context.Context, repo string) (map[string]bool, error) {
	out := map[string]bool{}
	entries, err := os.ReadDir(s.repoPath(repo, "_manifests"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, e := range entries {
		d, err := artifact.ParseDigest("sha256:" + e.Name())
		if err != nil {
			continue
		}
		mt, raw, err := s.Manifest(ctx, repo, d)
		if err != nil {
			return nil, err
		}
		m, err := manifest.Parse(mt, raw)
		if err != nil {
			return nil, err
		}
		out[d.Hex()] = true
		for _, l := range m.Layers {
			out[l.Digest.Hex()] = true
		}
		if m.Config != nil {
			out[m.Config.Digest.Hex()] = true
		}
	}
	return out, ctx.Err()
}

// sweepMarks takes blobs out of repo that are old and not listed; all others
// are live.
func (s *Store) sweepMarks(repo string, listed, live map[string]bool) error {
	for hex := range listed {
		live[hex] = true
	}
	dir := s.repoPath(repo, "_blobs")
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil {
			return err
		}
		if listed[e.Name()] || s.cfg.Now().Sub(st.ModTime()) < stale {
			live[e.Name()] = true
			continue
		}
		if err := remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) sweepBlobs(ctx context.Context, live map[string]bool) (freed int64, err error) {
	err = filepath.WalkDir(filepath.Join(s.dir, "blobs"), func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || live[d.Name()] {
			return errors.Join(err, ctx.Err())
		}
		st, err := d.Info()
		if err != nil || s.cfg.Now().Sub(st.ModTime()) < stale {
			return err // its mark may be about to be written
		}
		if err := remove(p); err != nil {
			return err
		}
		freed += st.Size()
		return nil
	})
	if err != nil {
		return freed, fmt.Errorf("sweep registry: %w", err)
	}
	return freed, nil
}

// lockFile takes the advisory lock at path, syscall.LOCK_SH or LOCK_EX; the
// kernel gives it back when the process dies.
func lockFile(path string, how int) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = syscall.Flock(int(f.Fd()), how)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
