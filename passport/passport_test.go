// SPDX-License-Identifier: Apache-2.0

package passport_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/passport"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/verify"
)

// facts are those of a pod with two containers of two images.
func facts(t testing.TB, in *provenancetest.Installation) passport.Facts {
	t.Helper()
	who, err := id.Workload(in.Domain, "bank", "ledger")
	if err != nil {
		t.Fatal(err)
	}
	now := in.Clock()
	f := passport.Facts{
		Instance:      passport.Instance{Namespace: "bank", Pod: "ledger-0", UID: "5f1c", Node: "node-1", SandboxID: "sb-1", Started: now},
		Sandbox:       passport.Sandbox{Kind: "sentry", Kernel: "4.4.0", Binary: artifact.DigestOf([]byte("sentry"))},
		Identity:      passport.Identity{ID: who, Serial: "1f2e", KeyHash: artifact.DigestOf([]byte("key")), NotAfter: now.Add(time.Hour)},
		Authorization: artifact.DigestOf([]byte("policy")),
		IssuedOn:      now,
	}
	for _, name := range []string{"bank/ledger:1", "bank/sidecar:1"} {
		in.Publish(t, name, name)
		p, err := verify.Verify(in.Evidence(t, name), in.Policies, in.Root, now)
		if err != nil {
			t.Fatal(err)
		}
		f.Containers = append(f.Containers, passport.Container{Name: strings.Trim(name[5:], ":1"), Permit: p, EROFS: artifact.DigestOf([]byte(name))})
	}
	return f
}

func issue(t testing.TB, in *provenancetest.Installation) []byte {
	t.Helper()
	raw, err := passport.Issue(facts(t, in), in.Keys)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func TestPassport(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	raw := issue(t, in)
	// The other machine has the file and the root file, nothing else.
	root, err := verify.ParseTrustRoot(in.Keys.TrustRoot())
	if err != nil {
		t.Fatal(err)
	}
	r, err := passport.Verify(raw, root, in.Clock())
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Containers) != 2 || r.Instance.Pod != "ledger-0" || !r.Current || r.Issuer != "spiffe://bank.example/ns/redoubt-system/sa/node" {
		t.Errorf("report %+v", r)
	}
	var names []string
	for _, l := range r.Containers[0].Links {
		names = append(names, l.Name)
	}
	if got := strings.Join(names, " "); got != "image policy signature provenance source sbom" {
		t.Errorf("links %q", got)
	}
	if r, err := passport.Verify(raw, root, in.Clock().Add(2*time.Hour)); err != nil || r.Current {
		t.Errorf("after the SVID's end: current %v, error %v; want a report that is not current", r, err)
	}
}

// link asserts that err is a Denied at one of the given links.
func link(t *testing.T, err error, links ...string) {
	t.Helper()
	var d *passport.Denied
	if !errors.As(err, &d) {
		t.Fatalf("error %v, want a Denied", err)
	}
	for _, l := range links {
		if d.Link == l {
			return
		}
	}
	t.Errorf("Denied at link %q (%v), want %q", d.Link, err, links)
}

// TestEveryByte changes each byte of a passport in turn, at a stride that
// keeps the test short; no changed passport verifies. (At stride 1 it takes four
// minutes, and passes too.)
func TestEveryByte(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	raw := issue(t, in)
	stride := 331
	if testing.Short() {
		stride = 2011
	}
	for i := 0; i < len(raw); i += stride {
		for _, x := range []byte{raw[i] ^ 1, raw[i] ^ 0x20, ' '} {
			if x == raw[i] {
				continue
			}
			changed := bytes.Clone(raw)
			changed[i] = x
			if _, err := passport.Verify(changed, in.Root, in.Clock()); err == nil {
				t.Fatalf("byte %d changed from %q to %q: it still verifies", i, raw[i], x)
			} else {
				var d *passport.Denied
				if !errors.As(err, &d) || d.Link == "" {
					t.Fatalf("byte %d: %v names no link", i, err)
				}
			}
		}
	}
}

