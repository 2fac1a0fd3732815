// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

var epoch = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func testCA(t testing.TB) *CA {
	t.Helper()
	td, err := id.ParseTrustDomain("bank.example")
	if err != nil {
		t.Fatal(err)
	}
	ca, err := Open(filepath.Join(t.TempDir(), "ca"), td, func() time.Time { return epoch })
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

func testRecord(t testing.TB, uid string) Record {
	t.Helper()
	td, _ := id.ParseTrustDomain("bank.example")
	v, err := id.Workload(td, "ledger", "api")
	if err != nil {
		t.Fatal(err)
	}
	return Record{UID: uid, ID: v}
}

// TestVerifyRefuses signs leaves with the CA's own key that break one rule
// each: what Issue would never make, a verifier must refuse all the same.
func TestVerifyRefuses(t *testing.T) {
	ca := testCA(t)
	uri := func(s string) *url.URL {
		u, err := url.Parse(s)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}
	for name, spoil := range map[string]func(*x509.Certificate){
		"nothing wrong":                func(*x509.Certificate) {},
		"no URI":                       func(c *x509.Certificate) { c.URIs = nil; c.DNSNames = []string{"api.bank.example"} },
		"two URIs":                     func(c *x509.Certificate) { c.URIs = append(c.URIs, uri("spiffe://bank.example/ns/a/sa/b")) },
		"not SPIFFE":                   func(c *x509.Certificate) { c.URIs = []*url.URL{uri("https://bank.example/ns/a/sa/b")} },
		"a query":                      func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://bank.example/ns/a/sa/b?x=1")} },
		"the domain's own id":          func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://bank.example")} },
		"another domain":               func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://other.example/ns/a/sa/b")} },
		"a domain below":               func(c *x509.Certificate) { c.URIs = []*url.URL{uri("spiffe://evil.bank.example/ns/a/sa/b")} },
		"a host name besides":          func(c *x509.Certificate) { c.DNSNames = []string{"www.bank.example"} },
		"an address besides":           func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(10, 0, 0, 1)} },
		"a CA":                         func(c *x509.Certificate) { c.IsCA = true },
		"may sign certificates":        func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign },
		"no digital signature":         func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyEncipherment },
		"a server only":                func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] },
		"for signing code":             func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} },
		"expired":                      func(c *x509.Certificate) { c.NotAfter = epoch.Add(-time.Second) },
		"not valid yet":                func(c *x509.Certificate) { c.NotBefore = epoch.Add(time.Second) },
		"a critical extension unknown": func(c *x509.Certificate) { c.ExtraExtensions = unknownCritical() },
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Verify([][]byte{leaf(t, ca, spoil)}, ca.Roots(), ca.td, epoch)
			if name == "nothing wrong" {
				if err != nil {
					t.Fatal(err)
				}
				return
			}
			if !errors.Is(err, errs.Unproven) {
				t.Errorf("got %v", err)
			}
		})
	}
}

func TestVerifyNeedsTheRightRoot(t *testing.T) {
	a, b := testCA(t), testCA(t)
	good := leaf(t, a, func(*x509.Certificate) {})
	for name, c := range map[string]struct{ chain, roots [][]byte }{
		"another root":      {[][]byte{good}, b.Roots()},
		"no root":           {[][]byte{good}, nil},
		"no chain":          {nil, a.Roots()},
		"garbage":           {[][]byte{{0x30}}, a.Roots()},
		"garbage root":      {[][]byte{good}, [][]byte{{0x30}}},
		"the root as leaf":  {a.Roots(), a.Roots()},
		"a very long chain": {slices.Repeat([][]byte{good}, maxChain+1), a.Roots()},
		"trailing bytes":    {[][]byte{append(bytes.Clone(good), 0)}, a.Roots()},
	} {
		if _, err := Verify(c.chain, c.roots, a.td, epoch); !errors.Is(err, errs.Unproven) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Verify([][]byte{good}, append(b.Roots(), a.Roots()...), a.td, epoch); err != nil {
		t.Errorf("next root beside the current one: %v", err)
	}
}

// TestNoLeafUnderALeaf: a stolen workload key must not sign others.
func TestNoLeafUnderALeaf(t *testing.T) {
	ca := testCA(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	inter := sign(t, ca, key, func(c *x509.Certificate) { c.IsCA = true; c.KeyUsage |= x509.KeyUsageCertSign })
	ic, err := x509.ParseCertificate(inter)
	if err != nil {
		t.Fatal(err)
	}
	below := &CA{td: ca.td, key: key, root: ic}
	if _, err := Verify([][]byte{leaf(t, below, func(*x509.Certificate) {}), inter}, ca.Roots(), ca.td, epoch); !errors.Is(err, errs.Unproven) {
		t.Errorf("a leaf below an intermediate: %v", err)
	}
}

func TestVerifySVID(t *testing.T) {
	ca := testCA(t)
	good, err := ca.Issue(testRecord(t, "1"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	other, err := ca.Issue(testRecord(t, "2"), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*wire.SVID){
		"another's key": func(s *wire.SVID) { s.Key = other.Key },
		"no key":        func(s *wire.SVID) { s.Key = nil },
		"another name":  func(s *wire.SVID) { s.ID = "spiffe://bank.example/ns/ledger/sa/admin" },
		"a longer life": func(s *wire.SVID) { s.NotAfter = s.NotAfter.Add(time.Hour) },
		"no chain":      func(s *wire.SVID) { s.Chain = nil },
	} {
		s := good
		spoil(&s)
		if _, err := VerifySVID(s, ca.Roots(), ca.td, epoch); !errors.Is(err, errs.Unproven) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := VerifySVID(good, ca.Roots(), ca.td, epoch); err != nil {
		t.Error(err)
	}
}

func FuzzVerify(f *testing.F) {
	ca := testCA(f)
	f.Add(leaf(f, ca, func(*x509.Certificate) {}), []byte{})
	f.Add(ca.root.Raw, ca.root.Raw)
	good := leaf(f, ca, func(*x509.Certificate) {})
	f.Fuzz(func(t *testing.T, a, b []byte) {
		p, err := Verify([][]byte{a, b}, ca.Roots(), ca.td, epoch)
		if err != nil && !errors.Is(err, errs.Unproven) {
			t.Errorf("kind of %v", err)
		}
		if err == nil && !bytes.Equal(p.Leaf.Raw, good) && p.Leaf.CheckSignatureFrom(ca.root) != nil {
			t.Errorf("accepted what the CA did not sign")
		}
	})
}

func leaf(t testing.TB, ca *CA, spoil func(*x509.Certificate)) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return sign(t, ca, key, spoil)
}

func sign(t testing.TB, ca *CA, key *ecdsa.PrivateKey, spoil func(*x509.Certificate)) []byte {
	t.Helper()
	u, _ := url.Parse("spiffe://bank.example/ns/ledger/sa/api")
	c := &x509.Certificate{
		SerialNumber: big.NewInt(7), URIs: []*url.URL{u}, BasicConstraintsValid: true,
		NotBefore: epoch.Add(-time.Minute), NotAfter: epoch.Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	spoil(c)
	der, err := x509.CreateCertificate(rand.Reader, c, ca.root, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func unknownCritical() []pkix.Extension {
	return []pkix.Extension{{Id: []int{1, 3, 6, 1, 4, 1, 99999, 1}, Critical: true, Value: []byte{5, 0}}}
}
