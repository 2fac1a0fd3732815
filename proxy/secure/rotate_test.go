// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/secure"
)

func write(t testing.TB, name string, b []byte) {
	t.Helper()
	if err := os.WriteFile(name+".new", b, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(name+".new", name); err != nil {
		t.Fatal(err)
	}
}

// watcher runs one for the test.
func watcher(t testing.TB) *secure.Watcher {
	t.Helper()
	w := secure.NewWatcher()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// shows waits until the server shows a certificate.
func (s *side) shows(want *config.Cert) {
	s.t.Helper()
	serial := pair(s.t, want).Leaf.SerialNumber
	end := time.Now().Add(20 * time.Second)
	for time.Now().Before(end) {
		c, _ := s.connect(&tls.Config{InsecureSkipVerify: true})
		got := c.ConnectionState().PeerCertificates[0].SerialNumber
		c.Close()
		if got.Cmp(serial) == 0 {
			return
		}
	}
	s.t.Fatal("the new certificate is not shown")
}

// TestFilesRotate: files changed one by one, and Kubernetes' way.
func TestFilesRotate(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	path := func(n string) string { return filepath.Join(dir, n) }
	first, second, third := ca.issue(t, "", nil, "a.example"), ca.issue(t, "", nil, "a.example"), ca.issue(t, "", nil, "a.example")
	write(t, path("crt"), first.ChainPEM)
	write(t, path("key"), first.KeyPEM)
	told := make(chan error, 100)
	s := newSide(t, 10)
	srv := s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{{ChainFile: path("crt"), KeyFile: path("key")}}}},
		secure.Deps{Watch: watcher(t), Told: func(err error) { told <- err }})
	s.shows(first)
	open, _ := s.connect(&tls.Config{InsecureSkipVerify: true})

	write(t, path("crt"), second.ChainPEM)
	if err := <-told; !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), "private_key") {
		t.Fatalf("chain without its key: %v", err)
	}
	s.shows(first)
	write(t, path("key"), second.KeyPEM)
	s.shows(second)

	write(t, path("key"), []byte("-----BEGIN PRIVATE KEY-----\nc2VjcmV0IQ==\n-----END PRIVATE KEY-----\n"))
	if err := <-told; !errors.Is(err, errs.Invalid) || strings.Contains(err.Error(), "c2VjcmV0") || strings.Contains(err.Error(), "secret!") {
		t.Fatalf("nonsense for a key: %v", err)
	}
	os.Remove(path("crt"))
	for err := range told {
		if errors.Is(err, errs.Unavailable) {
			break
		}
	}
	s.shows(second)
	exchange(t, open) // nobody touched it

	// Inline certificates in place of each other: the server is another.
	srv.Close()
	kube := path("kube")
	version := func(n int, c *config.Cert) {
		d := filepath.Join(kube, fmt.Sprintf("..%d", n))
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(d, "tls.crt"), c.ChainPEM)
		write(t, filepath.Join(d, "tls.key"), c.KeyPEM)
		os.Symlink(filepath.Base(d), filepath.Join(kube, "..data_tmp"))
		if err := os.Rename(filepath.Join(kube, "..data_tmp"), filepath.Join(kube, "..data")); err != nil {
			t.Fatal(err)
		}
	}
	version(1, first)
	os.Symlink("..data/tls.crt", filepath.Join(kube, "tls.crt"))
	os.Symlink("..data/tls.key", filepath.Join(kube, "tls.key"))
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{{ChainFile: filepath.Join(kube, "tls.crt"), KeyFile: filepath.Join(kube, "tls.key")}}}}, secure.Deps{Watch: watcher(t)})
	s.shows(first)
	version(2, third)
	s.shows(third)
	version(3, second)
	s.shows(second)
}

// TestTrustedFileRotates: the CA is changed by its file.
func TestTrustedFileRotates(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	file := filepath.Join(t.TempDir(), "ca.crt")
	write(t, file, ca.pem)
	s := newSide(t, 10)
	s.serve(&config.ServerTLS{RequireClientCert: true, Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", nil, "a.example")}, Validation: &config.Validation{CAFile: file}}}, secure.Deps{Watch: watcher(t)})
	theirs := pair(t, other.issue(t, "", nil, "c.example"))
	cfg := &tls.Config{InsecureSkipVerify: true, GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &theirs, nil }}
	s.refused(cfg)
	write(t, file, append([]byte(nil), other.pem...))
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := tls.Dial("tcp", s.at.String(), cfg)
		if err == nil {
			c.SetDeadline(time.Now().Add(20 * time.Second))
			c.Write([]byte("x"))
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		<-s.named
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the new CA is not believed")
		}
	}
}

