// SPDX-License-Identifier: Apache-2.0

package mtls_test

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/edge"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/proxytest"
)

// side is one loop with a listener that names its clients and echoes.
type side struct {
	t     testing.TB
	l     *engine.Loop
	hs    *mtls.Handshaker
	self  *mtls.Identity
	trust *mtls.Trust
	fd    int
	at    netip.AddrPort
	named chan result
}

type result struct {
	peer mtls.Peer
	err  error
}

func newSide(t testing.TB, ca *proxytest.CA, svid wire.SVID, limit int) *side {
	t.Helper()
	trust, err := mtls.NewTrust(ca.Domain, [][]byte{ca.Root()})
	if err != nil {
		t.Fatal(err)
	}
	self, err := mtls.NewIdentity(&svid, trust)
	if err != nil {
		t.Fatal(err)
	}
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	s := &side{t: t, l: l, hs: mtls.NewHandshaker(limit), self: self, trust: trust, named: make(chan result, 1000)}
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
		s.hs.Server(c, s.self, s.trust, func(p mtls.Peer, err error) {
			s.named <- result{p, err}
			if err == nil {
				c.SetHandler(echo{})
			}
		})
	}
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

func clientConfig(ca *proxytest.CA, svid wire.SVID) *tls.Config {
	key, _ := x509.ParsePKCS8PrivateKey(svid.Key)
	return &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{{Certificate: svid.Chain, PrivateKey: key}}, MinVersion: tls.VersionTLS12}
}

// TestServerAgainstCryptoTLS echoes bodies of many sizes through the own
// record layer to a crypto/tls client.
func TestServerAgainstCryptoTLS(t *testing.T) {
	ca := proxytest.NewCA(t, "bank.example")
	s := newSide(t, ca, ca.Issue(t, ca.ID("bank", "b"), time.Hour), 100)
	cfg := clientConfig(ca, ca.Issue(t, ca.ID("shop", "a"), time.Hour))
	for _, suite := range []struct {
		name   string
		curves []tls.CurveID
	}{{"default", nil}, {"x25519", []tls.CurveID{tls.X25519}}} {
		t.Run(suite.name, func(t *testing.T) {
			cfg := cfg.Clone()
			cfg.CurvePreferences = suite.curves
			c, err := tls.Dial("tcp", s.at.String(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			r := <-s.named
			if r.err != nil || r.peer.ID != ca.ID("shop", "a") || r.peer.Serial == "" {
				t.Fatalf("peer %+v, %v", r.peer, r.err)
			}
			st := c.ConnectionState()
			if st.Version != tls.VersionTLS13 || suite.curves == nil && st.CurveID != tls.X25519MLKEM768 {
				t.Errorf("version %x, curve %v", st.Version, st.CurveID)
			}
			exchange(t, c)
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if n, err := c.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("after both ends closed: %d, %v", n, err)
			}
		})
	}
}

func exchange(t testing.TB, c io.ReadWriter) {
	t.Helper()
	rng := rand.New(rand.NewPCG(4, 2))
	for _, n := range []int{1, 100, 16383, 16384, 16385, 100_000, 3 << 20} {
		body := make([]byte, n)
		for i := 0; i < n; i += 7 {
			body[i] = byte(rng.Uint32())
		}
		go func() {
			for b := body; len(b) > 0; {
				k := min(len(b), 1+rng.IntN(40_000))
				if _, err := c.Write(b[:k]); err != nil {
					return
				}
				b = b[k:]
			}
		}()
		got := make([]byte, n)
		if _, err := io.ReadFull(c, got); err != nil {
			t.Fatalf("%d bytes: %v", n, err)
		}
		if !bytes.Equal(got, body) {
			t.Fatalf("%d bytes changed on the way", n)
		}
	}
}

func TestServerRefuses(t *testing.T) {
	ca, other := proxytest.NewCA(t, "bank.example"), proxytest.NewCA(t, "bank.example")
	foreign := proxytest.NewCA(t, "evil.example")
	s := newSide(t, ca, ca.Issue(t, ca.ID("bank", "b"), time.Hour), 100)
	uris := func(us ...string) func(*x509.Certificate) {
		return func(c *x509.Certificate) {
			c.URIs = nil
			for _, u := range us {
				p, _ := url.Parse(u)
				c.URIs = append(c.URIs, p)
			}
		}
	}
	id := ca.ID("shop", "a")
	for name, cfg := range map[string]*tls.Config{
		"no certificate":       {InsecureSkipVerify: true},
		"another CA":           clientConfig(ca, other.Issue(t, id, time.Hour)),
		"another trust domain": clientConfig(ca, foreign.Issue(t, foreign.ID("shop", "a"), time.Hour)),
		"expired":              clientConfig(ca, ca.Issue(t, id, -time.Minute)),
		"no URI":               clientConfig(ca, ca.Issue(t, id, time.Hour, uris())),
		"two URIs":             clientConfig(ca, ca.Issue(t, id, time.Hour, uris(id, ca.ID("bank", "root")))),
		"no SPIFFE ID":         clientConfig(ca, ca.Issue(t, id, time.Hour, uris("https://bank.example/ns/shop"))),
		"trust domain only":    clientConfig(ca, ca.Issue(t, id, time.Hour, uris("spiffe://bank.example"))),
		"foreign ID, own CA":   clientConfig(ca, ca.Issue(t, id, time.Hour, uris("spiffe://evil.example/ns/shop/sa/a"))),
		"a CA":                 clientConfig(ca, ca.Issue(t, id, time.Hour, func(c *x509.Certificate) { c.IsCA, c.KeyUsage = true, c.KeyUsage|x509.KeyUsageCertSign })),
		"may sign":             clientConfig(ca, ca.Issue(t, id, time.Hour, func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign })),
		"no signature usage":   clientConfig(ca, ca.Issue(t, id, time.Hour, func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement })),
		"server only":          clientConfig(ca, ca.Issue(t, id, time.Hour, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} })),
	} {
		t.Run(name, func(t *testing.T) {
			c, err := tls.Dial("tcp", s.at.String(), cfg)
			if err == nil { // in TLS 1.3 the client learns it when it reads
				c.SetDeadline(time.Now().Add(10 * time.Second))
				_, err = c.Read(make([]byte, 1))
				c.Close()
			}
			r := <-s.named
			if err == nil || r.err == nil {
				t.Fatalf("client %v, server %v", err, r.err)
			}
			if k := errs.KindOf(r.err); k != errs.Unproven && k != errs.Invalid {
				t.Errorf("kind %q: %v", k, r.err)
			}
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		cfg := clientConfig(ca, ca.Issue(t, id, time.Hour))
		cfg.MaxVersion = tls.VersionTLS12
		if _, err := tls.Dial("tcp", s.at.String(), cfg); err == nil {
			t.Fatal("took TLS 1.2")
		}
		if r := <-s.named; r.err == nil {
			t.Fatal("named a TLS 1.2 client")
		}
	})
	t.Run("nonsense", func(t *testing.T) {
		for _, b := range []string{"GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\xff\xff", "\x16\x03\x01\x00\x01\x01\x16\x03\x01\x00\x00", strings.Repeat("\x16\x03\x01\x40\x00"+strings.Repeat("\x01", 16384), 8)} {
			c, err := net.Dial("tcp", s.at.String())
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(10 * time.Second))
			io.WriteString(c, b)
			c.(*net.TCPConn).CloseWrite()
			io.Copy(io.Discard, c)
			c.Close()
			if r := <-s.named; r.err == nil {
				t.Fatal("named nonsense")
			}
		}
	})
}

