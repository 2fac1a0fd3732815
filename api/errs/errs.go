// SPDX-License-Identifier: Apache-2.0

// Package errs holds the kinds of error that every part of Redoubt shares.
//
// A kind says what a caller may do about it; the words say which field was
// wrong, what was expected, what was seen and how to mend it. Branch only on
// kinds: errors.Is(err, errs.Denied). Kinds turn into exit codes in
// cmd/redoubt and into HTTP status codes in node, and nowhere else.
package errs

import (
	"errors"
	"fmt"
	"strings"
)

// Kind is a class of error. It is itself an error, so that errors.Is(err,
// errs.NotFound) works on any wrapped Error.
type Kind string

// The kinds. A new one needs a row in cmd/redoubt's exit code table.
const (
	Invalid     Kind = "invalid"     // the input is malformed, of the wrong type, or out of range
	NotFound    Kind = "not found"   // the named thing does not exist
	Exists      Kind = "exists"      // the named thing exists already
	Denied      Kind = "denied"      // policy said no
	Unproven    Kind = "unproven"    // evidence is missing or does not verify
	Stale       Kind = "stale"       // the evidence or snapshot is too old
	Unavailable Kind = "unavailable" // a needed part does not answer; trying again may help
	Unsupported Kind = "unsupported" // valid elsewhere, without effect here
	TooLarge    Kind = "too large"   // a bound was met
	Conflict    Kind = "conflict"    // the state does not allow it now
	Internal    Kind = "internal"    // a fault of ours
)

func (k Kind) Error() string { return string(k) }

// Error is a typed error that a person can act on. Empty parts are left out
// of the text. It is immutable after creation and safe for concurrent use.
type Error struct {
	Kind     Kind   `json:"kind"`
	Subject  string `json:"subject,omitempty"`  // what it is about: "Deployment bank/ledger", a file, an image
	Field    string `json:"field,omitempty"`    // path of the field, e.g. "spec.replicas"
	Expected string `json:"expected,omitempty"` // what would have been right
	Seen     string `json:"seen,omitempty"`     // what was there instead
	Fix      string `json:"fix,omitempty"`      // one thing to do about it
	Err      error  `json:"-"`                  // cause; may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Subject != "" {
		b.WriteString(e.Subject + ": ")
	}
	if e.Field != "" {
		b.WriteString(e.Field + ": ")
	}
	b.WriteString(string(e.Kind))
	if e.Expected != "" {
		b.WriteString(": expected " + e.Expected)
	}
	if e.Seen != "" {
		b.WriteString(", seen " + e.Seen)
	}
	if e.Err != nil {
		b.WriteString(": " + e.Err.Error())
	}
	if e.Fix != "" {
		b.WriteString("; fix: " + e.Fix)
	}
	return b.String()
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is this error's kind.
func (e *Error) Is(target error) bool {
	k, ok := target.(Kind)
	return ok && k == e.Kind
}

// New makes an error of kind k about subject with a formatted cause.
func New(k Kind, subject, format string, args ...any) *Error {
	return &Error{Kind: k, Subject: subject, Err: fmt.Errorf(format, args...)}
}

// KindOf gives the kind of the outermost typed error in err's tree, or
// Internal when there is none. KindOf(nil) is "".
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	var k Kind
	if errors.As(err, &k) {
		return k
	}
	return Internal
}
