// SPDX-License-Identifier: Apache-2.0

package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"redoubt.dev/api/errs"
)

// Limits bound what one image may cost.
type Limits struct {
	Bytes   int64 // of each layer when unpacked, and of the whole image
	Entries int64 // inodes that all layers together make
}

// DefaultLimits fit the largest images in common use (machine learning
// frameworks, some 12 GiB and 300,000 files) with room to spare.
func DefaultLimits() Limits { return Limits{Bytes: 32 << 30, Entries: 4 << 20} }

// Image says what Flatten or Fix made.
type Image struct {
	Digest string // "sha256:…" of the file
	Bytes  int64  // length of the file
	Inodes int
	Dir    bool // the root is a directory, not a file
}

// Flatten applies layers in order, the base first, and puts the resulting
// file system at path as one EROFS image. The layers are tar archives, plain
// or compressed by gzip or zstd. Nothing is left at path when it fails.
func Flatten(ctx context.Context, layers []io.Reader, path string, l Limits) (Image, error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*")
	if err != nil {
		return Image{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()

	t := newTree(&content{f: f, next: 1, limit: l.Bytes}, l)
	for i, layer := range layers {
		if err := t.apply(ctx, layer); err != nil {
			return Image{}, fmt.Errorf("layer %d: %w", i, err)
		}
	}
	if f, err = squeeze(t, f); err != nil {
		return Image{}, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	im, err := finish(f, t.root, t.out.next)
	if err != nil {
		return Image{}, err
	}
	return im, publish(f, path)
}

// squeeze copies live content into a new file when layers have overwritten
// or deleted some of what is in f: a secret deleted by a later layer must not
// come along, and neither should its cost.
func squeeze(t *tree, f *os.File) (*os.File, error) {
	var live []*node
	var blocks int64
	seen := map[*node]bool{}
	var visit func(n *node)
	visit = func(n *node) {
		if seen[n] {
			return
		}
		seen[n] = true
		if n.content.bytes > 0 {
			live = append(live, n)
			blocks += n.content.blocks()
		}
		for _, name := range n.names() {
			visit(n.children[name])
		}
	}
	visit(t.root)
	if blocks == int64(t.out.next)-1 {
		return f, nil
	}
	nf, err := os.CreateTemp(filepath.Dir(f.Name()), filepath.Base(f.Name())+".*")
	if err != nil {
		return nil, err
	}
	out := &content{f: nf, next: 1, limit: t.limits.Bytes}
	for _, n := range live {
		e, err := out.store(io.NewSectionReader(f, int64(n.content.block)*blockSize, n.content.bytes), n.content.bytes)
		if err != nil {
			nf.Close()
			os.Remove(nf.Name())
			return nil, err
		}
		n.content = e
	}
	t.out = out
	return nf, nil
}

// finish writes the metadata and computes the digest.
func finish(f *os.File, root *node, next uint32) (Image, error) {
	blocks, inodes, err := lay(f, root, next)
	if err != nil {
		return Image{}, err
	}
	size := int64(blocks) * blockSize
	if err := f.Truncate(size); err != nil {
		return Image{}, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, size)); err != nil {
		return Image{}, err
	}
	return Image{Digest: "sha256:" + hex.EncodeToString(h.Sum(nil)), Bytes: size, Inodes: inodes, Dir: root.isDir()}, nil
}

// publish makes f durable and gives it its name in one step.
func publish(f *os.File, path string) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// content is the part of the image file that holds what regular files hold.
type content struct {
	f     *os.File
	next  uint32 // first free block
	limit int64  // bytes
}

// store appends size bytes of r.
func (c *content) store(r io.Reader, size int64) (extent, error) {
	if size == 0 {
		return extent{}, nil
	}
	if size < 0 || size > c.limit-int64(c.next)*blockSize {
		return extent{}, &errs.Error{Kind: errs.TooLarge, Subject: "image", Field: "content", Expected: fmt.Sprintf("at most %d bytes", c.limit)}
	}
	e := extent{c.next, size}
	n, err := io.Copy(io.NewOffsetWriter(c.f, int64(c.next)*blockSize), io.LimitReader(r, size))
	if err != nil {
		return extent{}, malformed(err)
	}
	if n != size {
		return extent{}, malformed(io.ErrUnexpectedEOF)
	}
	c.next += uint32(e.blocks())
	return e, nil
}
