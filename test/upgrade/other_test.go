// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// secureEcho is an origin that demands TLS.
func secureEcho(t *testing.T, certs *rig.Certs) string {
	t.Helper()
	cert, err := tls.LoadX509KeyPair(certs.CertFile, certs.KeyFile)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"h2", "http/1.1"}, ClientAuth: tls.RequestClientCert})
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			panic(http.ErrAbortHandler)
		}
		w.Write(b)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return ln.Addr().String()
}

// TestUpgradeOfSecureHops has TLS on both sides of the proxy.
func TestUpgradeOfSecureHops(t *testing.T) {
	certs := rig.NewCerts(t)
	at := secureEcho(t, certs)
	one := &port{name: "one", to: at, tls: certs, mutual: true, upTLS: certs}
	two := &port{name: "two", to: at, tls: certs, mutual: true, upTLS: certs, h2up: true}
	w := newWorld(t, one, two)
	every := 50 * time.Millisecond
	l := load.Start(
		load.Group{Name: "http1", Proto: load.HTTP1, Addr: one.addr, Clients: 10, Every: every, Body: 9000, TLS: certs.Client},
		load.Group{Name: "http1 to http2", Proto: load.HTTP1, Addr: two.addr, Clients: 10, Every: every, Body: 9000, TLS: certs.Client},
		load.Group{Name: "http2 to http2", Proto: load.HTTP2, Addr: two.addr, Clients: 10, Every: every, Body: 9000, TLS: certs.Client},
	)
	for range 3 {
		t.Log(w.upgrade())
		n := l.Requests()
		rig.Eventually(patience, func() bool { return l.Requests() > n+500 })
	}
	for _, r := range l.Stop() {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
			t.Errorf("%s lost something", r.Name)
		}
	}
}

// TestUpgradeWithoutRoot has proxies that run as an ordinary user.
func TestUpgradeWithoutRoot(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("capability: root, to become another user; without it all tests here run as an ordinary user")
	}
	echo := load.NewEcho(t)
	web := &port{name: "web", to: echo.HTTP}
	w := newWorldAs(t, 65534, web)
	l := load.Start(load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 10, Every: 5 * time.Millisecond})
	t.Log(w.upgrade())
	t.Log(w.upgrade())
	if r := l.Stop()[0]; r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
		t.Error(r)
	}
}

// TestListenersThatGo: the successor's configuration has another listener and
// lacks one. What cannot move drains by its protocol's own means.
func TestListenersThatGo(t *testing.T) {
	echo := load.NewEcho(t)
	stays := &port{name: "stays", to: echo.HTTP}
	goes := &port{name: "goes", to: echo.HTTP}
	comes := &port{name: "comes", to: echo.HTTP, addr: rig.FreeAddr(t)}
	w := newWorld(t, stays, goes)
	l := load.Start(load.Group{Name: "stays", Proto: load.HTTP1, Addr: stays.addr, Clients: 10, Every: 5 * time.Millisecond})
	c, err := net.Dial("tcp", goes.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab")
	if res, err := http.ReadResponse(r, nil); err != nil || res.Close {
		t.Fatal(res, err)
	} else {
		io.Copy(io.Discard, res.Body)
	}
	io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na") // under way
	w.configure(stays, comes)
	old, next := w.cur, w.start()
	next.await("took over")
	w.cur = next
	old.await("handed over")
	if _, err := net.Dial("tcp", goes.addr); err != nil {
		t.Log("already closed:", err) // it may be, or be open until the old process ends
	}
	// The request under way is answered, and so are those behind it, until one
	// answer says that it is the last: the drain begins when the rest has been
	// handed over, and tells clients that ask.
	rest := "b"
	for n := 0; ; n++ {
		io.WriteString(c, rest)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatalf("request %d: %v", n, err)
		}
		if b, err := io.ReadAll(res.Body); string(b) != "ab" || err != nil {
			t.Errorf("request %d: %q %v", n, b, err)
		}
		if res.Close {
			break
		}
		if n == 1000 {
			t.Fatal("no answer says that it is the last")
		}
		rest = "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nab"
	}
	if _, err := r.ReadByte(); err != io.EOF {
		t.Error("after the last response:", err)
	}
	if err := old.end(); err != nil {
		t.Error(err)
	}
	if _, err := net.Dial("tcp", goes.addr); err == nil {
		t.Error("the listener that goes still answers")
	}
	if c, err := net.Dial("tcp", comes.addr); err != nil {
		t.Error(err)
	} else {
		c.Close()
	}
	if r := l.Stop()[0]; r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
		t.Error(r)
	}
	if !strings.Contains(old.said(), "no place for it") {
		t.Error("the log does not say why a connection stayed")
	}
}

// TestCountersGoOn: what was counted is not lost, and not counted twice.
func TestCountersGoOn(t *testing.T) {
	echo := load.NewEcho(t)
	web := &port{name: "web", to: echo.HTTP}
	w := newWorld(t, web)
	l := load.Start(load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 10, Every: 2 * time.Millisecond})
	for range 3 {
		w.upgrade()
		n := l.Requests()
		rig.Eventually(patience, func() bool { return l.Requests() > n+200 })
	}
	r := l.Stop()[0]
	want := map[string]int64{"http.web.downstream_rq_total": r.Requests, "http.web.downstream_rq_2xx": r.Requests, "http.web.downstream_cx_total": 10,
		"listener.web.downstream_cx_total": 10, "http.web.downstream_rq_active": 0}
	ok := rig.Eventually(patience, func() bool {
		got := w.stats()
		for k, v := range want {
			if got[k] != v {
				return false
			}
		}
		return true
	})
	if !ok {
		got := w.stats()
		for k, v := range want {
			t.Errorf("%s is %d, not %d", k, got[k], v)
		}
	}
	// Every line of the access log is there too.
	if b, err := os.ReadFile(w.log); err != nil || int64(strings.Count(string(b), "\n")) != r.Requests {
		if !rig.Eventually(patience, func() bool {
			b, _ = os.ReadFile(w.log)
			return int64(strings.Count(string(b), "\n")) == r.Requests
		}) {
			t.Errorf("%d lines in the access log, %d requests", strings.Count(string(b), "\n"), r.Requests)
		}
	}
}

// TestSessionsResume: a ticket of the old process opens in the new one.
func TestSessionsResume(t *testing.T) {
	for _, max12 := range []bool{false, true} {
		certs := rig.NewCerts(t)
		web := &port{name: "web", to: load.NewEcho(t).HTTP, tls: certs, mutual: true, max12: max12}
		w := newWorld(t, web)
		cfg := certs.Client.Clone()
		cfg.ClientSessionCache = tls.NewLRUClientSessionCache(1)
		ask := func() bool {
			c, err := tls.Dial("tcp", web.addr, cfg)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nab")
			if b, err := io.ReadAll(c); err != nil || !strings.HasSuffix(string(b), "ab") {
				t.Fatalf("%q %v", b, err)
			}
			return c.ConnectionState().DidResume
		}
		if ask() || !ask() {
			t.Fatal("resumption does not work at all")
		}
		w.upgrade()
		if !ask() {
			t.Errorf("TLS 1.2 only %v: no resumption after the upgrade", max12)
		}
		if strings.Contains(w.cur.said(), "PRIVATE") {
			t.Error("a key in the log")
		}
	}
}
