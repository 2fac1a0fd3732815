// SPDX-License-Identifier: Apache-2.0

package id_test

import (
	"errors"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
)

func TestWorkload(t *testing.T) {
	td, err := id.ParseTrustDomain("bank.example")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ ns, sa, want string }{
		{"bank", "ledger", "spiffe://bank.example/ns/bank/sa/ledger"},
		{"a.b", "c_d-1", "spiffe://bank.example/ns/a.b/sa/c_d-1"},
		{"", "x", ""}, {"x", "", ""}, {"a/b", "x", ""}, {"..", "x", ""}, {"x", "a b", ""}, {"x", "ä", ""}, {"x", "a%2fb", ""},
	} {
		v, err := id.Workload(td, c.ns, c.sa)
		if c.want == "" {
			if !errors.Is(err, errs.Invalid) || !v.IsZero() {
				t.Errorf("Workload(%q, %q) = %v, %v; want invalid", c.ns, c.sa, v, err)
			}
			continue
		}
		if err != nil || v.String() != c.want {
			t.Errorf("Workload(%q, %q) = %v, %v; want %s", c.ns, c.sa, v, err, c.want)
		}
		if ns, sa, ok := id.Split(v); !ok || ns != c.ns || sa != c.sa {
			t.Errorf("Split(%v) = %q, %q, %v", v, ns, sa, ok)
		}
	}
}

func TestSplitRefusesOtherForms(t *testing.T) {
	for _, s := range []string{"spiffe://a", "spiffe://a/ns/x", "spiffe://a/ns/x/sa", "spiffe://a/sa/x/ns/y", "spiffe://a/ns/x/sa/y/z"} {
		v, err := id.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		if ns, sa, ok := id.Split(v); ok {
			t.Errorf("Split(%s) = %q, %q", s, ns, sa)
		}
	}
	if _, _, ok := id.Split(id.ID{}); ok {
		t.Error("Split of the zero ID")
	}
}

func TestBadIDs(t *testing.T) {
	for _, s := range []string{"", "bank", "http://a/b", "spiffe://", "spiffe://a/", "spiffe://A/b", "spiffe://a/../b", "spiffe://a/b?c", strings.Repeat("x", 5000)} {
		if v, err := id.Parse(s); !errors.Is(err, errs.Invalid) || !v.IsZero() {
			t.Errorf("Parse(%.20q) = %v, %v", s, v, err)
		} else if len(err.Error()) > 1000 {
			t.Errorf("the error about %d bytes has %d", len(s), len(err.Error()))
		}
	}
	for _, s := range []string{"", "Bank", "a b", "a/b", "spiffe://a/b c"} {
		if _, err := id.ParseTrustDomain(s); !errors.Is(err, errs.Invalid) {
			t.Errorf("ParseTrustDomain(%q): %v", s, err)
		}
	}
}