// TestLinkIsNamed swaps single pieces of evidence: the link that rests on the
// piece is the one that is named.
func TestLinkIsNamed(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	f := facts(t, in)
	raw, err := passport.Issue(f, in.Keys)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range f.Containers[0].Permit.Links() {
		want := []string{l.Name}
		if l.Name == verify.LinkSource {
			want = append(want, verify.LinkProvenance) // one bundle bears both
		}
		for how, change := range map[string]func([]byte) []byte{
			"changed": func(b []byte) []byte { return append(bytes.Clone(b), '\n') },
			"absent":  func([]byte) []byte { return nil },
		} {
			t.Run(l.Name+" "+how, func(t *testing.T) {
				_, err := passport.Verify(withEvidence(t, raw, l.Evidence, change), in.Root, in.Clock())
				link(t, err, want...)
			})
		}
	}
}

// withEvidence rewrites one piece of evidence; nil takes it out.
func withEvidence(t *testing.T, raw []byte, d artifact.Digest, change func([]byte) []byte) []byte {
	t.Helper()
	var f struct {
		MediaType string          `json:"mediaType"`
		Digest    string          `json:"digest"`
		Bundle    json.RawMessage `json:"bundle"`
		Evidence  []struct {
			Digest  artifact.Digest `json:"digest"`
			Content []byte          `json:"content"`
		} `json:"evidence"`
	}
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	found := false
	for i, e := range f.Evidence {
		if e.Digest == d {
			found = true
			if c := change(e.Content); c == nil {
				f.Evidence = append(f.Evidence[:i], f.Evidence[i+1:]...)
			} else {
				f.Evidence[i].Content = c
			}
			break
		}
	}
	if !found {
		t.Fatalf("no evidence %s", d)
	}
	out, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestForged(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	raw := issue(t, in)

	t.Run("another root", func(t *testing.T) {
		_, err := passport.Verify(raw, provenancetest.New(t, "bank.example").Root, in.Clock())
		link(t, err, passport.LinkPassport)
	})
	t.Run("no root", func(t *testing.T) {
		_, err := passport.Verify(raw, verify.TrustRoot{}, in.Clock())
		link(t, err, passport.LinkPassport)
	})
	t.Run("signed before its time", func(t *testing.T) {
		_, err := passport.Verify(raw, in.Root, in.Clock().Add(-time.Hour))
		link(t, err, passport.LinkPassport)
	})
	// The node itself lies about what it admitted: the verifier does not say
	// what the node signed.
	for name, c := range map[string]struct {
		change func(map[string]any)
		link   []string
	}{
		"another revision": {func(p map[string]any) {
			detail(p, verify.LinkSource)["revision"] = "0123456789012345678901234567890123456789"
		}, []string{verify.LinkSource}},
		"another builder": {func(p map[string]any) { detail(p, verify.LinkProvenance)["builder"] = "spiffe://bank.example/x" }, []string{verify.LinkProvenance}},
		"a link left out": {func(p map[string]any) {
			a := admission(p)
			a["links"] = a["links"].([]any)[:2]
		}, []string{verify.LinkSignature, verify.LinkProvenance, verify.LinkSBOM, verify.LinkSource}},
		"another image": {func(p map[string]any) {
			container(p)["image"] = provenancetest.Host + "/bank/other@" + artifact.DigestOf(nil).String()
		}, []string{passport.LinkInstance}},
		"another instance": {func(p map[string]any) { p["instance"].(map[string]any)["uid"] = "other" }, []string{passport.LinkInstance}},
		"another issuer":   {func(p map[string]any) { p["issuer"] = "spiffe://bank.example/ns/redoubt-system/sa/builder" }, []string{passport.LinkPassport}},
		"issued long ago":  {func(p map[string]any) { p["issuedOn"] = "2020-01-01T00:00:00Z" }, []string{passport.LinkPassport}},
		"foreign identity": {func(p map[string]any) {
			p["identity"].(map[string]any)["id"] = "spiffe://evil.example/ns/bank/sa/ledger"
		}, []string{passport.LinkInstance}},
		"no policy": {func(p map[string]any) {
			admission(p)["namespace"] = "other"
			admission(p)["policy"] = artifact.DigestOf([]byte("[]")).String()
		}, []string{verify.LinkPolicy}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := passport.Verify(resign(t, in, raw, "node", c.change), in.Root, in.Clock())
			link(t, err, c.link...)
		})
	}
	t.Run("signed by the builder", func(t *testing.T) {
		_, err := passport.Verify(resign(t, in, raw, "builder", func(map[string]any) {}), in.Root, in.Clock())
		link(t, err, passport.LinkPassport)
		if !errors.Is(err, errs.Denied) {
			t.Errorf("kind of %v is not Denied", err)
		}
	})
	t.Run("unchanged, signed by the node again", func(t *testing.T) {
		// The map has lost the order of the fields; the statement has not
		// changed its meaning.
		if _, err := passport.Verify(resign(t, in, raw, "node", func(map[string]any) {}), in.Root, in.Clock()); err != nil {
			t.Error(err)
		}
	})
}

