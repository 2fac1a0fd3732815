// SPDX-License-Identifier: Apache-2.0

// Package bundle is the first room that untrusted signatures pass: the format
// of Sigstore bundles v0.3 that carry an in-toto statement in a DSSE envelope.
//
// Parse knows the form only; it proves nothing. provenance/verify checks keys
// and policy, provenance/sign makes bundles.
//
// Parse refuses what two readers could read in two ways: repeated keys,
// padding bits in base64, more than one signature, more than one subject,
// other digests than SHA-256, and any bundle of another version.
package bundle

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/strictjson"
)

// Media types and predicate types, as cosign, SLSA and SPDX write them.
const (
	MediaType     = "application/vnd.dev.sigstore.bundle.v0.3+json"
	PayloadType   = "application/vnd.in-toto+json"
	StatementType = "https://in-toto.io/Statement/v1"

	Signature  = "https://sigstore.dev/cosign/sign/v1" // the image as such is signed; empty predicate
	Provenance = "https://slsa.dev/provenance/v1"
	SBOM       = "https://spdx.dev/Document"
)

// MaxSize bounds one bundle, in bytes. The largest in use is the SBOM of a
// full distribution, about 2 MB.
const MaxSize = 16 << 20

// Bundle is a Sigstore bundle (protobuf-specs, sigstore_bundle.proto) with
// the fields that v0.3 allows.
type Bundle struct {
	MediaType            string               `json:"mediaType"`
	VerificationMaterial VerificationMaterial `json:"verificationMaterial"`
	DSSEEnvelope         *Envelope            `json:"dsseEnvelope,omitempty"`
}

// VerificationMaterial says by which certificate or key the bundle is signed.
type VerificationMaterial struct {
	Certificate               *Certificate    `json:"certificate,omitempty"`
	PublicKey                 *PublicKey      `json:"publicKey,omitempty"`
	TimestampVerificationData *Timestamps     `json:"timestampVerificationData,omitempty"`
	TlogEntries               json.RawMessage `json:"tlogEntries,omitempty"` // not read
}

// Certificate is a DER certificate.
type Certificate struct {
	RawBytes Base64 `json:"rawBytes"`
}

// PublicKey names a key that the verifier must know.
type PublicKey struct {
	Hint string `json:"hint,omitempty"`
}

// Timestamps are RFC 3161 responses over the signature's bytes.
type Timestamps struct {
	RFC3161 []Timestamp `json:"rfc3161Timestamps,omitempty"`
}

// Timestamp is one DER TimeStampResp.
type Timestamp struct {
	Signed Base64 `json:"signedTimestamp"`
}

// Envelope is a DSSE envelope.
type Envelope struct {
	Payload     Base64   `json:"payload"`
	PayloadType string   `json:"payloadType"`
	Signatures  []Signed `json:"signatures"`
}

// Signed is one signature over PAE(PayloadType, Payload).
type Signed struct {
	Sig   Base64 `json:"sig"`
	KeyID string `json:"keyid,omitempty"`
}

// Base64 is bytes in strict standard base64: one text for each value.
type Base64 []byte

// MarshalText writes standard base64 with padding.
func (b Base64) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, b), nil
}

// UnmarshalText refuses stray bits and line breaks.
func (b *Base64) UnmarshalText(t []byte) error {
	if bytes.ContainsAny(t, "\r\n") {
		return &errs.Error{Kind: errs.Invalid, Field: "base64", Expected: "no line breaks"}
	}
	v, err := base64.StdEncoding.Strict().AppendDecode(nil, t)
	if err != nil {
		return &errs.Error{Kind: errs.Invalid, Field: "base64", Expected: "standard base64 with padding", Err: err}
	}
	*b = v
	return nil
}

// Statement is an in-toto Statement v1 about one artifact.
type Statement struct {
	Type          string          `json:"_type"`
	Subject       []Subject       `json:"subject"`
	PredicateType string          `json:"predicateType"`
	Predicate     json.RawMessage `json:"predicate,omitempty"`
}

// Subject is the artifact that a statement is about.
type Subject struct {
	Name   string            `json:"name,omitempty"`
	Digest map[string]string `json:"digest"`
}