func TestSecretsArrive(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 10)
	srv := s.serve(&config.ServerTLS{RequireClientCert: true, Common: config.CommonTLS{CertSecrets: []string{"cert"}, ValidationSecret: "ca"}}, secure.Deps{})
	mine := pair(t, ca.issue(t, "", nil, "c.example"))
	cfg := &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{mine}}
	if err := s.refused(cfg); srv.Ready() || !errors.Is(err, errs.Unavailable) {
		t.Fatalf("before the secrets: %v", err)
	}
	first := ca.issue(t, "", nil, "a.example")
	if known, err := srv.Update("cert", first); !known || err != nil {
		t.Fatal(known, err)
	}
	if s.refused(cfg); srv.Ready() {
		t.Fatal("ready without a CA")
	}
	if known, err := srv.UpdateValidation("ca", &config.Validation{CAs: ca.pem}); !known || err != nil || !srv.Ready() {
		t.Fatal(known, err)
	}
	show := func(want *config.Cert) {
		t.Helper()
		c, _ := s.connect(cfg)
		if c.ConnectionState().PeerCertificates[0].SerialNumber.Cmp(pair(t, want).Leaf.SerialNumber) != 0 {
			t.Error("another certificate is shown")
		}
	}
	show(first)
	second := ca.issue(t, "", nil, "a.example")
	if _, err := srv.Update("cert", second); err != nil {
		t.Fatal(err)
	}
	show(second)
	if known, err := srv.Update("cert", &config.Cert{ChainPEM: first.ChainPEM, KeyPEM: second.KeyPEM}); !known || !errors.Is(err, errs.Invalid) {
		t.Fatal(known, err)
	}
	show(second)
	if known, err := srv.UpdateValidation("ca", &config.Validation{}); !known || !errors.Is(err, errs.Invalid) {
		t.Fatal(known, err)
	}
	show(second)
	for _, name := range []string{"", "other"} {
		if known, _ := srv.Update(name, first); known {
			t.Errorf("%q is known", name)
		}
		if known, _ := srv.UpdateValidation(name, &config.Validation{CAs: ca.pem}); known {
			t.Errorf("%q is known", name)
		}
	}
}

// staple signs a response about a certificate.
func staple(t testing.TB, a *authority, c *config.Cert, status int, from, to time.Time) []byte {
	t.Helper()
	b, err := ocsp.CreateResponse(a.cert, a.cert, ocsp.Response{Status: status, SerialNumber: pair(t, c).Leaf.SerialNumber, ThisUpdate: from, NextUpdate: to}, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestStaples(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	now := time.Now()
	old, soon := now.Add(-2*time.Hour), now.Add(2*time.Hour)
	feature, err := asn1.Marshal([]int{5})
	if err != nil {
		t.Fatal(err)
	}
	must := func(c *x509.Certificate) {
		c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}, Value: feature}}
	}
	plain, demanding := ca.issue(t, "", nil, "a.example"), ca.issue(t, "", must, "a.example")
	good, late := staple(t, ca, plain, ocsp.Good, old, soon), staple(t, ca, plain, ocsp.Good, old, now.Add(-time.Minute))
	for name, c := range map[string]struct {
		cert   *config.Cert
		staple []byte
		policy config.OCSPPolicy
		want   string // "staple", "none", "refused", "invalid"
	}{
		"lenient":              {plain, good, config.OCSPLenient, "staple"},
		"lenient, late":        {plain, late, config.OCSPLenient, "none"},
		"lenient, none":        {plain, nil, config.OCSPLenient, "none"},
		"strict":               {plain, good, config.OCSPStrict, "staple"},
		"strict, late":         {plain, late, config.OCSPStrict, "refused"},
		"strict, none":         {plain, nil, config.OCSPStrict, "none"},
		"must":                 {plain, good, config.OCSPMust, "staple"},
		"must, late":           {plain, late, config.OCSPMust, "refused"},
		"must, none":           {plain, nil, config.OCSPMust, "refused"},
		"certificate must":     {demanding, nil, config.OCSPLenient, "refused"},
		"certificate must has": {demanding, staple(t, ca, demanding, ocsp.Good, old, soon), config.OCSPLenient, "staple"},
		"revoked":              {plain, staple(t, ca, plain, ocsp.Revoked, old, soon), config.OCSPLenient, "invalid"},
		"unknown":              {plain, staple(t, ca, plain, ocsp.Unknown, old, soon), config.OCSPLenient, "invalid"},
		"of another":           {plain, staple(t, ca, demanding, ocsp.Good, old, soon), config.OCSPLenient, "invalid"},
		"by another":           {plain, staple(t, other, plain, ocsp.Good, old, soon), config.OCSPLenient, "invalid"},
		"nonsense":             {plain, []byte("staple"), config.OCSPLenient, "invalid"},
	} {
		t.Run(name, func(t *testing.T) {
			cert := *c.cert
			cert.OCSP = c.staple
			conf := &config.ServerTLS{OCSPPolicy: c.policy, Common: config.CommonTLS{Certs: []*config.Cert{&cert}}}
			if c.want == "invalid" {
				if _, err := secure.NewServer(conf, nil, secure.Deps{}); !errors.Is(err, errs.Invalid) {
					t.Fatalf("%v", err)
				}
				return
			}
			s := newSide(t, 10)
			s.serve(conf, secure.Deps{})
			for _, v := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
				cfg := &tls.Config{InsecureSkipVerify: true, MaxVersion: v}
				if c.want == "refused" {
					s.refused(cfg)
					continue
				}
				conn, _ := s.connect(cfg)
				if got := conn.OCSPResponse(); (got != nil) != (c.want == "staple") || got != nil && string(got) != string(c.staple) {
					t.Errorf("%s: %d bytes of staple", versionName(v), len(got))
				}
			}
		})
	}
}

