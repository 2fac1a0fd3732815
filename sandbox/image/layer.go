// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"

	"redoubt.dev/api/errs"
)

const (
	whiteoutPrefix = ".wh."
	whiteoutOpaque = ".wh..wh..opq"
	whiteoutMeta   = ".wh..wh." // what AUFS leaves behind for itself
	paxXattr       = "SCHILY.xattr."
)

// tree is the image while its layers are applied.
type tree struct {
	root   *node
	out    *content
	limits Limits
	layer  int // being applied, from 1
	nodes  int64
}

func newTree(out *content, l Limits) *tree {
	return &tree{root: newDir(0), out: out, limits: l}
}

// count accounts for one more inode.
func (t *tree) count() error {
	if t.nodes++; t.nodes > t.limits.Entries {
		return &errs.Error{Kind: errs.TooLarge, Subject: "image", Field: "entries", Expected: fmt.Sprintf("at most %d", t.limits.Entries)}
	}
	return nil
}

// apply puts one layer on top of the tree.
func (t *tree) apply(ctx context.Context, layer io.Reader) error {
	t.layer++
	plain, err := decompress(layer)
	if err != nil {
		return err
	}
	defer plain.Close()
	bounded := &boundedReader{r: plain, left: t.limits.Bytes}
	tr := tar.NewReader(bounded)
	for {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		h, err := tr.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return malformed(err)
		}
		if err := t.entry(h, tr); err != nil {
			return err
		}
	}
}

func malformed(err error) error {
	var e *errs.Error
	if errors.As(err, &e) || errors.Is(err, context.Canceled) {
		return err
	}
	return &errs.Error{Kind: errs.Invalid, Subject: "image layer", Expected: "a tar archive", Err: err}
}

// entry applies one member of the archive.
func (t *tree) entry(h *tar.Header, r io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	elems, err := split(h.Name)
	if err != nil {
		return err
	}
	if len(elems) == 0 {
		return t.rootEntry(h)
	}
	dirElems, base := elems[:len(elems)-1], elems[len(elems)-1]
	if strings.HasPrefix(base, whiteoutPrefix) {
		return t.whiteoutEntry(dirElems, base)
	}
	dir, err := t.walk(dirElems, true)
	if err != nil {
		return err
	}
	n, err := t.inode(h, r)
	if err != nil {
		return err
	}
	if old := dir.children[base]; old != nil && old.isDir() && n.isDir() {
		n.children = old.children
		*old = *n
		return nil
	}
	dir.children[base] = n
	return nil
}

// rootEntry takes the attributes of the tree's root.
func (t *tree) rootEntry(h *tar.Header) error {
	if h.Typeflag != tar.TypeDir {
		return &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "name", Expected: "a directory at the root", Seen: quote(h.Name)}
	}
	n, err := t.inode(h, nil)
	if err != nil {
		return err
	}
	n.children = t.root.children
	*t.root = *n
	return nil
}

func (t *tree) whiteoutEntry(dirElems []string, base string) error {
	dir, err := t.walk(dirElems, false)
	if err != nil || dir == nil {
		return err // nothing there to remove
	}
	switch {
	case base == whiteoutOpaque:
		for name := range dir.children {
			t.whiteout(dir, name)
		}
	case strings.HasPrefix(base, whiteoutMeta):
	default:
		name := strings.TrimPrefix(base, whiteoutPrefix)
		if name == "" || name == "." || name == ".." {
			return &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "whiteout", Seen: quote(base)}
		}
		t.whiteout(dir, name)
	}
	return nil
}

