// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/internal/disk"
)

// PutBlob stores what r gives under want; other content is errs.Unproven and
// leaves nothing. It gives the size.
func (s *Store) PutBlob(ctx context.Context, repo string, want artifact.Digest, r io.Reader) (int64, error) {
	if err := checkRepo(repo); err != nil {
		return 0, err
	}
	if want.IsZero() {
		return 0, &errs.Error{Kind: errs.Invalid, Field: "digest", Expected: "sha256 of the blob", Seen: "none"}
	}
	f, err := os.CreateTemp(s.tmp(), "blob-*")
	if err != nil {
		return 0, fmt.Errorf("store blob: %w", err)
	}
	defer os.Remove(f.Name())
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(io.MultiWriter(f, h), io.LimitReader(stopping{ctx, r}, s.cfg.MaxBlob+1))
	if err != nil {
		return n, fmt.Errorf("store blob %s: %w", want, err)
	}
	if n > s.cfg.MaxBlob {
		return n, &errs.Error{Kind: errs.TooLarge, Subject: "blob", Expected: fmt.Sprintf("at most %d bytes", s.cfg.MaxBlob)}
	}
	if got := sum(h); got != want {
		return n, mismatch(want, got)
	}
	return n, s.keep(repo, want, f)
}

// keep makes the complete and checked file f content of repo.
func (s *Store) keep(repo string, d artifact.Digest, f *os.File) error {
	path := s.blobPath(d)
	if err := disk.MkdirAll(filepath.Dir(path)); err != nil {
		return fmt.Errorf("store blob: %w", err)
	}
	// Replaces what is there: should that have decayed, this mends it.
	if err := disk.Seal(f, path); err != nil {
		return fmt.Errorf("store blob %s: %w", d, err)
	}
	return s.mark(repo, "_blobs", d.Hex())
}

func (s *Store) mark(repo, kind, name string) error {
	dir := s.repoPath(repo, kind)
	if err := disk.MkdirAll(dir); err != nil {
		return fmt.Errorf("store %s: %w", repo, err)
	}
	path := filepath.Join(dir, name)
	if err := disk.Mark(path); err != nil {
		return fmt.Errorf("store %s: %w", repo, err)
	}
	// Its age keeps a blob from Sweep until a manifest lists it.
	now := s.cfg.Now()
	if err := os.Chtimes(path, now, now); err != nil {
		return fmt.Errorf("store %s: %w", repo, err)
	}
	return nil
}

// Mount lets repo have a blob that from has.
func (s *Store) Mount(ctx context.Context, repo, from string, d artifact.Digest) error {
	if err := errors.Join(checkRepo(repo), checkRepo(from)); err != nil {
		return err
	}
	if _, err := s.StatBlob(ctx, from, d); err != nil {
		return err
	}
	return s.mark(repo, "_blobs", d.Hex())
}

// StatBlob gives the size of a blob that repo has. It does not read it.
func (s *Store) StatBlob(_ context.Context, repo string, d artifact.Digest) (int64, error) {
	if err := checkRepo(repo); err != nil {
		return 0, err
	}
	if d.IsZero() || !exists(filepath.Join(s.repoPath(repo, "_blobs"), d.Hex())) {
		return 0, missing("blob of "+repo, d.String())
	}
	st, err := os.Stat(s.blobPath(d))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, missing("blob of "+repo, d.String())
	}
	if err != nil {
		return 0, fmt.Errorf("stat blob: %w", err)
	}
	return st.Size(), nil
}

// Blob opens a blob that repo has. The reader gives an error of kind
// errs.Unproven in place of the last bytes when the content does not match d;
// a caller that sees io.EOF has read what d names.
func (s *Store) Blob(ctx context.Context, repo string, d artifact.Digest) (io.ReadCloser, int64, error) {
	if _, err := s.StatBlob(ctx, repo, d); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.blobPath(d))
	if err != nil {
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("open blob: %w", err)
	}
	return &verifying{f: f, h: sha256.New(), want: d, left: st.Size()}, st.Size(), nil
}

// ReadBlob reads a small blob whole, at most max bytes.
func (s *Store) ReadBlob(ctx context.Context, repo string, d artifact.Digest, max int64) ([]byte, error) {
	r, size, err := s.Blob(ctx, repo, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if size > max {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "blob " + d.String(), Expected: fmt.Sprintf("at most %d bytes", max), Seen: fmt.Sprint(size)}
	}
	return conf.ReadAll(r, "blob "+d.String(), max)
}

// verifying reads a file and keeps its last byte back until the digest of all
// of it is known to be right.
type verifying struct {
	f    *os.File
	h    hash.Hash
	want artifact.Digest
	left int64 // bytes not yet given, by the size at opening
	err  error
}

func (v *verifying) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	if int64(len(p)) > v.left {
		p = p[:v.left]
	}
	n, err := v.f.Read(p)
	v.h.Write(p[:n])
	v.left -= int64(n)
	switch {
	case v.left == 0:
		if got := sum(v.h); got != v.want {
			v.err = mismatch(v.want, got)
			return 0, v.err
		}
		v.err = io.EOF
		return n, io.EOF
	case errors.Is(err, io.EOF):
		v.err = mismatch(v.want, artifact.Digest{}) // shorter than when it was opened
		return 0, v.err
	case err != nil:
		v.err = err
	}
	return n, err
}

func (v *verifying) Close() error { return v.f.Close() }

// stopping ends a copy when its context does.
type stopping struct {
	ctx context.Context
	r   io.Reader
}

func (s stopping) Read(p []byte) (int, error) {
	if err := s.ctx.Err(); err != nil {
		return 0, err
	}
	return s.r.Read(p)
}

func sum(h hash.Hash) artifact.Digest {
	d, err := artifact.ParseDigest("sha256:" + hex.EncodeToString(h.Sum(nil)))
	if err != nil {
		panic("registry: a SHA-256 is no digest: " + err.Error())
	}
	return d
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func mismatch(want, got artifact.Digest) error {
	return &errs.Error{Kind: errs.Unproven, Field: "digest", Expected: want.String(), Seen: got.String(), Fix: "push the content again"}
}
