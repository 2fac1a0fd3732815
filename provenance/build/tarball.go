// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/slsa"
)

// tarball packs the entries of a tar file anew, in their order. Nothing is
// unpacked on the way; the names are read as a runtime would read them, and
// what could mean two things is refused.
func (b *builder) tarball(ctx context.Context) error {
	f, err := os.Open(b.src.Tar)
	if err != nil {
		return &errs.Error{Kind: errs.NotFound, Subject: b.src.Tar, Expected: "a tar file", Err: err}
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() {
		return &errs.Error{Kind: errs.Invalid, Subject: b.src.Tar, Expected: "a tar file", Seen: "no regular file"}
	}
	whole := sha256.New()
	raw := io.TeeReader(bufio.NewReaderSize(f, 1<<20), whole)
	plain, err := unzip(raw)
	if err != nil {
		return err
	}
	t := &tarReader{b: b, kinds: map[string]byte{}, kept: map[string][]byte{}}
	end := &zeros{r: plain}
	if err := t.all(ctx, tar.NewReader(end)); err != nil {
		return fmt.Errorf("read %s: %w", b.src.Tar, err)
	}
	if end.n < 1024 {
		// archive/tar takes the end of the file for the end of the archive;
		// half a root file system must not pass for a whole one.
		return &errs.Error{Kind: errs.Invalid, Subject: b.src.Tar, Expected: "an archive that ends in two empty blocks", Seen: "one that is cut short", Fix: "copy it again"}
	}
	if err := errors.Join(drain(plain), drain(raw)); err != nil {
		return fmt.Errorf("read %s: %w", b.src.Tar, err)
	}
	b.deps = append(b.deps, slsa.Resource{Name: "tar", URI: "file://" + filepath.ToSlash(b.src.Tar), Digest: map[string]string{"sha256": hex.EncodeToString(whole.Sum(nil))}})
	if abs, err := filepath.Abs(b.src.Tar); err == nil {
		if err := b.origin.tracked(ctx, []string{abs}); err != nil {
			return err
		}
	}
	return b.debian(func(name string) (io.ReadCloser, error) {
		if c, ok := t.kept[name]; ok {
			return io.NopCloser(bytes.NewReader(c)), nil
		}
		return nil, fs.ErrNotExist
	})
}

// zeros counts the zero bytes at the end of what was read.
type zeros struct {
	r io.Reader
	n int
}

func (z *zeros) Read(p []byte) (int, error) {
	n, err := z.r.Read(p)
	if rest := bytes.TrimRight(p[:n], "\x00"); len(rest) > 0 {
		z.n = n - len(rest)
	} else {
		z.n += n
	}
	return n, err
}

// unzip undoes gzip, which is known by its first two bytes.
func unzip(r io.Reader) (io.Reader, error) {
	br := bufio.NewReaderSize(r, 1<<16)
	if magic, err := br.Peek(2); err == nil && magic[0] == 0x1f && magic[1] == 0x8b {
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "tar", Expected: "gzip", Err: err}
		}
		return z, nil
	}
	return br, nil
}

// drain reads what stands behind the tar's end, so that the digest covers the
// whole file; bounded, for gzip can make much of little.
func drain(r io.Reader) error {
	n, err := io.Copy(io.Discard, io.LimitReader(r, 64<<20+1))
	if err == nil && n > 64<<20 {
		err = &errs.Error{Kind: errs.TooLarge, Subject: "tar", Expected: "at most 64 MiB behind the end of the archive"}
	}
	return err
}

// tarReader checks entries against those before them.
type tarReader struct {
	b     *builder
	kinds map[string]byte   // type of each path so far
	kept  map[string][]byte // contents that the SBOM reads
}

func (t *tarReader) all(ctx context.Context, tr *tar.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if len(t.kinds) == 0 {
				return &errs.Error{Kind: errs.Invalid, Subject: "tar", Expected: "a root file system", Seen: "no entry"}
			}
			return nil
		}
		if err != nil {
			return &errs.Error{Kind: errs.Invalid, Subject: "tar", Expected: "a readable archive", Err: err}
		}
		if err := t.entry(h, tr); err != nil {
			return err
		}
	}
}

