// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/wire"
	"redoubt.dev/base/obs"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/proxy/route"
)

// world is two machines on loopback: pod a on the first calls service s,
// whose backend is pod b on the second.
type world struct {
	t        testing.TB
	ca       *proxytest.CA
	at       func(byte) netip.Addr
	a, b     *machine
	podA     wire.Pod
	podB     wire.Pod
	svc      wire.Service
	gateways []wire.Gateway // on machine a
	revoked  []string
	version  uint64
	vip      netip.AddrPort // of the service
	direct   netip.AddrPort // pod b itself
}

type machine struct {
	p     *proxy.Proxy
	open  *proxytest.Loopback
	dir   string
	stop  func() error
	audit string
}

func addr(t testing.TB, a net.Addr) netip.AddrPort {
	t.Helper()
	p, err := netip.ParseAddrPort(a.String())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// freePort finds a port that is free on every one of the addresses.
func freePort(t testing.TB, as ...netip.Addr) uint16 {
	t.Helper()
next:
	for range 100 {
		ln, err := net.Listen("tcp", netip.AddrPortFrom(as[0], 0).String())
		if err != nil {
			t.Fatal(err)
		}
		port := addr(t, ln.Addr()).Port()
		ln.Close()
		for _, a := range as[1:] {
			ln, err := net.Listen("tcp", netip.AddrPortFrom(a, port).String())
			if err != nil {
				continue next
			}
			ln.Close()
		}
		return port
	}
	t.Fatal("no free port")
	return 0
}

// newWorld wires a world whose application listens at app. change may alter
// it before the first snapshot.
func newWorld(t testing.TB, app netip.AddrPort, change ...func(*world)) *world {
	t.Helper()
	w := &world{t: t, ca: proxytest.NewCA(t, "bank.example"), at: proxytest.Net()}
	port := freePort(t, w.at(2), w.at(3))
	w.vip = netip.AddrPortFrom(w.at(3), port)
	w.direct = netip.AddrPortFrom(w.at(2), port)
	idA, idB := w.ca.ID("shop", "a"), w.ca.ID("bank", "b")
	w.podA = wire.Pod{UID: "a", Namespace: "shop", Name: "a-0", Addr: w.at(1), SVID: w.ca.Issue(t, idA, time.Hour), Inbound: wire.Authz{MTLS: wire.MTLSStrict}}
	w.podB = wire.Pod{UID: "b", Namespace: "bank", Name: "b-0", Addr: w.at(2), SVID: w.ca.Issue(t, idB, time.Hour),
		Inbound: wire.Authz{MTLS: wire.MTLSStrict, Allow: []wire.Rule{{Policy: "bank/shop", From: []wire.Source{{Namespaces: []string{"shop"}}}}}}}
	w.svc = wire.Service{Namespace: "bank", Name: "s", VIP: w.at(3), Ports: []wire.ServicePort{{Port: port, Protocol: wire.ProtoAuto,
		Endpoints: []wire.Backend{{Addr: w.direct, ID: idB}}}}}
	w.a, w.b = w.machine("a", proxytest.NewLoopback()), w.machine("b", proxytest.NewLoopback())
	w.a.open.Leaving("a", w.vip)
	w.b.open.Coming("b", w.direct, app)
	for _, f := range change {
		f(w)
	}
	w.apply()
	return w
}

func (w *world) machine(name string, open *proxytest.Loopback, tune ...func(*proxy.Proxy)) *machine {
	t := w.t
	m := &machine{open: open, dir: t.TempDir()}
	cfg := proxy.Default(2)
	m.audit = filepath.Join(m.dir, "audit.log")
	cfg.Control, cfg.Metrics = filepath.Join(m.dir, "c"), filepath.Join(m.dir, "m")
	cfg.Audit, cfg.AccessLog = m.audit, filepath.Join(m.dir, "access.log")
	cfg.Drain = 3 * time.Second
	cfg.Snapshot = route.Options{AllowLoopbackForTest: true}
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	if os.Getenv("PROXY_TEST_LOG") != "" {
		log = obs.Logger(os.Stderr, name, slog.LevelDebug)
	}
	p, err := proxy.New(cfg, log, m.open)
	if err != nil {
		t.Fatal(err)
	}
	m.p = p
	for _, f := range tune {
		f(p)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stopped := false
	m.stop = func() error {
		if stopped {
			return nil
		}
		stopped = true
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(20 * time.Second):
			buf := make([]byte, 1<<20)
			t.Errorf("proxy %s does not end\n%s", name, buf[:runtime.Stack(buf, true)])
			return nil
		}
	}
	t.Cleanup(func() {
		if err := m.stop(); err != nil {
			t.Errorf("proxy %s: %v", name, err)
		}
	})
	return m
}

func (w *world) snapshot() (a, b *wire.Snapshot) {
	w.version++
	s := wire.Snapshot{Version: w.version, TrustDomain: w.ca.Domain, Roots: [][]byte{w.ca.Root()}, Services: []wire.Service{w.svc}, Revoked: w.revoked,
		Workloads: []wire.Peer{
			{Namespace: "shop", Name: "a-0", Addr: w.podA.Addr, ID: w.podA.SVID.ID},
			{Namespace: "bank", Name: "b-0", Addr: w.podB.Addr, ID: w.podB.SVID.ID}}}
	sa, sb := s, s
	sa.Pods, sb.Pods = []wire.Pod{w.podA}, []wire.Pod{w.podB}
	sa.Gateways = w.gateways
	return &sa, &sb
}

func (w *world) apply() {
	w.t.Helper()
	a, b := w.snapshot()
	if err := w.b.p.Apply(b); err != nil {
		w.t.Fatal(err)
	}
	if err := w.a.p.Apply(a); err != nil {
		w.t.Fatal(err)
	}
}

// app serves h on an address of its own.
func app(t testing.TB, h http.Handler) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h, ErrorLog: nil}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return addr(t, ln.Addr())
}

// tcpApp runs f for each connection.
func tcpApp(t testing.TB, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
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
			go f(c.(*net.TCPConn))
		}
	}()
	return addr(t, ln.Addr())
}

func dial(t testing.TB, to netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", to.String())
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(20 * time.Second))
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

func client(t testing.TB) *http.Client {
	tr := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// raw sends a request as it is and gives all that comes back.
func raw(t testing.TB, to netip.AddrPort, req string) string {
	t.Helper()
	c := dial(t, to)
	if _, err := io.WriteString(c, req); err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(c)
	return string(b)
}

// audit gives the decisions recorded so far, after the machine has stopped.
func (m *machine) records(t testing.TB) string {
	t.Helper()
	b, err := os.ReadFile(m.audit)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := obs.VerifyAudit(strings.NewReader(string(b))); err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func serialOf(t testing.TB, s wire.SVID) string { return proxytest.Serial(t, s) }
