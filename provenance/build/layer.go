// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
)

const (
	maxEntries = 1 << 20  // files in an image
	maxLayer   = 16 << 30 // bytes in an image
	maxSkipped = 100
)

// layerFile writes one layer: every entry with the same time, no user names,
// no access times, and names without a leading slash.
type layerFile struct {
	f        *os.File
	buf      *bufio.Writer
	tw       *tar.Writer
	hash     hash.Hash
	size     int64
	epoch    time.Time
	progress func(Progress)
	told     int64

	entries int
	skipped []string
	list    hash.Hash // over name, mode, owner and content of each entry
}

func newLayer(path string, epoch time.Time, progress func(Progress)) (*layerFile, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	l := &layerFile{f: f, hash: sha256.New(), list: sha256.New(), epoch: epoch, progress: progress}
	l.buf = bufio.NewWriterSize(f, 1<<20)
	l.tw = tar.NewWriter(writerFunc(func(p []byte) (int, error) {
		l.hash.Write(p)
		l.size += int64(len(p))
		if l.size-l.told >= 16<<20 {
			l.told = l.size
			l.progress(Progress{Step: "pack", Bytes: l.size})
		}
		return l.buf.Write(p)
	}))
	return l, nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// add writes one entry and, for a file, its content, which must be as long as
// h.Size says.
func (l *layerFile) add(h *tar.Header, content io.Reader) error {
	if l.entries++; l.entries > maxEntries {
		return &errs.Error{Kind: errs.TooLarge, Subject: "image", Field: "files", Expected: fmt.Sprintf("at most %d", maxEntries)}
	}
	if h.Size < 0 || l.size+h.Size > maxLayer {
		return &errs.Error{Kind: errs.TooLarge, Subject: "image", Field: h.Name, Expected: fmt.Sprintf("at most %d bytes in all", int64(maxLayer))}
	}
	h.ModTime, h.AccessTime, h.ChangeTime = l.epoch, time.Time{}, time.Time{}
	h.Uname, h.Gname, h.Format = "", "", tar.FormatPAX
	if err := l.tw.WriteHeader(h); err != nil {
		return fmt.Errorf("pack %q: %w", h.Name, err)
	}
	sum := sha256.New()
	if h.Typeflag == tar.TypeReg && content != nil {
		n, err := io.Copy(io.MultiWriter(l.tw, sum), io.LimitReader(content, h.Size+1))
		if err == nil && n != h.Size {
			err = &errs.Error{Kind: errs.Conflict, Expected: fmt.Sprintf("%d bytes", h.Size), Seen: fmt.Sprint(n), Fix: "do not change the source while it is built"}
		}
		if err != nil {
			return fmt.Errorf("pack %q: %w", h.Name, err)
		}
	}
	fmt.Fprintf(l.list, "%q %c %o %d:%d %q %x\n", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, h.Linkname, sum.Sum(nil))
	return nil
}

// skip notes what an image cannot hold.
func (l *layerFile) skip(name, why string) {
	if len(l.skipped) < maxSkipped {
		l.skipped = append(l.skipped, name+": "+why)
	}
}

// finish closes the tar and gives the layer.
func (l *layerFile) finish() (Layer, error) {
	if err := errors.Join(l.tw.Close(), l.buf.Flush(), l.f.Close()); err != nil {
		return Layer{}, fmt.Errorf("pack layer: %w", err)
	}
	d, err := artifact.ParseDigest("sha256:" + hex.EncodeToString(l.hash.Sum(nil)))
	return Layer{Digest: d, Size: l.size, path: l.f.Name()}, err
}

// files is a digest of the list of files, whatever their order of packing
// says of them.
func (l *layerFile) files() string { return hex.EncodeToString(l.list.Sum(nil)) }

func (l *layerFile) close() { l.f.Close() }
