// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/digitorus/timestamp"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/bundle"
)

// leafLife is how long a signing certificate is valid; its use is over within
// milliseconds.
const leafLife = 10 * time.Minute

// Builder and Node are the identities that sign for an installation: images
// and their provenance, and passports. They differ, so that neither can make
// the other's statements.
func Builder(td id.TrustDomain) id.ID { return system(td, "builder") }

// Node is the identity that signs passports.
func Node(td id.TrustDomain) id.ID { return system(td, "node") }

func system(td id.TrustDomain, sa string) id.ID {
	v, err := id.Workload(td, "redoubt-system", sa)
	if err != nil {
		panic("sign: a fixed name is no SPIFFE path: " + err.Error())
	}
	return v
}

// Authority holds the installation's signing keys.
type Authority struct {
	td       id.TrustDomain
	now      func() time.Time
	caKey    *ecdsa.PrivateKey
	ca       *x509.Certificate
	tsaKey   *ecdsa.PrivateKey
	tsa      *x509.Certificate
	static   *ecdsa.PrivateKey
	rootJSON []byte
	pubPEM   []byte
}

// Open reads the keys in dir, or makes them when dir holds none. Keys of
// another trust domain are refused with errs.Conflict.
func Open(dir string, td id.TrustDomain, now func() time.Time) (*Authority, error) {
	gen := filepath.Join(dir, generation)
	if _, err := os.Lstat(gen); errors.Is(err, fs.ErrNotExist) {
		if err := create(dir, td, now()); err != nil {
			return nil, fmt.Errorf("make signing keys: %w", err)
		}
	}
	if err := dropHalfMade(dir, now()); err != nil {
		return nil, fmt.Errorf("open signing keys: %w", err)
	}
	a := &Authority{td: td, now: now}
	if err := a.load(gen); err != nil {
		return nil, fmt.Errorf("open signing keys: %w", err)
	}
	return a, nil
}

func (a *Authority) load(dir string) error {
	var err error
	if a.caKey, err = readKey(filepath.Join(dir, caKeyFile)); err != nil {
		return err
	}
	if a.tsaKey, err = readKey(filepath.Join(dir, tsaKeyFile)); err != nil {
		return err
	}
	if a.static, err = readKey(filepath.Join(dir, keyFile)); err != nil {
		return err
	}
	ca, err := readCerts(filepath.Join(dir, caCertFile), 1)
	if err != nil {
		return err
	}
	tsa, err := readCerts(filepath.Join(dir, tsaCertFile), 2)
	if err != nil {
		return err
	}
	a.ca, a.tsa = ca[0], tsa[0]
	if len(a.ca.PermittedURIDomains) != 1 || a.ca.PermittedURIDomains[0] != a.td.Name() {
		return &errs.Error{Kind: errs.Conflict, Subject: dir, Field: "trust domain", Expected: a.td.Name(), Seen: fmt.Sprint(a.ca.PermittedURIDomains),
			Fix: "use the trust domain that the installation was made with, or another folder"}
	}
	if !a.caKey.PublicKey.Equal(a.ca.PublicKey) || !a.tsaKey.PublicKey.Equal(a.tsa.PublicKey) {
		return &errs.Error{Kind: errs.Conflict, Subject: dir, Expected: "keys that belong to the certificates beside them", Seen: "others", Fix: "restore the folder as a whole"}
	}
	if a.rootJSON, err = conf.ReadFile(filepath.Join(dir, rootFile), 1<<20); err != nil {
		return err
	}
	a.pubPEM, err = conf.ReadFile(filepath.Join(dir, pubKeyFile), 64<<10)
	return err
}

// TrustDomain is whose authority this is.
func (a *Authority) TrustDomain() id.TrustDomain { return a.td }

// TrustRoot gives the trusted_root.json that verifies what Sign makes.
func (a *Authority) TrustRoot() []byte { return append([]byte(nil), a.rootJSON...) }

// PublicKeyPEM gives the key that verifies what SimpleSign makes.
func (a *Authority) PublicKeyPEM() []byte { return append([]byte(nil), a.pubPEM...) }

