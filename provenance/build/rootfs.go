// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/slsa"
)

// inode tells hard links apart.
type inode struct{ dev, ino uint64 }

// rootfs packs a folder, in the order of the names. Symbolic links are packed,
// never followed.
func (b *builder) rootfs(ctx context.Context) error {
	dir := b.origin.dir
	if st, err := os.Stat(dir); err != nil || !st.IsDir() || b.src.RootFS == "" || !isDir(b.src.RootFS) {
		return &errs.Error{Kind: errs.Invalid, Subject: b.src.RootFS, Expected: "a folder that holds a root file system"}
	}
	links := map[inode]string{}
	var paths []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil || rel == "." {
			return err
		}
		name := filepath.ToSlash(rel)
		if name == ".git" && d.IsDir() {
			b.layer.skip(name, "git's own folder")
			return filepath.SkipDir
		}
		if err := checkName(name); err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if info.Mode().IsRegular() {
			paths = append(paths, path)
		}
		return b.packFile(path, name, info, links)
	})
	if err != nil {
		return err
	}
	b.deps = append(b.deps, slsa.Resource{Name: "files", URI: "file://" + filepath.ToSlash(dir), Digest: map[string]string{"sha256": b.layer.files()},
		Annotations: map[string]string{"of": "the list of names, modes, owners and contents"}})
	if err := b.origin.tracked(ctx, paths); err != nil {
		return err
	}
	return b.debian(func(name string) (io.ReadCloser, error) { return openInside(dir, name) })
}

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

func (b *builder) packFile(path, name string, info fs.FileInfo, links map[inode]string) error {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return &errs.Error{Kind: errs.Unsupported, Subject: path, Expected: "a Linux file system"}
	}
	h := &tar.Header{Name: name, Mode: int64(st.Mode & 0o7777), Uid: int(st.Uid), Gid: int(st.Gid)}
	switch mode := info.Mode(); {
	case mode.IsDir():
		h.Typeflag, h.Name = tar.TypeDir, name+"/"
		return b.layer.add(h, nil)
	case mode&fs.ModeSymlink != 0:
		target, err := os.Readlink(path)
		if err != nil {
			return err
		}
		h.Typeflag, h.Linkname, h.Mode = tar.TypeSymlink, target, 0o777
		return b.layer.add(h, nil)
	case mode.IsRegular():
		if st.Nlink > 1 {
			id := inode{uint64(st.Dev), st.Ino}
			if first, seen := links[id]; seen {
				h.Typeflag, h.Linkname = tar.TypeLink, first
				return b.layer.add(h, nil)
			}
			links[id] = name
		}
		return b.packRegular(path, h, info)
	case mode&fs.ModeSocket != 0:
		b.layer.skip(name, "a socket")
		return nil
	case mode&(fs.ModeDevice|fs.ModeCharDevice) != 0 && strings.HasPrefix(name, "dev/"):
		b.layer.skip(name, "a device; the sandbox makes its own /dev")
		return nil
	}
	return &errs.Error{Kind: errs.Unsupported, Subject: path, Expected: "files, folders and links", Seen: info.Mode().String(), Fix: "remove it from the root file system"}
}

func (b *builder) packRegular(path string, h *tar.Header, info fs.FileInfo) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := f.Stat()
	if err != nil {
		return err
	}
	if !os.SameFile(info, now) {
		return &errs.Error{Kind: errs.Conflict, Subject: path, Expected: "a file that stays", Seen: "another in its place", Fix: "do not change the source while it is built"}
	}
	h.Typeflag, h.Size = tar.TypeReg, now.Size()
	// File capabilities are the one extended attribute that programs need.
	buf := make([]byte, 256)
	if n, err := syscall.Getxattr(path, "security.capability", buf); err == nil && n > 0 {
		h.PAXRecords = map[string]string{"SCHILY.xattr.security.capability": string(buf[:n])}
	}
	return b.layer.add(h, f)
}

// checkName refuses what a runtime would read as something else than a file.
func checkName(name string) error {
	base := name[strings.LastIndexByte(name, '/')+1:]
	switch {
	case len(name) > 4096:
		return &errs.Error{Kind: errs.TooLarge, Subject: "file name", Expected: "at most 4096 bytes"}
	case strings.HasPrefix(base, ".wh."):
		// OCI image-spec, layer.md, "Whiteouts": as a file it cannot be said.
		return &errs.Error{Kind: errs.Unsupported, Subject: fmt.Sprintf("%.256q", name), Expected: "no names that begin with .wh., which stand for deleted files in a layer", Fix: "remove or rename it"}
	}
	return nil
}

// openInside opens a file below dir; no symbolic link leads out of it.
func openInside(dir, name string) (io.ReadCloser, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	f, err := root.Open(name)
	return f, errors.Join(err, root.Close())
}
