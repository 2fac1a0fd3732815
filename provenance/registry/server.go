// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/manifest"
)

// Server serves a Store as an OCI distribution-spec 1.1 registry. It is an
// http.Handler; whoever listens sets ReadHeaderTimeout and IdleTimeout. A
// client that stops in the middle of a body is dropped after IdleBody.
//
// The zero flags are the safe ones: everything can be read, nothing written.
// There is no login: whoever can connect may read, and with AllowPush store
// content; only the gate decides what gets a name. Listen where only those
// can connect who may.
type Server struct {
	Store       *Store
	AllowPush   bool
	AllowDelete bool
	IdleBody    time.Duration // 0 stands for 30 s
}

// request is one request on one repository.
type request struct {
	*http.Request
	w    http.ResponseWriter
	s    *Server
	repo string
	arg  string // what follows the verb: a digest, a tag, an upload
}

// ServeHTTP finds the endpoint (distribution-spec 1.1, "Endpoints").
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Docker-Distribution-API-Version", "registry/2.0")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	rest, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok && r.URL.Path != "/v2" {
		http.NotFound(w, r)
		return
	}
	if rest == "" {
		writeJSON(w, http.StatusOK, "application/json", struct{}{})
		return
	}
	q := &request{Request: r, w: w, s: s}
	var handle func() error
	if rest == "_catalog" {
		handle = q.catalog
	} else if handle = q.route(strings.Split(rest, "/")); handle == nil {
		q.fail(codeNameUnknown, missing("endpoint", "one of distribution-spec 1.1"))
		return
	} else if err := checkRepo(q.repo); err != nil {
		q.fail(codeNameInvalid, err)
		return
	}
	switch r.Method {
	case http.MethodGet, http.MethodHead:
	case http.MethodPut, http.MethodPost, http.MethodPatch:
		if !s.AllowPush {
			q.fail(codeUnsupported, unsupported("this registry does not take pushes"))
			return
		}
	case http.MethodDelete:
		if upload := strings.Contains(rest, "/blobs/uploads/"); !(upload && s.AllowPush || s.AllowDelete) {
			q.fail(codeUnsupported, unsupported("this registry does not delete"))
			return
		}
	}
	if err := handle(); err != nil {
		q.fail("", err)
	}
}

// route finds the handler from the end of the path, for a repository's name
// has slashes and may itself contain "blobs".
func (q *request) route(p []string) func() error {
	n := len(p)
	name := func(k int) bool {
		if n <= k {
			return false
		}
		q.repo, q.arg = strings.Join(p[:n-k], "/"), p[n-1]
		return true
	}
	switch {
	case n > 3 && p[n-3] == "blobs" && p[n-2] == "uploads" && name(3):
		return q.uploads()
	case n > 2 && p[n-2] == "blobs" && name(2):
		return q.blobs()
	case n > 2 && p[n-2] == "manifests" && name(2):
		return q.manifests()
	case n > 2 && p[n-2] == "tags" && p[n-1] == "list" && name(2):
		return q.only(q.tags)
	case n > 2 && p[n-2] == "referrers" && name(2):
		return q.only(q.referrers)
	}
	return nil
}

// only is for endpoints that can be read and nothing else.
func (q *request) only(get func() error) func() error {
	if q.Method == http.MethodGet || q.Method == http.MethodHead {
		return get
	}
	return q.refuseMethod
}

func (q *request) refuseMethod() error {
	return &httpError{code: codeUnsupported, err: unsupported("method " + q.Method)}
}

func (q *request) manifests() func() error {
	switch q.Method {
	case http.MethodGet, http.MethodHead:
		return q.getManifest
	case http.MethodPut:
		return q.putManifest
	case http.MethodDelete:
		return q.deleteManifest
	}
	return q.refuseMethod
}

func (q *request) ref() artifact.Ref {
	return artifact.Ref{Host: q.s.Store.Host(), Repository: q.repo, Tag: q.arg}
}

// resolve reads the reference, a digest or a tag.
func (q *request) resolve(ctx context.Context) (artifact.Digest, error) {
	if strings.Contains(q.arg, ":") {
		d, err := artifact.ParseDigest(q.arg)
		return d, coded(codeDigestInvalid, err)
	}
	d, err := q.s.Store.Resolve(ctx, q.ref())
	return d, coded(codeManifestUnknown, err)
}

func (q *request) getManifest() error {
	d, err := q.resolve(q.Context())
	if err != nil {
		return err
	}
	mt, raw, err := q.s.Store.Manifest(q.Context(), q.repo, d)
	if err != nil {
		return reading(codeManifestUnknown, err)
	}
	h := q.w.Header()
	h.Set("Content-Type", mt)
	h.Set("Content-Length", strconv.Itoa(len(raw)))
	h.Set("Docker-Content-Digest", d.String())
	h.Set("ETag", `"`+d.String()+`"`)
	q.w.WriteHeader(http.StatusOK)
	if q.Method == http.MethodGet {
		q.w.Write(raw) // the client is gone when this fails
	}
	return nil
}

