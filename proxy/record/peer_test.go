// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"io"
	"math/big"
	"net"
	"testing"
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/record"
)

// seen is a connection whose first written bytes are kept: a ServerHello.
type seen struct {
	net.Conn
	first []byte
}

func (s *seen) Write(b []byte) (int, error) {
	if s.first == nil {
		s.first = bytes.Clone(b)
	}
	return s.Conn.Write(b)
}

// secretsOf reads a key log.
func secretsOf(t testing.TB, log []byte) map[string][2][]byte {
	t.Helper()
	m := map[string][2][]byte{}
	for l := range bytes.Lines(log) {
		f := bytes.Fields(l)
		m[string(f[0])] = [2][]byte{unhex(t, string(f[1])), unhex(t, string(f[2]))}
	}
	return m
}

func selfSigned(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// handOver does a handshake with crypto/tls on both sides and takes the
// server's records over.
func handOver(t *testing.T, cfg *tls.Config) (client *tls.Conn, wire net.Conn, rec *record.Conn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	come := make(chan *tls.Conn, 1)
	go func() {
		cfg.InsecureSkipVerify = true
		c, err := tls.Dial("tcp", ln.Addr().String(), cfg)
		if err != nil {
			t.Error(err)
		}
		come <- c
	}()
	raw, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	s := &seen{Conn: raw}
	srv := tls.Server(s, &tls.Config{Certificates: []tls.Certificate{selfSigned(t)}, KeyLogWriter: &log, SessionTicketsDisabled: true})
	if err := srv.Handshake(); err != nil {
		t.Fatal(err)
	}
	st := srv.ConnectionState()
	p := record.Params{Version: st.Version, Suite: st.CipherSuite}
	keys := secretsOf(t, log.Bytes())
	if st.Version == tls.VersionTLS13 {
		p.Read, p.Write = keys["CLIENT_TRAFFIC_SECRET_0"][1], keys["SERVER_TRAFFIC_SECRET_0"][1]
	} else {
		k := keys["CLIENT_RANDOM"]
		if p.Read, p.Write, err = record.Keys12(p.Suite, false, k[1], k[0], s.first[11:][:32]); err != nil {
			t.Fatal(err)
		}
		p.ReadSeq, p.WriteSeq = 1, 1
	}
	if rec, err = record.New(&p); err != nil {
		t.Fatal(err)
	}
	client = <-come
	for _, c := range []net.Conn{client, raw} {
		c.SetDeadline(time.Now().Add(30 * time.Second))
		t.Cleanup(func() { c.Close() })
	}
	return client, raw, rec
}

// readRecord opens one record off the wire.
func readRecord(t *testing.T, wire net.Conn, rec *record.Conn) ([]byte, engine.Kind) {
	t.Helper()
	b := make([]byte, engine.HeaderLen+engine.MaxCipher)
	if _, err := io.ReadFull(wire, b[:engine.HeaderLen]); err != nil {
		t.Fatal(err)
	}
	n := engine.HeaderLen + int(b[3])<<8 + int(b[4])
	if _, err := io.ReadFull(wire, b[engine.HeaderLen:n]); err != nil {
		t.Fatal(err)
	}
	out, kind, err := rec.Open(nil, b[:n])
	if err != nil {
		t.Fatal(err)
	}
	return out, kind
}

// TestPeer: crypto/tls takes records of every kind of size, sealed in either
// way, and its own are opened, while the layer is moved again and again.
func TestPeer(t *testing.T) {
	sizes := []int{0, 1, 15, 16, 17, 255, 256, 1000, 4067, 4068, 4069, 4070, 16383, 16384}
	for _, suite := range []uint16{0, tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256} {
		name, cfg := "TLS 1.3", &tls.Config{}
		if suite != 0 {
			name, cfg.MaxVersion, cfg.CipherSuites = tls.CipherSuiteName(suite), tls.VersionTLS12, []uint16{suite}
		}
		t.Run(name, func(t *testing.T) {
			client, wire, rec := handOver(t, cfg)
			for i, n := range append(sizes, sizes...) {
				p := make([]byte, n)
				rand.Read(p)
				var b []byte
				if i < len(sizes) {
					b = rec.Seal(nil, p)
				} else {
					b = rec.SealInPlace(append(make([]byte, engine.HeaderLen, engine.HeaderLen+n+record.MaxOverhead), p...), 0)
				}
				if i%5 == 4 && suite == 0 {
					b = append(b, record.KeyUpdateForTest(rec, i%2 == 0)...)
				}
				wire.Write(b) // the kernel takes it
				got := make([]byte, n)
				if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, p) {
					t.Fatalf("%d bytes sealed: %v", n, err)
				}
				rec = move(t, rec)
				if n == 0 {
					continue // crypto/tls sends no empty records
				}
				client.Write(p)
				for got = got[:0]; len(got) < n; {
					out, _ := readRecord(t, wire, rec) // key updates that were asked for come between
					got = append(got, out...)
				}
				if !bytes.Equal(got, p) {
					t.Fatalf("%d bytes opened otherwise", n)
				}
			}
			wire.Write(rec.Closing(nil))
			if n, err := client.Read(make([]byte, 1)); n != 0 || err != io.EOF {
				t.Fatalf("after close_notify: %d, %v", n, err)
			}
			client.CloseWrite()
			if _, kind := readRecord(t, wire, rec); kind != engine.Closed {
				t.Fatalf("kind %d", kind)
			}
		})
	}
}
