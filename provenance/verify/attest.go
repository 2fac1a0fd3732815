// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"time"

	sigbundle "github.com/sigstore/sigstore-go/pkg/bundle"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"
	"github.com/sigstore/sigstore/pkg/signature"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/internal/strictjson"
)

// skew is how far a timestamp may lie ahead of the verifier's clock.
const skew = 5 * time.Minute

// Attestation is a statement whose signature holds. Who may say what is for
// policy to decide.
type Attestation struct {
	Statement bundle.Statement
	Signer    string          // SPIFFE ID of the certificate, or "key sha256:…"
	Time      time.Time       // by the timestamp authority; zero for a static key
	Digest    artifact.Digest // of the raw bundle
}

// Attest verifies one bundle that is signed by a certificate: one signature,
// one subject, a leaf for code signing with exactly one name, under root's
// CA, valid at the time of a timestamp by root's authority.
func Attest(raw []byte, trust TrustRoot, now time.Time) (Attestation, error) {
	b, st, err := bundle.Parse(raw)
	if err != nil {
		return Attestation{}, err
	}
	if b.VerificationMaterial.Certificate == nil {
		return Attestation{}, unproven("a certificate", "a bare key")
	}
	if trust.verifier == nil {
		return Attestation{}, unproven("a trust root", "none")
	}
	leaf, err := x509.ParseCertificate(b.VerificationMaterial.Certificate.RawBytes)
	if err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Unproven, Field: "certificate", Expected: "an X.509 certificate", Err: err}
	}
	// sigstore-go reads the first name only; a second one could be what
	// another verifier believes (SPIFFE X.509-SVID §2: exactly one URI).
	if len(leaf.URIs) != 1 || len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses) != 0 || leaf.IsCA {
		return Attestation{}, unproven("a leaf with exactly one name, a URI", fmt.Sprintf("%d URIs, %d other names", len(leaf.URIs), len(leaf.DNSNames)+len(leaf.EmailAddresses)+len(leaf.IPAddresses)))
	}
	var sb sigbundle.Bundle
	if err := sb.UnmarshalJSON(raw); err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Invalid, Subject: "bundle", Expected: "a Sigstore bundle", Err: err}
	}
	about := st.About()
	res, err := trust.verifier.Verify(&sb, sigstore.NewPolicy(sigstore.WithArtifactDigest("sha256", digestBytes(about)), sigstore.WithoutIdentitiesUnsafe()))
	if err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Unproven, Subject: "bundle", Expected: "a signature under the trust root, with a timestamp", Err: err}
	}
	a := Attestation{Statement: st, Signer: leaf.URIs[0].String(), Digest: artifact.DigestOf(raw)}
	for _, ts := range res.VerifiedTimestamps {
		if ts.Timestamp.After(a.Time) {
			a.Time = ts.Timestamp.UTC()
		}
	}
	if a.Time.After(now.Add(skew)) {
		return Attestation{}, &errs.Error{Kind: errs.Unproven, Field: "timestamp", Expected: "a time not after " + now.UTC().Format(time.RFC3339), Seen: a.Time.Format(time.RFC3339), Fix: "set the clocks of builder and verifier"}
	}
	return a, nil
}

// key is a static public key of a policy.
type key struct {
	name string // "key sha256:…", of its PKIX form
	pub  crypto.PublicKey
}

func parseKey(text string) (key, error) {
	bl, rest := pem.Decode([]byte(text))
	if bl == nil || bl.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) != 0 {
		return key{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "one PEM block PUBLIC KEY"}
	}
	pub, err := x509.ParsePKIXPublicKey(bl.Bytes)
	if err != nil {
		return key{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "a PKIX public key", Err: err}
	}
	switch p := pub.(type) {
	case *ecdsa.PublicKey, ed25519.PublicKey:
	case *rsa.PublicKey:
		if p.N.BitLen() < 2048 {
			return key{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "RSA of at least 2048 bits", Seen: fmt.Sprint(p.N.BitLen())}
		}
	default:
		return key{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "ECDSA, Ed25519 or RSA", Seen: fmt.Sprintf("%T", pub)}
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return key{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "a PKIX public key", Err: err}
	}
	return key{name: "key " + artifact.DigestOf(der).String(), pub: pub}, nil
}