// inode makes the node that a header describes, and stores its content.
func (t *tree) inode(h *tar.Header, r io.Reader) (*node, error) {
	if err := t.count(); err != nil {
		return nil, err
	}
	if h.Typeflag == tar.TypeLink {
		return t.hardLink(h)
	}
	n, err := t.attributes(h)
	if err != nil {
		return nil, err
	}
	switch h.Typeflag {
	//lint:ignore SA1019 TypeRegA still occurs in old archives
	case tar.TypeReg, tar.TypeRegA, tar.TypeGNUSparse:
		n.mode |= typeReg
		n.content, err = t.out.store(r, h.Size)
	case tar.TypeDir:
		n.mode |= typeDir
		n.children = map[string]*node{}
	case tar.TypeSymlink:
		n.mode = typeLink | 0o777
		if h.Linkname == "" || len(h.Linkname) >= maxPath || strings.IndexByte(h.Linkname, 0) >= 0 {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "symbolic link", Seen: quote(h.Linkname)}
		}
		n.target = h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		if h.Devmajor < 0 || h.Devmajor >= 1<<12 || h.Devminor < 0 || h.Devminor >= 1<<20 {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "device number", Seen: fmt.Sprintf("%d:%d", h.Devmajor, h.Devminor)}
		}
		n.rdev = uint32(h.Devminor&0xff | h.Devmajor<<8 | (h.Devminor&^0xff)<<12)
		n.mode |= typeChr
		if h.Typeflag == tar.TypeBlock {
			n.mode ^= typeChr ^ typeBlk
		}
	case tar.TypeFifo:
		n.mode |= typeFifo
	default:
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "image layer", Field: "type of " + quote(h.Name), Seen: fmt.Sprintf("%q", h.Typeflag)}
	}
	return n, err
}

// hardLink finds the file that a link entry names: in this layer or below.
func (t *tree) hardLink(h *tar.Header) (*node, error) {
	elems, err := split(h.Linkname)
	if err != nil {
		return nil, err
	}
	var n *node
	if len(elems) > 0 {
		dir, err := t.walk(elems[:len(elems)-1], false)
		if err != nil {
			return nil, err
		}
		if dir != nil {
			n = dir.children[elems[len(elems)-1]]
		}
	}
	if n == nil || n.isDir() {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "hard link " + quote(h.Name),
			Expected: "an existing file", Seen: quote(h.Linkname)}
	}
	n.layer = t.layer
	return n, nil
}

func (t *tree) attributes(h *tar.Header) (*node, error) {
	if h.Uid < 0 || h.Gid < 0 || int64(h.Uid) > 1<<32-2 || int64(h.Gid) > 1<<32-2 {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "owner of " + quote(h.Name), Seen: fmt.Sprintf("%d:%d", h.Uid, h.Gid)}
	}
	n := &node{
		mode: uint16(h.Mode & permMask), uid: uint32(h.Uid), gid: uint32(h.Gid),
		mtime: h.ModTime.Unix(), nsec: uint32(h.ModTime.Nanosecond()), layer: t.layer,
	}
	total := 0
	for k, v := range h.PAXRecords {
		name, ok := strings.CutPrefix(k, paxXattr)
		if !ok {
			continue
		}
		if _, _, ok := xattrIndex(name); !ok {
			continue
		}
		if n.xattrs == nil {
			n.xattrs = map[string]string{}
		}
		n.xattrs[name] = v
		total += len(name) + len(v) + 8
	}
	if total > maxXattrTotal || len(n.xattrs) > maxXattrs {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "image layer", Field: "extended attributes of " + quote(h.Name),
			Expected: fmt.Sprintf("at most %d bytes", maxXattrTotal), Seen: fmt.Sprint(total)}
	}
	return n, nil
}

// decompress looks at the first bytes, not at a media type: a registry's
// word about a blob is not evidence.
func decompress(r io.Reader) (io.ReadCloser, error) {
	br := bufio.NewReaderSize(r, 128<<10)
	head, err := br.Peek(4)
	if err != nil && err != io.EOF {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		z, err := gzip.NewReader(br)
		if err != nil {
			return nil, malformed(err)
		}
		return z, nil
	case len(head) == 4 && string(head) == "\x28\xb5\x2f\xfd":
		// 128 MiB is the window that the OCI specification's producers use
		// at most; a larger one is an attack on the node's memory.
		z, err := zstd.NewReader(br, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20))
		if err != nil {
			return nil, malformed(err)
		}
		return z.IOReadCloser(), nil
	}
	return io.NopCloser(br), nil
}

// boundedReader refuses to give more than left bytes, so that a small blob
// cannot unfold into a full disk.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, &errs.Error{Kind: errs.TooLarge, Subject: "image layer", Expected: "fewer bytes when unpacked", Fix: "raise image.Limits.Bytes"}
	}
	if int64(len(p)) > b.left {
		p = p[:b.left]
	}
	n, err := b.r.Read(p)
	b.left -= int64(n)
	return n, err
}
