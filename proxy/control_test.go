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

	"golang.org/x/net/dns/dnsmessage"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/proxy/route"
)

// control opens a connection as the node does.
func control(t testing.TB, m *machine) net.Conn {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("unix", filepath.Join(m.dir, "c"))
		if err == nil {
			c.SetDeadline(time.Now().Add(10 * time.Second))
			t.Cleanup(func() { c.Close() })
			return c
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func send(t testing.TB, c net.Conn, s *wire.Snapshot) *wire.Ack {
	t.Helper()
	if err := wire.WriteFrame(c, &wire.Frame{Snapshot: s}); err != nil {
		t.Fatal(err)
	}
	f, err := wire.ReadFrame(c)
	if err != nil {
		t.Fatal(err)
	}
	if f.Ack == nil || f.Ack.Version != s.Version {
		t.Fatalf("got %+v", f)
	}
	return f.Ack
}

func TestControlSocket(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	fi, err := os.Stat(filepath.Join(w.a.dir, "c"))
	for err != nil {
		control(t, w.a).Close()
		fi, err = os.Stat(filepath.Join(w.a.dir, "c"))
	}
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", fi.Mode())
	}
	c := control(t, w.a)
	s, _ := w.snapshot()
	if a := send(t, c, s); a.Error != "" {
		t.Fatal(a.Error)
	}
	if a := send(t, c, s); !strings.Contains(a.Error, "stale") {
		t.Errorf("the same version twice: %q", a.Error)
	}
	bad, _ := w.snapshot()
	bad.Pods[0].SVID.Chain = [][]byte{{1}}
	bad.Services[0].Ports = append([]wire.ServicePort{{Port: 0, Protocol: "smtp"}}, bad.Services[0].Ports...)
	a := send(t, c, bad)
	for _, want := range []string{"smtp", "SVID", "vip"} {
		if !strings.Contains(a.Error, want) {
			t.Errorf("the refusal does not tell of %q: %s", want, a.Error)
		}
	}
	if strings.Contains(a.Error, string(bad.Pods[0].SVID.Key)) {
		t.Error("the refusal tells the key")
	}
	if code, _ := get(t, "http://"+w.vip.String()+"/"); code != 200 {
		t.Errorf("after a refused snapshot: %d", code)
	}
	next, _ := w.snapshot()
	next.Version += 10
	if a := send(t, c, next); a.Error != "" {
		t.Error(a.Error)
	}
	if w.a.p.Version() != next.Version {
		t.Errorf("version %d", w.a.p.Version())
	}
	// Nonsense ends the connection, not the proxy; without a node it goes on.
	io.WriteString(c, "\xff\xff\xff\xffnonsense")
	io.Copy(io.Discard, c) // until it ends, one way or the other
	if code, _ := get(t, "http://"+w.vip.String()+"/"); code != 200 {
		t.Errorf("without a node: %d", code)
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	get(t, "http://"+w.vip.String()+"/")
	h := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(w.a.dir, "m"))
	}}, Timeout: 10 * time.Second}
	control(t, w.a).Close()
	res, err := h.Get("http://proxy/metrics")
	for err != nil {
		res, err = h.Get("http://proxy/metrics")
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	for _, want := range []string{`redoubt_proxy_requests_total{class="2xx"} 1`, `redoubt_proxy_connections_total{side="outbound"} 1`, `redoubt_proxy_handshakes_total{result="ok"} 1`, "redoubt_proxy_request_seconds_count 1", "redoubt_proxy_snapshot_version 1"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
	if res, err = h.Get("http://proxy/healthz"); err != nil || res.StatusCode != 200 {
		t.Errorf("health: %v %v", res, err)
	}
}

func TestAccessLog(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	req, _ := http.NewRequest("GET", "http://"+w.vip.String()+"/x%22%0a?token=secret", nil)
	if res, err := client(t).Do(req); err != nil {
		t.Fatal(err)
	} else {
		res.Body.Close()
	}
	w.a.stop()
	w.b.stop()
	b, err := os.ReadFile(filepath.Join(w.b.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"side":"inbound"`, `"peer":"spiffe://bank.example/ns/shop/sa/a"`, `"method":"GET"`, `"path":"/x%22%0a"`, `"status":200`, `"rule":"bank/shop[0]"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in %s", want, b)
		}
	}
	if strings.Contains(string(b), "secret") {
		t.Errorf("the query is in the log: %s", b)
	}
}

func TestNames(t *testing.T) {
	var at netip.AddrPort
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		at = netip.AddrPortFrom(w.at(53), freePort(w.t, w.at(53)))
		w.a.open.Names("a", at)
	})
	c, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: 9})
	b.StartQuestions()
	b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName("s.bank.svc.cluster.local."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET})
	q, _ := b.Finish()
	c.Write([]byte("nonsense")) // no answer, no harm
	c.Write(make([]byte, 3000))
	c.Write(q)
	buf := make([]byte, 1500)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	var m dnsmessage.Message
	if err := m.Unpack(buf[:n]); err != nil || m.ID != 9 || len(m.Answers) != 1 || netip.AddrFrom4(m.Answers[0].Body.(*dnsmessage.AResource).A) != w.vip.Addr() {
		t.Fatalf("%+v %v", m, err)
	}
}

