// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// connect does a handshake and an exchange; the client reads once, so that it
// sees tickets and refusals.
func (s *side) connect(cfg *tls.Config) (*tls.Conn, *filter.TLSInfo) {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.at.String(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	r := <-s.named
	if r.err != nil {
		s.t.Fatal(r.err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.WriteString(c, "x"); err != nil {
		s.t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		s.t.Fatal(err)
	}
	return c, r.info
}

// refused does a handshake that must fail on both sides.
func (s *side) refused(cfg *tls.Config) error {
	s.t.Helper()
	c, err := tls.Dial("tcp", s.at.String(), cfg)
	if err == nil { // in TLS 1.3 the client learns it when it reads
		c.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	r := <-s.named
	if err == nil || r.err == nil {
		s.t.Fatalf("client %v, server %v", err, r.err)
	}
	return r.err
}

var suites12 = []uint16{
	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

// TestServerAgainstCryptoTLS: every suite of TLS 1.2, and TLS 1.3 with and
// without HelloRetryRequest, tickets and client certificates.
func TestServerAgainstCryptoTLS(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 100)
	certs := []*config.Cert{ca.issue(t, "rsa", nil, "a.example"), ca.issue(t, "ecdsa", nil, "a.example")}
	client := ca.issue(t, "ecdsa", nil, "client.example", "spiffe://bank/ns/a")
	base := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", NextProtos: []string{"http/1.1"}}
	for _, tickets := range []bool{true, false} {
		for _, auth := range []bool{false, true} {
			cfg := &config.ServerTLS{Common: config.CommonTLS{Certs: certs}, NoSessionTickets: !tickets, RequireClientCert: auth}
			if auth {
				cfg.Common.Validation = &config.Validation{CAs: ca.pem}
			}
			name := map[bool]string{true: "tickets", false: "no tickets"}[tickets] + map[bool]string{true: " client certificate"}[auth]
			run := func(sub string, change func(*tls.Config)) {
				t.Run(name+" "+sub, func(t *testing.T) {
					s.t = t
					s.serve(cfg, secure.Deps{})
					c := base.Clone()
					if auth {
						c.Certificates = []tls.Certificate{pair(t, client)}
					}
					change(c)
					conn, info := s.connect(c)
					exchange(t, conn)
					st := conn.ConnectionState()
					if info.Version != st.Version || info.Suite != st.CipherSuite || info.SNI != "a.example" || info.ALPN != "http/1.1" || info.Resumed || info.PeerPresented != auth || info.PeerValidated != auth {
						t.Errorf("%+v", info)
					}
					if auth && (len(info.PeerURIs) != 1 || info.PeerURIs[0] != "spiffe://bank/ns/a" || info.PeerDNS[0] != "client.example" || len(info.PeerHash) != 64 || !strings.HasPrefix(info.PeerPEM, "-----BEGIN%20CERTIFICATE-----%0AMII") || info.PeerSubject == "" || info.PeerSerial == "") {
						t.Errorf("%+v", info)
					}
					if err := conn.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					if n, err := conn.Read(make([]byte, 1)); n != 0 || err != io.EOF {
						t.Fatalf("after both ends closed: %d, %v", n, err)
					}
				})
			}
			for _, suite := range suites12 {
				run(tls.CipherSuiteName(suite), func(c *tls.Config) { c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{suite} })
			}
			run("TLS 1.3", func(c *tls.Config) { c.MinVersion = tls.VersionTLS13 })
			run("TLS 1.3 X25519", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519} })
			// P-384 alone is offered without a share by a client that guesses another group first.
			run("TLS 1.3 P-384", func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.CurveP384, tls.CurveP256} })
		}
	}
}

// TestHelloRetryRequest: the server's only group is one that the client sends
// no share of.
func TestHelloRetryRequest(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 10)
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", nil, "a.example")}, Curves: []uint16{uint16(tls.CurveP384)}}}, secure.Deps{})
	cache := tls.NewLRUClientSessionCache(4)
	for i := range 3 {
		c, info := s.connect(&tls.Config{RootCAs: ca.pool(), ServerName: "a.example", ClientSessionCache: cache})
		if !c.ConnectionState().HelloRetryRequest || info.Resumed != (i > 0) {
			t.Fatalf("connection %d: retry %v, resumed %v", i, c.ConnectionState().HelloRetryRequest, info.Resumed)
		}
		exchange(t, c)
	}
}

