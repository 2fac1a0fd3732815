// SPDX-License-Identifier: Apache-2.0

package control_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

// An error keeps its kind and its text over the wire, and so do all of many;
// its cause stays at home.
func TestErrorsCrossTheWire(t *testing.T) {
	denied := &errs.Error{Kind: errs.Denied, Subject: "x", Field: "f", Expected: "a", Seen: "b", Fix: "c", Err: errors.New("cause")}
	for _, c := range []struct {
		err   error
		kinds []errs.Kind
	}{
		{denied, []errs.Kind{errs.Denied}},
		{fmt.Errorf("outer: %w", denied), []errs.Kind{errs.Denied}},
		{errors.New("plain"), []errs.Kind{errs.Internal}},
		{errs.NotFound, []errs.Kind{errs.NotFound}},
		{errors.Join(denied, errors.Join(errs.New(errs.Invalid, "y", "z"), errs.Stale)), []errs.Kind{errs.Denied, errs.Invalid, errs.Stale}},
		{fmt.Errorf("outer: %w", errors.Join(denied, errs.Stale)), []errs.Kind{errs.Denied}},
	} {
		b, err := json.Marshal(control.Wire(c.err))
		if err != nil {
			t.Fatal(err)
		}
		var e control.Error
		if err := json.Unmarshal(b, &e); err != nil {
			t.Fatal(err)
		}
		got := e.Native()
		if got.Error() != c.err.Error() {
			t.Errorf("%q came as %q", c.err, got)
		}
		for _, k := range c.kinds {
			if !errors.Is(got, k) {
				t.Errorf("%q is not %s any more", c.err, k)
			}
		}
	}
}
