// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
)

// wholeBlob is up to where a blob is read before its first byte is sent, so
// that decay shows as a proper error.
const wholeBlob = 1 << 20

func (q *request) blobs() func() error {
	switch q.Method {
	case http.MethodGet, http.MethodHead:
		return q.getBlob
	case http.MethodDelete:
		return q.deleteBlob
	}
	return q.refuseMethod
}

func (q *request) getBlob() error {
	d, err := artifact.ParseDigest(q.arg)
	if err != nil {
		return coded(codeDigestInvalid, err)
	}
	size, err := q.s.Store.StatBlob(q.Context(), q.repo, d)
	if err != nil {
		return coded(codeBlobUnknown, err)
	}
	h := q.w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
	h.Set("Accept-Ranges", "bytes")
	if q.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(size, 10))
		q.w.WriteHeader(http.StatusOK)
		return nil
	}
	if rng := q.Header.Get("Range"); rng != "" {
		return q.part(d, rng)
	}
	return q.whole(d)
}

// whole sends a blob. A small one is checked first; of a large one the last
// part is held back until the digest is known, and the connection is broken
// off when it is wrong: the client has then fewer bytes than Content-Length.
func (q *request) whole(d artifact.Digest) error {
	r, size, err := q.s.Store.Blob(q.Context(), q.repo, d)
	if err != nil {
		return coded(codeBlobUnknown, err)
	}
	defer r.Close()
	if size <= wholeBlob {
		b, err := io.ReadAll(r)
		if err != nil {
			return reading(codeBlobUnknown, err)
		}
		q.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		q.w.Write(b) // the client is gone when this fails
		return nil
	}
	q.w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
	if _, err := io.CopyBuffer(q.slow(), onlyReader{r}, make([]byte, 256<<10)); err != nil {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	return nil
}

// part sends one range. All of the blob is checked first: a part alone proves
// nothing.
func (q *request) part(d artifact.Digest, spec string) error {
	r, size, err := q.s.Store.Blob(q.Context(), q.repo, d)
	if err != nil {
		return coded(codeBlobUnknown, err)
	}
	defer r.Close()
	from, to, ok := parseRange(spec, size)
	if !ok {
		q.w.Header().Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return &httpError{code: codeSizeInvalid, status: http.StatusRequestedRangeNotSatisfiable, err: &errs.Error{Kind: errs.Invalid, Field: "Range", Expected: "one range within the blob", Seen: fmt.Sprintf("%.64q", spec)}}
	}
	if _, err := io.Copy(io.Discard, onlyReader{r}); err != nil {
		return reading(codeBlobUnknown, err)
	}
	v, ok := r.(*verifying)
	if !ok {
		return &errs.Error{Kind: errs.Internal, Subject: "blob"}
	}
	h := q.w.Header()
	h.Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, to, size))
	h.Set("Content-Length", strconv.FormatInt(to-from+1, 10))
	q.w.WriteHeader(http.StatusPartialContent)
	if _, err := io.CopyBuffer(q.slow(), onlyReader{io.NewSectionReader(v.f, from, to-from+1)}, make([]byte, 256<<10)); err != nil {
		panic(http.ErrAbortHandler)
	}
	return nil
}

// parseRange reads "bytes=from-to" with one range (RFC 9110 §14.1.2).
func parseRange(s string, size int64) (from, to int64, ok bool) {
	s, ok = strings.CutPrefix(s, "bytes=")
	a, b, dash := strings.Cut(s, "-")
	if !ok || !dash || strings.Contains(s, ",") {
		return 0, 0, false
	}
	if a == "" { // the last b bytes
		n, err := strconv.ParseUint(b, 10, 62)
		if err != nil || n == 0 || size == 0 {
			return 0, 0, false
		}
		return max(0, size-int64(n)), size - 1, true
	}
	f, err := strconv.ParseUint(a, 10, 62)
	if err != nil || int64(f) >= size {
		return 0, 0, false
	}
	if b == "" {
		return int64(f), size - 1, true
	}
	t, err := strconv.ParseUint(b, 10, 62)
	if err != nil || t < f {
		return 0, 0, false
	}
	return int64(f), min(int64(t), size-1), true
}

func (q *request) deleteBlob() error {
	d, err := artifact.ParseDigest(q.arg)
	if err != nil {
		return coded(codeDigestInvalid, err)
	}
	if err := q.s.Store.DeleteBlob(q.Context(), q.repo, d); err != nil {
		return coded(codeBlobUnknown, err)
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

// onlyReader hides ReadFrom and WriteTo, so that CopyBuffer uses the buffer.
type onlyReader struct{ io.Reader }

// slow wraps the answer so that a client that reads nothing is dropped.
func (q *request) slow() io.Writer {
	c := http.NewResponseController(q.w)
	return writerFunc(func(p []byte) (int, error) {
		c.SetWriteDeadline(time.Now().Add(q.idle())) // without support the server's own time-out holds
		return q.w.Write(p)
	})
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func (q *request) idle() time.Duration {
	if q.s.IdleBody > 0 {
		return q.s.IdleBody
	}
	return 30 * time.Second
}

// patient reads the request's body; a client that sends nothing for a while
// is dropped. The deadline ends with the body, or it would end the request.
type patient struct {
	q *request
	c *http.ResponseController
}

func (q *request) patient() io.Reader { return patient{q, http.NewResponseController(q.w)} }

func (p patient) Read(b []byte) (int, error) {
	p.c.SetReadDeadline(time.Now().Add(p.q.idle()))
	n, err := p.q.Body.Read(b)
	if err != nil {
		p.c.SetReadDeadline(time.Time{})
	}
	return n, err
}

// body reads a small body whole.
func (q *request) body(max int64) ([]byte, error) {
	if q.ContentLength > max {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: "request body", Expected: fmt.Sprintf("at most %d bytes", max)}
	}
	b, err := conf.ReadAll(q.patient(), "request body", max)
	if err != nil && !errors.Is(err, errs.TooLarge) {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "request body", Expected: "a whole body", Err: err}
	}
	return bytes.Clone(b), err
}
