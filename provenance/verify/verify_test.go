// SPDX-License-Identifier: Apache-2.0

package verify_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/slsa"
	"redoubt.dev/provenance/verify"
)

const (
	builder = "spiffe://bank.example/ns/redoubt-system/sa/builder"
	node    = "spiffe://bank.example/ns/redoubt-system/sa/node"
)

// bench is one honest image with its evidence, and the keys to forge more.
type bench struct {
	in    *provenancetest.Installation
	forge *provenancetest.Forge
	ev    verify.Evidence
	sig   []byte
	prov  []byte
	sbom  []byte
}

func newBench(t testing.TB) *bench {
	t.Helper()
	in := provenancetest.New(t, "bank.example")
	in.Publish(t, "bank/ledger:1", "ledger")
	b := &bench{in: in, ev: in.Evidence(t, "bank/ledger:1"), forge: in.Steal(t)}
	for _, raw := range b.ev.Bundles {
		_, st, err := bundle.Parse(raw)
		if err != nil {
			t.Fatal(err)
		}
		switch st.PredicateType {
		case bundle.Signature:
			b.sig = raw
		case bundle.Provenance:
			b.prov = raw
		case bundle.SBOM:
			b.sbom = raw
		}
	}
	return b
}

// with gives the evidence with other bundles and no older signature.
func (b *bench) with(bundles ...[]byte) verify.Evidence {
	ev := b.ev
	ev.Bundles, ev.Simple = bundles, nil
	return ev
}

func (b *bench) digest() artifact.Digest { return artifact.DigestOf(b.ev.Manifest) }

