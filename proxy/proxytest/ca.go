// SPDX-License-Identifier: Apache-2.0

// Package proxytest lets tests run whole proxies on loopback: a CA that signs
// SVIDs, and edges without network namespaces.
package proxytest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/api/wire"
)

// CA is a small certificate authority of one trust domain.
type CA struct {
	Domain string
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
}

var serials atomic.Int64

// NewCA makes a CA.
func NewCA(t testing.TB, domain string) *CA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + serials.Add(1)), Subject: pkix.Name{CommonName: domain},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		URIs: []*url.URL{{Scheme: "spiffe", Host: domain}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &CA{Domain: domain, cert: cert, key: key}
}

// Root is the CA's DER certificate.
func (ca *CA) Root() []byte { return ca.cert.Raw }

// ID makes a workload's SPIFFE ID.
func (ca *CA) ID(ns, sa string) string {
	return fmt.Sprintf("spiffe://%s/ns/%s/sa/%s", ca.Domain, ns, sa)
}

// Issue signs an SVID of id, valid from an hour ago for ttl from now. change
// may alter the certificate before it is signed.
func (ca *CA) Issue(t testing.TB, id string, ttl time.Duration, change ...func(*x509.Certificate)) wire.SVID {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(id)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1000 + serials.Add(1)),
		NotBefore:    time.Now().Add(-time.Hour), NotAfter: time.Now().Add(ttl),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
		URIs:        []*url.URL{u},
	}
	for _, f := range change {
		f(tmpl)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, key.Public(), ca.key)
	if err != nil {
		t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return wire.SVID{ID: id, Chain: [][]byte{der}, Key: pk, NotAfter: tmpl.NotAfter}
}

// Serial is the serial of an SVID as Snapshot.Revoked writes it.
func Serial(t testing.TB, s wire.SVID) string {
	t.Helper()
	c, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", c.SerialNumber)
}