func container(p map[string]any) map[string]any { return p["containers"].([]any)[0].(map[string]any) }
func admission(p map[string]any) map[string]any { return container(p)["admission"].(map[string]any) }
func detail(p map[string]any, name string) map[string]any {
	for _, l := range admission(p)["links"].([]any) {
		if l := l.(map[string]any); l["name"] == name {
			return l["detail"].(map[string]any)
		}
	}
	return nil
}

// resign changes the signed predicate and signs it anew as sa.
func resign(t *testing.T, in *provenancetest.Installation, raw []byte, sa string, change func(map[string]any)) []byte {
	t.Helper()
	var f map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	_, st, err := bundle.Parse(f["bundle"])
	if err != nil {
		t.Fatal(err)
	}
	var p map[string]any
	if err := json.Unmarshal(st.Predicate, &p); err != nil {
		t.Fatal(err)
	}
	change(p)
	if st.Predicate, err = json.Marshal(p); err != nil {
		t.Fatal(err)
	}
	who, err := id.Workload(in.Domain, "redoubt-system", sa)
	if err != nil {
		t.Fatal(err)
	}
	b, err := in.Keys.Sign(who, st)
	if err != nil {
		t.Fatal(err)
	}
	f["bundle"] = b
	digest, _ := json.Marshal(artifact.DigestOf(b))
	out := bytes.Replace(raw, rawField(t, raw, "digest"), digest, 1)
	return bytes.Replace(out, rawField(t, raw, "bundle"), b, 1)
}

func rawField(t *testing.T, raw []byte, name string) []byte {
	t.Helper()
	var f map[string]json.RawMessage
	if err := json.Unmarshal(raw, &f); err != nil {
		t.Fatal(err)
	}
	return f[name]
}

func TestIssueRefuses(t *testing.T) {
	t.Parallel()
	in := provenancetest.New(t, "bank.example")
	for name, spoil := range map[string]func(*passport.Facts){
		"no permit":        func(f *passport.Facts) { f.Containers[1].Permit = verify.Permit{} },
		"no container":     func(f *passport.Facts) { f.Containers = nil },
		"no EROFS":         func(f *passport.Facts) { f.Containers[0].EROFS = artifact.Digest{} },
		"no binary":        func(f *passport.Facts) { f.Sandbox.Binary = artifact.Digest{} },
		"no kernel":        func(f *passport.Facts) { f.Sandbox.Kernel = "" },
		"no serial":        func(f *passport.Facts) { f.Identity.Serial = "" },
		"no key":           func(f *passport.Facts) { f.Identity.KeyHash = artifact.Digest{} },
		"no authorization": func(f *passport.Facts) { f.Authorization = artifact.Digest{} },
		"no time":          func(f *passport.Facts) { f.IssuedOn = time.Time{} },
		"no identity":      func(f *passport.Facts) { f.Identity.ID = id.ID{} },
	} {
		t.Run(name, func(t *testing.T) {
			f := facts(t, in)
			spoil(&f)
			if raw, err := passport.Issue(f, in.Keys); err == nil || raw != nil {
				t.Errorf("issued %d bytes, error %v; want a refusal", len(raw), err)
			}
		})
	}
}

func FuzzVerify(f *testing.F) {
	in := provenancetest.New(f, "bank.example")
	raw := issue(f, in)
	f.Add(raw)
	f.Add([]byte(`{"mediaType":"application/vnd.redoubt.passport.v1+json","bundle":{},"evidence":[]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := passport.Verify(b, in.Root, in.Clock()); (err == nil) != bytes.Equal(b, raw) {
			t.Fatalf("Verify of a changed file: %v, %v", r, err)
		}
	})
}

func BenchmarkVerify(b *testing.B) {
	in := provenancetest.New(b, "bank.example")
	raw := issue(b, in)
	b.ReportMetric(float64(len(raw)), "bytes")
	for b.Loop() {
		if _, err := passport.Verify(raw, in.Root, in.Clock()); err != nil {
			b.Fatal(err)
		}
	}
}
