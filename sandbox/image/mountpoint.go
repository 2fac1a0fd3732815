// SPDX-License-Identifier: Apache-2.0

package image

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"github.com/erofs/go-erofs"

	"redoubt.dev/api/errs"
)

// Point is a place in a file system where something will be mounted.
type Point struct {
	Path string // absolute
	Dir  bool   // otherwise a file
}

// MountPoints writes a tar archive of those mount points that the image in r
// lacks, to be laid over it where the image cannot be written. The
// directories above them come along as the image has them, so that laying
// them over changes nothing else. It says whether there were any.
//
// Points below another point are left out: they will be made inside what is
// mounted there.
func MountPoints(r io.ReaderAt, points []Point, w io.Writer) (bool, error) {
	img, err := erofs.Open(r)
	if err != nil {
		return false, &errs.Error{Kind: errs.Invalid, Subject: "image", Expected: "EROFS", Err: err}
	}
	links, ok := img.(fs.ReadLinkFS)
	if !ok {
		return false, &errs.Error{Kind: errs.Internal, Subject: "image", Err: errors.New("the reader knows no links")}
	}
	o := &over{img: links, w: tar.NewWriter(w), done: map[string]bool{}}
	for _, p := range points {
		if below(p, points) {
			continue
		}
		if err := o.add(p); err != nil {
			return false, fmt.Errorf("mount point %s: %w", p.Path, err)
		}
	}
	return o.any, o.w.Close()
}

func below(p Point, points []Point) bool {
	for _, q := range points {
		if strings.HasPrefix(path.Clean(p.Path), path.Clean(q.Path)+"/") {
			return true
		}
	}
	return false
}

// over gathers an archive that lies over an image.
type over struct {
	img  fs.ReadLinkFS
	w    *tar.Writer
	done map[string]bool // archive members written
	any  bool
}

// add makes one mount point when it is missing. Links on the way are
// followed inside the image, as the kernel will when it mounts.
func (o *over) add(p Point) error {
	var at []string // resolved so far
	rest := elements(p.Path)
	for hops := 0; len(rest) > 0; {
		e := rest[0]
		rest = rest[1:]
		if e == ".." {
			at = at[:max(0, len(at)-1)]
			continue
		}
		name := strings.Join(append(at, e), "/")
		st, err := o.img.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return o.make(at, append([]string{e}, rest...), p.Dir)
		case err != nil:
			return err
		case st.Mode().Type() == fs.ModeSymlink:
			if hops++; hops > maxHops {
				return &errs.Error{Kind: errs.Invalid, Subject: "image", Expected: fmt.Sprintf("at most %d symbolic links on one path", maxHops)}
			}
			target, err := o.img.ReadLink(name)
			if err != nil {
				return err
			}
			if path.IsAbs(target) {
				at = nil
			}
			rest = append(elements(target), rest...)
		case !st.IsDir() && len(rest) > 0:
			return &errs.Error{Kind: errs.Invalid, Subject: "image", Field: "/" + name, Expected: "a directory", Seen: st.Mode().Type().String()}
		case len(rest) == 0 && st.IsDir() != p.Dir:
			return &errs.Error{Kind: errs.Invalid, Subject: "image", Field: "/" + name, Expected: kindName(p.Dir), Seen: st.Mode().String()}
		default:
			at = append(at, e)
		}
	}
	return nil // it is there
}

func kindName(dir bool) string {
	if dir {
		return "a directory"
	}
	return "a file"
}

func elements(name string) []string {
	var es []string
	for _, e := range strings.Split(name, "/") {
		if e != "" && e != "." {
			es = append(es, e)
		}
	}
	return es
}

// make writes the missing rest of a path, and before it what is above.
func (o *over) make(have, missing []string, dir bool) error {
	o.any = true
	for i := range len(have) + 1 {
		if err := o.copyDir(have[:i]); err != nil {
			return err
		}
	}
	var at []string
	at = append(at, have...)
	for i, e := range missing {
		if e == ".." {
			return &errs.Error{Kind: errs.Invalid, Subject: "image", Expected: "no .. behind a missing directory"}
		}
		at = append(at, e)
		h := &tar.Header{Name: "./" + strings.Join(at, "/"), Mode: 0o755, Typeflag: tar.TypeDir}
		if i == len(missing)-1 && !dir {
			h.Mode, h.Typeflag = 0o644, tar.TypeReg
		} else {
			h.Name += "/"
		}
		if err := o.write(h); err != nil {
			return err
		}
	}
	return nil
}

// copyDir writes a directory as the image has it.
func (o *over) copyDir(elems []string) error {
	name := strings.Join(elems, "/")
	if name == "" {
		name = "."
	}
	st, err := o.img.Lstat(name)
	if err != nil {
		return err
	}
	sys, ok := st.Sys().(*erofs.Stat)
	if !ok {
		return &errs.Error{Kind: errs.Internal, Subject: "image", Err: fmt.Errorf("no owner of %s", name)}
	}
	h := &tar.Header{ // the mode from sys: the reader's FileInfo.Mode lacks setuid, setgid, sticky
		Name: "./", Typeflag: tar.TypeDir, Mode: int64(unixMode(sys.Mode)), Uid: int(sys.UID), Gid: int(sys.GID),
		ModTime: time.Unix(int64(sys.Mtime), int64(sys.MtimeNs)), Format: tar.FormatPAX,
	}
	if len(elems) > 0 {
		h.Name += name + "/"
	}
	for k, v := range sys.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[paxXattr+k] = v
	}
	return o.write(h)
}

func unixMode(m fs.FileMode) uint32 {
	u := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&flag != 0 {
			u |= bit
		}
	}
	return u
}

func (o *over) write(h *tar.Header) error {
	if o.done[h.Name] {
		return nil
	}
	o.done[h.Name] = true
	return o.w.WriteHeader(h)
}
