// SPDX-License-Identifier: Apache-2.0

package provenancetest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/json"
	"encoding/pem"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/digitorus/timestamp"

	"redoubt.dev/provenance/bundle"
)

// Forge holds an installation's stolen keys and signs what its owner never
// would.
type Forge struct {
	Now    time.Time
	ca     *x509.Certificate
	caKey  *ecdsa.PrivateKey
	tsa    *x509.Certificate
	tsaKey *ecdsa.PrivateKey
}

// Steal opens the key folder of an installation.
func (in *Installation) Steal(t testing.TB) *Forge {
	t.Helper()
	f := &Forge{Now: in.Clock().UTC()}
	f.ca, f.caKey = pair(t, in.KeyDir, "ca")
	f.tsa, f.tsaKey = pair(t, in.KeyDir, "tsa")
	return f
}

func pair(t testing.TB, dir, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	block := func(file string) []byte {
		b, err := os.ReadFile(filepath.Join(dir, "v1", file))
		if err != nil {
			t.Fatal(err)
		}
		p, _ := pem.Decode(b)
		return p.Bytes
	}
	c, err := x509.ParseCertificate(block(name + ".crt"))
	if err != nil {
		t.Fatal(err)
	}
	k, err := x509.ParsePKCS8PrivateKey(block(name + ".key"))
	if err != nil {
		t.Fatal(err)
	}
	return c, k.(*ecdsa.PrivateKey)
}

// Forged says how a forged bundle differs from an honest one; the zero Forged
// makes one that differs in nothing.
type Forged struct {
	Leaf   func(*x509.Certificate)           // changes the certificate's template
	Time   time.Time                         // of the timestamp
	TSA    *Forge                            // whose timestamp
	Bundle func(*bundle.Bundle)              // changes the bundle at the end
	Sign   func(payload []byte) (pae []byte) // what is signed instead
}

// Sign makes a bundle of st, signed as who.
func (f *Forge) Sign(t testing.TB, who string, st bundle.Statement, how Forged) []byte {
	t.Helper()
	payload, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	return f.SignPayload(t, who, payload, how)
}

// SignPayload makes a bundle of any payload.
func (f *Forge) SignPayload(t testing.TB, who string, payload []byte, how Forged) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(who)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), NotBefore: f.Now.Add(-time.Minute), NotAfter: f.Now.Add(9 * time.Minute),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning}, URIs: []*url.URL{u},
	}
	if how.Leaf != nil {
		how.Leaf(leaf)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, f.ca, key.Public(), f.caKey)
	if err != nil {
		t.Fatal(err)
	}
	pae := bundle.PAE(bundle.PayloadType, payload)
	if how.Sign != nil {
		pae = how.Sign(payload)
	}
	sum := sha256.Sum256(pae)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if how.Time.IsZero() {
		how.Time = f.Now
	}
	if how.TSA == nil {
		how.TSA = f
	}
	b := bundle.Bundle{
		MediaType: bundle.MediaType,
		VerificationMaterial: bundle.VerificationMaterial{
			Certificate:               &bundle.Certificate{RawBytes: der},
			TimestampVerificationData: &bundle.Timestamps{RFC3161: []bundle.Timestamp{{Signed: how.TSA.Timestamp(t, sig, how.Time)}}},
		},
		DSSEEnvelope: &bundle.Envelope{Payload: payload, PayloadType: bundle.PayloadType, Signatures: []bundle.Signed{{Sig: sig}}},
	}
	if how.Bundle != nil {
		how.Bundle(&b)
	}
	raw, err := b.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// Timestamp makes an RFC 3161 response over sig.
func (f *Forge) Timestamp(t testing.TB, sig []byte, at time.Time) []byte {
	t.Helper()
	sum := sha256.Sum256(sig)
	ts := timestamp.Timestamp{HashAlgorithm: crypto.SHA256, HashedMessage: sum[:], Time: at.UTC().Truncate(time.Second), Policy: asn1.ObjectIdentifier{1, 2, 3}}
	b, err := ts.CreateResponseWithOpts(f.tsa, f.tsaKey, crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// SignByKey makes a bundle of st that is signed by a static key.
func SignByKey(t testing.TB, key *ecdsa.PrivateKey, st bundle.Statement) []byte {
	t.Helper()
	payload, err := json.Marshal(st)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(bundle.PAE(bundle.PayloadType, payload))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	raw, err := bundle.Bundle{
		MediaType:            bundle.MediaType,
		VerificationMaterial: bundle.VerificationMaterial{PublicKey: &bundle.PublicKey{Hint: "any"}},
		DSSEEnvelope:         &bundle.Envelope{Payload: payload, PayloadType: bundle.PayloadType, Signatures: []bundle.Signed{{Sig: sig}}},
	}.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return raw
}
