// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"
	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/edge"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// desk is one loop: it echoes what TLS clients say, and dials.
type desk struct {
	t      *testing.T
	dir    string
	caKey  crypto.Signer
	ca     *x509.Certificate
	serial int64
	l      *engine.Loop
	hs     *secure.Handshaker
	srv    *secure.Server
	fd     int
	at     string
	back   string // where s_server listens
	named  chan named
}

type named struct {
	info *filter.TLSInfo
	err  error
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	if _, err := exec.LookPath("openssl"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs openssl")
	}
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, dir: t.TempDir(), l: l, hs: secure.NewHandshaker(100), named: make(chan named, 100)}
	d.caKey, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, d.caKey.Public(), d.caKey)
	if err != nil {
		t.Fatal(err)
	}
	d.ca, _ = x509.ParseCertificate(der)
	d.write("ca.crt", pemBlock("CERTIFICATE", der))
	if d.fd, err = edge.ListenTCP(netip.MustParseAddrPort("127.0.0.1:0"), false); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(d.fd)
	if err != nil {
		t.Fatal(err)
	}
	d.at = fmt.Sprintf("127.0.0.1:%d", sa.(*unix.SockaddrInet4).Port)
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	d.post(func() {
		if _, err := l.Watch(d.fd, unix.EPOLLIN, d); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		l.Stop()
		<-done
		d.hs.Close()
		unix.Close(d.fd)
	})
	return d
}

