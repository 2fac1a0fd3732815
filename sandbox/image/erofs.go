// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"slices"
	"strings"

	"redoubt.dev/api/errs"
)

// The on-disk format is that of Linux, Documentation/filesystems/erofs.rst
// and fs/erofs/erofs_fs.h: little endian, blocks of 4 KiB, superblock at byte
// 1024, inodes in slots of 32 bytes.
const (
	blockBits  = 12
	blockSize  = 1 << blockBits
	superAt    = 1024
	superSize  = 128
	magic      = 0xE0F5E1E2
	slotSize   = 32
	inodeSize  = 64 // the extended form: 32-bit owners, 64-bit size, time
	direntSize = 12

	compatChecksum = 1
	compatMtime    = 2

	layoutPlain  = 0
	layoutInline = 2

	// maxInline keeps an inode with its tail inside one block, as the
	// format demands, without searching for space.
	maxInline = 2048
)

// rootSlot is where the root inode lies in the metadata area. Not 0, which
// some readers take for "none".
const rootSlot = 1

// writer lays a tree out behind content that is in the file already.
type writer struct {
	f       io.WriterAt
	next    uint32 // first free block
	inodes  []*node
	metaLen int64
}

// lay writes the metadata of the tree at root, and the superblock. Content
// fills the blocks from 1 up to next; the file ends after the last block.
// The root may be a file: then the mount is that file.
func lay(f io.WriterAt, root *node, next uint32) (blocks uint32, inodes int, err error) {
	w := &writer{f: f, next: next}
	w.number(root, map[*node]bool{})
	if err := w.writeDirs(root); err != nil {
		return 0, 0, err
	}
	metaBlock := w.next
	if err := w.writeInodes(metaBlock); err != nil {
		return 0, 0, err
	}
	total := int64(metaBlock) + (w.metaLen+blockSize-1)/blockSize
	if total > 1<<32-1 {
		return 0, 0, &errs.Error{Kind: errs.TooLarge, Subject: "image", Expected: "less than 2^32 blocks"}
	}
	if err := w.writeSuper(root, metaBlock, uint32(total)); err != nil {
		return 0, 0, err
	}
	return uint32(total), len(w.inodes), nil
}

// number collects the inodes, in the order of a walk by name, counts their
// names, and gives each its slot.
func (w *writer) number(root *node, seen map[*node]bool) {
	w.metaLen = rootSlot * slotSize
	var visit func(n *node)
	visit = func(n *node) {
		if seen[n] {
			n.links++
			return
		}
		seen[n] = true
		n.links = 1
		n.ino = uint32(len(w.inodes) + 1)
		w.inodes = append(w.inodes, n)
		w.place(n)
		if !n.isDir() {
			return
		}
		n.dir = n.names()
		for _, name := range n.dir {
			visit(n.children[name])
		}
	}
	visit(root)
	for _, n := range w.inodes {
		if n.isDir() {
			n.links = 2
			for _, c := range n.children {
				if c.isDir() {
					n.links++
				}
			}
		}
	}
}

// place gives n the next slot where its inode and what is stored beside it
// stay inside one block.
func (w *writer) place(n *node) {
	head := int64(inodeSize + xattrSize(n.xattrs))
	need := head
	if size := n.inlineSize(); size > 0 {
		need += size
	}
	if need <= blockSize && w.metaLen%blockSize+need > blockSize {
		w.metaLen += blockSize - w.metaLen%blockSize
	}
	n.nid = uint64(w.metaLen / slotSize)
	w.metaLen += (need + slotSize - 1) / slotSize * slotSize
}

// inlineSize is the length of what is stored right behind the inode: targets
// of links and small directories. Regular files always begin at a block, so
// that they can be mapped.
func (n *node) inlineSize() int64 {
	var size int64
	switch n.mode & typeMask {
	case typeLink:
		size = int64(len(n.target))
	case typeDir:
		size = dirSize(n)
	}
	if size > maxInline || inodeSize+int64(xattrSize(n.xattrs))+size > blockSize {
		return 0
	}
	return size
}

type dirent struct {
	name string
	to   *node
}

