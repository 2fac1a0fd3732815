// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/internal/disk"
	"redoubt.dev/provenance/manifest"
)

// EvidenceTag is the tag of cosign's older signatures of manifest d.
func EvidenceTag(d artifact.Digest) string { return "sha256-" + d.Hex() + ".sig" }

// evidenceTag is the tag under which cosign's older form keeps signatures of
// the manifest that the tag spells.
var evidenceTag = regexp.MustCompile(`^sha256-[0-9a-f]{64}\.sig$`)

// Tag lets ref's tag name manifest d, which the repository must have. The gate
// is asked each time, also when the tag names d already. When another push
// moves the tag while the gate thinks, the gate is asked again: its answer may
// depend on what the tag named.
func (s *Store) Tag(ctx context.Context, ref artifact.Ref, d artifact.Digest) error {
	if err := s.checkRef(ref); err != nil {
		return err
	}
	if ref.Tag == "" {
		return &errs.Error{Kind: errs.Invalid, Subject: ref.String(), Field: "tag", Expected: "a tag", Seen: "none"}
	}
	mt, raw, err := s.Manifest(ctx, ref.Repository, d)
	if err != nil {
		return err
	}
	ref.Digest = artifact.Digest{}
	for range 4 {
		before, err := s.readTag(ref.Repository, ref.Tag)
		if err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
		if err := s.admit(ctx, ref, d, mt, raw); err != nil {
			return err
		}
		if done, err := s.moveTag(ref, before, d); done || err != nil {
			return err
		}
	}
	return &errs.Error{Kind: errs.Conflict, Subject: ref.String(), Field: "tag", Expected: "a tag that stands still", Seen: "other pushes to it", Fix: "push again"}
}

func (s *Store) admit(ctx context.Context, ref artifact.Ref, d artifact.Digest, mt string, raw []byte) error {
	if evidenceTag.MatchString(ref.Tag) {
		// Evidence is judged when it is read. But nothing that could run may
		// be smuggled in under such a name.
		m, err := manifest.Parse(mt, raw)
		if err != nil {
			return err
		}
		for _, l := range m.Layers {
			if l.MediaType != manifest.SimpleSig {
				return &errs.Error{Kind: errs.Denied, Subject: ref.String(), Field: "layers", Expected: "only " + manifest.SimpleSig, Seen: l.MediaType}
			}
		}
		if m.IsIndex() || len(m.Layers) == 0 {
			return &errs.Error{Kind: errs.Denied, Subject: ref.String(), Expected: "signatures", Seen: m.MediaType}
		}
		return nil
	}
	if s.gate == nil {
		return refused{&errs.Error{Kind: errs.Denied, Subject: ref.String(), Field: "gate", Expected: "a gate that admits the image", Seen: "no gate", Fix: "open the registry with a gate"}}
	}
	if err := s.gate.Admit(ctx, ref, d); err != nil {
		return refused{err}
	}
	return nil
}

// moveTag sets the tag when it still names before; done is false when not.
func (s *Store) moveTag(ref artifact.Ref, before, d artifact.Digest) (done bool, err error) {
	dir := s.repoPath(ref.Repository, "_tags")
	if err := disk.MkdirAll(dir); err != nil {
		return false, fmt.Errorf("set tag: %w", err)
	}
	s.tagMu.Lock()
	defer s.tagMu.Unlock()
	unlock, err := lockFile(filepath.Join(s.dir, "tags.lock"), syscall.LOCK_EX) // against other processes
	if err != nil {
		return false, fmt.Errorf("set tag: %w", err)
	}
	defer unlock()
	now, err := s.readTag(ref.Repository, ref.Tag)
	if err != nil && !errors.Is(err, errs.NotFound) {
		return false, err
	}
	if now != before {
		return false, nil
	}
	if now == d {
		return true, nil
	}
	if err := disk.WriteFile(s.tmp(), filepath.Join(dir, ref.Tag), []byte(d.String()), 0o600); err != nil {
		return false, fmt.Errorf("set tag: %w", err)
	}
	return true, nil
}

// Resolve gives the digest that ref names: its own, when the repository has
// that manifest, else its tag's.
func (s *Store) Resolve(_ context.Context, ref artifact.Ref) (artifact.Digest, error) {
	if err := s.checkRef(ref); err != nil {
		return artifact.Digest{}, err
	}
	if !ref.Digest.IsZero() {
		if !exists(filepath.Join(s.repoPath(ref.Repository, "_manifests"), ref.Digest.Hex())) {
			return artifact.Digest{}, missing("manifest of "+ref.Repository, ref.Digest.String())
		}
		return ref.Digest, nil
	}
	return s.readTag(ref.Repository, ref.Tag)
}

func (s *Store) readTag(repo, tag string) (artifact.Digest, error) {
	r, err := artifact.ParseRef("localhost/" + repo + ":" + tag)
	if err != nil || r.Tag != tag {
		return artifact.Digest{}, &errs.Error{Kind: errs.Invalid, Field: "tag", Expected: "at most 128 letters, digits, '_', '.', '-'", Seen: fmt.Sprintf("%.128q", tag)}
	}
	b, err := conf.ReadFile(filepath.Join(s.repoPath(repo, "_tags"), tag), 128)
	if errors.Is(err, fs.ErrNotExist) {
		return artifact.Digest{}, missing("tag of "+repo, tag)
	}
	if err != nil {
		return artifact.Digest{}, fmt.Errorf("read tag: %w", err)
	}
	return artifact.ParseDigest(string(b))
}

// Tags lists the tags of repo, sorted; the tags that only hold signatures are
// among them, as in every registry.
func (s *Store) Tags(_ context.Context, repo string) ([]string, error) {
	if err := checkRepo(repo); err != nil {
		return nil, err
	}
	if !exists(s.repoPath(repo, "_manifests")) {
		return nil, missing("repository", repo)
	}
	entries, err := os.ReadDir(s.repoPath(repo, "_tags")) // sorted by name
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list tags: %w", err)
	}
	out := []string{}
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out, nil
}
