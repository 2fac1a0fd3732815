// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"bytes"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"regexp"
	"runtime"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/secure"
)

// echoServer is crypto/tls's.
func echoServer(t testing.TB, cfg *tls.Config) string {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(20 * time.Second))
				io.Copy(c, c)
			}()
		}
	}()
	return ln.Addr().String()
}

// asker sends a body and waits until it has come back.
type asker struct {
	body []byte
	sent int
	got  []byte
	done chan error
}

func (a *asker) OnConn(c *engine.Conn) {
	for a.sent < len(a.body) {
		n := c.Send(a.body[a.sent:])
		if a.sent += n; n == 0 {
			break
		}
	}
	for {
		a.got = append(a.got, c.Bytes()...)
		c.Discard(len(c.Bytes()))
		if !c.Fill(64 << 10) {
			break
		}
	}
	switch {
	case c.Err() != nil:
		a.done <- c.Err()
		c.SetHandler(nopHandler{})
	case len(a.got) >= len(a.body):
		var err error
		if !bytes.Equal(a.got, a.body) {
			err = errors.New("other bytes came back")
		}
		c.SetHandler(nopHandler{})
		c.Finish()
		a.done <- err
	}
}

// ask dials, exchanges and closes.
func (s *side) ask(cl *secure.Client, at string, target secure.Target, n int) result {
	s.t.Helper()
	a := &asker{body: bytes.Repeat([]byte("0123456789abcdef"), n/16), done: make(chan error, 1)}
	_, r := s.dial(cl, at, target, a)
	if r.err == nil {
		if err := <-a.done; err != nil {
			s.t.Fatal(err)
		}
	}
	return r
}

func TestClientAgainstCryptoTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 100)
	mine := ca.issue(t, "", nil, "client.example")
	for _, auth := range []tls.ClientAuthType{tls.NoClientCert, tls.RequireAndVerifyClientCert} {
		for _, kind := range []string{"ecdsa", "rsa"} {
			cfg := &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, kind, nil, "a.example"))}, ClientAuth: auth, ClientCAs: ca.pool(), NextProtos: []string{"h2", "http/1.1"}}
			at := echoServer(t, cfg)
			for _, suite := range append([]uint16{0}, suites12...) {
				conf := &config.ClientTLS{SNI: "a.example", Common: config.CommonTLS{Certs: []*config.Cert{mine}, Validation: &config.Validation{CAs: ca.pem, SANs: []config.SANMatch{{Type: "DNS", Match: config.StringMatch{Value: "a.example"}}}}}}
				version := uint16(tls.VersionTLS13)
				if suite != 0 {
					version = tls.VersionTLS12
					conf.Common.CipherSuites, conf.Common.MaxVersion = []uint16{suite}, version
					if ecdsa := suite == suites12[0] || suite == suites12[1] || suite == suites12[2]; ecdsa != (kind == "ecdsa") {
						continue
					}
				}
				cl, err := secure.NewClient(conf, []string{"http/1.1"}, secure.Deps{})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 3 {
					r := s.ask(cl, at, secure.Target{Host: at}, 16<<i)
					if r.err != nil {
						t.Fatalf("%s: %v", tls.CipherSuiteName(suite), r.err)
					}
					if r.info.Version != version || r.info.ALPN != "http/1.1" || r.info.SNI != "a.example" || !r.info.PeerValidated || r.info.Resumed != (i > 0) || suite != 0 && r.info.Suite != suite {
						t.Fatalf("connection %d, %s: %+v", i, tls.CipherSuiteName(suite), r.info)
					}
				}
			}
		}
	}
}

func TestClientResumption(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 100)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		at := echoServer(t, &tls.Config{Certificates: []tls.Certificate{pair(t, ca.issue(t, "", nil, "a.example", "spiffe://bank/a"))}, MaxVersion: version})
		conf := &config.ClientTLS{AutoSNI: true, Common: config.CommonTLS{ValidationSecret: "ca", Validation: &config.Validation{CAs: ca.pem}}}
		cl, err := secure.NewClient(conf, nil, secure.Deps{})
		if err != nil {
			t.Fatal(err)
		}
		for i, c := range []struct {
			t    secure.Target
			want bool
		}{
			{secure.Target{Host: "1", Authority: "a.example"}, false}, {secure.Target{Host: "1", Authority: "a.example"}, true},
			{secure.Target{Host: "2", Authority: "a.example"}, false}, {secure.Target{Host: "1", Authority: "b.example"}, false},
			{secure.Target{Host: "1", Authority: "a.example", Identity: "spiffe://bank/a"}, false},
			{secure.Target{Host: "1", Authority: "a.example"}, true},
		} {
			r := s.ask(cl, at, c.t, 16)
			if r.err != nil || r.info.Resumed != c.want || r.info.SNI != c.t.Authority {
				t.Fatalf("%s, connection %d: %+v, %v", versionName(version), i, r.info, r.err)
			}
		}
		if _, err := cl.UpdateValidation("ca", &config.Validation{CAs: append(bytes.Clone(ca.pem), newAuthority(t, "x").pem...)}); err != nil {
			t.Fatal(err)
		}
		if r := s.ask(cl, at, secure.Target{Host: "1", Authority: "a.example"}, 16); r.err != nil || r.info.Resumed {
			t.Fatalf("resumed after a change of trust: %+v, %v", r.info, r.err)
		}
		conf.MaxSessionKeys = -1
		if cl, err = secure.NewClient(conf, nil, secure.Deps{}); err != nil {
			t.Fatal(err)
		}
		for range 2 {
			if r := s.ask(cl, at, secure.Target{Host: "1", Authority: "a.example"}, 16); r.err != nil || r.info.Resumed {
				t.Fatalf("%+v, %v", r.info, r.err)
			}
		}
		cl.Close()
	}
}