func TestServerResumes(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		for _, auth := range []bool{false, true} {
			t.Run(versionName(version)+map[bool]string{true: " client certificate"}[auth], func(t *testing.T) {
				s := newSide(t, 10)
				now := newClock()
				certs := []*config.Cert{ca.issue(t, "", nil, "a.example", "b.example")}
				key := make(config.SecretBytes, 80)
				conf := func(v *config.Validation) *config.ServerTLS {
					return &config.ServerTLS{Common: config.CommonTLS{Certs: certs, Validation: v, ValidationSecret: map[bool]string{true: "ca"}[auth]}, RequireClientCert: auth, TicketKeys: []config.SecretBytes{key}}
				}
				var v *config.Validation
				if auth {
					v = &config.Validation{CAs: ca.pem}
				}
				srv := s.serve(conf(v), secure.Deps{Now: now.time})
				cfg := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(8), InsecureSkipVerify: true}
				if auth {
					short := ca.issue(t, "", func(c *x509.Certificate) { c.NotAfter = now.time().Add(time.Hour) }, "client.example")
					cfg.Certificates = []tls.Certificate{pair(t, short)}
				}
				again := func(why string, want bool) {
					t.Helper()
					c, info := s.connect(cfg)
					if info.Resumed != want || c.ConnectionState().DidResume != want || info.Version != version {
						t.Fatalf("%s: resumed %v", why, info.Resumed)
					}
					if info.PeerPresented != auth || info.PeerValidated != auth {
						t.Fatalf("%s: %+v", why, info)
					}
					exchange(t, c)
				}
				again("first", false)
				again("second", true)
				again("third", true)
				if auth {
					// A change of trust that still believes the client.
					other := newAuthority(t, "other")
					if known, err := srv.UpdateValidation("ca", &config.Validation{CAs: append(append([]byte(nil), ca.pem...), other.pem...)}); !known || err != nil {
						t.Fatal(known, err)
					}
					again("after a change of trust", false)
					again("and again", true)
					if _, err := srv.UpdateValidation("ca", &config.Validation{CAs: other.pem}); err != nil {
						t.Fatal(err)
					}
					s.refused(cfg)
					if _, err := srv.UpdateValidation("ca", &config.Validation{CAs: ca.pem}); err != nil {
						t.Fatal(err)
					}
				}
				again("trusted again", !auth)
				// Another name on the same session.
				cfg.ServerName = "b.example"
				cfg.ClientSessionCache = renamed{cfg.ClientSessionCache, "a.example"}
				again("for another name", false)
				cfg.ServerName, cfg.ClientSessionCache = "a.example", tls.NewLRUClientSessionCache(8)
				again("afresh", false)
				// Sessions renew each other, but not for ever.
				for range 5 {
					now.pass(10 * time.Minute)
					again("within the timeout", true)
				}
				if auth {
					return // the client's certificate ends before the session does
				}
				now.pass(23*time.Hour + 30*time.Minute)
				again("after a day", false)
				again("of the new day", true)
				if err := srv.UpdateTicketKeys([]config.SecretBytes{append(config.SecretBytes{1}, key[1:]...)}); err != nil {
					t.Fatal(err)
				}
				again("under another key", false)
			})
		}
	}
}

// renamed gives sessions of one name for another.
type renamed struct {
	tls.ClientSessionCache
	name string
}

func (r renamed) Get(string) (*tls.ClientSessionState, bool) { return r.ClientSessionCache.Get(r.name) }

// TestResumedCertificateEnds: a session does not outlive its certificate.
func TestResumedCertificateEnds(t *testing.T) {
	ca := newAuthority(t, "ca")
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		s := newSide(t, 10)
		now := newClock()
		s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", nil, "a.example")}, Validation: &config.Validation{CAs: ca.pem}}, RequireClientCert: true}, secure.Deps{Now: now.time})
		short := ca.issue(t, "", func(c *x509.Certificate) { c.NotAfter = now.time().Add(time.Hour) }, "client.example")
		cfg := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", MaxVersion: version, ClientSessionCache: tls.NewLRUClientSessionCache(8), Certificates: []tls.Certificate{pair(t, short)}}
		s.connect(cfg)
		if _, info := s.connect(cfg); !info.Resumed {
			t.Fatal("not resumed")
		}
		now.pass(2 * time.Hour)
		s.refused(cfg)
		cfg.Certificates = []tls.Certificate{pair(t, ca.issue(t, "", nil, "client.example"))}
		if _, info := s.connect(cfg); info.Resumed {
			t.Fatal("resumed with a certificate that has ended")
		}
	}
}