// About gives the digest of the statement's only subject.
func (s Statement) About() artifact.Digest {
	if len(s.Subject) != 1 || len(s.Subject[0].Digest) != 1 {
		return artifact.Digest{}
	}
	d, err := artifact.ParseDigest("sha256:" + s.Subject[0].Digest["sha256"])
	if err != nil {
		return artifact.Digest{}
	}
	return d
}

// NewStatement makes a statement about one artifact.
func NewStatement(name string, d artifact.Digest, predicateType string, predicate any) (Statement, error) {
	p, err := json.Marshal(predicate)
	if err != nil {
		return Statement{}, fmt.Errorf("encode predicate %s: %w", predicateType, err)
	}
	return Statement{
		Type:          StatementType,
		Subject:       []Subject{{Name: name, Digest: map[string]string{"sha256": d.Hex()}}},
		PredicateType: predicateType,
		Predicate:     p,
	}, nil
}

// Parse reads a bundle and the statement in it.
func Parse(raw []byte) (Bundle, Statement, error) {
	var b Bundle
	if len(raw) > MaxSize {
		return b, Statement{}, &errs.Error{Kind: errs.TooLarge, Subject: "bundle", Expected: fmt.Sprintf("at most %d bytes", MaxSize)}
	}
	if err := strictjson.Decode(raw, &b); err != nil {
		return b, Statement{}, fmt.Errorf("parse bundle: %w", err)
	}
	if err := b.check(); err != nil {
		return b, Statement{}, err
	}
	s, err := ParseStatement(b.DSSEEnvelope.Payload)
	return b, s, err
}

func (b Bundle) check() error {
	m, e := b.VerificationMaterial, b.DSSEEnvelope
	switch {
	case b.MediaType != MediaType:
		return invalid("mediaType", MediaType, b.MediaType)
	case e == nil:
		return invalid("dsseEnvelope", "a DSSE envelope", "none")
	case e.PayloadType != PayloadType:
		return invalid("dsseEnvelope.payloadType", PayloadType, e.PayloadType)
	case len(e.Signatures) != 1:
		// Sigstore's bundle format: exactly one; with two, a verifier could
		// check the one and report the other.
		return invalid("dsseEnvelope.signatures", "exactly one", fmt.Sprint(len(e.Signatures)))
	case (m.Certificate == nil) == (m.PublicKey == nil):
		return invalid("verificationMaterial", "either a certificate or a public key", "both or none")
	case m.TimestampVerificationData != nil && len(m.TimestampVerificationData.RFC3161) > 4:
		return invalid("rfc3161Timestamps", "at most 4", fmt.Sprint(len(m.TimestampVerificationData.RFC3161)))
	}
	return nil
}

// ParseStatement reads an in-toto statement about exactly one artifact that is
// named by exactly one SHA-256.
func ParseStatement(payload []byte) (Statement, error) {
	var s Statement
	if err := strictjson.Decode(payload, &s); err != nil {
		return s, fmt.Errorf("parse statement: %w", err)
	}
	switch {
	case s.Type != StatementType:
		return s, invalid("_type", StatementType, s.Type)
	case s.PredicateType == "":
		return s, invalid("predicateType", "a URI", "nothing")
	case s.About().IsZero():
		return s, invalid("subject", "exactly one, named by exactly one sha256", fmt.Sprintf("%d subjects", len(s.Subject)))
	}
	return s, nil
}

// Marshal writes b in its one canonical form.
func (b Bundle) Marshal() ([]byte, error) { return json.Marshal(b) }

// PAE is DSSE's pre-authentication encoding, the bytes that are signed (DSSE
// protocol, section "Signature Definition").
func PAE(payloadType string, payload []byte) []byte {
	return fmt.Appendf(nil, "DSSEv1 %d %s %d %s", len(payloadType), payloadType, len(payload), payload)
}

func invalid(field, expected, seen string) error {
	if len(seen) > 128 {
		seen = seen[:128] + "…"
	}
	return &errs.Error{Kind: errs.Invalid, Subject: "bundle", Field: field, Expected: expected, Seen: seen}
}

// Decode reads JSON of unknown honesty into v as Parse does: no key twice, no
// field in another case.
func Decode(raw []byte, v any) error { return strictjson.Decode(raw, v) }