func (d *desk) post(f func()) {
	done := make(chan struct{})
	d.l.Post(func() { f(); close(done) })
	<-done
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func (d *desk) write(name string, b []byte) string {
	p := filepath.Join(d.dir, name)
	if err := os.WriteFile(p, b, 0o600); err != nil {
		d.t.Fatal(err)
	}
	return p
}

// issue writes name.crt and name.key, and gives the same as configuration.
func (d *desk) issue(name, kind string) *config.Cert {
	d.t.Helper()
	var key crypto.Signer
	if kind == "rsa" {
		key, _ = rsa.GenerateKey(rand.Reader, 2048)
	} else {
		key, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	d.serial++
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(100 + d.serial), Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, d.ca, key.Public(), d.caKey)
	if err != nil {
		d.t.Fatal(err)
	}
	pk, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	c := &config.Cert{ChainPEM: append(pemBlock("CERTIFICATE", der), pemBlock("CERTIFICATE", d.ca.Raw)...), KeyPEM: pemBlock("PRIVATE KEY", pk)}
	d.write(name+".crt", c.ChainPEM)
	d.write(name+".key", c.KeyPEM)
	return c
}

func (d *desk) caPEM() []byte { return pemBlock("CERTIFICATE", d.ca.Raw) }

func (d *desk) serve(c *config.ServerTLS) {
	d.t.Helper()
	srv, err := secure.NewServer(c, []string{"http/1.1"}, secure.Deps{})
	if err != nil {
		d.t.Fatal(err)
	}
	d.post(func() { d.srv = srv })
}

// Ready accepts.
func (d *desk) Ready(uint32) {
	for {
		fd, _, err := unix.Accept4(d.fd, unix.SOCK_NONBLOCK)
		if err != nil {
			return
		}
		c, err := d.l.Add(fd, false, idle{})
		if err != nil {
			continue
		}
		d.srv.Start(d.hs, c, secure.Options{}, func(i *filter.TLSInfo, err error) {
			if err == nil {
				c.SetHandler(repeat{})
			}
			d.named <- named{i, err}
		})
	}
}

type idle struct{}

func (idle) OnConn(*engine.Conn) {}

type repeat struct{}

func (repeat) OnConn(c *engine.Conn) {
	for {
		if b := c.Bytes(); len(b) > 0 {
			n := c.Send(b)
			if c.Discard(n); n < len(b) {
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

// client runs s_client, which says body and must hear it again. What it
// prints on its errors' side is given.
func (d *desk) client(body []byte, args ...string) (string, named) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_client", "-connect", d.at, "-CAfile", filepath.Join(d.dir, "ca.crt"), "-verify_return_error", "-servername", "a.example"}, args...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		d.t.Fatal(err)
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	go in.Write(body)
	r := <-d.named
	got := make([]byte, len(body))
	if r.err == nil {
		if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, body) {
			d.t.Errorf("%v: %v\n%s", args, err, said.String())
		}
	}
	in.Close()
	io.Copy(io.Discard, out)
	cmd.Wait()
	return said.String(), r
}

var suites12 = []struct{ name, kind string }{
	{"ECDHE-ECDSA-AES128-GCM-SHA256", "ecdsa"}, {"ECDHE-ECDSA-AES256-GCM-SHA384", "ecdsa"}, {"ECDHE-ECDSA-CHACHA20-POLY1305", "ecdsa"},
	{"ECDHE-RSA-AES128-GCM-SHA256", "rsa"}, {"ECDHE-RSA-AES256-GCM-SHA384", "rsa"}, {"ECDHE-RSA-CHACHA20-POLY1305", "rsa"},
}

// TestEdgeOpenSSLClient: every suite, with and without tickets, client
// certificates and a HelloRetryRequest, and a session resumed twice.
func TestEdgeOpenSSLClient(t *testing.T) {
	d := newDesk(t)
	certs := []*config.Cert{d.issue("a.example", "ecdsa"), d.issue("a.example", "rsa")}
	d.issue("client", "ecdsa")
	mine := []string{"-cert", filepath.Join(d.dir, "client.crt"), "-key", filepath.Join(d.dir, "client.key")}
	var forms [][]string
	for _, s := range suites12 {
		forms = append(forms, []string{"-tls1_2", "-cipher", s.name})
	}
	for _, s := range suites {
		forms = append(forms, []string{"-tls1_3", "-ciphersuites", s}, []string{"-tls1_3", "-ciphersuites", s, "-groups", "P-256:X25519"}, []string{"-tls1_3", "-ciphersuites", s, "-record_padding", "1024"})
	}
	body := bytes.Repeat([]byte("0123456789abcde\n"), 16<<10)
	for _, auth := range []bool{false, true} {
		for _, tickets := range []bool{true, false} {
			c := &config.ServerTLS{RequireClientCert: auth, NoSessionTickets: !tickets, Common: config.CommonTLS{Certs: certs, Curves: []uint16{uint16(tls.X25519)}}}
			if auth {
				c.Common.Validation = &config.Validation{CAs: d.caPEM()}
			}
			d.serve(c)
			for i, form := range forms {
				args := append([]string{"-quiet", "-no_ign_eof"}, form...)
				if auth {
					args = append(args, mine...)
				}
				if i%2 == 0 {
					args = append(args, "-max_send_frag", "512")
				}
				said, r := d.client(body, args...)
				if r.err != nil || r.info.PeerValidated != auth {
					t.Fatalf("%v: %+v, %v\n%s", args, r.info, r.err, said)
				}
			}
		}
		session := filepath.Join(d.dir, "session")
		for _, version := range []string{"-tls1_2", "-tls1_3"} {
			c := &config.ServerTLS{RequireClientCert: auth, Common: config.CommonTLS{Certs: certs}}
			if auth {
				c.Common.Validation = &config.Validation{CAs: d.caPEM()}
			}
			d.serve(c)
			for i, args := range [][]string{{"-sess_out", session}, {"-sess_in", session, "-sess_out", session}, {"-sess_in", session}} {
				args = append(append([]string{"-quiet", "-no_ign_eof", version}, mine...), args...)
				said, r := d.client([]byte("hello\n"), args...)
				if r.err != nil || r.info.Resumed != (i > 0) || r.info.PeerValidated != auth {
					t.Fatalf("%v: connection %d: %+v, %v\n%s", args, i, r.info, r.err, said)
				}
			}
		}
	}
}

// TestEdgeOpenSSLKeyUpdate: behind a ticket, "K" asks for an update in
// return, "k" not.
func TestEdgeOpenSSLKeyUpdate(t *testing.T) {
	d := newDesk(t)
	d.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{d.issue("a.example", "")}}})
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", d.at, "-tls1_3", "-CAfile", filepath.Join(d.dir, "ca.crt"), "-brief")
	in, _ := cmd.StdinPipe()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for i, step := range []string{"first\n", "K\n", "second\n", "k\n", "third\n", "K\n", "K\n", "fourth\n"} {
		io.WriteString(in, step)
		if len(step) == 2 {
			<-time.After(100 * time.Millisecond) // a command is one only when it is all that a read gives
			continue
		}
		got := make([]byte, len(step))
		if _, err := io.ReadFull(out, got); err != nil || string(got) != step {
			t.Fatalf("step %d: %q %v", i, got, err)
		}
	}
	in.Close()
	cmd.Wait()
}