// attestByKey verifies one bundle that is signed by the static key k.
func attestByKey(raw []byte, k key) (Attestation, error) {
	b, st, err := bundle.Parse(raw)
	if err != nil {
		return Attestation{}, err
	}
	if b.VerificationMaterial.PublicKey == nil {
		return Attestation{}, unproven("a bare key", "a certificate")
	}
	var sb sigbundle.Bundle
	if err := sb.UnmarshalJSON(raw); err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Invalid, Subject: "bundle", Expected: "a Sigstore bundle", Err: err}
	}
	sv, err := signature.LoadDefaultVerifier(k.pub)
	if err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Invalid, Field: "publicKey", Expected: "a usable key", Err: err}
	}
	v, err := sigstore.NewVerifier(oneKey{sv}, sigstore.WithNoObserverTimestamps())
	if err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Internal, Subject: "bundle", Err: err}
	}
	if _, err := v.Verify(&sb, sigstore.NewPolicy(sigstore.WithArtifactDigest("sha256", digestBytes(st.About())), sigstore.WithKey())); err != nil {
		return Attestation{}, &errs.Error{Kind: errs.Unproven, Subject: "bundle", Expected: "a signature by " + k.name, Err: err}
	}
	return Attestation{Statement: st, Signer: k.name, Digest: artifact.DigestOf(raw)}, nil
}

// oneKey answers every hint with one key: the hint is the signer's word.
type oneKey struct{ signature.Verifier }

func (oneKey) TimestampingAuthorities() []root.TimestampingAuthority     { return nil }
func (oneKey) FulcioCertificateAuthorities() []root.CertificateAuthority { return nil }
func (oneKey) RekorLogs() map[string]*root.TransparencyLog               { return nil }
func (oneKey) CTLogs() map[string]*root.TransparencyLog                  { return nil }
func (k oneKey) PublicKeyVerifier(string) (root.TimeConstrainedVerifier, error) {
	return root.NewExpiringKey(k.Verifier, time.Time{}, time.Time{}), nil
}

// Simple is a signature of cosign's older form.
type Simple struct {
	Payload   []byte `json:"payload"`
	Signature []byte `json:"signature"`
}

const maxSimple = 64 << 10

// verifySimple gives the image digest that s signs by k.
func verifySimple(s Simple, k key) (artifact.Digest, error) {
	if len(s.Payload) > maxSimple || len(s.Signature) > 4096 {
		return artifact.Digest{}, &errs.Error{Kind: errs.TooLarge, Subject: "simple signing payload", Expected: fmt.Sprintf("at most %d bytes", maxSimple)}
	}
	sum := sha256.Sum256(s.Payload)
	ok := false
	switch p := k.pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(p, sum[:], s.Signature)
	case ed25519.PublicKey:
		ok = ed25519.Verify(p, s.Payload, s.Signature)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(p, crypto.SHA256, sum[:], s.Signature) == nil
	}
	if !ok {
		return artifact.Digest{}, unproven("a signature by "+k.name, "one that does not verify")
	}
	var p struct {
		Critical struct {
			Identity struct {
				Reference string `json:"docker-reference"`
			} `json:"identity"`
			Image struct {
				Digest artifact.Digest `json:"docker-manifest-digest"`
			} `json:"image"`
			Type string `json:"type"`
		} `json:"critical"`
		Optional json.RawMessage `json:"optional"`
	}
	if err := strictjson.Decode(s.Payload, &p); err != nil {
		return artifact.Digest{}, err
	}
	if p.Critical.Type != "cosign container image signature" || p.Critical.Image.Digest.IsZero() {
		return artifact.Digest{}, unproven("a cosign container image signature", p.Critical.Type)
	}
	return p.Critical.Image.Digest, nil
}

func unproven(expected, seen string) error {
	return &errs.Error{Kind: errs.Unproven, Expected: expected, Seen: seen}
}