// dialTLS runs the client side on s's loop towards at.
func (s *side) dialTLS(at netip.AddrPort, expect string) (*engine.Conn, result) {
	s.t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())}); err != nil {
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
		s.hs.Client(c, s.self, s.trust, expect, []string{mtls.ProtoStream}, func(p mtls.Peer, err error) {
			if err == nil {
				c.SetHandler(echo{})
			}
			got <- result{p, err}
		})
	})
	return conn, <-got
}

// tlsServer accepts with crypto/tls and hands over each connection.
func tlsServer(t testing.TB, ca *proxytest.CA, svid wire.SVID, change func(*tls.Config)) (netip.AddrPort, chan *tls.Conn) {
	t.Helper()
	cfg := clientConfig(ca, svid)
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.NextProtos = []string{mtls.ProtoStream}
	if change != nil {
		change(cfg)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	out := make(chan *tls.Conn, 10)
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(20 * time.Second))
			tc := tls.Server(c, cfg)
			if tc.Handshake() != nil {
				tc.Close()
				continue
			}
			out <- tc
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String()), out
}

// TestClientAgainstCryptoTLS: the server sends session tickets, which must be
// skipped.
func TestClientAgainstCryptoTLS(t *testing.T) {
	ca := proxytest.NewCA(t, "bank.example")
	s := newSide(t, ca, ca.Issue(t, ca.ID("shop", "a"), time.Hour), 100)
	at, conns := tlsServer(t, ca, ca.Issue(t, ca.ID("bank", "b"), time.Hour), nil)
	_, r := s.dialTLS(at, ca.ID("bank", "b"))
	if r.err != nil || r.peer.ID != ca.ID("bank", "b") || r.peer.Proto != mtls.ProtoStream {
		t.Fatalf("%+v, %v", r.peer, r.err)
	}
	c := <-conns
	defer c.Close()
	exchange(t, c)
}