func (b *bench) statement(t testing.TB, kind string, predicate any) bundle.Statement {
	t.Helper()
	st, err := bundle.NewStatement("registry.bank.example/bank/ledger", b.digest(), kind, predicate)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

// signature forges a signature statement in some way.
func (b *bench) signature(t testing.TB, who string, how provenancetest.Forged) []byte {
	t.Helper()
	return b.forge.Sign(t, who, b.statement(t, bundle.Signature, struct{}{}), how)
}

func (b *bench) verify(ev verify.Evidence, pol ...policy.TrustPolicy) error {
	if len(pol) == 0 {
		pol = b.in.Policies
	}
	p, err := verify.Verify(ev, pol, b.in.Root, b.in.Clock())
	if (err == nil) != p.Valid() {
		panic("a permit with an error, or neither")
	}
	return err
}

// denied demands a denial at one link and of one kind, and that it survives
// JSON.
func denied(t *testing.T, err error, link string, kind errs.Kind) *verify.Denied {
	t.Helper()
	var d *verify.Denied
	if !errors.As(err, &d) {
		t.Fatalf("error %v, want a Denied at link %s", err, link)
	}
	if d.Link != link || !errors.Is(err, kind) || errs.KindOf(err) != kind {
		t.Errorf("denied at link %s with kind %s, want %s, %s: %v", d.Link, d.Kind, link, kind, err)
	}
	if d.Expected == "" || d.Seen == "" || d.Image == "" {
		t.Errorf("a denial without reason: %+v", d)
	}
	raw, err := json.Marshal(d)
	var again verify.Denied
	if err != nil || json.Unmarshal(raw, &again) != nil || again.Error() != d.Error() {
		t.Errorf("JSON %s, %v", raw, err)
	}
	return d
}

func TestHonest(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	if err := b.verify(b.ev); err != nil {
		t.Fatal(err)
	}
	if err := b.verify(b.with(b.sig, b.prov)); err != nil {
		t.Errorf("without SBOM, which nobody demands: %v", err)
	}
	if err := b.verify(b.with(b.signature(t, builder, provenancetest.Forged{}), b.prov)); err != nil {
		t.Fatalf("the forge's honest bundle: %v; the tests below would prove nothing", err)
	}
	later, err := verify.Verify(b.ev, b.in.Policies, b.in.Root, b.in.Clock().Add(5*365*24*time.Hour))
	if err != nil || later.SignedAt().IsZero() {
		t.Errorf("five years later: %v; the timestamp proves that the certificate was valid then", err)
	}
	var zero verify.Permit
	if zero.Valid() || !zero.Digest().IsZero() || zero.Ref() != (artifact.Ref{}) || zero.Links() != nil || zero.Signers() != nil || zero.Rules() != nil {
		t.Error("the zero Permit says something")
	}
}

// TestSignature is attacks A1, A2, A6 and A7 of the threat model: each bundle
// is wrong in exactly one way.
func TestSignature(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	other := provenancetest.New(t, "bank.example") // the same names, another CA
	stranger := other.Steal(t)
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	sign := func(who string, how provenancetest.Forged) []byte { return b.signature(t, who, how) }
	payload := func(s string) []byte { return b.forge.SignPayload(t, builder, []byte(s), provenancetest.Forged{}) }
	hex := b.digest().Hex()
	for name, c := range map[string]struct {
		bundles [][]byte
		kind    errs.Kind
	}{
		"nothing":                    {nil, errs.Unproven},
		"only the SBOM, by builder":  {[][]byte{b.sbom, b.prov}, errs.Unproven},
		"another signer":             {[][]byte{sign(node, provenancetest.Forged{})}, errs.Denied},
		"name with a suffix":         {[][]byte{sign(builder+"2", provenancetest.Forged{})}, errs.Denied},
		"name in another case":       {[][]byte{sign("spiffe://bank.example/ns/redoubt-system/sa/Builder", provenancetest.Forged{})}, errs.Denied},
		"name with a newline":        {[][]byte{sign("spiffe://bank.example/ns/redoubt-system/sa/builder%0a", provenancetest.Forged{})}, errs.Denied},
		"same name, another CA":      {[][]byte{stranger.Sign(t, builder, b.statement(t, bundle.Signature, struct{}{}), provenancetest.Forged{TSA: b.forge})}, errs.Unproven},
		"another trust domain":       {[][]byte{sign("spiffe://evil.example/ns/redoubt-system/sa/builder", provenancetest.Forged{})}, errs.Unproven},
		"server certificate":         {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }})}, errs.Unproven},
		"two names":                  {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(node)) }})}, errs.Unproven},
		"two names, ours second":     {[][]byte{sign(node, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.URIs = append(c.URIs, uri(builder)) }})}, errs.Unproven},
		"a DNS name too":             {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.DNSNames = []string{"bank.example"} }})}, errs.Unproven},
		"a CA":                       {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.IsCA, c.BasicConstraintsValid = true, true }})}, errs.Unproven},
		"expired when stamped":       {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.NotAfter = b.forge.Now.Add(-time.Second) }})}, errs.Unproven},
		"not valid yet when stamped": {[][]byte{sign(builder, provenancetest.Forged{Leaf: func(c *x509.Certificate) { c.NotBefore = b.forge.Now.Add(5 * time.Second) }})}, errs.Unproven},
		"no timestamp":               {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) { x.VerificationMaterial.TimestampVerificationData = nil }})}, errs.Unproven},
		"timestamp of another TSA":   {[][]byte{sign(builder, provenancetest.Forged{TSA: stranger})}, errs.Unproven},
		"timestamp of another signature": {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) {
			x.VerificationMaterial.TimestampVerificationData.RFC3161[0].Signed = b.forge.Timestamp(t, []byte("other"), b.forge.Now)
		}})}, errs.Unproven},
		"stamped in the future":               {[][]byte{sign(builder, provenancetest.Forged{Time: b.forge.Now.Add(time.Hour), Leaf: func(c *x509.Certificate) { c.NotAfter = b.forge.Now.Add(2 * time.Hour) }})}, errs.Unproven},
		"signature over nothing":              {[][]byte{sign(builder, provenancetest.Forged{Sign: func([]byte) []byte { return nil }})}, errs.Unproven},
		"signature over the payload, not PAE": {[][]byte{sign(builder, provenancetest.Forged{Sign: func(p []byte) []byte { return p }})}, errs.Unproven},
		"signed for another type":             {[][]byte{sign(builder, provenancetest.Forged{Sign: func(p []byte) []byte { return bundle.PAE("text/plain", p) }})}, errs.Unproven},
		"payload swapped": {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) {
			x.DSSEEnvelope.Payload = bytes.Replace(x.DSSEEnvelope.Payload, []byte("bank/ledger"), []byte("bank/lodger"), 1)
		}})}, errs.Unproven},
		"genuine, of another repository": {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"registry.bank.example/demo/debian","digest":{"sha256":"` + hex + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"two signatures": {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) {
			x.DSSEEnvelope.Signatures = append(x.DSSEEnvelope.Signatures, x.DSSEEnvelope.Signatures[0])
		}})}, errs.Unproven},
		"no signatures":            {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) { x.DSSEEnvelope.Signatures = nil }})}, errs.Unproven},
		"another image":            {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + artifact.DigestOf(nil).Hex() + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"two subjects, ours first": {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + hex + `"}},{"digest":{"sha256":"` + artifact.DigestOf(nil).Hex() + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"two digests":              {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + hex + `","sha512":"00"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"subject twice":            {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + artifact.DigestOf(nil).Hex() + `"}}],"subject":[{"digest":{"sha256":"` + hex + `"}}],"predicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"predicate type twice":     {[][]byte{payload(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"digest":{"sha256":"` + hex + `"}}],"predicateType":"https://spdx.dev/Document","PredicateType":"https://sigstore.dev/cosign/sign/v1","predicate":{}}`)}, errs.Unproven},
		"predicate type unknown":   {[][]byte{b.forge.Sign(t, builder, b.statement(t, "https://sigstore.dev/cosign/sign/v2", struct{}{}), provenancetest.Forged{})}, errs.Unproven},
		"a scan that failed":       {[][]byte{b.forge.Sign(t, builder, b.statement(t, "https://cosign.sigstore.dev/attestation/vuln/v1", map[string]any{"result": "failed"}), provenancetest.Forged{})}, errs.Unproven},
		"another bundle version":   {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) { x.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2" }})}, errs.Unproven},
		"certificate and key":      {[][]byte{sign(builder, provenancetest.Forged{Bundle: func(x *bundle.Bundle) { x.VerificationMaterial.PublicKey = &bundle.PublicKey{} }})}, errs.Unproven},
		"bytes behind the end":     {[][]byte{append(slices.Clone(b.sig), "{}"...)}, errs.Unproven},
		"oversize":                 {[][]byte{append(slices.Clone(b.sig), bytes.Repeat([]byte(" "), bundle.MaxSize)...)}, errs.Unproven},
	} {
		t.Run(name, func(t *testing.T) {
			ev := b.with(append(c.bundles, b.prov)...)
			d := denied(t, b.verify(ev), verify.LinkSignature, c.kind)
			if c.kind == errs.Unproven && c.bundles != nil && !strings.Contains(name, "SBOM") && !strings.Contains(name, "unknown") && !strings.Contains(name, "scan") && len(d.Causes) == 0 {
				t.Error("no cause is told")
			}
			// Beside a good signature, none of them does harm.
			if err := b.verify(b.with(append(append([][]byte{}, c.bundles...), b.sig, b.prov)...)); err != nil {
				t.Errorf("beside a good signature: %v", err)
			}
		})
	}
}

func TestTooMuchEvidence(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var many [][]byte
	for range verify.MaxBundles + 1 {
		many = append(many, b.sig)
	}
	denied(t, b.verify(b.with(many...)), verify.LinkImage, errs.Unproven)
	big := bytes.Repeat([]byte("x"), verify.MaxEvidence/2+1)
	denied(t, b.verify(b.with(big, big)), verify.LinkImage, errs.Unproven)
	ev := b.ev
	ev.Simple = make([]verify.Simple, verify.MaxSimple+1)
	denied(t, b.verify(ev), verify.LinkImage, errs.Unproven)
}

// TestImage is attack A4: the bytes are not what was named, or could be read
// as something else.
func TestImage(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	replace := func(b []byte, old, new string) []byte {
		if !bytes.Contains(b, []byte(old)) {
			panic("no " + old)
		}
		return bytes.Replace(b, []byte(old), []byte(new), 1)
	}
	index := func(children ...manifest.Descriptor) []byte {
		raw, err := json.Marshal(manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIIndex, Manifests: children})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	self := manifest.Descriptor{MediaType: manifest.OCIManifest, Digest: b.digest(), Size: int64(len(b.ev.Manifest))}
	wrong := self
	wrong.Size++
	for name, change := range map[string]func(*verify.Evidence){
		"no manifest":           func(ev *verify.Evidence) { ev.Manifest = nil },
		"manifest not JSON":     func(ev *verify.Evidence) { ev.Manifest = []byte("x") },
		"index in its place":    func(ev *verify.Evidence) { ev.Manifest = index(self) },
		"index's type":          func(ev *verify.Evidence) { ev.Manifest = replace(ev.Manifest, manifest.OCIManifest, manifest.OCIIndex) },
		"key twice":             func(ev *verify.Evidence) { ev.Manifest = replace(ev.Manifest, `"layers":`, `"layers":[],"layers":`) },
		"no image":              func(ev *verify.Evidence) { ev.Manifest = replace(ev.Manifest, manifest.OCIConfig, manifest.Empty) },
		"no config":             func(ev *verify.Evidence) { ev.Config = nil },
		"another config":        func(ev *verify.Evidence) { ev.Config = replace(ev.Config, "linux", "Linux") },
		"longer config":         func(ev *verify.Evidence) { ev.Config = append(slices.Clone(ev.Config), ' ') },
		"another digest named":  func(ev *verify.Evidence) { ev.Ref.Digest = artifact.DigestOf(nil) },
		"index without it":      func(ev *verify.Evidence) { ev.Index = index() },
		"index of another size": func(ev *verify.Evidence) { ev.Index = index(wrong) },
		"index is an image":     func(ev *verify.Evidence) { ev.Index = ev.Manifest },
		"config's layers fewer": func(ev *verify.Evidence) {
			var m manifest.Manifest
			if err := json.Unmarshal(ev.Manifest, &m); err != nil {
				t.Fatal(err)
			}
			m.Layers = append(m.Layers, m.Layers[0])
			ev.Manifest, _ = json.Marshal(m)
		},
	} {
		t.Run(name, func(t *testing.T) {
			ev := b.ev
			change(&ev)
			d := new(verify.Denied)
			err := b.verify(ev)
			if !errors.As(err, &d) || d.Link != verify.LinkImage {
				t.Errorf("%v, want a denial at link image", err)
			}
		})
	}
	t.Run("signed as part of an index", func(t *testing.T) {
		ev := b.with(b.prov)
		ev.Index = index(self)
		ev.Ref.Digest = artifact.DigestOf(ev.Index)
		denied(t, b.verify(ev), verify.LinkSignature, errs.Unproven)
		st, err := bundle.NewStatement("", artifact.DigestOf(ev.Index), bundle.Signature, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		ev.Bundles = append(ev.Bundles, b.forge.Sign(t, builder, st, provenancetest.Forged{}))
		p, err := verify.Verify(ev, b.in.Policies, b.in.Root, b.in.Clock())
		if err != nil || p.Digest() != b.digest() {
			t.Errorf("permit for %s, %v; want one for the image, not the index", p.Ref(), err)
		}
		ev.Index = nil
		if err := b.verify(ev); err == nil {
			t.Error("the signature of an index counts without the index")
		}
	})
}

func TestPolicy(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	def := b.in.Policies[0]
	change := func(f func(*policy.TrustPolicy)) policy.TrustPolicy {
		p := def
		p.Spec.Images = slices.Clone(p.Spec.Images)
		f(&p)
		return p
	}
	t.Run("none", func(t *testing.T) {
		_, err := verify.Verify(b.ev, nil, b.in.Root, b.in.Clock())
		denied(t, err, verify.LinkPolicy, errs.Denied)
	})
	for name, p := range map[string]policy.TrustPolicy{
		"of other images":    change(func(p *policy.TrustPolicy) { p.Spec.Images = []string{"registry.bank.example/other/*"} }),
		"one component only": change(func(p *policy.TrustPolicy) { p.Spec.Images = []string{"registry.bank.example/*"} }),
		"of a namespace":     change(func(p *policy.TrustPolicy) { p.Namespace = "bank" }),
		"without name":       change(func(p *policy.TrustPolicy) { p.Name = "" }),
		"without images":     change(func(p *policy.TrustPolicy) { p.Spec.Images = nil }),
		"without signers":    change(func(p *policy.TrustPolicy) { p.Spec.Signers = nil }),
		"bad pattern":        change(func(p *policy.TrustPolicy) { p.Spec.Images = []string{"**", "a**"} }),
		"signer is nobody":   change(func(p *policy.TrustPolicy) { p.Spec.Signers = []policy.Signer{{}} }),
		"signer is a pattern": change(func(p *policy.TrustPolicy) {
			p.Spec.Signers = []policy.Signer{{Identity: "spiffe://bank.example/*"}}
		}),
		"signer is both": change(func(p *policy.TrustPolicy) {
			p.Spec.Signers = []policy.Signer{{Identity: builder, PublicKeyPEM: string(b.in.Keys.PublicKeyPEM())}}
		}),
		"key is no key":   change(func(p *policy.TrustPolicy) { p.Spec.Signers = []policy.Signer{{PublicKeyPEM: "x"}} }),
		"builder is free": change(func(p *policy.TrustPolicy) { p.Spec.Builders = []string{"anybody"} }),
	} {
		t.Run(name, func(t *testing.T) { denied(t, b.verify(b.ev, p), verify.LinkPolicy, errs.Denied) })
	}
	t.Run("a malformed one beside a good one", func(t *testing.T) {
		denied(t, b.verify(b.ev, def, change(func(p *policy.TrustPolicy) { p.Spec.Signers = nil })), verify.LinkPolicy, errs.Denied)
	})
	t.Run("each must be met", func(t *testing.T) {
		second := change(func(p *policy.TrustPolicy) { p.Name, p.Spec.Signers = "second", []policy.Signer{{Identity: node}} })
		d := denied(t, b.verify(b.ev, def, second), verify.LinkSignature, errs.Denied)
		if d.Policy != "second" {
			t.Errorf("policy %q, want second", d.Policy)
		}
		ev := b.ev
		ev.Bundles = append(slices.Clone(ev.Bundles), b.signature(t, node, provenancetest.Forged{}))
		p, err := verify.Verify(ev, []policy.TrustPolicy{def, second}, b.in.Root, b.in.Clock())
		if err != nil || len(p.Policies()) != 2 || len(p.Signers()) != 2 {
			t.Errorf("both signed: policies %v, signers %v, %v", p.Policies(), p.Signers(), err)
		}
	})
	t.Run("of the pod's namespace", func(t *testing.T) {
		ev := b.ev
		ev.Namespace = "bank"
		own := change(func(p *policy.TrustPolicy) { p.Namespace = "bank" })
		if err := b.verify(ev, own); err != nil {
			t.Error(err)
		}
		ev.Namespace = "other"
		denied(t, b.verify(ev, own), verify.LinkPolicy, errs.Denied)
	})
}

// TestProvenance is attack A5.
func TestProvenance(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	_, st, err := bundle.Parse(b.prov)
	if err != nil {
		t.Fatal(err)
	}
	as := func(t *testing.T, who string, change func(p *slsa.Predicate, x map[string]any)) []byte {
		var p slsa.Predicate
		if err := json.Unmarshal(st.Predicate, &p); err != nil {
			t.Fatal(err)
		}
		var x map[string]any
		if err := json.Unmarshal(p.BuildDefinition.ExternalParameters, &x); err != nil {
			t.Fatal(err)
		}
		change(&p, x)
		var err error
		if p.BuildDefinition.ExternalParameters, err = json.Marshal(x); err != nil {
			t.Fatal(err)
		}
		return b.forge.Sign(t, who, b.statement(t, bundle.Provenance, p), provenancetest.Forged{})
	}
	source := func(uri string) func(*slsa.Predicate, map[string]any) {
		return func(_ *slsa.Predicate, x map[string]any) { x["source"].(map[string]any)["repository"] = uri }
	}
	pol := b.in.Policies[0]
	pol.Spec.Sources = []string{"git+https://git.bank.example/ledger/**"}
	for name, c := range map[string]struct {
		who    string
		change func(*slsa.Predicate, map[string]any)
		link   string
		kind   errs.Kind
	}{
		"by the node":             {node, source("git+https://git.bank.example/ledger/core"), verify.LinkProvenance, errs.Denied},
		"of another builder":      {builder, func(p *slsa.Predicate, _ map[string]any) { p.RunDetails.Builder.ID = node }, verify.LinkProvenance, errs.Denied},
		"of another build type":   {builder, func(p *slsa.Predicate, _ map[string]any) { p.BuildDefinition.BuildType += "/x" }, verify.LinkProvenance, errs.Denied},
		"an unknown parameter":    {builder, func(_ *slsa.Predicate, x map[string]any) { x["ldflags"] = "-X" }, verify.LinkProvenance, errs.Denied},
		"an unknown source field": {builder, func(_ *slsa.Predicate, x map[string]any) { x["source"].(map[string]any)["patch"] = "y" }, verify.LinkProvenance, errs.Denied},
		"another repository":      {builder, source("git+https://git.bank.example/other/core"), verify.LinkSource, errs.Denied},
		"another host":            {builder, source("git+https://git.bank.example.evil.example/ledger/core"), verify.LinkSource, errs.Denied},
		"another scheme":          {builder, source("git+http://git.bank.example/ledger/core"), verify.LinkSource, errs.Denied},
		"dot segments":            {builder, source("git+https://git.bank.example/ledger/../evil"), verify.LinkProvenance, errs.Denied},
		"escapes":                 {builder, source("git+https://git.bank.example/ledger/%2e%2e/evil"), verify.LinkProvenance, errs.Denied},
		"a user":                  {builder, source("git+https://git.bank.example@evil.example/ledger/x"), verify.LinkProvenance, errs.Denied},
		"a query":                 {builder, source("git+https://git.bank.example/ledger/x?ref=evil"), verify.LinkProvenance, errs.Denied},
		"no repository":           {builder, source(""), verify.LinkProvenance, errs.Denied},
	} {
		t.Run(name, func(t *testing.T) {
			denied(t, b.verify(b.with(b.sig, as(t, c.who, c.change)), pol), c.link, c.kind)
		})
	}
	good := as(t, builder, source("git+https://git.bank.example/ledger/core"))
	t.Run("accepted", func(t *testing.T) {
		if err := b.verify(b.with(b.sig, good), pol); err != nil {
			t.Error(err)
		}
	})
	t.Run("absent", func(t *testing.T) { denied(t, b.verify(b.with(b.sig), pol), verify.LinkProvenance, errs.Unproven) })
	t.Run("not demanded", func(t *testing.T) {
		p := b.in.Policies[0]
		p.Spec.Builders = nil
		if err := b.verify(b.with(b.sig), p); err != nil {
			t.Error(err)
		}
		bad := as(t, builder, func(p *slsa.Predicate, _ map[string]any) { p.RunDetails.Builder.ID = node })
		denied(t, b.verify(b.with(b.sig, bad), p), verify.LinkProvenance, errs.Denied) // but sound when present
		p.Spec.Sources = pol.Spec.Sources
		denied(t, b.verify(b.with(b.sig), p), verify.LinkProvenance, errs.Unproven) // a demand on the source demands it
	})
}

func TestSBOM(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	pol := b.in.Policies[0]
	pol.Spec.RequireSBOM = true
	if err := b.verify(b.ev, pol); err != nil {
		t.Fatal(err)
	}
	doc := map[string]any{"spdxVersion": "SPDX-2.3", "name": "x"}
	for name, bad := range map[string][]byte{
		"absent":        b.sig,
		"by the node":   b.forge.Sign(t, node, b.statement(t, bundle.SBOM, doc), provenancetest.Forged{}),
		"of no version": b.forge.Sign(t, builder, b.statement(t, bundle.SBOM, struct{}{}), provenancetest.Forged{}),
		"of a list":     b.forge.Sign(t, builder, b.statement(t, bundle.SBOM, []string{}), provenancetest.Forged{}),
	} {
		t.Run(name, func(t *testing.T) {
			denied(t, b.verify(b.with(b.sig, b.prov, bad), pol), verify.LinkSBOM, errs.Unproven)
		})
	}
}

// TestPublicKey is for signers outside of the installation: their key is named
// by the policy.
func TestPublicKey(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	key, other := newKey(t), newKey(t)
	pol := policy.TrustPolicy{Name: "vendor", Spec: policy.TrustPolicySpec{Images: []string{"**"}, Signers: []policy.Signer{{PublicKeyPEM: pemOf(t, key)}}}}
	st := b.statement(t, bundle.Signature, struct{}{})
	if err := b.verify(b.with(provenancetest.SignByKey(t, key, st)), pol); err != nil {
		t.Errorf("bundle by the key: %v", err)
	}
	denied(t, b.verify(b.with(provenancetest.SignByKey(t, other, st)), pol), verify.LinkSignature, errs.Unproven)
	denied(t, b.verify(b.with(b.sig), pol), verify.LinkSignature, errs.Denied)
	denied(t, b.verify(b.with(provenancetest.SignByKey(t, key, st), b.prov)), verify.LinkSignature, errs.Unproven)
	denied(t, b.verify(b.with(provenancetest.SignByKey(t, key, b.statement(t, bundle.SBOM, struct{}{}))), pol), verify.LinkSignature, errs.Unproven)

	// Cosign's older form, which the installation's own static key signs too.
	own := policy.TrustPolicy{Name: "own key", Spec: policy.TrustPolicySpec{Images: []string{"**"}, Signers: []policy.Signer{{PublicKeyPEM: string(b.in.Keys.PublicKeyPEM())}}}}
	older := b.with()
	older.Simple = b.ev.Simple
	if err := b.verify(older, own); err != nil || len(older.Simple) != 1 {
		t.Errorf("older signature: %v", err)
	}
	denied(t, b.verify(older, pol), verify.LinkSignature, errs.Unproven)
	denied(t, b.verify(older), verify.LinkSignature, errs.Unproven) // an identity is demanded: no static key will do
	for name, payload := range map[string]string{
		"another image": `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + artifact.DigestOf(nil).String() + `"},"type":"cosign container image signature"},"optional":null}`,
		"another type":  `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + b.digest().String() + `"},"type":"atomic container signature"},"optional":null}`,
		"digest twice":  `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":"` + artifact.DigestOf(nil).String() + `","docker-manifest-digest":"` + b.digest().String() + `"},"type":"cosign container image signature"},"optional":null}`,
		"no digest":     `{"critical":{"type":"cosign container image signature"}}`,
	} {
		t.Run(name, func(t *testing.T) {
			ev := b.with()
			sum := sha256.Sum256([]byte(payload))
			sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
			if err != nil {
				t.Fatal(err)
			}
			ev.Simple = []verify.Simple{{Payload: []byte(payload), Signature: sig}}
			denied(t, b.verify(ev, pol), verify.LinkSignature, errs.Unproven)
		})
	}
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func pemOf(t testing.TB, k *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.MarshalPKIXPublicKey(k.Public())
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}))
}

