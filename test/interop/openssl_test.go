// SPDX-License-Identifier: Apache-2.0

// Package interop holds the proxy to other implementations: OpenSSL as the
// peer of its TLS.
package interop

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/proxytest"
)

type world struct {
	t    *testing.T
	ca   *proxytest.CA
	dir  string
	open *proxytest.Loopback
	p    *proxy.Proxy
	snap *wire.Snapshot
	at   func(byte) netip.Addr
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if _, err := exec.LookPath("openssl"); errors.Is(err, exec.ErrNotFound) {
		t.Skip("needs openssl")
	}
	w := &world{t: t, ca: proxytest.NewCA(t, "bank.example"), dir: t.TempDir(), open: proxytest.NewLoopback(), at: proxytest.Net()}
	cfg := proxy.Default(1)
	cfg.Control, cfg.Metrics, cfg.AccessLog, cfg.Audit = filepath.Join(w.dir, "c"), "", "", filepath.Join(w.dir, "a")
	cfg.Snapshot.AllowLoopbackForTest = true
	cfg.Drain = time.Second
	p, err := proxy.New(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)), w.open)
	if err != nil {
		t.Fatal(err)
	}
	w.p = p
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.snap = &wire.Snapshot{Version: 1, TrustDomain: w.ca.Domain, Roots: [][]byte{w.ca.Root()}}
	return w
}

func (w *world) pod(uid string, host byte) wire.Pod {
	return wire.Pod{UID: uid, Namespace: "x", Name: uid, Addr: w.at(host), SVID: w.ca.Issue(w.t, w.ca.ID("x", uid), time.Hour),
		Inbound: wire.Authz{MTLS: wire.MTLSStrict, Allow: []wire.Rule{{Policy: "x/named", From: []wire.Source{{Principals: []string{"*"}}}}}}}
}

func (w *world) file(name, kind string, der []byte) string {
	p := filepath.Join(w.dir, name)
	if err := os.WriteFile(p, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return p
}

// pems writes an SVID where openssl can read it.
func (w *world) pems(uid string) (cert, key, root string) {
	s := w.ca.Issue(w.t, w.ca.ID("x", uid), time.Hour)
	return w.file(uid+".crt", "CERTIFICATE", s.Chain[0]), w.file(uid+".key", "PRIVATE KEY", s.Key), w.file("root.crt", "CERTIFICATE", w.ca.Root())
}

func freePort(t *testing.T, a netip.Addr) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", netip.AddrPortFrom(a, 0).String())
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return uint16(ln.Addr().(*net.TCPAddr).Port)
}

var suites = []string{"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}

// TestOpenSSLClient: s_client sends records of many sizes to a pod, padded and
// split, and reads them back.
func TestOpenSSLClient(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	b := w.pod("b", 2)
	at := netip.AddrPortFrom(b.Addr, freePort(t, b.Addr))
	w.open.Coming("b", at, ln.Addr().(*net.TCPAddr).AddrPort())
	w.snap.Pods = []wire.Pod{b}
	if err := w.p.Apply(w.snap); err != nil {
		t.Fatal(err)
	}
	cert, key, root := w.pems("a")
	body := bytes.Repeat([]byte("0123456789abcdef\n"), 40_000)
	for _, suite := range suites {
		for _, extra := range [][]string{nil, {"-max_send_frag", "512"}, {"-record_padding", "1024"}, {"-groups", "P-256"}} {
			t.Run(suite+strings.Join(extra, " "), func(t *testing.T) {
				args := append([]string{"s_client", "-quiet", "-connect", at.String(), "-tls1_3", "-ciphersuites", suite, "-cert", cert, "-key", key, "-CAfile", root, "-verify_return_error", "-no_ign_eof"}, extra...)
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				cmd := exec.CommandContext(ctx, "openssl", args...)
				in, err := cmd.StdinPipe()
				if err != nil {
					t.Fatal(err)
				}
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				var stderr bytes.Buffer
				cmd.Stderr = &stderr
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				go in.Write(body)
				got := make([]byte, len(body))
				if _, err := io.ReadFull(out, got); err != nil || !bytes.Equal(got, body) {
					t.Errorf("%v\n%s", err, stderr.String())
				}
				in.Close()
				cmd.Wait()
			})
		}
	}
}

// TestOpenSSLClientUpdatesKeys: "K" has s_client ask for a key update in
// return, "k" not.
func TestOpenSSLClientUpdatesKeys(t *testing.T) {
	w := newWorld(t)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	b := w.pod("b", 2)
	at := netip.AddrPortFrom(b.Addr, freePort(t, b.Addr))
	w.open.Coming("b", at, ln.Addr().(*net.TCPAddr).AddrPort())
	w.snap.Pods = []wire.Pod{b}
	if err := w.p.Apply(w.snap); err != nil {
		t.Fatal(err)
	}
	cert, key, root := w.pems("a")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "openssl", "s_client", "-connect", at.String(), "-tls1_3", "-cert", cert, "-key", key, "-CAfile", root, "-brief")
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

// TestOpenSSLServer: the outbound side speaks to s_server, which serves its
// status page.
func TestOpenSSLServer(t *testing.T) {
	for _, suite := range suites {
		t.Run(suite, func(t *testing.T) {
			w := newWorld(t)
			cert, key, root := w.pems("b")
			back := netip.AddrPortFrom(w.at(2), freePort(t, w.at(2)))
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			cmd := exec.CommandContext(ctx, "openssl", "s_server", "-accept", back.String(), "-tls1_3", "-ciphersuites", suite, "-cert", cert, "-key", key, "-CAfile", root, "-Verify", "2", "-verify_return_error", "-www", "-quiet", "-alpn", "redoubt/1,redoubt/1-opaque")
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer func() { cancel(); cmd.Wait() }()
			a := w.pod("a", 1)
			vip := netip.AddrPortFrom(w.at(3), freePort(t, w.at(3)))
			w.open.Leaving("a", vip)
			w.snap.Pods = []wire.Pod{a}
			w.snap.Services = []wire.Service{{Namespace: "x", Name: "s", VIP: vip.Addr(), Ports: []wire.ServicePort{{Port: vip.Port(), Protocol: wire.ProtoHTTP,
				Endpoints: []wire.Backend{{Addr: back, ID: w.ca.ID("x", "b")}}}}}}
			if err := w.p.Apply(w.snap); err != nil {
				t.Fatal(err)
			}
			h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
			var last string
			for ctx.Err() == nil { // until s_server listens
				res, err := h.Get("http://" + vip.String() + "/")
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if last = fmt.Sprint(res.StatusCode, err, string(b)); res.StatusCode == 200 && err == nil && strings.Contains(string(b), suite) {
					return
				}
			}
			t.Fatalf("%s\n%s", last, stderr.String())
		})
	}
}
