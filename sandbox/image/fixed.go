// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"redoubt.dev/api/errs"
)

// FixedLimits bound what Fix takes: Kubernetes allows 1 MiB for a ConfigMap
// or Secret; a projected volume joins several.
func FixedLimits() Limits { return Limits{Bytes: 16 << 20, Entries: 4096} }

// Fix writes the file or directory at source, as it is now, into f as an
// EROFS image. When source is a file, the image's root is that file. Links
// inside a directory are kept as links and never followed, so that what is
// taken is below source.
//
// f is typically a memfd: what comes from a Secret is then never on a disk.
func Fix(f *os.File, source string, l Limits) (Image, error) {
	t := newTree(&content{f: f, next: 1, limit: l.Bytes}, l)
	st, err := os.Stat(source)
	if err != nil {
		return Image{}, err
	}
	if !st.IsDir() {
		file, err := os.Open(source)
		if err != nil {
			return Image{}, err
		}
		defer file.Close()
		t.root, err = t.fixFile(file)
		if err != nil {
			return Image{}, fmt.Errorf("take %s: %w", source, err)
		}
		return finish(f, t.root, t.out.next)
	}
	dir, err := os.OpenRoot(source)
	if err != nil {
		return Image{}, err
	}
	defer dir.Close()
	if t.root, err = t.fixDir(dir, ".", 0); err != nil {
		return Image{}, fmt.Errorf("take %s: %w", source, err)
	}
	return finish(f, t.root, t.out.next)
}

// Empty writes an image of one empty directory.
func Empty(f *os.File) (Image, error) { return finish(f, newDir(0), 1) }

func (t *tree) fixDir(dir *os.Root, name string, depth int) (*node, error) {
	if depth > maxDepth {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "volume", Expected: fmt.Sprintf("at most %d levels", maxDepth)}
	}
	d, err := dir.Open(name)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil {
		return nil, err
	}
	n, err := t.fixed(st)
	if err != nil {
		return nil, err
	}
	n.children = map[string]*node{}
	entries, err := d.ReadDir(int(t.limits.Entries) + 1)
	if err != nil && err != io.EOF { // EOF: the directory is empty
		return nil, err
	}
	for _, e := range entries {
		c, err := t.fixEntry(dir, filepath.Join(name, e.Name()), e, depth)
		if err != nil {
			return nil, err
		}
		n.children[e.Name()] = c
	}
	return n, nil
}

func (t *tree) fixEntry(dir *os.Root, name string, e fs.DirEntry, depth int) (*node, error) {
	switch e.Type() {
	case fs.ModeDir:
		return t.fixDir(dir, name, depth+1)
	case fs.ModeSymlink:
		target, err := dir.Readlink(name)
		if err != nil {
			return nil, err
		}
		st, err := dir.Lstat(name)
		if err != nil {
			return nil, err
		}
		n, err := t.fixed(st)
		if err != nil {
			return nil, err
		}
		n.target = target
		return n, nil
	case 0:
		f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		return t.fixFile(f)
	}
	return nil, &errs.Error{Kind: errs.Unsupported, Subject: "volume", Field: name,
		Expected: "a file, a directory or a symbolic link", Seen: e.Type().String()}
}

func (t *tree) fixFile(f *os.File) (*node, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "volume", Field: f.Name(), Expected: "a file", Seen: st.Mode().Type().String()}
	}
	n, err := t.fixed(st)
	if err != nil {
		return nil, err
	}
	n.content, err = t.out.store(f, st.Size())
	return n, err
}

func (t *tree) fixed(st fs.FileInfo) (*node, error) {
	if err := t.count(); err != nil {
		return nil, err
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, &errs.Error{Kind: errs.Internal, Subject: "volume", Err: fmt.Errorf("no stat of %s", st.Name())}
	}
	return &node{
		mode: uint16(sys.Mode), uid: sys.Uid, gid: sys.Gid,
		mtime: st.ModTime().Unix(), nsec: uint32(st.ModTime().Nanosecond()),
	}, nil
}