func TestClientRefuses(t *testing.T) {
	ca, other := proxytest.NewCA(t, "bank.example"), proxytest.NewCA(t, "bank.example")
	s := newSide(t, ca, ca.Issue(t, ca.ID("shop", "a"), time.Hour), 100)
	want := ca.ID("bank", "b")
	for name, c := range map[string]struct {
		svid   wire.SVID
		expect string
	}{
		"another workload":  {ca.Issue(t, ca.ID("bank", "c"), time.Hour), want},
		"nothing expected":  {ca.Issue(t, want, time.Hour), ""},
		"another CA":        {other.Issue(t, want, time.Hour), want},
		"expired":           {ca.Issue(t, want, -time.Minute), want},
		"client usage only": {ca.Issue(t, want, time.Hour, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), want},
	} {
		t.Run(name, func(t *testing.T) {
			at, _ := tlsServer(t, ca, c.svid, nil)
			if _, r := s.dialTLS(at, c.expect); r.err == nil {
				t.Fatal("named it")
			}
		})
	}
	t.Run("TLS 1.2", func(t *testing.T) {
		at, _ := tlsServer(t, ca, ca.Issue(t, want, time.Hour), func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
		if _, r := s.dialTLS(at, want); r.err == nil {
			t.Fatal("took TLS 1.2")
		}
	})
}

// TestSilentPeersCostNoThread: hundreds of clients that say nothing leave a
// new one served, and no thread is held for them.
func TestSilentPeersCostNoThread(t *testing.T) {
	ca := proxytest.NewCA(t, "bank.example")
	s := newSide(t, ca, ca.Issue(t, ca.ID("bank", "b"), time.Hour), 301)
	for range 300 {
		c, err := net.Dial("tcp", s.at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		io.WriteString(c, "\x16\x03\x01") // and no more
	}
	for s.hs.Live() < 300 {
		runtime.Gosched()
	}
	cfg := clientConfig(ca, ca.Issue(t, ca.ID("shop", "a"), time.Hour))
	c, err := tls.Dial("tcp", s.at.String(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if r := <-s.named; r.err != nil {
		t.Fatal(r.err)
	}
	// Two more than the limit: refused at once, by a reset.
	var last error
	for range 3 {
		if c, err := net.Dial("tcp", s.at.String()); err == nil { // the reset may come first
			defer c.Close()
		}
	}
	for last == nil {
		last = (<-s.named).err
	}
	if !errors.Is(last, errs.Unavailable) {
		t.Fatalf("got %v", last)
	}
}

func TestIdentityRefuses(t *testing.T) {
	ca := proxytest.NewCA(t, "bank.example")
	trust, err := mtls.NewTrust(ca.Domain, [][]byte{ca.Root()})
	if err != nil {
		t.Fatal(err)
	}
	good := ca.Issue(t, ca.ID("bank", "b"), time.Hour)
	otherKey := ca.Issue(t, ca.ID("bank", "b"), time.Hour).Key
	for name, f := range map[string]func(*wire.SVID){
		"no chain":     func(s *wire.SVID) { s.Chain = nil },
		"bad chain":    func(s *wire.SVID) { s.Chain = [][]byte{{1, 2}} },
		"other id":     func(s *wire.SVID) { s.ID = ca.ID("bank", "c") },
		"other key":    func(s *wire.SVID) { s.Key = otherKey },
		"no key":       func(s *wire.SVID) { s.Key = nil },
		"long chain":   func(s *wire.SVID) { s.Chain = make([][]byte, 20) },
		"root as leaf": func(s *wire.SVID) { s.Chain = [][]byte{ca.Root()} },
	} {
		s := good
		f(&s)
		if _, err := mtls.NewIdentity(&s, trust); err == nil {
			t.Errorf("%s: taken", name)
		} else if strings.Contains(err.Error(), string(good.Key)) {
			t.Errorf("%s: the key is in the error", name)
		}
	}
	for name, roots := range map[string][][]byte{"none": nil, "nonsense": {{1}}, "leaf": {good.Chain[0]}} {
		if _, err := mtls.NewTrust(ca.Domain, roots); err == nil {
			t.Errorf("roots %s: taken", name)
		}
	}
}

// hello catches a ClientHello.
func hello(t testing.TB, protos ...string) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		tls.Client(a, &tls.Config{InsecureSkipVerify: true, NextProtos: protos}).Handshake()
		a.Close()
	}()
	buf := make([]byte, 1<<16)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

func TestOffersMesh(t *testing.T) {
	for _, c := range []struct {
		protos []string
		want   bool
	}{{nil, false}, {[]string{"h2", "http/1.1"}, false}, {[]string{mtls.ProtoStream}, true}, {[]string{"x", mtls.ProtoOpaque}, true}} {
		h := hello(t, c.protos...)
		if got := mtls.OffersMesh(h); got != c.want {
			t.Errorf("%v: %v", c.protos, got)
		}
		if mtls.OffersMesh(h[:len(h)/2]) {
			t.Errorf("%v: half a hello offers", c.protos)
		}
	}
}

func FuzzOffersMesh(f *testing.F) {
	f.Add(hello(f, mtls.ProtoStream))
	f.Add([]byte{22, 3, 1, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) { mtls.OffersMesh(b) })
}