// TestEdgeOpenSSLRefuses: renegotiation, early data, and clients without what
// is asked of them.
func TestEdgeOpenSSLRefuses(t *testing.T) {
	d := newDesk(t)
	cert := d.issue("a.example", "")
	d.serve(&config.ServerTLS{Common: config.CommonTLS{Certs: []*config.Cert{cert}}})
	// "R" renegotiates. The server ends the connection.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", d.at, "-tls1_2", "-CAfile", filepath.Join(d.dir, "ca.crt"), "-brief")
	in, _ := cmd.StdinPipe()
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if r := <-d.named; r.err != nil {
		t.Fatal(r.err)
	}
	io.WriteString(in, "R\n")
	if err := cmd.Wait(); ctx.Err() != nil || !strings.Contains(said.String(), "RENEGOTIATING") {
		t.Errorf("after a renegotiation: %v\n%s", err, said.String())
	}
	// A session of another server that allows early data.
	d.server("-early_data", "-tls1_3")
	session, early := filepath.Join(d.dir, "early"), d.write("hello", []byte("hello"))
	for range 100 {
		cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", d.back, "-tls1_3", "-sess_out", session, "-servername", "a.example")
		in, _ := cmd.StdinPipe()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		io.WriteString(in, "x\n")
		<-time.After(200 * time.Millisecond) // the ticket comes behind the handshake
		in.Close()
		cmd.Wait()
		if _, err := os.Stat(session); err == nil {
			break
		}
	}
	if _, r := d.client([]byte("x"), "-quiet", "-tls1_3", "-sess_in", session, "-early_data", early); r.err == nil {
		t.Error("early data was taken")
	}
	d.serve(&config.ServerTLS{RequireClientCert: true, Common: config.CommonTLS{Certs: []*config.Cert{cert}, Validation: &config.Validation{CAs: d.caPEM()}}})
	for _, args := range [][]string{{"-tls1_2"}, {"-tls1_3"}, {"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}} {
		if _, r := d.client([]byte("x"), append(args, "-quiet")...); r.err == nil {
			t.Errorf("%v was taken", args)
		}
	}
}

// TestEdgeOpenSSLStaple: s_client verifies the response that is stapled.
func TestEdgeOpenSSLStaple(t *testing.T) {
	d := newDesk(t)
	cert := d.issue("a.example", "")
	p, err := tls.X509KeyPair(cert.ChainPEM, cert.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if cert.OCSP, err = ocsp.CreateResponse(d.ca, d.ca, ocsp.Response{SerialNumber: p.Leaf.SerialNumber, ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().Add(time.Hour)}, d.caKey); err != nil {
		t.Fatal(err)
	}
	d.serve(&config.ServerTLS{OCSPPolicy: config.OCSPMust, Common: config.CommonTLS{Certs: []*config.Cert{cert}}})
	for _, version := range []string{"-tls1_2", "-tls1_3"} {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		out, err := exec.CommandContext(ctx, "openssl", "s_client", "-connect", d.at, version, "-status", "-CAfile", filepath.Join(d.dir, "ca.crt")).CombinedOutput()
		cancel()
		if !bytes.Contains(out, []byte("OCSP Response Status: successful")) || !bytes.Contains(out, []byte("Cert Status: good")) {
			t.Errorf("%s: %v\n%s", version, err, out)
		}
	}
}

// server runs s_server with the certificate of a.example.
func (d *desk) server(args ...string) {
	d.t.Helper()
	d.back = fmt.Sprintf("127.0.0.1:%d", freePort(d.t, netip.MustParseAddr("127.0.0.1")))
	path := func(n string) string { return filepath.Join(d.dir, n) }
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "openssl", append([]string{"s_server", "-accept", d.back, "-cert", path("a.example.crt"), "-cert_chain", path("ca.crt"), "-key", path("a.example.key"), "-CAfile", path("ca.crt"), "-quiet"}, args...)...)
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { cancel(); cmd.Wait() })
}