func TestTrustRoot(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	good := string(b.in.Keys.TrustRoot())
	for name, bad := range map[string]string{
		"empty":        "",
		"no authority": `{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1"}`,
		"key twice":    strings.Replace(good, "{", `{"mediaType":"x",`, 1),
		"no TSA":       good[:strings.Index(good, `"timestampAuthorities"`)] + `"ctlogs":[]}`,
		"large":        strings.Repeat(" ", 1<<20) + good,
	} {
		if _, err := verify.ParseTrustRoot([]byte(bad)); !errors.Is(err, errs.Invalid) {
			t.Errorf("%s: %v, want Invalid", name, err)
		}
	}
	_, err := verify.Verify(b.ev, b.in.Policies, verify.TrustRoot{}, b.in.Clock())
	denied(t, err, verify.LinkSignature, errs.Unproven)
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		pattern, name string
		want          bool
	}{
		{"**", "docker.io/library/redis", true},
		{"docker.io/library/redis", "docker.io/library/redis", true},
		{"docker.io/library/*", "docker.io/library/redis", true},
		{"docker.io/*", "docker.io/library/redis", false},
		{"docker.io/**", "docker.io/library/redis", true},
		{"docker.io/**", "docker.io", true},
		{"**/redis", "docker.io/library/redis", true},
		{"**/redis", "docker.io/library/notredis", false},
		{"*/**/redis", "redis", false},
		{"docker.io/*/re*is", "docker.io/library/redis", true},
		{"docker.io/*/re*s*s", "docker.io/library/redis", false},
		{"docker.io/*/*a*a*", "docker.io/x/banana", true},
		{"bank.example/**", "bank.example.evil.com/x", false},
		{"bank.example/**", "evil.com/bank.example/x", false},
		{"bank.example", "BANK.example", false},
		{"bank.example/*", "bank.example/", true},
		{"bank.example/x", "bank.example/x\n", false},
		{"a**", "ab", false},
		{"", "", false},
		{"a[b]", "a[b]", false},
	} {
		if got := verify.Match(c.pattern, c.name); got != c.want {
			t.Errorf("Match(%q, %q) = %v, want %v", c.pattern, c.name, got, c.want)
		}
	}
	// No pattern makes the matcher slow.
	p := strings.TrimSuffix(strings.Repeat("**/", 60), "/") + "/" + strings.Repeat("*a", 150)
	n := strings.Repeat("a/", 400) + strings.Repeat("a", 140) + "b"
	begin := time.Now()
	if verify.Match(p, n) {
		t.Error("matched")
	}
	if d := time.Since(begin); d > time.Second {
		t.Errorf("took %s", d)
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("docker.io/**/r*s", "docker.io/library/redis")
	f.Add("**/**", "a/b")
	f.Fuzz(func(t *testing.T, p, n string) {
		got := verify.Match(p, n)
		if got && verify.CheckPattern(p) != nil {
			t.Errorf("a refused pattern %q matches %q", p, n)
		}
		if got && !strings.Contains(p, "*") && p != n {
			t.Errorf("%q without a star matches %q", p, n)
		}
		if n != "" && len(n) <= 512 && verify.CheckPattern(n) == nil && !strings.Contains(n, "*") && !verify.Match(n, n) {
			t.Errorf("%q does not match itself", n)
		}
		if n != "" && len(n) <= 512 && !verify.Match("**", n) {
			t.Errorf("** does not match %q", n)
		}
	})
}