// Sign signs a statement as who, of the authority's own trust domain, and
// gives the bundle's canonical JSON.
func (a *Authority) Sign(who id.ID, st bundle.Statement) ([]byte, error) {
	if !who.MemberOf(a.td) {
		return nil, &errs.Error{Kind: errs.Denied, Field: "signer", Expected: "an identity of " + a.td.Name(), Seen: who.String()}
	}
	payload, err := json.Marshal(st)
	if err != nil {
		return nil, fmt.Errorf("encode statement: %w", err)
	}
	now := a.now().UTC()
	key, leaf, err := a.leaf(who, now)
	if err != nil {
		return nil, fmt.Errorf("issue signing certificate for %s: %w", who, err)
	}
	sum := sha256.Sum256(bundle.PAE(bundle.PayloadType, payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("sign statement: %w", err)
	}
	ts, err := a.timestamp(sig, now)
	if err != nil {
		return nil, fmt.Errorf("timestamp signature: %w", err)
	}
	b := bundle.Bundle{
		MediaType: bundle.MediaType,
		VerificationMaterial: bundle.VerificationMaterial{
			Certificate:               &bundle.Certificate{RawBytes: leaf},
			TimestampVerificationData: &bundle.Timestamps{RFC3161: []bundle.Timestamp{{Signed: ts}}},
		},
		DSSEEnvelope: &bundle.Envelope{Payload: payload, PayloadType: bundle.PayloadType, Signatures: []bundle.Signed{{Sig: sig}}},
	}
	return b.Marshal()
}

// leaf makes a key and its certificate: one URI name, only for code signing.
func (a *Authority) leaf(who id.ID, now time.Time) (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	// Fulcio's issuer extension: cosign compares it beside the identity.
	issuer, err := asn1.MarshalWithParams(a.td.IDString(), "utf8")
	if err != nil {
		return nil, nil, err
	}
	c, err := issue(&x509.Certificate{
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLife - backdate),
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		URIs:                  []*url.URL{who.URL()},
		ExtraExtensions:       []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 1, 8}, Value: issuer}},
	}, a.ca, &key.PublicKey, a.caKey)
	if err != nil {
		return nil, nil, err
	}
	return key, c.Raw, nil
}

// timestamp makes an RFC 3161 response over sig. The certificate is not
// embedded: the verifier has it from the trust root, and bytes that nobody
// signs would be bytes that anybody may change.
func (a *Authority) timestamp(sig []byte, now time.Time) ([]byte, error) {
	sum := sha256.Sum256(sig)
	t := timestamp.Timestamp{
		HashAlgorithm: crypto.SHA256,
		HashedMessage: sum[:],
		Time:          now.Truncate(time.Second),
		Policy:        asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 57264, 2}, // Sigstore's timestamping policy
		Accuracy:      time.Second,
	}
	return t.CreateResponseWithOpts(a.tsa, a.tsaKey, crypto.SHA256)
}

// simple is the payload of the "simple signing" format, in the field order
// that cosign writes.
type simple struct {
	Critical struct {
		Identity struct {
			DockerReference string `json:"docker-reference"`
		} `json:"identity"`
		Image struct {
			DockerManifestDigest string `json:"docker-manifest-digest"`
		} `json:"image"`
		Type string `json:"type"`
	} `json:"critical"`
	Optional map[string]string `json:"optional"`
}

// SimpleSign signs image by the static key, in cosign's older form: payload
// and the ASN.1 signature over its SHA-256. reference is the repository, with
// its registry as clients reach it; podman and skopeo compare it.
func (a *Authority) SimpleSign(reference string, image artifact.Digest) (payload, sig []byte, err error) {
	var p simple
	p.Critical.Identity.DockerReference = reference
	p.Critical.Image.DockerManifestDigest = image.String()
	p.Critical.Type = "cosign container image signature"
	if payload, err = json.Marshal(p); err != nil {
		return nil, nil, fmt.Errorf("encode simple signing payload: %w", err)
	}
	sum := sha256.Sum256(payload)
	if sig, err = ecdsa.SignASN1(rand.Reader, a.static, sum[:]); err != nil {
		return nil, nil, fmt.Errorf("sign simple signing payload: %w", err)
	}
	return payload, sig, nil
}