func (q *request) putManifest() error {
	raw, err := q.body(manifest.MaxSize)
	if err != nil {
		return coded(codeSizeInvalid, err)
	}
	var want artifact.Digest
	byDigest := strings.Contains(q.arg, ":")
	if byDigest {
		if want, err = artifact.ParseDigest(q.arg); err != nil {
			return coded(codeDigestInvalid, err)
		}
	} else if r, err := artifact.ParseRef("localhost/x:" + q.arg); err != nil || r.Tag != q.arg {
		return &httpError{code: codeManifestInvalid, err: &errs.Error{Kind: errs.Invalid, Field: "tag", Expected: "at most 128 letters, digits, '_', '.', '-'", Seen: fmt.Sprintf("%.128q", q.arg)}}
	}
	ct, _, _ := strings.Cut(q.Header.Get("Content-Type"), ";")
	d, err := q.s.Store.PutManifest(q.Context(), q.repo, strings.TrimSpace(ct), raw, want)
	if err != nil {
		return coded(codeManifestInvalid, err)
	}
	if !byDigest {
		if err := q.s.Store.Tag(q.Context(), q.ref(), d); err != nil {
			return coded(codeManifestInvalid, err)
		}
	}
	h := q.w.Header()
	if m, err := manifest.Parse(strings.TrimSpace(ct), raw); err == nil && m.Subject != nil {
		h.Set("OCI-Subject", m.Subject.Digest.String())
	}
	h.Set("Location", "/v2/"+q.repo+"/manifests/"+d.String())
	h.Set("Docker-Content-Digest", d.String())
	q.w.WriteHeader(http.StatusCreated)
	return nil
}

func (q *request) deleteManifest() error {
	var err error
	if strings.Contains(q.arg, ":") {
		d, perr := artifact.ParseDigest(q.arg)
		if perr != nil {
			return coded(codeDigestInvalid, perr)
		}
		err = q.s.Store.DeleteManifest(q.Context(), q.repo, d)
	} else {
		err = q.s.Store.DeleteTag(q.Context(), q.ref())
	}
	if err != nil {
		return coded(codeManifestUnknown, err)
	}
	q.w.WriteHeader(http.StatusAccepted)
	return nil
}

func (q *request) referrers() error {
	d, err := artifact.ParseDigest(q.arg)
	if err != nil {
		return coded(codeDigestInvalid, err)
	}
	kind := q.URL.Query().Get("artifactType")
	list, err := q.s.Store.Referrers(q.Context(), q.repo, d, kind)
	if err != nil {
		return reading(codeManifestUnknown, err)
	}
	if kind != "" {
		q.w.Header().Set("OCI-Filters-Applied", "artifactType")
	}
	writeJSON(q.w, http.StatusOK, manifest.OCIIndex, struct {
		SchemaVersion int                   `json:"schemaVersion"`
		MediaType     string                `json:"mediaType"`
		Manifests     []manifest.Descriptor `json:"manifests"`
	}{2, manifest.OCIIndex, list})
	return nil
}

func (q *request) tags() error {
	all, err := q.s.Store.Tags(q.Context(), q.repo)
	if err != nil {
		return coded(codeNameUnknown, err)
	}
	page, err := q.page(all)
	if err != nil {
		return err
	}
	writeJSON(q.w, http.StatusOK, "application/json", struct {
		Name string   `json:"name"`
		Tags []string `json:"tags"`
	}{q.repo, page})
	return nil
}

func (q *request) catalog() error {
	all, err := q.s.Store.Repositories(q.Context())
	if err != nil {
		return err
	}
	page, err := q.page(all)
	if err != nil {
		return err
	}
	writeJSON(q.w, http.StatusOK, "application/json", struct {
		Repositories []string `json:"repositories"`
	}{page})
	return nil
}

// page cuts a sorted list by the parameters n and last, and names the next
// page in the Link header (distribution-spec 1.1, "Listing Tags").
func (q *request) page(all []string) ([]string, error) {
	v := q.URL.Query()
	if last := v.Get("last"); last != "" {
		i := 0
		for i < len(all) && all[i] <= last {
			i++
		}
		all = all[i:]
	}
	if !v.Has("n") {
		return all, nil
	}
	n, err := strconv.Atoi(v.Get("n"))
	if err != nil || n < 0 {
		return nil, &httpError{code: codeUnsupported, status: http.StatusBadRequest, err: &errs.Error{Kind: errs.Invalid, Field: "n", Expected: "a number", Seen: fmt.Sprintf("%.32q", v.Get("n"))}}
	}
	if n >= len(all) {
		return all, nil
	}
	if n > 0 {
		next := url.Values{"n": {strconv.Itoa(n)}, "last": {all[n-1]}}
		q.w.Header().Set("Link", "<"+q.URL.Path+"?"+next.Encode()+`>; rel="next"`)
	}
	return all[:n], nil
}

func writeJSON(w http.ResponseWriter, status int, contentType string, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		panic("registry: an answer does not encode: " + err.Error())
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b) // the client is gone when this fails
}