// TestClientVerifies: what of a server is believed.
func TestClientVerifies(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	s := newSide(t, 100)
	leaf := ca.issue(t, "", nil, "a.example", "*.wild.example", "spiffe://bank.example/ns/a")
	p := pair(t, leaf)
	at := echoServer(t, &tls.Config{Certificates: []tls.Certificate{p}})
	spki, hash := sha256.Sum256(p.Leaf.RawSubjectPublicKeyInfo), sha256.Sum256(p.Leaf.Raw)
	pin, fingerprint := base64.StdEncoding.EncodeToString(spki[:]), hex.EncodeToString(hash[:])
	san := func(kind string, m config.StringMatch) []config.SANMatch {
		return []config.SANMatch{{Type: kind, Match: m}}
	}
	crl := func(a *authority, next time.Time, revoked ...x509.RevocationListEntry) []byte {
		return revocations(t, a, next, revoked...)
	}
	soon := time.Now().Add(time.Hour)
	mine := x509.RevocationListEntry{SerialNumber: p.Leaf.SerialNumber, RevocationTime: time.Now().Add(-time.Minute)}
	for name, c := range map[string]struct {
		v    config.Validation
		auto string
		id   string
		ok   bool
		let  bool // in, unvalidated
	}{
		"the CA":             {v: config.Validation{CAs: ca.pem}, ok: true},
		"another CA":         {v: config.Validation{CAs: other.pem}},
		"any":                {v: config.Validation{AllowEmpty: true}, let: true},
		"another CA, any":    {v: config.Validation{CAs: other.pem, AllowEmpty: true}, let: true},
		"the CA, any":        {v: config.Validation{CAs: ca.pem, AllowEmpty: true}, ok: true},
		"pin":                {v: config.Validation{Pins: []string{pin}}, ok: true},
		"hash":               {v: config.Validation{Hashes: []string{"00" + fingerprint[2:], fingerprint}}, ok: true},
		"CA and another pin": {v: config.Validation{CAs: ca.pem, Hashes: []string{"00" + fingerprint[2:]}}},
		"pin and another CA": {v: config.Validation{CAs: other.pem, Pins: []string{pin}}},
		"DNS":                {v: config.Validation{CAs: ca.pem, SANs: san("DNS", config.StringMatch{Value: "A.example", IgnoreCase: true})}, ok: true},
		"DNS wildcard":       {v: config.Validation{CAs: ca.pem, SANs: san("DNS", config.StringMatch{Value: "x.wild.example"})}, ok: true},
		"DNS two labels":     {v: config.Validation{CAs: ca.pem, SANs: san("DNS", config.StringMatch{Value: "y.x.wild.example"})}},
		"other DNS":          {v: config.Validation{CAs: ca.pem, SANs: san("DNS", config.StringMatch{Value: "b.example"})}},
		"URI as DNS":         {v: config.Validation{CAs: ca.pem, SANs: san("DNS", config.StringMatch{Kind: config.MatchPrefix, Value: "spiffe://"})}},
		"URI prefix":         {v: config.Validation{CAs: ca.pem, SANs: san("URI", config.StringMatch{Kind: config.MatchPrefix, Value: "spiffe://bank.example/"})}, ok: true},
		"any suffix":         {v: config.Validation{CAs: ca.pem, SANs: san("", config.StringMatch{Kind: config.MatchSuffix, Value: "/ns/a"})}, ok: true},
		"contains":           {v: config.Validation{CAs: ca.pem, SANs: san("", config.StringMatch{Kind: config.MatchContains, Value: "bank"})}, ok: true},
		"regex":              {v: config.Validation{CAs: ca.pem, SANs: san("URI", config.StringMatch{Kind: config.MatchRegex, Regex: regexp.MustCompile(`spiffe://[a-z.]+/ns/a`)})}, ok: true},
		"half a regex":       {v: config.Validation{CAs: ca.pem, SANs: san("URI", config.StringMatch{Kind: config.MatchRegex, Regex: regexp.MustCompile(`spiffe://bank`)})}},
		"SPIFFE":             {v: config.Validation{SPIFFE: map[string][]byte{"bank.example": ca.pem, "other": other.pem}}, ok: true},
		"SPIFFE elsewhere":   {v: config.Validation{SPIFFE: map[string][]byte{"other.example": ca.pem}}},
		"SPIFFE, another CA": {v: config.Validation{SPIFFE: map[string][]byte{"bank.example": other.pem}}},
		"auto SAN":           {v: config.Validation{CAs: ca.pem}, auto: "q.wild.example", ok: true},
		"auto SAN, not":      {v: config.Validation{CAs: ca.pem}, auto: "b.example"},
		"identity":           {v: config.Validation{CAs: ca.pem}, id: "spiffe://bank.example/ns/a", ok: true},
		"identity, any CA":   {v: config.Validation{CAs: other.pem, AllowEmpty: true}, id: "spiffe://bank.example/ns/a"},
		"other identity":     {v: config.Validation{CAs: ca.pem}, id: "spiffe://bank.example/ns/b"},
		"CRL":                {v: config.Validation{CAs: ca.pem, CRL: crl(ca, soon)}, ok: true},
		"revoked":            {v: config.Validation{CAs: ca.pem, CRL: crl(ca, soon, mine)}},
		"old CRL":            {v: config.Validation{CAs: ca.pem, CRL: crl(ca, time.Now().Add(-time.Minute))}},
		"CRL of another":     {v: config.Validation{CAs: ca.pem, CRL: crl(other, soon)}},
		"revoked in the old": {v: config.Validation{CAs: ca.pem, CRL: append(crl(ca, soon), crl(ca, time.Now().Add(-time.Minute), mine)...)}},
		"CRL of two":         {v: config.Validation{CAs: ca.pem, CRL: append(crl(other, soon), crl(ca, soon)...)}, ok: true},
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			cl, err := secure.NewClient(&config.ClientTLS{AutoSAN: c.auto != "", Common: config.CommonTLS{Validation: &c.v}}, nil, secure.Deps{})
			if err != nil {
				t.Fatal(err)
			}
			r := s.ask(cl, at, secure.Target{Authority: c.auto, Identity: c.id}, 16)
			if (r.err == nil) != (c.ok || c.let) || r.err == nil && r.info.PeerValidated != c.ok {
				t.Fatalf("%+v, %v", r.info, r.err)
			}
			if r.err != nil && !errors.Is(r.err, errs.Unproven) {
				t.Errorf("kind %q: %v", errs.KindOf(r.err), r.err)
			}
		})
	}
	s.t = t
	cl, err := secure.NewClient(&config.ClientTLS{AutoSAN: true, Common: config.CommonTLS{Validation: &config.Validation{CAs: ca.pem}}}, nil, secure.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	if r := s.ask(cl, at, secure.Target{}, 16); !errors.Is(r.err, errs.Unproven) {
		t.Errorf("without an authority: %v", r.err)
	}
}

