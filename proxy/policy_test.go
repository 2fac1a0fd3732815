// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/api/wire"
)

func get(t testing.TB, url string) (int, string) {
	t.Helper()
	res, err := client(t).Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func allow(rs ...wire.Rule) func(*world) {
	return func(w *world) { w.podB.Inbound.Allow = rs }
}

func TestStrangerIsDenied(t *testing.T) {
	var reached atomic.Int64
	w := newWorld(t, app(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })),
		allow(wire.Rule{Policy: "bank/other", From: []wire.Source{{Namespaces: []string{"treasury"}}}}))
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 403 || !strings.Contains(body, "no rule allows it") {
		t.Errorf("HTTP: %d %s", code, body)
	}
	if b := raw(t, w.vip, "\x00\x01binary"); b != "" {
		t.Errorf("a denied stream got %q", b)
	}
	if reached.Load() != 0 {
		t.Error("a denied request reached the application")
	}
	w.b.stop()
	if s := w.b.records(t); !strings.Contains(s, `"subject":"spiffe://bank.example/ns/shop/sa/a 127.`) || !strings.Contains(s, `"decision":"deny"`) {
		t.Errorf("no record of the denial:\n%s", s)
	}
}

func TestRulesOnRequests(t *testing.T) {
	var seen atomic.Value
	w := newWorld(t, app(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { seen.Store(r.Method + " " + r.RequestURI) })),
		func(w *world) {
			w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/read", To: []wire.Operation{{Methods: []string{"GET"}, Paths: []string{"/public/*"}}}}}
			w.podB.Inbound.Deny = []wire.Rule{{Policy: "bank/no", To: []wire.Operation{{Paths: []string{"/public/secret*"}}}}}
		})
	for _, c := range []struct {
		line   string
		status int
		seen   string
	}{
		{"GET /public/a?x=%2f..", 200, "GET /public/a?x=%2f.."},
		{"POST /public/a", 403, ""},
		{"GET /private", 403, ""},
		{"GET /public/../private", 403, ""},
		{"GET /public/%2e%2e/private", 403, ""},
		{"GET //public//a", 200, "GET /public/a"},
		{"GET /x/../public/a", 200, "GET /public/a"},
		{"GET /public/secret", 403, ""},
		{"GET /public/%73ecret", 403, ""},
		{"GET /public/./secret", 403, ""},
		{"GET /public//secret", 403, ""},
		{"GET /public/..%2fprivate", 400, ""},
		{"GET /public/..;/private", 400, ""},
		{"GET /public/%00", 400, ""},
		{`GET /public\..\private`, 400, ""},
		{"GET http://h/public/a", 200, "GET /public/a"},
	} {
		seen.Store("")
		got := raw(t, w.vip, c.line+" HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if !strings.HasPrefix(got, fmt.Sprintf("HTTP/1.1 %d ", c.status)) || seen.Load() != c.seen {
			t.Errorf("%s: application saw %q, client %q", c.line, seen.Load(), got)
		}
	}
	// A denied request leaves its connection usable; a stream cannot show what
	// the rules ask for.
	got := raw(t, w.vip, "GET /private HTTP/1.1\r\nHost: h\r\n\r\nGET /public/a HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if strings.Count(got, "HTTP/1.1 403") != 1 || strings.Count(got, "HTTP/1.1 200") != 1 {
		t.Errorf("pipelined after a denial: %q", got)
	}
	if b := raw(t, w.vip, "\x00\x01"); b != "" {
		t.Errorf("stream under rules on paths got %q", b)
	}
	w.b.stop()
	if s := w.b.records(t); !strings.Contains(s, "GET /private") || !strings.Contains(s, `"action":"request"`) {
		t.Errorf("denied requests are not recorded:\n%s", s)
	}
}

func TestClearIsRefusedWhenStrict(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)), allow(wire.Rule{Policy: "bank/all"}))
	if b := raw(t, w.direct, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); b != "" {
		t.Fatalf("strict port answered in clear: %q", b)
	}
	w.b.stop()
	if s := w.b.records(t); !strings.Contains(s, "the port takes mTLS only") {
		t.Errorf("not recorded:\n%s", s)
	}
}

func TestPermissive(t *testing.T) {
	permissive := func(w *world) {
		w.podB.Inbound.Ports = map[uint16]string{w.direct.Port(): wire.MTLSPermissive}
		w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/all"}}
	}
	t.Run("clear", func(t *testing.T) {
		w := newWorld(t, app(t, http.HandlerFunc(hello)), permissive)
		b := raw(t, w.direct, "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-Client-Cert: URI=spiffe://forged\r\n\r\n")
		if !strings.Contains(b, "hello GET /x h") || strings.Contains(b, "forged") {
			t.Errorf("in clear: %q", b)
		}
		if code, _ := get(t, "http://"+w.vip.String()+"/x"); code != 200 {
			t.Errorf("mTLS on the same port: %d", code)
		}
	})
	t.Run("server first", func(t *testing.T) {
		w := newWorld(t, tcpApp(t, func(c *net.TCPConn) { io.WriteString(c, "ready"); c.Close() }), permissive)
		if b, _ := io.ReadAll(dial(t, w.direct)); string(b) != "ready" {
			t.Errorf("got %q", b)
		}
	})
	t.Run("named rule", func(t *testing.T) {
		w := newWorld(t, app(t, http.HandlerFunc(hello)), permissive, allow(wire.Rule{Policy: "bank/named", From: []wire.Source{{Principals: []string{"*"}}}}))
		if b := raw(t, w.direct, "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(b, "HTTP/1.1 403 ") {
			t.Errorf("an unnamed peer met a rule on names: %q", b)
		}
	})
	t.Run("hello in pieces", func(t *testing.T) {
		w := newWorld(t, app(t, http.HandlerFunc(hello)), permissive)
		s := w.ca.Issue(t, w.ca.ID("shop", "a"), time.Hour)
		key, _ := x509.ParsePKCS8PrivateKey(s.Key)
		c := tls.Client(pieces{dial(t, w.direct)}, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"redoubt/1"}, Certificates: []tls.Certificate{{Certificate: s.Chain, PrivateKey: key}}})
		io.WriteString(c, "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
		if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "hello GET /x h") {
			t.Errorf("%q %v", b, err)
		}
	})
	t.Run("the application's own TLS", func(t *testing.T) {
		var srv http.Server
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		w := newWorld(t, addr(t, ln.Addr()), permissive)
		s := w.ca.Issue(t, w.ca.ID("bank", "own"), time.Hour)
		key, _ := x509.ParsePKCS8PrivateKey(s.Key)
		srv.Handler = http.HandlerFunc(hello)
		srv.TLSConfig = &tls.Config{Certificates: []tls.Certificate{{Certificate: s.Chain, PrivateKey: key}}}
		go srv.ServeTLS(ln, "", "")
		t.Cleanup(func() { srv.Close() })
		h := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}, Timeout: 10 * time.Second}
		res, err := h.Get("https://" + w.direct.String() + "/own")
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.Contains(string(b), "hello GET /own") {
			t.Errorf("got %q", b)
		}
	})
}

// pieces writes a few bytes at a time.
type pieces struct{ net.Conn }

func (p pieces) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		k, err := p.Conn.Write(b[:min(len(b), 100)])
		if n += k; err != nil {
			return n, err
		}
		b = b[k:]
	}
	return n, nil
}

// TestPromisedRequestMayBeLate: a mesh peer that said it carries requests is
// not taken for a stream because its first one is slow to come.
func TestPromisedRequestMayBeLate(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)), allow(wire.Rule{Policy: "bank/get", To: []wire.Operation{{Methods: []string{"GET"}}}}))
	s := w.ca.Issue(t, w.ca.ID("shop", "a"), time.Hour)
	key, _ := x509.ParsePKCS8PrivateKey(s.Key)
	c := tls.Client(dial(t, w.direct), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"redoubt/1"}, Certificates: []tls.Certificate{{Certificate: s.Chain, PrivateKey: key}}})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	<-time.After(300 * time.Millisecond) // three times what a silent stream is given
	io.WriteString(c, "GET /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
	if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 200") {
		t.Errorf("%q %v", b, err)
	}
}

// TestLateRequest: a client that connects ahead of its first request is
// carried as what it turns out to be, also where rules deny streams.
func TestLateRequest(t *testing.T) {
	for name, rule := range map[string]wire.Rule{
		"streams allowed": {Policy: "bank/all"},
		"streams denied":  {Policy: "bank/get", To: []wire.Operation{{Methods: []string{"GET"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, app(t, http.HandlerFunc(hello)), allow(rule))
			c := dial(t, w.vip)
			<-time.After(300 * time.Millisecond) // a stream has been made, or refused
			io.WriteString(c, "GET /a HT")
			<-time.After(20 * time.Millisecond)
			io.WriteString(c, "TP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
			if b, err := io.ReadAll(c); err != nil || !strings.Contains(string(b), "X-Client-Cert: By=") {
				t.Errorf("%q %v", b, err)
			}
			if err := w.a.p.CheckForTest(); err != nil {
				t.Error(err)
			}
		})
	}
	w := newWorld(t, echoApp(t), allow())
	c := dial(t, w.vip)
	expectCut(t, c) // silent, and denied: in the end it is told
}

// TestBackendMustProveItsName: the service says one identity, the pod has
// another.
func TestBackendMustProveItsName(t *testing.T) {
	var reached atomic.Int64
	w := newWorld(t, app(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { reached.Add(1) })),
		func(w *world) { w.svc.Ports[0].Endpoints[0].ID = w.ca.ID("bank", "someone-else") })
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 503 {
		t.Errorf("%d %s", code, body)
	}
	if b := raw(t, w.vip, "\x00\x01"); b != "" {
		t.Errorf("stream got %q", b)
	}
	if reached.Load() != 0 {
		t.Error("a request reached the wrong workload")
	}
}

func TestWhereNothingLeads(t *testing.T) {
	var outside netip.AddrPort
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		outside = netip.AddrPortFrom(w.at(99), w.vip.Port())
		w.a.open.Leaving("a", outside, netip.AddrPortFrom(w.at(3), w.vip.Port()+1), w.direct2())
	})
	if code, body := get(t, "http://"+outside.String()+"/"); code != 403 || !strings.Contains(body, "not in the mesh") {
		t.Errorf("outside: %d %s", code, body)
	}
	if code, body := get(t, fmt.Sprintf("http://%s:%d/", w.at(3), w.vip.Port()+1)); code != 403 || !strings.Contains(body, "no such port") {
		t.Errorf("other port: %d %s", code, body)
	}
	if b := raw(t, outside, "\x16\x03\x01\x00\x05hello"); b != "" {
		t.Errorf("TLS to the outside got %q", b)
	}
	w.svc.Ports = []wire.ServicePort{{Port: w.vip.Port(), Protocol: wire.ProtoAuto}} // never change what a snapshot was made of
	w.apply()
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 503 || !strings.Contains(body, "no ready endpoint") {
		t.Errorf("no endpoint: %d %s", code, body)
	}
	w.a.stop()
	if s := w.a.records(t); strings.Count(s, `"decision":"deny"`) != 4 {
		t.Errorf("want four denials:\n%s", s)
	}
}

// direct2 is an address of pod b that nothing listens on at machine a.
func (w *world) direct2() netip.AddrPort { return netip.AddrPortFrom(w.at(4), w.vip.Port()) }

func TestEgressPolicy(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		w.podA.Egress = wire.Network{Isolated: true, Rules: []wire.NetRule{{Policy: "shop/out", Peers: []netip.Prefix{netip.PrefixFrom(w.at(77), 32)}}}}
	})
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 403 || !strings.Contains(body, "lets it leave") {
		t.Errorf("%d %s", code, body)
	}
	w.podA.Egress = wire.Network{Isolated: true, Rules: []wire.NetRule{{Policy: "shop/out", Peers: []netip.Prefix{netip.PrefixFrom(w.podB.Addr, 32)}}}}
	w.apply()
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 200 {
		t.Errorf("allowed: %d %s", code, body)
	}
}

func TestIngressNetworkPolicy(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		w.podB.Inbound.Network = wire.Network{Isolated: true, Rules: []wire.NetRule{{Policy: "bank/in", Peers: []netip.Prefix{netip.PrefixFrom(w.at(77), 32)}}}}
	})
	if code, _ := get(t, "http://"+w.vip.String()+"/"); code != 403 {
		t.Errorf("got %d", code)
	}
	w.podB.Inbound.Network = wire.Network{Isolated: true, Rules: []wire.NetRule{{Policy: "bank/in", Peers: []netip.Prefix{netip.PrefixFrom(w.podA.Addr, 32)}}}}
	w.apply()
	if code, _ := get(t, "http://"+w.vip.String()+"/"); code != 200 {
		t.Errorf("allowed: %d", code)
	}
}

// TestEndpointsComeAndGo under a connection that the client keeps.
func TestEndpointsComeAndGo(t *testing.T) {
	var at netip.AddrPort
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		at = netip.AddrPortFrom(w.at(50), freePort(w.t, w.at(50)))
		w.gateways = []wire.Gateway{{Listen: at, Namespace: "bank", Service: "s", Port: w.vip.Port(), SVID: w.ca.Issue(w.t, w.ca.ID("shop", "gw"), time.Hour)}}
	})
	full := w.svc.Ports
	h := client(t)
	for i, want := range []int{200, 503, 200, 503, 200} {
		w.svc.Ports = full
		if want == 503 {
			w.svc.Ports = []wire.ServicePort{{Port: w.vip.Port(), Protocol: wire.ProtoAuto}}
		}
		w.apply()
		for _, to := range []netip.AddrPort{w.vip, at} {
			res, err := h.Get("http://" + to.String() + "/")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != want {
				t.Errorf("step %d: %d, want %d", i, res.StatusCode, want)
			}
		}
	}
	if err := w.a.p.CheckForTest(); err != nil {
		t.Error(err)
	}
}

// expectCut reads until the connection ends, and demands a reset.
func expectCut(t *testing.T, c net.Conn) {
	t.Helper()
	b, err := io.ReadAll(c)
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Fatalf("ended with %q, %v, want a reset", b, err)
	}
}

func echoApp(t testing.TB) netip.AddrPort {
	return tcpApp(t, func(c *net.TCPConn) { io.Copy(c, c); c.Close() })
}

// stream opens a stream through the mesh and sees that it works.
func stream(t *testing.T, at netip.AddrPort) net.Conn {
	t.Helper()
	c := dial(t, at)
	io.WriteString(c, "\x00ping")
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLiveConnectionsAreCut(t *testing.T) {
	for name, change := range map[string]func(*world){
		"policy at the server":             func(w *world) { w.podB.Inbound.Allow = nil },
		"deny rule at the server":          func(w *world) { w.podB.Inbound.Deny = []wire.Rule{{Policy: "bank/stop"}} },
		"egress at the client":             func(w *world) { w.podA.Egress = wire.Network{Isolated: true} },
		"client's certificate is revoked":  func(w *world) { w.revoked = []string{serialOf(w.t, w.podA.SVID)} },
		"server's certificate is revoked":  func(w *world) { w.revoked = []string{serialOf(w.t, w.podB.SVID)} },
		"network policy at the server":     func(w *world) { w.podB.Inbound.Network.Isolated = true },
		"server's protocol is declared L7": func(w *world) { w.podB.Inbound.Allow = []wire.Rule{{To: []wire.Operation{{Methods: []string{"GET"}}}}} },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, echoApp(t))
			c := stream(t, w.vip)
			w.version++
			w.apply() // a snapshot that changes nothing cuts nothing
			io.WriteString(c, "again")
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			change(w)
			w.apply()
			expectCut(t, c)
		})
	}
}

func TestRequestUnderWayIsCut(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Write([]byte("part"))
		w.(http.Flusher).Flush()
		close(started)
		<-release
	})), allow(wire.Rule{Policy: "bank/path", To: []wire.Operation{{Paths: []string{"/slow"}}}}))
	defer close(release)
	c := dial(t, w.vip)
	io.WriteString(c, "GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
	<-started
	b := make([]byte, 4096)
	for got := ""; !strings.Contains(got, "part"); {
		n, err := c.Read(b)
		if got += string(b[:n]); err != nil {
			t.Fatalf("%q, %v", got, err)
		}
	}
	w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/path", To: []wire.Operation{{Paths: []string{"/other"}}}}}
	w.apply()
	expectCut(t, c)
}

func TestPodLeaves(t *testing.T) {
	w := newWorld(t, echoApp(t))
	c := stream(t, w.vip)
	_, b := w.snapshot()
	b.Pods = nil
	if err := w.b.p.Apply(b); err != nil {
		t.Fatal(err)
	}
	expectCut(t, c)
	if c, err := net.Dial("tcp", w.direct.String()); err == nil {
		c.Close()
		t.Error("the pod's listener is still open")
	}
}

func TestGateway(t *testing.T) {
	var at netip.AddrPort
	var seen atomic.Value
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("X-Forwarded-For") + " " + r.Header.Get("X-Forwarded-Client-Cert"))
	})), func(w *world) {
		at = netip.AddrPortFrom(w.at(50), freePort(w.t, w.at(50)))
		w.gateways = []wire.Gateway{{Listen: at, Namespace: "bank", Service: "s", Port: w.vip.Port(), SVID: w.ca.Issue(w.t, w.ca.ID("edge", "gw"), time.Hour)}}
	}, allow(wire.Rule{Policy: "bank/edge", From: []wire.Source{{Namespaces: []string{"edge"}}}}))
	req, _ := http.NewRequest("GET", "http://"+at.String()+"/", nil)
	req.Header.Set("X-Forwarded-For", "6.6.6.6")
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if want := "127.0.0.1 By=spiffe://bank.example/ns/bank/sa/b;URI=spiffe://bank.example/ns/edge/sa/gw"; res.StatusCode != 200 || seen.Load() != want {
		t.Errorf("%d, application saw %q", res.StatusCode, seen.Load())
	}
	if code, _ := get(t, "http://"+w.vip.String()+"/"); code != 403 {
		t.Errorf("pod a got %d where only the gateway may", code)
	}
	w.gateways = nil
	w.apply()
	if c, err := net.Dial("tcp", at.String()); err == nil {
		c.Close()
		t.Error("the gateway still listens")
	}
}

// TestHairpin: a pod that calls a service of its own.
func TestHairpin(t *testing.T) {
	own := func(allow ...wire.Rule) *world {
		back := app(t, http.HandlerFunc(hello))
		return newWorld(t, back, func(w *world) {
			at := netip.AddrPortFrom(w.podA.Addr, w.vip.Port())
			w.a.open.Coming("a", at, back)
			w.podA.Inbound.Allow = allow
			w.svc.Ports[0].Endpoints = []wire.Backend{{Addr: at, ID: w.podA.SVID.ID}}
		})
	}
	w := own(wire.Rule{Policy: "shop/self", From: []wire.Source{{Namespaces: []string{"shop"}}}, To: []wire.Operation{{Paths: []string{"/ok"}}}})
	h := client(t)
	for _, c := range []struct {
		path string
		want int
	}{{"/ok", 200}, {"/no", 403}, {"/ok", 200}, {"/no", 403}} {
		res, err := h.Get("http://" + w.vip.String() + c.path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("%s: %d, want %d", c.path, res.StatusCode, c.want)
		}
	}
	if code, _ := get(t, "http://"+own().vip.String()+"/"); code != 403 {
		t.Errorf("a pod reached itself against its policy: %d", code)
	}
}
