// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
)

// maxUploads bounds the uploads under way; an attacker who opens more keeps
// others from opening one, not the disk from being used.
const maxUploads = 256

// uploadRE is the form of an upload's name, so that it is a file's name and
// nothing else: our random text and a digest of the repository it is for.
var uploadRE = regexp.MustCompile(`^[A-Z2-7]{26}-[0-9a-f]{16}$`)

func (q *request) uploads() func() error {
	switch {
	case q.Method == http.MethodPost && q.arg == "":
		return q.openUpload
	case q.arg == "":
		return q.refuseMethod
	case q.Method == http.MethodGet:
		return q.withUpload(q.uploadStatus)
	case q.Method == http.MethodPatch:
		return q.withUpload(q.appendUpload)
	case q.Method == http.MethodPut:
		return q.withUpload(q.closeUpload)
	case q.Method == http.MethodDelete:
		return q.withUpload(q.cancelUpload)
	}
	return q.refuseMethod
}

// openUpload begins an upload, or ends it at once: with a digest the body is
// the blob, with mount another repository has it already.
func (q *request) openUpload() error {
	v := q.URL.Query()
	if m := v.Get("mount"); m != "" && v.Get("from") != "" {
		d, err := artifact.ParseDigest(m)
		if err != nil {
			return coded(codeDigestInvalid, err)
		}
		if err = q.s.Store.Mount(q.Context(), q.repo, v.Get("from"), d); err == nil {
			q.created(d)
			return nil
		}
		if !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Invalid) {
			return err
		}
	} else if v.Get("digest") != "" {
		d, err := artifact.ParseDigest(v.Get("digest"))
		if err != nil {
			return coded(codeDigestInvalid, err)
		}
		if _, err := q.s.Store.PutBlob(q.Context(), q.repo, d, q.patient()); err != nil {
			return coded(codeDigestInvalid, err)
		}
		q.created(d)
		return nil
	}
	if entries, err := os.ReadDir(filepath.Join(q.s.Store.dir, "uploads")); err != nil || len(entries) >= maxUploads {
		return errors.Join(err, &httpError{code: codeTooMany, err: &errs.Error{Kind: errs.TooLarge, Subject: "uploads", Expected: fmt.Sprintf("at most %d at a time", maxUploads)}})
	}
	id := rand.Text() + "-" + repoMark(q.repo)
	f, err := os.OpenFile(q.s.Store.uploadPath(id), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("open upload: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("open upload: %w", err)
	}
	q.accepted(id, 0, http.StatusAccepted)
	return nil
}

func (s *Store) uploadPath(id string) string { return filepath.Join(s.dir, "uploads", id) }

// repoMark ties an upload to its repository: it cannot be ended in another.
func repoMark(repo string) string {
	s := sha256.Sum256([]byte(repo))
	return fmt.Sprintf("%x", s[:8])
}

// withUpload opens the upload that the path names and keeps others from it.
func (q *request) withUpload(do func(f *os.File, size int64) error) func() error {
	return func() error {
		unknown := &httpError{code: codeUploadUnknown, err: missing("upload", "one that was begun here")}
		if !uploadRE.MatchString(q.arg) || !strings.HasSuffix(q.arg, repoMark(q.repo)) {
			return unknown
		}
		f, err := os.OpenFile(q.s.Store.uploadPath(q.arg), os.O_RDWR, 0)
		if errors.Is(err, fs.ErrNotExist) {
			return unknown
		}
		if err != nil {
			return fmt.Errorf("open upload: %w", err)
		}
		defer f.Close()
		if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			return &httpError{code: codeTooMany, err: &errs.Error{Kind: errs.Conflict, Subject: "upload", Expected: "one request at a time", Seen: "another one"}}
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			return fmt.Errorf("open upload: %w", err)
		}
		return do(f, size)
	}
}

func (q *request) uploadStatus(_ *os.File, size int64) error {
	q.accepted(q.arg, size, http.StatusNoContent)
	return nil
}

