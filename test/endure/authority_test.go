// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/test/conform/rig"
)

// authority issues certificates, each with a serial number of its own.
type authority struct {
	t      testing.TB
	dir    string
	ca     *x509.Certificate
	key    *ecdsa.PrivateKey
	file   string
	pool   *x509.CertPool
	serial atomic.Int64
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	a := &authority{t: t, dir: t.TempDir(), pool: x509.NewCertPool()}
	a.key = a.newKey()
	now := time.Now()
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "endure"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &a.key.PublicKey, a.key)
	if err == nil {
		a.ca, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	a.pool.AddCert(a.ca)
	a.serial.Store(1)
	a.file = filepath.Join(a.dir, "ca.pem")
	write(t, a.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return a
}

func (a *authority) newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	return k
}

// write replaces a file, as a whole or not at all.
func write(t testing.TB, path string, b []byte) {
	t.Helper()
	err := os.WriteFile(path+".new", b, 0o600)
	if err == nil {
		err = os.Rename(path+".new", path)
	}
	if err != nil {
		t.Error(err)
	}
}

// pair is a certificate and its key.
type pair struct {
	serial    int64
	cert, key []byte // PEM
	tls       tls.Certificate
}

// issue makes one for localhost, for a server as for a client.
func (a *authority) issue() pair {
	a.t.Helper()
	p := pair{serial: a.serial.Add(1)}
	k := a.newKey()
	c := &x509.Certificate{SerialNumber: big.NewInt(p.serial), Subject: pkix.Name{CommonName: "localhost"}, NotBefore: a.ca.NotBefore, NotAfter: a.ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, c, a.ca, &k.PublicKey, a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		a.t.Fatal(err)
	}
	p.cert, p.key = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	p.tls = tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}
	return p
}

// both is certificate and key in one file's text, which is replaced at once.
func (p *pair) both() []byte { return append(append([]byte(nil), p.cert...), p.key...) }

// certs gives what a rig.Certs has: a server certificate in files, and a
// client that has one too.
func (a *authority) certs() *rig.Certs {
	a.t.Helper()
	p := a.issue()
	path := filepath.Join(a.t.TempDir(), "both.pem")
	write(a.t, path, p.both())
	return &rig.Certs{CertFile: path, KeyFile: path, BothFile: path, CAFile: a.file, Client: a.client()}
}

func (a *authority) client() *tls.Config {
	p := a.issue()
	return &tls.Config{RootCAs: a.pool, ServerName: "localhost", MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{p.tls}}
}

// serialAt shakes hands and tells which certificate the server shows.
func serialAt(addr string, cfg *tls.Config) (int64, error) {
	c, err := tls.DialWithDialer(&net.Dialer{Timeout: patience}, "tcp", addr, cfg)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64(), nil
}
