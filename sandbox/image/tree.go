// SPDX-License-Identifier: Apache-2.0

package image

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"redoubt.dev/api/errs"
)

// File types and bits of a mode, by Linux's numbers (inode(7)).
const (
	typeMask = 0o170000
	typeSock = 0o140000
	typeLink = 0o120000
	typeReg  = 0o100000
	typeBlk  = 0o060000
	typeDir  = 0o040000
	typeChr  = 0o020000
	typeFifo = 0o010000
	permMask = 0o007777
)

// extent is a run of content in the image file, starting at a block.
type extent struct {
	block uint32
	bytes int64
}

func (e extent) blocks() int64 { return (e.bytes + blockSize - 1) / blockSize }

// node is one inode. A hard link is the same node under two names.
type node struct {
	mode     uint16
	uid, gid uint32
	mtime    int64 // seconds
	nsec     uint32
	rdev     uint32
	target   string // of a symbolic link
	xattrs   map[string]string
	content  extent           // of a regular file
	children map[string]*node // of a directory
	layer    int              // that wrote it last

	links uint32 // names in the tree; computed by lay
	nid   uint64 // computed by lay
	ino   uint32 // computed by lay
	dir   []string
}

func newDir(layer int) *node {
	return &node{mode: typeDir | 0o755, children: map[string]*node{}, layer: layer}
}

func (n *node) isDir() bool { return n.mode&typeMask == typeDir }

// names gives a directory's names in the order of the format: by bytes.
func (n *node) names() []string {
	names := make([]string, 0, len(n.children))
	for name := range n.children {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}

const (
	maxName  = 255
	maxPath  = 4096
	maxDepth = 256
	maxHops  = 40 // symbolic links followed on one path, as Linux does
)

// split cleans the name of a layer's entry into path elements. Names that
// point outside are refused, not bent: no honest layer has one.
func split(name string) ([]string, error) {
	bad := func(expected string) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "name", Expected: expected, Seen: quote(name)}
	}
	if len(name) > maxPath {
		return nil, bad(fmt.Sprintf("at most %d bytes", maxPath))
	}
	if strings.IndexByte(name, 0) >= 0 {
		return nil, bad("no NUL byte")
	}
	var elems []string
	for _, e := range strings.Split(name, "/") {
		switch {
		case e == "" || e == ".":
		case e == "..":
			return nil, bad(`no ".."`)
		case len(e) > maxName:
			return nil, bad(fmt.Sprintf("path elements of at most %d bytes", maxName))
		default:
			elems = append(elems, e)
		}
	}
	if len(elems) > maxDepth {
		return nil, bad(fmt.Sprintf("at most %d levels", maxDepth))
	}
	return elems, nil
}

func quote(s string) string {
	if len(s) > 100 {
		s = s[:100] + "…"
	}
	return fmt.Sprintf("%q", s)
}

// walk finds the directory that elems name, following symbolic links inside
// the tree, as an extraction onto a real file system would: a layer that
// writes lib/x where lib is a link to usr/lib means usr/lib/x. With make,
// missing directories appear; otherwise nil means there is none.
func (t *tree) walk(elems []string, create bool) (*node, error) {
	at := []*node{t.root}
	hops := 0
	for len(elems) > 0 {
		e := elems[0]
		elems = elems[1:]
		cur := at[len(at)-1]
		if e == ".." { // only from a link's target
			if len(at) > 1 {
				at = at[:len(at)-1]
			}
			continue
		}
		next := cur.children[e]
		switch {
		case next == nil:
			if !create {
				return nil, nil
			}
			if err := t.count(); err != nil {
				return nil, err
			}
			next = newDir(t.layer)
			cur.children[e] = next
			at = append(at, next)
		case next.isDir():
			at = append(at, next)
		case next.mode&typeMask == typeLink:
			if hops++; hops > maxHops {
				return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "symbolic links",
					Expected: fmt.Sprintf("at most %d on one path", maxHops), Seen: quote(e)}
			}
			var rest []string
			for _, s := range strings.Split(next.target, "/") {
				if s != "" && s != "." {
					rest = append(rest, s)
				}
			}
			if strings.HasPrefix(next.target, "/") {
				at = at[:1]
			}
			elems = append(rest, elems...)
			if len(elems) > maxPath {
				return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "symbolic links", Seen: quote(e)}
			}
		default:
			if !create {
				return nil, nil
			}
			return nil, &errs.Error{Kind: errs.Invalid, Subject: "image layer", Field: "name",
				Expected: "a directory", Seen: quote(e) + " is a file"}
		}
		if len(at) > maxDepth {
			return nil, &errs.Error{Kind: errs.TooLarge, Subject: "image layer", Expected: fmt.Sprintf("at most %d levels", maxDepth)}
		}
	}
	return at[len(at)-1], nil
}

// whiteout removes what lower layers put at name; what the same layer wrote
// stays, in whatever order its entries come (OCI image layer specification,
// "Whiteouts").
func (t *tree) whiteout(dir *node, name string) {
	n := dir.children[name]
	if n == nil {
		return
	}
	if t.clear(n) {
		delete(dir.children, name)
	}
}

// clear removes all of lower layers below n and says whether n itself goes.
func (t *tree) clear(n *node) bool {
	for name, c := range n.children {
		if t.clear(c) {
			delete(n.children, name)
		}
	}
	return n.layer < t.layer && len(n.children) == 0
}