// appendUpload adds a chunk. What came before a broken connection stays; the
// client asks for the status and goes on from there.
func (q *request) appendUpload(f *os.File, size int64) error {
	n, err := q.chunk(f, size)
	if err != nil {
		return err
	}
	q.accepted(q.arg, size+n, http.StatusAccepted)
	return nil
}

func (q *request) chunk(f *os.File, size int64) (int64, error) {
	if cr := q.Header.Get("Content-Range"); cr != "" {
		from, to, ok := strings.Cut(strings.TrimPrefix(cr, "bytes "), "-")
		a, err1 := strconv.ParseInt(from, 10, 64)
		b, err2 := strconv.ParseInt(to, 10, 64)
		if !ok || err1 != nil || err2 != nil || a != size || b < a-1 || q.ContentLength >= 0 && b-a+1 != q.ContentLength {
			q.position(q.arg, size)
			return 0, &httpError{code: codeUploadInvalid, status: http.StatusRequestedRangeNotSatisfiable,
				err: &errs.Error{Kind: errs.Invalid, Field: "Content-Range", Expected: fmt.Sprintf("a chunk that begins at %d and is as long as the body", size), Seen: fmt.Sprintf("%.64q", cr)}}
		}
	}
	left := q.s.Store.cfg.MaxBlob - size
	n, err := io.Copy(f, io.LimitReader(q.patient(), left+1))
	if err != nil {
		return n, &httpError{code: codeUploadInvalid, status: http.StatusBadRequest, err: &errs.Error{Kind: errs.Invalid, Subject: "upload", Expected: "a whole body", Err: err}}
	}
	if n > left {
		return n, errors.Join(os.Remove(f.Name()), coded(codeSizeInvalid, &errs.Error{Kind: errs.TooLarge, Subject: "blob", Expected: fmt.Sprintf("at most %d bytes", q.s.Store.cfg.MaxBlob)}))
	}
	return n, nil
}

// closeUpload adds the last chunk, if any, and makes the upload content when
// its digest is the one that the client names.
func (q *request) closeUpload(f *os.File, size int64) error {
	d, err := artifact.ParseDigest(q.URL.Query().Get("digest"))
	if err != nil {
		return coded(codeDigestInvalid, err)
	}
	if q.ContentLength != 0 {
		if _, err := q.chunk(f, size); err != nil {
			return err
		}
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("close upload: %w", err)
	}
	h := sha256.New()
	if _, err := io.Copy(h, stopping{q.Context(), f}); err != nil {
		return fmt.Errorf("close upload: %w", err)
	}
	if got := sum(h); got != d {
		return errors.Join(coded(codeDigestInvalid, mismatch(d, got)), os.Remove(f.Name()))
	}
	if err := q.s.Store.keep(q.repo, d, f); err != nil {
		return err
	}
	q.created(d)
	return nil
}

func (q *request) cancelUpload(f *os.File, _ int64) error {
	if err := os.Remove(f.Name()); err != nil {
		return fmt.Errorf("cancel upload: %w", err)
	}
	q.w.WriteHeader(http.StatusNoContent)
	return nil
}

// position says where an upload stands.
func (q *request) position(id string, size int64) {
	h := q.w.Header()
	h.Set("Location", "/v2/"+q.repo+"/blobs/uploads/"+id)
	h.Set("Range", fmt.Sprintf("0-%d", max(0, size-1)))
	h.Set("Docker-Upload-UUID", id)
}

func (q *request) accepted(id string, size int64, status int) {
	q.position(id, size)
	q.w.Header().Set("Content-Length", "0")
	q.w.WriteHeader(status)
}

func (q *request) created(d artifact.Digest) {
	h := q.w.Header()
	h.Set("Location", "/v2/"+q.repo+"/blobs/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	h.Set("Content-Length", "0")
	q.w.WriteHeader(http.StatusCreated)
}