// entries gives a directory's entries in the order of the format, with "."
// and ".." among them.
func (n *node) entries(parent *node) []dirent {
	es := make([]dirent, 0, len(n.dir)+2)
	es = append(es, dirent{".", n}, dirent{"..", parent})
	for _, name := range n.dir {
		es = append(es, dirent{name, n.children[name]})
	}
	slices.SortFunc(es, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
	return es
}

// packDir lays entries out in blocks: in each, first all records, then all
// names. The last block is as long as it needs to be.
func packDir(es []dirent, emit func(block []dirent, size int)) {
	for len(es) > 0 {
		size, k := 0, 0
		for k < len(es) && size+direntSize+len(es[k].name) <= blockSize {
			size += direntSize + len(es[k].name)
			k++
		}
		emit(es[:k], size)
		es = es[k:]
	}
}

func dirSize(n *node) int64 {
	if n.dir == nil {
		n.dir = n.names()
	}
	var total, last int64
	packDir(n.entries(n), func(_ []dirent, size int) {
		total += blockSize
		last = int64(size)
	})
	return total - blockSize + last
}

func dirBytes(n, parent *node) []byte {
	var out []byte
	packDir(n.entries(parent), func(es []dirent, size int) {
		for len(out)%blockSize != 0 {
			out = append(out, 0)
		}
		nameAt := direntSize * len(es)
		for _, e := range es {
			out = binary.LittleEndian.AppendUint64(out, e.to.nid)
			out = binary.LittleEndian.AppendUint16(out, uint16(nameAt))
			out = append(out, fileType(e.to.mode), 0)
			nameAt += len(e.name)
		}
		for _, e := range es {
			out = append(out, e.name...)
		}
	})
	return out
}

func fileType(mode uint16) byte {
	switch mode & typeMask {
	case typeReg:
		return 1
	case typeDir:
		return 2
	case typeChr:
		return 3
	case typeBlk:
		return 4
	case typeFifo:
		return 5
	case typeSock:
		return 6
	case typeLink:
		return 7
	}
	return 0
}

// writeDirs writes the directories and links that are too long to lie beside
// their inode into blocks of their own.
func (w *writer) writeDirs(root *node) error {
	var visit func(n, parent *node) error
	done := map[*node]bool{}
	visit = func(n, parent *node) error {
		if done[n] {
			return nil
		}
		done[n] = true
		if n.inlineSize() == 0 {
			var b []byte
			switch n.mode & typeMask {
			case typeDir:
				b = dirBytes(n, parent)
			case typeLink:
				b = []byte(n.target)
			}
			if err := w.append(n, b); err != nil {
				return err
			}
		}
		for _, name := range n.dir {
			if err := visit(n.children[name], n); err != nil {
				return err
			}
		}
		return nil
	}
	return visit(root, root)
}

func (w *writer) append(n *node, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n.content = extent{w.next, int64(len(b))}
	if _, err := w.f.WriteAt(b, int64(w.next)*blockSize); err != nil {
		return err
	}
	w.next += uint32(n.content.blocks())
	return nil
}

// writeInodes writes the metadata area, one block-sized buffer at a time.
func (w *writer) writeInodes(metaBlock uint32) error {
	parents := map[*node]*node{}
	for _, n := range w.inodes {
		for _, name := range n.dir {
			parents[n.children[name]] = n
		}
	}
	at := int64(metaBlock) * blockSize
	end := at + (w.metaLen+blockSize-1)/blockSize*blockSize
	buf := make([]byte, 0, 1<<20)
	flush := func() error {
		_, err := w.f.WriteAt(buf, at)
		at += int64(len(buf))
		buf = buf[:0]
		return err
	}
	for _, n := range w.inodes {
		want := int64(metaBlock)*blockSize + int64(n.nid)*slotSize
		buf = append(buf, make([]byte, want-at-int64(len(buf)))...)
		parent := parents[n]
		if parent == nil {
			parent = n
		}
		buf = appendInode(buf, n, parent)
		if len(buf) > 1<<20-3*blockSize {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	buf = append(buf, make([]byte, end-at-int64(len(buf)))...)
	return flush()
}

func appendInode(b []byte, n, parent *node) []byte {
	le := binary.LittleEndian
	inline := n.inlineSize()
	layout, size, ref := uint16(layoutPlain), n.content.bytes, n.content.block
	if inline > 0 {
		layout, size, ref = layoutInline, inline, 0
	}
	switch n.mode & typeMask {
	case typeChr, typeBlk:
		ref = n.rdev
	}
	xs := xattrSize(n.xattrs)
	b = le.AppendUint16(b, layout<<1|1)
	b = le.AppendUint16(b, xattrCount(xs))
	b = le.AppendUint16(b, n.mode)
	b = le.AppendUint16(b, 0)
	b = le.AppendUint64(b, uint64(size))
	b = le.AppendUint32(b, ref)
	b = le.AppendUint32(b, n.ino)
	b = le.AppendUint32(b, n.uid)
	b = le.AppendUint32(b, n.gid)
	b = le.AppendUint64(b, uint64(n.mtime))
	b = le.AppendUint32(b, n.nsec)
	b = le.AppendUint32(b, n.links)
	b = append(b, make([]byte, 16)...)
	b = appendXattrs(b, n.xattrs)
	if inline > 0 {
		if n.isDir() {
			b = append(b, dirBytes(n, parent)...)
		} else {
			b = append(b, n.target...)
		}
	}
	return b
}

func (w *writer) writeSuper(root *node, metaBlock, blocks uint32) error {
	if root.nid > 0xffff {
		return &errs.Error{Kind: errs.Internal, Subject: "image", Err: fmt.Errorf("root in slot %d", root.nid)}
	}
	le := binary.LittleEndian
	b := make([]byte, blockSize)
	s := b[superAt:]
	le.PutUint32(s[0:], magic)
	le.PutUint32(s[8:], compatChecksum|compatMtime)
	s[12] = blockBits
	le.PutUint16(s[14:], uint16(root.nid))
	le.PutUint64(s[16:], uint64(len(w.inodes)))
	le.PutUint32(s[36:], blocks)
	le.PutUint32(s[40:], metaBlock)
	// The checksum covers the block from the superblock on, itself as
	// zero, without the final inversion of the usual CRC-32C.
	le.PutUint32(s[4:], ^crc32.Checksum(s, crc32.MakeTable(crc32.Castagnoli)))
	_, err := w.f.WriteAt(b, 0)
	return err
}
