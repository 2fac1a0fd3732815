// SPDX-License-Identifier: Apache-2.0

package artifact_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
)

const hex64 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

func TestParseDigest(t *testing.T) {
	d, err := artifact.ParseDigest("sha256:" + hex64)
	if err != nil || d != artifact.DigestOf(nil) || d.Hex() != hex64 || d.IsZero() {
		t.Errorf("%v, %v", d, err)
	}
	for _, s := range []string{"", "sha256:", hex64, "sha512:" + hex64, "sha256:" + hex64[1:], "sha256:" + hex64 + "0",
		"sha256:" + strings.ToUpper(hex64), "SHA256:" + hex64, "sha256:" + hex64[:63] + "g", "sha256:" + hex64[:62] + "é", " sha256:" + hex64} {
		if d, err := artifact.ParseDigest(s); !errors.Is(err, errs.Invalid) || !d.IsZero() {
			t.Errorf("ParseDigest(%q) = %v, %v", s, d, err)
		}
	}
}

func TestDigestJSON(t *testing.T) {
	type doc struct {
		D artifact.Digest `json:"d"`
	}
	for _, c := range []struct {
		in string
		ok bool
	}{{`{"d":""}`, true}, {`{}`, true}, {`{"d":"sha256:` + hex64 + `"}`, true}, {`{"d":"md5:1"}`, false}, {`{"d":7}`, false}} {
		var v doc
		if err := json.Unmarshal([]byte(c.in), &v); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		var again doc
		if b, err := json.Marshal(v); err != nil || json.Unmarshal(b, &again) != nil || again != v {
			t.Errorf("%s came back as %v", c.in, again)
		}
	}
}

func TestParseRef(t *testing.T) {
	at := "@sha256:" + hex64
	for _, c := range []struct{ in, want string }{
		{"nginx", "docker.io/library/nginx:latest"},
		{"nginx:1.2", "docker.io/library/nginx:1.2"},
		{"docker.io/nginx", "docker.io/library/nginx:latest"},
		{"index.docker.io/nginx", "docker.io/library/nginx:latest"},
		{"bank/ledger", "docker.io/bank/ledger:latest"},
		{"registry.bank.example/bank/ledger:1.0", "registry.bank.example/bank/ledger:1.0"},
		{"Registry.Bank.example/bank/ledger:1.0", "registry.bank.example/bank/ledger:1.0"},
		{"localhost/a", "localhost/a:latest"},
		{"localhost:5000/a", "localhost:5000/a:latest"},
		{"r.example:443/a/b/c:T-1_x.y", "r.example:443/a/b/c:T-1_x.y"},
		{"nginx" + at, "docker.io/library/nginx" + at},
		{"r.example/a:1" + at, "r.example/a:1" + at},
		{"r.example/a__b-c.d/e", "r.example/a__b-c.d/e:latest"},
		{"", ""}, {"/", ""}, {"a/", ""}, {"/a", ""}, {"a//b", ""}, {"A/b", ""}, {"a:", ""}, {"a:b:c", ""}, {"a@", ""}, {"a@sha256:12", ""}, {"a" + at + at, ""},
		{"a:" + strings.Repeat("t", 129), ""}, {strings.Repeat("a", 256), ""}, {strings.Repeat("a", 513), ""}, {"-r.example/a", ""}, {"r.example:/a", ""},
		{"r.example:99999999/a", ""}, {"a b", ""}, {"a\n", ""}, {"a:1\n", ""}, {"r.example/../a", ""}, {"r.example/a/./b", ""}, {"r.example/é", ""}, {"a___b", ""},
	} {
		r, err := artifact.ParseRef(c.in)
		if c.want == "" {
			if !errors.Is(err, errs.Invalid) || r != (artifact.Ref{}) {
				t.Errorf("ParseRef(%.40q) = %v, %v; want invalid", c.in, r, err)
			}
			continue
		}
		if err != nil || r.String() != c.want {
			t.Errorf("ParseRef(%q) = %v, %v; want %s", c.in, r, err, c.want)
		}
	}
}

func TestAt(t *testing.T) {
	r, err := artifact.ParseRef("r.example/a:1")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := r.At(artifact.DigestOf(nil)).String(), "r.example/a@sha256:"+hex64; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func FuzzParseDigest(f *testing.F) {
	f.Add("sha256:" + hex64)
	f.Add("sha256:")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := artifact.ParseDigest(s)
		if (err == nil) == d.IsZero() || err == nil && d.String() != s {
			t.Errorf("%q → %v, %v", s, d, err)
		}
	})
}

// What parses has one spelling, and that parses to the same.
func FuzzParseRef(f *testing.F) {
	for _, s := range []string{"nginx", "r.example:443/a/b:1@sha256:" + hex64, "localhost:5000/a", "index.docker.io/x", "A.b/c"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		r, err := artifact.ParseRef(s)
		if err != nil {
			if !errors.Is(err, errs.Invalid) || r != (artifact.Ref{}) {
				t.Errorf("%q → %v, %v", s, r, err)
			}
			return
		}
		again, err := artifact.ParseRef(r.String())
		if err != nil || again != r {
			t.Errorf("%q → %v → %v, %v", s, r, again, err)
		}
		if r.Host == "" || r.Repository == "" || r.Tag == "" && r.Digest.IsZero() || strings.ContainsAny(r.Name(), " \x00\n\\") || strings.Contains(r.Name(), "..") {
			t.Errorf("%q → %#v", s, r)
		}
	})
}