// line says a line and waits for it reversed, as s_server -rev answers.
type line struct {
	said bool
	got  []byte
	done chan error
}

func (l *line) OnConn(c *engine.Conn) {
	if !l.said {
		l.said = true
		c.Send([]byte("stressed\n"))
	}
	for {
		l.got = append(l.got, c.Bytes()...)
		c.Discard(len(c.Bytes()))
		if !c.Fill(64 << 10) {
			break
		}
	}
	switch {
	case c.Err() != nil:
		l.done <- c.Err()
	case bytes.IndexByte(l.got, '\n') >= 0:
		var err error
		if string(l.got) != "desserts\n" {
			err = fmt.Errorf("heard %q", l.got)
		}
		l.done <- err
	default:
		return
	}
	c.SetHandler(idle{})
	c.Finish()
}

// dial runs a Client towards the s_server, until that listens.
func (d *desk) dial(cl *secure.Client) named {
	d.t.Helper()
	ap := netip.MustParseAddrPort(d.back)
	for end := time.Now().Add(20 * time.Second); time.Now().Before(end); {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0)
		if err != nil {
			d.t.Fatal(err)
		}
		if err := unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err != nil {
			unix.Close(fd)
			<-time.After(20 * time.Millisecond)
			continue
		}
		unix.SetNonblock(fd, true)
		got, l := make(chan named, 1), &line{done: make(chan error, 1)}
		d.post(func() {
			c, err := d.l.Add(fd, false, idle{})
			if err != nil {
				got <- named{nil, err}
				return
			}
			cl.Start(d.hs, c, secure.Target{Host: d.back, Authority: "a.example"}, secure.Options{}, func(i *filter.TLSInfo, err error) {
				if err == nil {
					c.SetHandler(l)
				}
				got <- named{i, err}
			})
		})
		r := <-got
		if r.err == nil {
			if err := <-l.done; err != nil {
				d.t.Fatal(err)
			}
		}
		return r
	}
	d.t.Fatal("s_server does not listen")
	return named{}
}

// TestEdgeOpenSSLServer: every suite, with a client certificate, and a session
// resumed twice.
func TestEdgeOpenSSLServer(t *testing.T) {
	for _, kind := range []string{"ecdsa", "rsa"} {
		var forms [][]string
		for _, s := range suites12 {
			if s.kind == kind {
				forms = append(forms, []string{"-tls1_2", "-cipher", s.name})
			}
		}
		for _, s := range suites {
			forms = append(forms, []string{"-tls1_3", "-ciphersuites", s})
		}
		for _, form := range append(forms, []string{"-tls1_3", "-groups", "P-384"}) {
			t.Run(kind+" "+strings.Join(form, " "), func(t *testing.T) {
				d := newDesk(t)
				d.issue("a.example", kind)
				mine := d.issue("client", "ecdsa")
				d.server(append([]string{"-rev", "-Verify", "2", "-verify_return_error", "-alpn", "http/1.1"}, form...)...)
				cl, err := secure.NewClient(&config.ClientTLS{AutoSNI: true, AutoSAN: true, Common: config.CommonTLS{Certs: []*config.Cert{mine}, Validation: &config.Validation{CAs: d.caPEM()}}}, []string{"http/1.1"}, secure.Deps{})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 3 {
					if r := d.dial(cl); r.err != nil || r.info.Resumed != (i > 0) || r.info.ALPN != "http/1.1" {
						t.Fatalf("connection %d: %+v, %v", i, r.info, r.err)
					}
				}
			})
		}
	}
}
