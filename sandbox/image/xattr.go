// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/binary"
	"slices"
	"strings"
)

// Name prefixes that the format stores as a number (fs/erofs/erofs_fs.h).
var xattrPrefixes = []struct {
	index  byte
	prefix string
}{
	{1, "user."},
	{4, "trusted."},
	{6, "security."},
}

const (
	xattrHeader   = 12
	xattrEntry    = 4
	maxXattrs     = 64
	maxXattrValue = 4 << 10
	maxXattrTotal = 3 << 10 // so that an inode and its attributes fit in one block
)

// xattrIndex splits an attribute's name; attributes outside the known name
// spaces are not kept.
func xattrIndex(name string) (index byte, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		if r, found := strings.CutPrefix(name, p.prefix); found && r != "" && len(r) <= maxName {
			return p.index, r, true
		}
	}
	return 0, "", false
}

func xattrNames(xs map[string]string) []string {
	var names []string
	for name := range xs {
		if _, _, ok := xattrIndex(name); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func xattrSize(xs map[string]string) int {
	size := 0
	for _, name := range xattrNames(xs) {
		_, rest, _ := xattrIndex(name)
		size += (xattrEntry + len(rest) + len(xs[name]) + 3) &^ 3
	}
	if size == 0 {
		return 0
	}
	return xattrHeader + size
}

// xattrCount is how an inode tells the length of its attributes.
func xattrCount(size int) uint16 {
	if size == 0 {
		return 0
	}
	return uint16((size-xattrHeader)/xattrEntry + 1)
}

func appendXattrs(b []byte, xs map[string]string) []byte {
	names := xattrNames(xs)
	if len(names) == 0 {
		return b
	}
	b = append(b, make([]byte, xattrHeader)...)
	for _, name := range names {
		index, rest, _ := xattrIndex(name)
		b = append(b, byte(len(rest)), index)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(xs[name])))
		b = append(b, rest...)
		b = append(b, xs[name]...)
		for pad := xattrEntry + len(rest) + len(xs[name]); pad%4 != 0; pad++ {
			b = append(b, 0)
		}
	}
	return b
}
