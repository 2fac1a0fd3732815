// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/edge"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// authority is a CA of one test.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
	pem  []byte
}

var serials atomic.Int64

func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var k crypto.Signer
	var err error
	if kind == "rsa" {
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl.SerialNumber = big.NewInt(serials.Add(1))
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-time.Hour)
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = time.Now().Add(48 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func pemOf(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	key := newKey(t, "")
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	c := sign(t, tmpl, tmpl, key.Public(), key)
	return &authority{cert: c, key: key, pem: pemOf("CERTIFICATE", c.Raw)}
}

// issue makes a certificate for names, of which those with "://" are URIs.
func (a *authority) issue(t testing.TB, kind string, change func(*x509.Certificate), names ...string) *config.Cert {
	t.Helper()
	key := newKey(t, kind)
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: names[0], Organization: []string{kind}}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	for _, n := range names {
		if u, err := url.Parse(n); err == nil && u.Scheme != "" {
			tmpl.URIs = append(tmpl.URIs, u)
		} else {
			tmpl.DNSNames = append(tmpl.DNSNames, n)
		}
	}
	if change != nil {
		change(tmpl)
	}
	c := sign(t, tmpl, a.cert, key.Public(), a.key)
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return &config.Cert{ChainPEM: append(pemOf("CERTIFICATE", c.Raw), a.pem...), KeyPEM: pemOf("PRIVATE KEY", pk)}
}

func pair(t testing.TB, c *config.Cert) tls.Certificate {
	t.Helper()
	p, err := tls.X509KeyPair(c.ChainPEM, c.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// side is one loop with a listener whose clients are echoed.
type side struct {
	t     testing.TB
	l     *engine.Loop
	hs    *secure.Handshaker
	srv   atomic.Pointer[secure.Server]
	opts  secure.Options
	fd    int
	at    netip.AddrPort
	named chan result
}

type result struct {
	info *filter.TLSInfo
	err  error
}

func newSide(t testing.TB, limit int) *side {
	t.Helper()
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &side{t: t, l: l, hs: secure.NewHandshaker(limit), named: make(chan result, 1000)}
	if s.fd, err = edge.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), false); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(s.fd)
	if err != nil {
		t.Fatal(err)
	}
	s.at = netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port))
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	s.post(func() {
		if _, err := l.Watch(s.fd, unix.EPOLLIN, s); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		l.Stop()
		<-done
		s.hs.Close() // hangs if a handshake's goroutine is left
		unix.Close(s.fd)
	})
	return s
}

func (s *side) post(f func()) {
	done := make(chan struct{})
	s.l.Post(func() { f(); close(done) })
	<-done
}

// Ready accepts.
func (s *side) Ready(uint32) {
	for {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		c, err := s.l.Add(fd, false, nopHandler{})
		if err != nil {
			continue
		}
		s.srv.Load().Start(s.hs, c, s.opts, func(i *filter.TLSInfo, err error) {
			if err == nil {
				c.SetHandler(echo{})
			}
			s.named <- result{i, err}
		})
	}
}

// serve puts a server in place.
func (s *side) serve(cfg *config.ServerTLS, d secure.Deps) *secure.Server {
	s.t.Helper()
	srv, err := secure.NewServer(cfg, []string{"h2", "http/1.1"}, d)
	if err != nil {
		s.t.Fatal(err)
	}
	s.srv.Store(srv)
	return srv
}

// dial runs cl towards at on the loop.
func (s *side) dial(cl *secure.Client, at string, target secure.Target, h engine.Handler) (*engine.Conn, result) {
	s.t.Helper()
	ap := netip.MustParseAddrPort(at)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
		s.t.Fatal(err)
	}
	unix.SetNonblock(fd, true)
	got := make(chan result, 1)
	var conn *engine.Conn
	s.post(func() {
		c, err := s.l.Add(fd, false, nopHandler{})
		if err != nil {
			s.t.Error(err)
			return
		}
		conn = c
		cl.Start(s.hs, c, target, s.opts, func(i *filter.TLSInfo, err error) {
			if err == nil {
				c.SetHandler(h)
			}
			got <- result{i, err}
		})
	})
	return conn, <-got
}

type nopHandler struct{}

func (nopHandler) OnConn(*engine.Conn) {}

type echo struct{}

func (echo) OnConn(c *engine.Conn) {
	for {
		if b := c.Bytes(); len(b) > 0 {
			n := c.Send(b)
			c.Discard(n)
			if n < len(b) {
				return
			}
		}
		if !c.Fill(64 << 10) {
			break
		}
	}
	if c.EOF() && len(c.Bytes()) == 0 {
		c.Finish()
	} else if c.Err() != nil {
		c.Close()
	}
}

// exchange sends bodies of many sizes and reads them back.
func exchange(t testing.TB, c net.Conn) {
	t.Helper()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	for _, n := range []int{1, 15, 16, 17, 1000, 4067, 4068, 4069, 4070, 16383, 16384, 16385, 50_000, 300_000} {
		p := make([]byte, n)
		rand.Read(p)
		done := make(chan error, 1)
		go func() {
			_, err := c.Write(p)
			done <- err
		}()
		got := make([]byte, n)
		if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, p) {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
}

func versionName(v uint16) string { return tls.VersionName(v) }

// clock is moved by its test.
type clock struct{ ns atomic.Int64 }

func newClock() *clock {
	c := new(clock)
	c.ns.Store(time.Now().UnixNano())
	return c
}

func (c *clock) time() time.Time      { return time.Unix(0, c.ns.Load()) }
func (c *clock) pass(d time.Duration) { c.ns.Add(int64(d)) }