func (t *tarReader) entry(h *tar.Header, content io.Reader) error {
	name, err := cleanName(h.Name)
	if err != nil || name == "" {
		return err
	}
	if err := t.place(name, h.Typeflag); err != nil {
		return err
	}
	out := &tar.Header{Typeflag: h.Typeflag, Name: name, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid}
	if out.Uid < 0 || out.Gid < 0 {
		return hostile(name, "owners that are not negative", fmt.Sprintf("%d:%d", h.Uid, h.Gid))
	}
	if c := h.PAXRecords["SCHILY.xattr.security.capability"]; c != "" {
		out.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": c}
	}
	switch h.Typeflag {
	case tar.TypeDir:
		out.Name += "/"
		return t.b.layer.add(out, nil)
	case tar.TypeSymlink:
		if h.Linkname == "" || len(h.Linkname) > 4096 {
			return hostile(name, "a link with a target of at most 4096 bytes", "none or longer")
		}
		out.Linkname = h.Linkname // read inside the sandbox, never here
		return t.b.layer.add(out, nil)
	case tar.TypeLink:
		to, err := cleanName(h.Linkname)
		if err != nil {
			return err
		}
		if t.kinds[to] != tar.TypeReg {
			return hostile(name, "a hard link to a file before it in the archive", fmt.Sprintf("%.256q", h.Linkname))
		}
		out.Linkname = to
		t.kinds[name] = tar.TypeReg // a further link may name it
		return t.b.layer.add(out, nil)
	case tar.TypeReg:
		out.Size = h.Size
		return t.file(out, content)
	case tar.TypeChar, tar.TypeBlock:
		if strings.HasPrefix(name, "dev/") {
			t.b.layer.skip(name, "a device; the sandbox makes its own /dev")
			return nil
		}
	}
	return &errs.Error{Kind: errs.Unsupported, Subject: fmt.Sprintf("%.256q", name), Expected: "files, folders and links", Seen: fmt.Sprintf("type %q", h.Typeflag), Fix: "remove it from the archive"}
}

// file packs a regular file, and keeps it when the SBOM needs it.
func (t *tarReader) file(h *tar.Header, content io.Reader) error {
	switch h.Name {
	case "manifest.json", "oci-layout":
		return &errs.Error{Kind: errs.Unsupported, Subject: "tar", Expected: "a root file system", Seen: "an archive of an image, by its " + h.Name, Fix: "push it with skopeo, or export a container's file system instead"}
	case dpkgStatus, "etc/os-release":
		if h.Size <= maxStatus {
			keep := &bytes.Buffer{}
			if err := t.b.layer.add(h, io.TeeReader(content, keep)); err != nil {
				return err
			}
			t.kept[h.Name] = keep.Bytes()
			return nil
		}
	}
	return t.b.layer.add(h, content)
}

// place refuses a second entry for a path, and an entry below what is no
// folder: "a" as a link to /etc and then "a/passwd" writes where no name says.
func (t *tarReader) place(name string, kind byte) error {
	if before, twice := t.kinds[name]; twice && (before != tar.TypeDir || kind != tar.TypeDir) {
		return hostile(name, "each path once", "again")
	}
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if k, known := t.kinds[dir]; known && k != tar.TypeDir {
			return hostile(name, "entries below folders only", fmt.Sprintf("below %.256q", dir))
		}
		t.kinds[dir] = tar.TypeDir // from now on it cannot become a link
	}
	if len(t.kinds) > 4*maxEntries {
		return &errs.Error{Kind: errs.TooLarge, Subject: "tar", Field: "paths", Expected: fmt.Sprintf("at most %d", 4*maxEntries)}
	}
	t.kinds[name] = kind
	return nil
}

// cleanName gives a path relative to the root, "" for the root itself.
func cleanName(name string) (string, error) {
	if name == "" || strings.ContainsRune(name, 0) {
		return "", hostile(name, "a name", "none, or one with a NUL")
	}
	for _, c := range strings.Split(name, "/") {
		if c == ".." {
			return "", hostile(name, "a path without ..", name)
		}
	}
	n := strings.TrimPrefix(path.Clean("/"+name), "/")
	if n == "" {
		return "", nil
	}
	return n, checkName(n)
}

func hostile(name, expected, seen string) error {
	return &errs.Error{Kind: errs.Invalid, Subject: fmt.Sprintf("tar entry %.256q", name), Expected: expected, Seen: fmt.Sprintf("%.256s", seen), Fix: "make the archive anew from a clean tree"}
}
