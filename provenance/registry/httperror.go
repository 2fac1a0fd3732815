// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"

	"redoubt.dev/api/errs"
)

// The error codes of distribution-spec 1.1, "Error Codes".
const (
	codeBlobUnknown         = "BLOB_UNKNOWN"
	codeUploadInvalid       = "BLOB_UPLOAD_INVALID"
	codeUploadUnknown       = "BLOB_UPLOAD_UNKNOWN"
	codeDigestInvalid       = "DIGEST_INVALID"
	codeManifestBlobUnknown = "MANIFEST_BLOB_UNKNOWN"
	codeManifestInvalid     = "MANIFEST_INVALID"
	codeManifestUnknown     = "MANIFEST_UNKNOWN"
	codeNameInvalid         = "NAME_INVALID"
	codeNameUnknown         = "NAME_UNKNOWN"
	codeSizeInvalid         = "SIZE_INVALID"
	codeDenied              = "DENIED"
	codeUnsupported         = "UNSUPPORTED"
	codeTooMany             = "TOOMANYREQUESTS"
	codeUnknown             = "UNKNOWN"
)

// httpError is an error that knows its code, and its status when that is not
// the one of its kind.
type httpError struct {
	code   string
	status int
	err    error
}

func (e *httpError) Error() string { return e.err.Error() }
func (e *httpError) Unwrap() error { return e.err }

// coded gives err a code, unless it is nil or has one.
func coded(code string, err error) error {
	var have *httpError
	if err == nil || errors.As(err, &have) {
		return err
	}
	return &httpError{code: code, err: err}
}

// reading is coded for reads of stored content: there, bytes that do not match
// their digest are our fault, not the client's.
func reading(code string, err error) error {
	if errors.Is(err, errs.Unproven) {
		return &httpError{code: codeUnknown, status: http.StatusInternalServerError, err: err}
	}
	return coded(code, err)
}

// refused marks an error as the gate's.
type refused struct{ error }

func (r refused) Unwrap() error { return r.error }

// statusOf is the one place where kinds turn into status codes.
func statusOf(k errs.Kind) int {
	switch k {
	case errs.Invalid, errs.Unproven:
		return http.StatusBadRequest
	case errs.NotFound, errs.Conflict:
		return http.StatusNotFound
	case errs.Denied:
		return http.StatusForbidden
	case errs.TooLarge:
		return http.StatusRequestEntityTooLarge
	case errs.Unsupported:
		return http.StatusMethodNotAllowed
	case errs.Unavailable, errs.Stale:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// fail answers with an error body (distribution-spec 1.1, "Error Codes").
func (q *request) fail(code string, err error) {
	kind := errs.KindOf(err)
	status := statusOf(kind)
	var h *httpError
	if errors.As(err, &h) {
		code = h.code
		if h.status != 0 {
			status = h.status
		}
	}
	var r refused
	switch {
	case errors.As(err, &r):
		if code = codeDenied; status < http.StatusInternalServerError {
			status = http.StatusForbidden
		}
	case kind == errs.Denied:
		code = codeDenied
	case kind == errs.Unproven && code == codeManifestInvalid:
		code = codeDigestInvalid
	case kind == errs.Conflict && code == codeManifestInvalid:
		code = codeManifestBlobUnknown
	case kind == errs.Conflict:
		status = http.StatusConflict
	case kind == errs.TooLarge && code != codeTooMany:
		code = codeSizeInvalid
	}
	if code == codeTooMany {
		status = http.StatusTooManyRequests
	}
	text := err.Error()
	if kind == errs.Internal {
		text = "internal error" // the text may hold our paths
	}
	if code == "" {
		code = codeUnknown
	}
	type one struct {
		Code    string `json:"code"`
		Message string `json:"message"`
		Detail  any    `json:"detail,omitempty"`
	}
	writeJSON(q.w, status, "application/json", struct {
		Errors []one `json:"errors"`
	}{[]one{{Code: code, Message: text, Detail: detail(err)}}})
}

// detail gives the typed parts of an error to programs.
func detail(err error) any {
	var r refused
	if errors.As(err, &r) {
		var m interface{ Detail() any }
		if errors.As(r.error, &m) {
			return m.Detail()
		}
		return nil
	}
	var e *errs.Error
	if errors.As(err, &e) {
		return e
	}
	return nil
}

func unsupported(what string) error {
	return &errs.Error{Kind: errs.Unsupported, Subject: "registry", Seen: what}
}