// TestRandomTicketKeysChange: tickets open under the former keys until they
// are too old.
func TestRandomTicketKeysChange(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 10)
	now := newClock()
	conf := &config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{ca.issue(t, "", func(c *x509.Certificate) { c.NotAfter = now.time().Add(240 * time.Hour) }, "a.example")}}, SessionTimeout: 2 * time.Hour}
	s.serve(conf, secure.Deps{Now: now.time})
	cfg := &tls.Config{RootCAs: ca.pool(), ServerName: "a.example", ClientSessionCache: tls.NewLRUClientSessionCache(8)}
	for i, want := range []bool{false, true, true, false, true} { // after 0, 50, 100, 150 and 200 minutes
		if _, info := s.connect(cfg); info.Resumed != want {
			t.Fatalf("connection %d: resumed %v", i, info.Resumed)
		}
		now.pass(50 * time.Minute)
	}
	other := newSide(t, 10)
	other.serve(conf, secure.Deps{Now: now.time})
	if _, info := other.connect(cfg); info.Resumed {
		t.Fatal("another server's random keys opened the ticket")
	}
}

func TestCertificateChoice(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 10)
	certs := []*config.Cert{
		ca.issue(t, "ecdsa", nil, "default.example"), ca.issue(t, "rsa", nil, "both.example"), ca.issue(t, "ecdsa", nil, "both.example"),
		ca.issue(t, "ecdsa", nil, "*.wild.example"), ca.issue(t, "ecdsa", nil, "exact.wild.example"), ca.issue(t, "rsa", nil, "rsa.example"),
	}
	for i, c := range []struct {
		sni   string
		suite uint16 // of TLS 1.2, to say what the client can do
		scan  bool
		want  int
	}{
		{"default.example", 0, false, 0}, {"both.example", 0, false, 2}, {"BOTH.example", 0, false, 2},
		{"both.example", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false, 1},
		{"both.example", tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, false, 2},
		{"x.wild.example", 0, false, 3}, {"exact.wild.example", 0, false, 4}, {"a.x.wild.example", 0, false, 0}, {"wild.example", 0, false, 0},
		{"", 0, false, 0}, {"unknown.example", 0, false, 0},
		{"", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, false, 1},
		{"unknown.example", tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, true, 1},
	} {
		s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: certs}, FullScanSNI: c.scan}, secure.Deps{})
		cfg := &tls.Config{InsecureSkipVerify: true, ServerName: c.sni}
		if c.suite != 0 {
			cfg.MaxVersion, cfg.CipherSuites = tls.VersionTLS12, []uint16{c.suite}
		}
		conn, info := s.connect(cfg)
		want := pair(t, certs[c.want])
		got := conn.ConnectionState().PeerCertificates[0]
		if got.SerialNumber.Cmp(want.Leaf.SerialNumber) != 0 || info.LocalSubject != want.Leaf.Subject.String() {
			t.Errorf("case %d, %q: shown %s, told %s", i, c.sni, got.Subject, info.LocalSubject)
		}
	}
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: certs}}, secure.Deps{})
	s.refused(&tls.Config{InsecureSkipVerify: true, ServerName: "unknown.example", MaxVersion: tls.VersionTLS12, CipherSuites: []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256}})
}

func TestServerRefuses(t *testing.T) {
	ca := newAuthority(t, "ca")
	s := newSide(t, 10)
	certs := []*config.Cert{ca.issue(t, "", nil, "a.example"), ca.issue(t, "rsa", nil, "a.example")}
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: certs}}, secure.Deps{})
	for name, f := range map[string]func(*tls.Config){
		"TLS 1.1": func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 },
		"CBC": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA}
		},
		"RSA exchange": func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
		},
		"no common ALPN": func(c *tls.Config) { c.NextProtos = []string{"smtp"} },
	} {
		t.Run(name, func(t *testing.T) {
			s.t = t
			cfg := &tls.Config{InsecureSkipVerify: true}
			f(cfg)
			s.refused(cfg)
		})
	}
	s.t = t
	s.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: certs, MinVersion: tls.VersionTLS13}}, secure.Deps{})
	s.refused(&tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12})
}