// TestStapleFileRefreshed: a new response is shown without a new certificate.
func TestStapleFileRefreshed(t *testing.T) {
	ca := newAuthority(t, "ca")
	dir := t.TempDir()
	path := func(n string) string { return filepath.Join(dir, n) }
	c := ca.issue(t, "", nil, "a.example")
	write(t, path("crt"), c.ChainPEM)
	write(t, path("key"), c.KeyPEM)
	now := time.Now()
	write(t, path("ocsp"), staple(t, ca, c, ocsp.Good, now.Add(-2*time.Hour), now.Add(-time.Hour)))
	s := newSide(t, 10)
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{{ChainFile: path("crt"), KeyFile: path("key"), OCSPFile: path("ocsp")}}}}, secure.Deps{Watch: watcher(t)})
	if conn, _ := s.connect(&tls.Config{InsecureSkipVerify: true}); conn.OCSPResponse() != nil {
		t.Fatal("a late response was shown")
	}
	write(t, path("ocsp"), staple(t, ca, c, ocsp.Good, now.Add(-time.Hour), now.Add(time.Hour)))
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		conn, _ := s.connect(&tls.Config{InsecureSkipVerify: true})
		if conn.Close(); conn.OCSPResponse() != nil {
			return
		}
	}
	t.Fatal("the new response is not shown")
}

func TestBadConfigurations(t *testing.T) {
	ca := newAuthority(t, "ca")
	good := ca.issue(t, "", nil, "a.example")
	weak := &config.Cert{}
	for name, f := range map[string]func(*config.ServerTLS){
		"no certificate": func(c *config.ServerTLS) { c.Common.Certs = nil },
		"no chain":       func(c *config.ServerTLS) { c.Common.Certs = []*config.Cert{weak} },
		"no file": func(c *config.ServerTLS) {
			c.Common.Certs = []*config.Cert{{ChainFile: "/nonexistent", KeyFile: "/nonexistent"}}
		},
		"TLS 1.0": func(c *config.ServerTLS) { c.Common.MinVersion = tls.VersionTLS10 },
		"upside down": func(c *config.ServerTLS) {
			c.Common.MinVersion, c.Common.MaxVersion = tls.VersionTLS13, tls.VersionTLS12
		},
		"CBC":              func(c *config.ServerTLS) { c.Common.CipherSuites = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256} },
		"a strange curve":  func(c *config.ServerTLS) { c.Common.Curves = []uint16{1} },
		"anybody's client": func(c *config.ServerTLS) { c.RequireClientCert = true },
		"empty validation": func(c *config.ServerTLS) { c.Common.Validation = &config.Validation{} },
		"names without CA": func(c *config.ServerTLS) {
			c.Common.Validation = &config.Validation{Pins: []string{"47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="}, SANs: []config.SANMatch{{}}}
		},
		"a bad pin":  func(c *config.ServerTLS) { c.Common.Validation = &config.Validation{Pins: []string{"x"}} },
		"a bad CA":   func(c *config.ServerTLS) { c.Common.Validation = &config.Validation{CAs: []byte("x")} },
		"a bad list": func(c *config.ServerTLS) { c.Common.Validation = &config.Validation{CAs: ca.pem, CRL: []byte("x")} },
		"a bad matcher": func(c *config.ServerTLS) {
			c.Common.Validation = &config.Validation{CAs: ca.pem, SANs: []config.SANMatch{{Type: "X"}}}
		},
		"a short ticket key": func(c *config.ServerTLS) { c.TicketKeys = []config.SecretBytes{make([]byte, 48)} },
	} {
		c := &config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{good}}}
		f(c)
		if _, err := secure.NewServer(c, nil, secure.Deps{}); err == nil {
			t.Errorf("%s: taken", name)
		} else if errs.KindOf(err) == errs.Internal {
			t.Errorf("%s: untyped: %v", name, err)
		}
	}
	if _, err := secure.NewClient(&config.ClientTLS{}, nil, secure.Deps{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("a client that believes anybody: %v", err)
	}
}
