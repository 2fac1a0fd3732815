// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"sync"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/disk"
)

// Gate decides whether a tag may come to name a manifest. Admit is asked
// before the tag is set; its error refuses the push. It may block, may be
// asked concurrently, and is asked again when another push moved the tag in
// the meantime.
type Gate interface {
	Admit(ctx context.Context, ref artifact.Ref, manifest artifact.Digest) error
}

// Config is what a Store is made of.
type Config struct {
	// Host is the registry's name in image references, such as
	// "registry.bank.example" or "127.0.0.1:5000".
	Host string
	// Gate makes the gate, which reads evidence from the store. Without it
	// every tag is refused.
	Gate func(*Store) Gate
	// MaxBlob bounds one blob, in bytes; 0 stands for 16 GiB.
	MaxBlob int64
	// MaxReferrers bounds the manifests that refer to one subject, so that
	// junk cannot push real evidence out of what a verifier reads; 0 stands
	// for 256.
	MaxReferrers int
	// Now is the clock; nil stands for time.Now.
	Now func() time.Time
}

// Store is a registry on disk. Its methods may be called concurrently, and
// by several processes on one folder.
type Store struct {
	dir  string
	cfg  Config
	gate Gate

	tagMu sync.Mutex // around compare and set of one tag, not around the gate
}

// stale is the age at which an unfinished upload or temporary file is litter.
const stale = 24 * time.Hour

// Open makes or opens the store in dir and removes old unfinished uploads.
func Open(dir string, cfg Config) (*Store, error) {
	if _, err := artifact.ParseRef(cfg.Host + "/x"); err != nil || !strings.ContainsAny(cfg.Host, ".:") && cfg.Host != "localhost" {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "registry host", Expected: "a name with a dot or a port, as in image references", Seen: cfg.Host}
	}
	if cfg.MaxBlob == 0 {
		cfg.MaxBlob = 16 << 30
	}
	if cfg.MaxReferrers == 0 {
		cfg.MaxReferrers = 256
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Store{dir: dir, cfg: cfg}
	for _, d := range []string{"blobs/sha256", "repos", "uploads", "tmp"} {
		if err := disk.MkdirAll(filepath.Join(dir, d)); err != nil {
			return nil, fmt.Errorf("open registry: %w", err)
		}
	}
	for _, d := range []string{"uploads", "tmp"} {
		if err := s.sweep(filepath.Join(dir, d)); err != nil {
			return nil, fmt.Errorf("open registry: %w", err)
		}
	}
	if cfg.Gate != nil {
		s.gate = cfg.Gate(s)
	}
	return s, nil
}

// Host is the registry's name in image references.
func (s *Store) Host() string { return s.cfg.Host }

// sweep removes what a crash left behind long ago; younger files may belong
// to another process.
func (s *Store) sweep(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := e.Info()
		if err != nil || s.cfg.Now().Sub(st.ModTime()) < stale {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

func (s *Store) tmp() string { return filepath.Join(s.dir, "tmp") }

func (s *Store) blobPath(d artifact.Digest) string {
	return filepath.Join(s.dir, "blobs", "sha256", d.Hex()[:2], d.Hex())
}

// repoPath gives the folder of a repository's kind of entries. name has been
// checked: its components begin with a letter or digit, so none is "..", and
// none can be one of our folders, which begin with "_".
func (s *Store) repoPath(name, kind string) string {
	return filepath.Join(s.dir, "repos", filepath.FromSlash(name), kind)
}

// checkRepo refuses what is no repository name.
func checkRepo(name string) error {
	r, err := artifact.ParseRef("localhost/" + name)
	if err != nil || r.Repository != name || len(name) > 200 {
		return &errs.Error{Kind: errs.Invalid, Field: "repository", Expected: "lower case path components, at most 200 characters", Seen: fmt.Sprintf("%.128q", name)}
	}
	return nil
}

func (s *Store) checkRef(ref artifact.Ref) error {
	if ref.Host != s.cfg.Host {
		return &errs.Error{Kind: errs.NotFound, Subject: ref.String(), Field: "registry", Expected: s.cfg.Host, Seen: ref.Host, Fix: "push the image to " + s.cfg.Host}
	}
	return checkRepo(ref.Repository)
}

// Repositories lists all repositories that hold a manifest, sorted.
func (s *Store) Repositories(ctx context.Context) ([]string, error) {
	root := filepath.Join(s.dir, "repos")
	var out []string
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case ctx.Err() != nil:
			return ctx.Err()
		case d.Name() == "_manifests":
			rel, err := filepath.Rel(root, filepath.Dir(p))
			if err != nil {
				return err
			}
			out = append(out, filepath.ToSlash(rel))
			return filepath.SkipDir
		case strings.HasPrefix(d.Name(), "_"):
			return filepath.SkipDir
		}
		return nil
	})
	sort.Strings(out)
	return out, err
}

// missing makes the typed error for absent content.
func missing(what, name string) error {
	return &errs.Error{Kind: errs.NotFound, Subject: what, Expected: name, Seen: "nothing"}
}