func revocations(t testing.TB, a *authority, next time.Time, list ...x509.RevocationListEntry) []byte {
	t.Helper()
	der, err := x509.CreateRevocationList(nil, &x509.RevocationList{Number: a.cert.SerialNumber, ThisUpdate: time.Now().Add(-2 * time.Hour), NextUpdate: next, RevokedCertificateEntries: list}, a.cert, a.key)
	if err != nil {
		t.Fatal(err)
	}
	return pemOf("X509 CRL", der)
}

// TestClientCertificateOptional: a server that asks, and takes none.
func TestClientCertificateOptional(t *testing.T) {
	ca, other := newAuthority(t, "ca"), newAuthority(t, "other")
	s := newSide(t, 100)
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", nil, "a.example")}, Validation: &config.Validation{CAs: ca.pem}}}, secure.Deps{})
	base := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example"}
	if _, info := s.connect(base); info.PeerPresented || info.PeerValidated {
		t.Errorf("%+v", info)
	}
	with := base.Clone()
	with.Certificates = []tls.Certificate{pair(t, ca.issue(t, "", nil, "c.example"))}
	if _, info := s.connect(with); !info.PeerPresented || !info.PeerValidated {
		t.Errorf("%+v", info)
	}
	bad := pair(t, other.issue(t, "", nil, "c.example"))
	with.Certificates, with.GetClientCertificate = nil, func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &bad, nil }
	if err := s.refused(with); !errors.Is(err, errs.Unproven) {
		t.Errorf("%v", err)
	}
	onlyServer := pair(t, ca.issue(t, "", func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }, "c.example"))
	with.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &onlyServer, nil }
	s.refused(with)
}

func TestShareBoundsHandshakes(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 100)
	s.opts.Share = secure.NewShare(2)
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", nil, "a.example")}}}, secure.Deps{})
	var held []net.Conn
	for range 3 {
		if c, err := net.Dial("tcp", s.at.String()); err == nil { // the reset may come first
			held = append(held, c)
		}
	}
	if r := <-s.named; !errors.Is(r.err, errs.Unavailable) || s.opts.Share.Live() != 2 {
		t.Fatalf("%v, %d live", r.err, s.opts.Share.Live())
	}
	for _, c := range held {
		c.Close()
	}
	for range 2 {
		if r := <-s.named; r.err == nil {
			t.Fatal("named nobody")
		}
	}
	for s.opts.Share.Live() > 0 { // given back by the goroutines
		runtime.Gosched()
	}
	s.connect(&tls.Config{RootCAs: ca.pool(), ServerName: "a.example"})
}
