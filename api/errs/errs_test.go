// SPDX-License-Identifier: Apache-2.0

package errs_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
)

func TestText(t *testing.T) {
	cause := errors.New("the cause")
	for _, c := range []struct {
		err  *errs.Error
		want string
	}{
		{&errs.Error{Kind: errs.Denied}, "denied"},
		{&errs.Error{Kind: errs.Invalid, Subject: "Pod bank/x", Field: "spec.replicas", Expected: "a number", Seen: "\"many\"", Fix: "write 3", Err: cause},
			"Pod bank/x: spec.replicas: invalid: expected a number, seen \"many\": the cause; fix: write 3"},
		{&errs.Error{Kind: errs.NotFound, Subject: "pod x", Err: cause}, "pod x: not found: the cause"},
		{errs.New(errs.Conflict, "pod x", "it has %d", 2), "pod x: conflict: it has 2"},
	} {
		if got := c.err.Error(); got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
	}
}

func TestKinds(t *testing.T) {
	inner := errs.New(errs.NotFound, "x", "file: %w", fs.ErrNotExist)
	outer := &errs.Error{Kind: errs.Denied, Err: inner}
	for _, c := range []struct {
		err  error
		kind errs.Kind
		is   []error
		not  []error
	}{
		{nil, "", nil, []error{errs.Invalid}},
		{errors.New("plain"), errs.Internal, nil, []error{errs.Internal}},
		{errs.Stale, errs.Stale, []error{errs.Stale}, []error{errs.Denied}},
		{fmt.Errorf("wrapped: %w", inner), errs.NotFound, []error{errs.NotFound, fs.ErrNotExist}, []error{errs.Denied}},
		{outer, errs.Denied, []error{errs.Denied, errs.NotFound, fs.ErrNotExist}, []error{errs.Invalid}},
		{errors.Join(errors.New("plain"), inner), errs.NotFound, []error{errs.NotFound}, nil},
		{fmt.Errorf("two: %w, %w", errs.Unproven, inner), errs.NotFound, []error{errs.Unproven, errs.NotFound}, nil},
	} {
		if got := errs.KindOf(c.err); got != c.kind {
			t.Errorf("KindOf(%v) = %q, want %q", c.err, got, c.kind)
		}
		for _, is := range c.is {
			if !errors.Is(c.err, is) {
				t.Errorf("%v is not %v", c.err, is)
			}
		}
		for _, not := range c.not {
			if errors.Is(c.err, not) {
				t.Errorf("%v is %v", c.err, not)
			}
		}
	}
}

// The cause stays on this machine: it may hold what the wire must not carry.
func TestJSONLeavesTheCauseOut(t *testing.T) {
	b, err := json.Marshal(&errs.Error{Kind: errs.Invalid, Field: "f", Err: errors.New("private")})
	if err != nil || strings.Contains(string(b), "private") || !strings.Contains(string(b), "\"kind\":\"invalid\"") {
		t.Errorf("%s, %v", b, err)
	}
}
