// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/api/wire"
)

func cleartext2() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// client2 speaks HTTP/2 in clear, on one connection.
func client2(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: cleartext2()}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

// app2 serves h by HTTP/1 and HTTP/2, both in clear.
func app2(t testing.TB, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := cleartext2()
	p.SetHTTP1(true)
	srv := &http.Server{Handler: h, Protocols: p}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	return addr(t, ln.Addr())
}

// echo2 says what it saw, and sends the body back; its trailer proves that
// trailers pass both ways.
func echo2(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Saw", strings.TrimSpace(fmt.Sprint(r.Proto, " ", r.Host, " ", r.Header.Get("X-Forwarded-Client-Cert"))))
	w.Header().Set("Trailer", "X-Sum")
	n, _ := io.Copy(w, r.Body)
	w.Header().Set("X-Sum", fmt.Sprint(n, "/", r.Trailer.Get("X-End")))
}

const certAB = "By=spiffe://bank.example/ns/bank/sa/b;URI=spiffe://bank.example/ns/shop/sa/a"

// TestApplicationSeesItsClientsProtocol: what travels shared between the
// proxies arrives as it left.
func TestApplicationSeesItsClientsProtocol(t *testing.T) {
	w := newWorld(t, app2(t, echo2))
	for want, h := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2.0": client2(t)} {
		for range 3 {
			req, _ := http.NewRequest("POST", "http://"+w.vip.String()+"/x", struct{ io.Reader }{strings.NewReader("body")})
			req.Header.Set("X-Forwarded-Client-Cert", "URI=spiffe://forged")
			req.Trailer = http.Header{"X-End": {"yes"}}
			res, err := h.Do(req)
			if err != nil {
				t.Fatal(want, err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(b) != "body" || res.Trailer.Get("X-Sum") != "4/yes" {
				t.Errorf("%s: %q %v, trailers %v", want, b, err, res.Trailer)
			}
			if saw := res.Header.Get("X-Saw"); saw != fmt.Sprint(want, " ", w.vip, " ", certAB) || res.Proto != want {
				t.Errorf("%s: the application saw %q, the client %s", want, saw, res.Proto)
			}
		}
	}
	if err := w.a.p.CheckForTest(); err != nil {
		t.Error(err)
	}
}

// TestHTTP2RequestsAreJudged one by one, and each is in the logs.
func TestHTTP2RequestsAreJudged(t *testing.T) {
	w := newWorld(t, app2(t, echo2), func(w *world) {
		w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/read", To: []wire.Operation{{Methods: []string{"GET"}, Paths: []string{"/public/*"}, Hosts: []string{"ledger.bank"}}}}}
		w.podB.Inbound.Deny = []wire.Rule{{Policy: "bank/no", To: []wire.Operation{{Paths: []string{"/public/secret*"}}}}}
	})
	h := client2(t)
	for _, c := range []struct {
		method, path, host string
		status             int
	}{
		{"GET", "/public/a", "ledger.bank", 200},
		{"POST", "/public/a", "ledger.bank", 403},
		{"GET", "/private", "ledger.bank", 403},
		{"GET", "/public/a", "other.bank", 403},
		{"GET", "/public/%2e%2e/private", "ledger.bank", 403},
		{"GET", "/public/%73ecret", "ledger.bank", 403},
		{"GET", "/public/..%2fprivate", "ledger.bank", 400},
		{"GET", "//public//a", "ledger.bank", 200},
	} {
		req, _ := http.NewRequest(c.method, "http://"+w.vip.String()+c.path, nil)
		req.Host = c.host
		res, err := h.Do(req)
		if err != nil {
			t.Fatal(c, err)
		}
		io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if res.StatusCode != c.status {
			t.Errorf("%s %s at %s: %d, want %d", c.method, c.path, c.host, res.StatusCode, c.status)
		}
	}
	if n := w.a.p.CountersForTest().Conns[0]; n != 1 {
		t.Errorf("a denial cost the connection: %d", n)
	}
	w.a.stop()
	w.b.stop()
	if s := w.b.records(t); !strings.Contains(s, "GET /private") || !strings.Contains(s, `bank/no[0]`) {
		t.Errorf("denied requests are not recorded:\n%s", s)
	}
	b, err := os.ReadFile(filepath.Join(w.b.dir, "access.log"))
	if err != nil {
		t.Fatal(err)
	}
	if s := string(b); strings.Count(s, `"http":2`) != 8 || strings.Count(s, `"status":200`) != 2 || !strings.Contains(s, `"rule":"bank/read[0]"`) {
		t.Errorf("access log:\n%s", s)
	}
}

// TestOneStreamIsCut: a policy that changes ends the request that it no longer
// allows, and leaves its neighbours on the same connection alone.
func TestOneStreamIsCut(t *testing.T) {
	release := make(chan struct{})
	w := newWorld(t, app2(t, func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "part")
		w.(http.Flusher).Flush()
		<-release
		io.WriteString(w, " whole")
	}), allow(wire.Rule{Policy: "bank/two", To: []wire.Operation{{Paths: []string{"/a", "/b"}}}}))
	h := client2(t)
	open := func(path string) io.ReadCloser {
		res, err := h.Get("http://" + w.vip.String() + path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(res.Body, make([]byte, 4)); err != nil {
			t.Fatal(err)
		}
		return res.Body
	}
	a, b := open("/a"), open("/b")
	w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/one", To: []wire.Operation{{Paths: []string{"/b"}}}}}
	w.apply()
	if got, err := io.ReadAll(a); err == nil {
		t.Errorf("a request that is no longer allowed ended well: %q", got)
	}
	close(release)
	if got, err := io.ReadAll(b); err != nil || string(got) != " whole" {
		t.Errorf("its neighbour: %q %v", got, err)
	}
	w.b.stop()
	if s := w.b.records(t); strings.Count(s, `"action":"cut"`) != 1 {
		t.Errorf("want one cut:\n%s", s)
	}
}

// TestRevokedStreamsAreCut at both ends.
func TestRevokedStreamsAreCut(t *testing.T) {
	for name, change := range map[string]func(*world){
		"client": func(w *world) { w.revoked = []string{serialOf(w.t, w.podA.SVID)} },
		"server": func(w *world) { w.revoked = []string{serialOf(w.t, w.podB.SVID)} },
		"egress": func(w *world) { w.podA.Egress = wire.Network{Isolated: true} },
	} {
		for proto, h := range map[string]func(testing.TB) *http.Client{"HTTP/1": client, "HTTP/2": client2} {
			t.Run(name+" "+proto, func(t *testing.T) {
				release := make(chan struct{})
				defer close(release)
				w := newWorld(t, app2(t, func(w http.ResponseWriter, r *http.Request) {
					io.WriteString(w, "part")
					w.(http.Flusher).Flush()
					<-release
				}))
				res, err := h(t).Get("http://" + w.vip.String() + "/")
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				io.ReadFull(res.Body, make([]byte, 4))
				change(w)
				w.apply()
				if got, err := io.ReadAll(res.Body); err == nil {
					t.Errorf("ended well: %q", got)
				}
			})
		}
	}
}

// TestConnectionsAreShared: many clients of one pod, few connections between
// the proxies, and each gets its own answer.
func TestConnectionsAreShared(t *testing.T) {
	var all sync.WaitGroup
	const clients = 50
	all.Add(clients)
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		all.Done()
		all.Wait() // all of them are here at once
		hello(w, r)
	})))
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			if got := raw(t, w.vip, fmt.Sprintf("GET /%d HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", i)); !strings.Contains(got, fmt.Sprintf("hello GET /%d h", i)) {
				t.Errorf("client %d: %q", i, got)
			}
		})
	}
	wg.Wait()
	if n := w.b.p.CountersForTest().Conns[1]; n > 2 { // one for each of a's loops
		t.Errorf("%d connections between the proxies", n)
	}
}

// TestIdentitiesDoNotShare: a pod and a gateway of one machine ask the same
// backend; the application is told who asked.
func TestIdentitiesDoNotShare(t *testing.T) {
	var gw netip.AddrPort
	w := newWorld(t, app2(t, echo2), func(w *world) {
		gw = netip.AddrPortFrom(w.at(50), freePort(w.t, w.at(50)))
		w.gateways = []wire.Gateway{{Listen: gw, Namespace: "bank", Service: "s", Port: w.vip.Port(), SVID: w.ca.Issue(w.t, w.ca.ID("shop", "gw"), time.Hour)}}
	})
	h1, h2 := client(t), client2(t)
	for range 20 {
		for at, who := range map[netip.AddrPort]string{w.vip: "/sa/a", gw: "/sa/gw"} {
			for _, h := range []*http.Client{h1, h2} {
				res, err := h.Get("http://" + at.String() + "/")
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, res.Body)
				res.Body.Close()
				if saw := res.Header.Get("X-Saw"); !strings.HasSuffix(saw, who) {
					t.Fatalf("asked as %s, the application saw %q", who, saw)
				}
			}
		}
	}
}

// TestOlderPeer: a proxy that knows neither of the shared protocols gets
// HTTP/1 one to one, and HTTP/2 as bytes.
func TestOlderPeer(t *testing.T) {
	w := newWorld(t, app2(t, echo2))
	if err := w.b.stop(); err != nil {
		t.Fatal(err)
	}
	s := w.podB.SVID
	key, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", w.direct.String())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	spoken := map[string]bool{}
	p := cleartext2()
	p.SetHTTP1(true)
	srv := &http.Server{Handler: http.HandlerFunc(echo2), Protocols: p}
	go srv.Serve(older{ln, func(c net.Conn) (net.Conn, error) {
		tc := tls.Server(c, &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"redoubt/1-opaque", "redoubt/1", "http/1.1"}, ClientAuth: tls.RequireAnyClientCert,
			Certificates: []tls.Certificate{{Certificate: s.Chain, PrivateKey: key}}, SessionTicketsDisabled: true})
		if err := tc.Handshake(); err != nil {
			return nil, err
		}
		mu.Lock()
		spoken[tc.ConnectionState().NegotiatedProtocol] = true
		mu.Unlock()
		return struct{ net.Conn }{tc}, nil // net/http must not see that it is TLS
	}})
	t.Cleanup(func() { srv.Close() })
	for want, h := range map[string]*http.Client{"HTTP/1.1": client(t), "HTTP/2.0": client2(t)} {
		for range 3 {
			res, err := h.Post("http://"+w.vip.String()+"/", "text/plain", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(res.Body)
			res.Body.Close()
			if err != nil || string(b) != "body" || !strings.HasPrefix(res.Header.Get("X-Saw"), want) {
				t.Errorf("%s: %q %v, %q", want, b, err, res.Header.Get("X-Saw"))
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(spoken) != 2 || !spoken["redoubt/1"] || !spoken["redoubt/1-opaque"] {
		t.Errorf("the older proxy was spoken to by %v", spoken)
	}
}

type older struct {
	net.Listener
	greet func(net.Conn) (net.Conn, error)
}

func (o older) Accept() (net.Conn, error) {
	for {
		c, err := o.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if c, err = o.greet(c); err == nil {
			return c, nil
		}
	}
}

// TestDeclaredHTTPTakesBoth versions, and tells what is neither.
func TestDeclaredHTTPTakesBoth(t *testing.T) {
	w := newWorld(t, app2(t, echo2), func(w *world) {
		w.svc.Ports[0].Protocol = wire.ProtoHTTP
		w.podB.Inbound.AppPort = map[uint16]string{w.direct.Port(): wire.ProtoHTTP}
	})
	for _, h := range []*http.Client{client(t), client2(t)} {
		if res, err := h.Get("http://" + w.vip.String() + "/"); err != nil || res.StatusCode != 200 {
			t.Errorf("%v %v", res, err)
		} else {
			res.Body.Close()
		}
	}
	if got := raw(t, w.vip, "\x00\x01\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 400 ") {
		t.Errorf("nonsense got %q", got)
	}
}

// TestHTTP2IsDenied: who may not connect is told by HTTP/2, and the connection
// ends.
func TestHTTP2IsDenied(t *testing.T) {
	w := newWorld(t, app2(t, echo2), func(w *world) { w.podA.Egress = wire.Network{Isolated: true} })
	res, err := client2(t).Get("http://" + w.vip.String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	b, _ := io.ReadAll(res.Body)
	res.Body.Close()
	if res.StatusCode != 403 || !strings.Contains(string(b), "lets it leave") {
		t.Errorf("%d %s", res.StatusCode, b)
	}
}

// TestDrainHTTP2: streams under way end well while the proxies stop.
func TestDrainHTTP2(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, app2(t, func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-release
		io.WriteString(w, "done")
	}))
	got := make(chan string, 1)
	go func() {
		res, err := client2(t).Get("http://" + w.vip.String() + "/")
		if err != nil {
			got <- err.Error()
			return
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		got <- fmt.Sprint(string(b), err)
	}()
	<-started
	stopped := make(chan struct{})
	go func() { w.a.stop(); w.b.stop(); close(stopped) }()
	for { // until the drain has begun
		c, err := net.Dial("tcp", w.vip.String())
		if err != nil {
			break
		}
		c.SetDeadline(time.Now().Add(time.Second))
		_, err = bufio.NewReader(c).ReadByte()
		c.Close()
		if err == io.EOF {
			break
		}
	}
	close(release)
	if s := <-got; s != "done<nil>" {
		t.Errorf("got %s", s)
	}
	<-stopped
}