// badOpener cannot open pod b's edge at first.
type badOpener struct {
	*proxytest.Loopback
	fails int
}

func (o *badOpener) Open(p *route.Pod) (flow.Edge, error) {
	if o.fails--; o.fails >= 0 {
		return nil, errs.New(errs.NotFound, "netns", "not yet")
	}
	return o.Loopback.Open(p)
}

// TestEdgeIsRetried: an edge that cannot be opened leaves the snapshot in
// force and is opened later.
func TestEdgeIsRetried(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	dir := t.TempDir()
	cfg := proxy.Default(1)
	cfg.Control, cfg.Metrics, cfg.AccessLog, cfg.Audit = filepath.Join(dir, "c"), "", "", filepath.Join(dir, "a")
	cfg.Snapshot.AllowLoopbackForTest = true
	open := &badOpener{Loopback: proxytest.NewLoopback(), fails: 1}
	vip := netip.AddrPortFrom(w.at(200), freePort(t, w.at(200)))
	open.Leaving("a", vip)
	p, err := proxy.New(cfg, slog.New(slog.NewTextHandler(io.Discard, nil)), open)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	s, _ := w.snapshot()
	if err := p.Apply(s); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; {
		c, err := net.Dial("tcp", vip.String())
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(end) {
			t.Fatal("the edge was never opened")
		}
		runtime.Gosched()
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// TestOnePodCannotTakeAll: connections of one pod beyond its share are
// refused, and other sites are served.
func TestOnePodCannotTakeAll(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	if err := w.a.stop(); err != nil {
		t.Fatal(err)
	}
	w.a = w.machine("a", w.a.open, func(p *proxy.Proxy) { p.ShareForTest(10) })
	w.apply()
	var last error
	for range 30 {
		c, err := net.Dial("tcp", w.vip.String())
		if err == nil {
			defer c.Close()
			c.SetDeadline(time.Now().Add(50 * time.Millisecond))
			_, err = c.Read(make([]byte, 1))
		}
		if last = err; err != nil && strings.Contains(err.Error(), "reset") {
			return
		}
	}
	t.Fatalf("30 connections where 10 are allowed: %v", last)
}

func TestConfigRefuses(t *testing.T) {
	cfg := proxy.Config{Control: "relative", Loops: 0}
	err := cfg.Validate()
	for _, want := range []string{"control", "audit", "loops", "handshakes"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %s in %v", want, err)
		}
	}
}

// TestNothingIsLeft runs whole worlds and counts descriptors and goroutines.
func TestNothingIsLeft(t *testing.T) {
	fds := func() int {
		es, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(es)
	}
	round := func() {
		t.Run("round", func(t *testing.T) {
			w := newWorld(t, app(t, http.HandlerFunc(hello)))
			for range 5 {
				get(t, "http://"+w.vip.String()+"/")
			}
			c := dial(t, w.vip)
			io.WriteString(c, "\x00")
			dial(t, w.vip)
			dial(t, w.direct)
			h := dial(t, w.direct)
			io.WriteString(h, "\x16\x03\x01") // a handshake that never goes on
		})
	}
	round()
	before, gs := fds(), runtime.NumGoroutine()
	for range 3 {
		round()
	}
	var after, ga int
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); runtime.Gosched() { // net/http's own goroutines take a moment
		if after, ga = fds(), runtime.NumGoroutine(); after <= before && ga <= gs {
			return
		}
	}
	buf := make([]byte, 1<<20)
	t.Errorf("descriptors %d → %d, goroutines %d → %d\n%s", before, after, gs, ga, buf[:runtime.Stack(buf, true)])
}