func FuzzAttest(f *testing.F) {
	b := newBench(f)
	f.Add(b.sig)
	f.Add(b.prov)
	f.Fuzz(func(t *testing.T, raw []byte) {
		a, err := verify.Attest(raw, b.in.Root, b.in.Clock())
		if err == nil && (a.Signer != builder || a.Statement.About() != b.digest() || a.Time.IsZero()) {
			t.Fatalf("an attestation by %s about %s", a.Signer, a.Statement.About())
		}
	})
}

func FuzzImage(f *testing.F) {
	b := newBench(f)
	f.Add(b.ev.Manifest, b.ev.Config, []byte(nil))
	f.Add(b.ev.Manifest, b.ev.Config, []byte(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`))
	f.Fuzz(func(t *testing.T, m, c, x []byte) {
		ev := b.ev
		ev.Manifest, ev.Config, ev.Index = m, c, x
		p, err := verify.Verify(ev, b.in.Policies, b.in.Root, b.in.Clock())
		if err == nil && p.Digest() != b.digest() {
			t.Fatalf("a permit for %s", p.Ref())
		}
	})
}

// BenchmarkVerify is one cold decision: three bundles and an older signature.
func BenchmarkVerify(b *testing.B) {
	x := newBench(b)
	for b.Loop() {
		if err := x.verify(x.ev); err != nil {
			b.Fatal(err)
		}
	}
}
