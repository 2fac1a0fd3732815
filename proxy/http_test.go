// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/api/wire"
)

// script is a server that answers each connection by f, which gets the head
// of the first request as it arrived.
func script(t testing.TB, f func(c *net.TCPConn, br *bufio.Reader, head string)) netip.AddrPort {
	return tcpApp(t, func(c *net.TCPConn) {
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		br := bufio.NewReader(c)
		head := ""
		for !strings.HasSuffix(head, "\r\n\r\n") {
			l, err := br.ReadString('\n')
			if err != nil {
				return
			}
			head += l
		}
		f(c, br, head)
	})
}

func TestResponsesAsTheyAre(t *testing.T) {
	for name, c := range map[string]struct{ request, answer, want string }{
		"sized":             {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"},
		"chunked, trailers": {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;x=y\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"},
		"until close":       {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.0 200 OK\r\n\r\nok", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n0\r\n\r\n"},
		"old client":        {"GET / HTTP/1.0\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok"},
		"head":              {"HEAD / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\nConnection: close\r\n\r\n"},
		"no content":        {"DELETE / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 204 No Content\r\n\r\n", "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n"},
		"early hints":       {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"hop by hop":        {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: X-Own\r\nX-Own: 1\r\nKeep-Alive: timeout=5\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"},
		"malformed":         {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok", "HTTP/1.1 502 "},
		"no HTTP":           {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "SSH-2.0-x\r\n\r\n", "HTTP/1.1 502 "},
		"nothing":           {"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", "", "HTTP/1.1 502 "},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, script(t, func(conn *net.TCPConn, _ *bufio.Reader, _ string) { io.WriteString(conn, c.answer) }))
			if got := raw(t, w.vip, c.request); got != c.want && !(strings.HasSuffix(c.want, " ") && strings.HasPrefix(got, c.want)) {
				t.Errorf("got\n%q, want\n%q", got, c.want)
			}
		})
	}
}

// TestTruncationShows: what ends early must not look whole.
func TestTruncationShows(t *testing.T) {
	for name, answer := range map[string]string{
		"sized":       "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
		"chunked":     "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n20\r\nonly this",
		"chunk bad":   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokXX\r\n0\r\n\r\n",
		"until reset": "HTTP/1.0 200 OK\r\n\r\nonly this",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			proceed := make(chan struct{})
			w := newWorld(t, script(t, func(c *net.TCPConn, _ *bufio.Reader, _ string) {
				io.WriteString(c, answer)
				if name == "until reset" {
					<-proceed
					c.SetLinger(0)
				}
			}))
			res, err := client(t).Get("http://" + w.vip.String() + "/")
			if err == nil {
				if name == "until reset" {
					io.ReadFull(res.Body, make([]byte, 9))
				}
				close(proceed)
				_, err = io.ReadAll(res.Body)
				res.Body.Close()
			}
			if err == nil && res.StatusCode != 502 {
				t.Error("a part was taken for the whole")
			}
		})
	}
}

// TestSmuggling sends what two parsers could read in two ways, followed by a
// request that must never be seen.
func TestSmuggling(t *testing.T) {
	var seen sync.Map
	w := newWorld(t, app(t, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		seen.Store(r.URL.Path, true)
	})))
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n"
	for name, head := range map[string]string{
		"CL.TE":                "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"TE.CL":                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
		"TE.TE":                "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
		"two lengths":          "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\n",
		"space before colon":   "POST / HTTP/1.1\r\nHost: h\r\nContent-Length : 36\r\n\r\n",
		"fold":                 "POST / HTTP/1.1\r\nHost: h\r\nX: y\r\n Content-Length: 36\r\n\r\n",
		"bare LF head":         "POST / HTTP/1.1\r\nHost: h\nContent-Length: 36\r\n\r\n",
		"bare LF end":          "POST / HTTP/1.1\r\nHost: h\r\n\n",
		"vertical tab":         "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\vchunked\r\n\r\n",
		"chunk LF":             "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n",
		"chunk ext LF":         "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;\nx\r\n0\r\n\r\n",
		"chunk prefix":         "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n",
		"chunk overflow":       "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff1\r\nx\r\n0\r\n\r\n",
		"trailer length":       "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 36\r\n\r\n",
		"connection strips CL": "POST / HTTP/1.1\r\nHost: h\r\nConnection: content-length\r\nContent-Length: 36\r\n\r\n",
		"HTTP/1.0 chunked":     "POST / HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"NUL":                  "POST / HTTP/1.1\r\nHost: h\r\nX: a\x00b\r\n\r\n",
		"two hosts":            "GET / HTTP/1.1\r\nHost: h\r\nHost: i\r\n\r\n",
	} {
		got := raw(t, w.vip, head+smuggled)
		if !strings.HasPrefix(got, "HTTP/1.1 400 ") && !strings.HasPrefix(got, "HTTP/1.1 501 ") {
			t.Errorf("%s: %q", name, got)
		}
		if strings.Count(got, "HTTP/1.1 ") != 1 {
			t.Errorf("%s: more than one answer: %q", name, got)
		}
	}
	if _, ok := seen.Load("/smuggled"); ok {
		t.Error("a smuggled request was seen")
	}
}

func TestExpectContinue(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(413)
			return
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})))
	c := dial(t, w.vip)
	br := bufio.NewReader(c)
	io.WriteString(c, "POST /yes HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
	if l, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(l, "HTTP/1.1 100 ") {
		t.Fatalf("%q %v", l, err)
	}
	br.ReadString('\n')
	io.WriteString(c, "hello")
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, _ := io.ReadAll(res.Body); string(b) != "hello" {
		t.Fatalf("%q", b)
	}
	io.WriteString(c, "POST /no HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 5000000\r\n\r\n")
	if l, err := br.ReadString('\n'); err != nil || !strings.HasPrefix(l, "HTTP/1.1 413 ") {
		t.Fatalf("%q %v", l, err)
	}
}

// TestEarlyAnswer: the server answers before it has read the body, and closes;
// the answer arrives while the client still sends.
func TestEarlyAnswer(t *testing.T) {
	w := newWorld(t, script(t, func(c *net.TCPConn, br *bufio.Reader, _ string) {
		io.WriteString(c, "HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
		c.CloseWrite()
		io.CopyN(io.Discard, br, 64<<10)
	}))
	c := dial(t, w.vip)
	go func() {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 8000000\r\n\r\n")
		c.Write(make([]byte, 8000000)) // fails at some point
	}()
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != 413 || string(b) != "big" {
		t.Fatalf("%d %q %v", res.StatusCode, b, err)
	}
}

func TestUpgrade(t *testing.T) {
	w := newWorld(t, script(t, func(c *net.TCPConn, br *bufio.Reader, head string) {
		if !strings.Contains(head, "Connection: Upgrade\r\n") || !strings.Contains(head, "Upgrade: echo\r\n") {
			io.WriteString(c, "HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhi ")
		io.Copy(c, br)
		io.WriteString(c, " bye")
	}))
	c := dial(t, w.vip)
	io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: h\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\nearly ")
	body := strings.Repeat("frame", 100_000)
	go func() { io.WriteString(c, body); c.CloseWrite() }()
	br := bufio.NewReader(c)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatalf("%v %v", res, err)
	}
	got, err := io.ReadAll(br)
	if err != nil || string(got) != "hi early "+body+" bye" {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

// TestServerCannotSwitchUnasked: a 101 that nobody asked for would let a
// server hand the client's next request to its neighbour.
func TestServerCannotSwitchUnasked(t *testing.T) {
	w := newWorld(t, script(t, func(c *net.TCPConn, _ *bufio.Reader, _ string) {
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		io.Copy(io.Discard, c)
	}))
	if got := raw(t, w.vip, "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"); !strings.HasPrefix(got, "HTTP/1.1 502 ") {
		t.Errorf("got %q", got)
	}
}

func TestPipelining(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	var req, want strings.Builder
	for i := range 50 {
		fmt.Fprintf(&req, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i)
		fmt.Fprintf(&want, "hello GET /%d h|", i)
	}
	c := dial(t, w.vip)
	io.WriteString(c, req.String())
	br := bufio.NewReader(c)
	var got strings.Builder
	for range 50 {
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(&got, res.Body)
		got.WriteByte('|')
	}
	if got.String() != want.String() {
		t.Errorf("got %s", got.String())
	}
}

// TestByteByByte: every part of an exchange in the smallest pieces.
func TestByteByByte(t *testing.T) {
	w := newWorld(t, script(t, func(c *net.TCPConn, br *bufio.Reader, _ string) {
		io.CopyN(io.Discard, br, int64(len("5\r\nhello\r\n0\r\n\r\n")))
		for _, b := range []byte("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n") {
			c.Write([]byte{b})
		}
	}), func(w *world) { w.svc.Ports[0].Protocol = wire.ProtoHTTP })
	c := dial(t, w.vip)
	for _, b := range []byte("POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n") {
		c.Write([]byte{b})
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "hello" {
		t.Fatalf("%q %v", b, err)
	}
}

// TestClientLeaves: the server learns that its client has gone.
func TestClientLeaves(t *testing.T) {
	gone := make(chan struct{})
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for i := 0; ; i++ {
			if _, err := w.Write(make([]byte, 32<<10)); err != nil || r.Context().Err() != nil {
				close(gone)
				return
			}
		}
	})))
	ctx, cancel := context.WithCancel(context.Background())
	req, _ := http.NewRequestWithContext(ctx, "GET", "http://"+w.vip.String()+"/", nil)
	res, err := client(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	io.CopyN(io.Discard, res.Body, 1<<20)
	cancel()
	res.Body.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the server still sends to nobody")
	}
}

// TestClientResetsWhileItWaits: the server is told, though it has said
// nothing yet.
func TestClientResetsWhileItWaits(t *testing.T) {
	started, gone := make(chan struct{}), make(chan struct{})
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-r.Context().Done()
		close(gone)
	})))
	c := dial(t, w.vip)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-started
	c.SetLinger(0)
	c.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Fatal("the server still works for nobody")
	}
}

// TestSlowReaderIsBounded: a client that does not read stops its server, and
// gets all once it does.
func TestSlowReaderIsBounded(t *testing.T) {
	const size = 64 << 20
	var sent atomic.Int64
	w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
		defer c.Close()
		b := make([]byte, 64<<10)
		for sent.Load() < size {
			n, err := c.Write(b)
			if sent.Add(int64(n)); err != nil {
				return
			}
		}
	}), func(w *world) { w.svc.Ports[0].Protocol = wire.ProtoTCP })
	c := dial(t, w.vip)
	c.SetReadBuffer(64 << 10)
	last := int64(-1)
	for last != sent.Load() || last <= 0 { // until the server is stuck
		last = sent.Load()
		<-time.After(200 * time.Millisecond)
	}
	if last > size/2 {
		t.Fatalf("%d bytes are somewhere between server and client", last)
	}
	if n, err := io.Copy(io.Discard, c); err != nil || n != size {
		t.Fatalf("%d bytes, %v", n, err)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	proceed := make(chan struct{})
	w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
		io.WriteString(c, "part")
		<-proceed
		c.SetLinger(0)
		c.Close()
	}), func(w *world) { w.svc.Ports[0].Protocol = wire.ProtoTCP })
	c := dial(t, w.vip)
	if _, err := io.ReadFull(c, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	close(proceed)
	expectCut(t, c)
}

func TestClientResetReachesServer(t *testing.T) {
	got := make(chan error, 1)
	w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
		defer c.Close()
		c.Write([]byte("x"))
		_, err := io.Copy(io.Discard, c)
		got <- err
	}), func(w *world) { w.svc.Ports[0].Protocol = wire.ProtoTCP })
	c := dial(t, w.vip)
	io.ReadFull(c, make([]byte, 1))
	c.SetLinger(0)
	c.Close()
	if err := <-got; err == nil {
		t.Error("the server took a reset for an end")
	}
}

// fickle answers three requests per connection and ends it without having
// said so; told hears of each end.
func fickle(handled *atomic.Int64, told chan<- struct{}) func(*net.TCPConn) {
	return func(c *net.TCPConn) {
		defer c.Close()
		br := bufio.NewReader(c)
		for n := 0; ; n++ {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			b, err := io.ReadAll(req.Body)
			if err != nil {
				return
			}
			handled.Add(1)
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(b), b)
			if n == 2 {
				c.Close()
				if told != nil {
					told <- struct{}{}
				}
				return
			}
		}
	}
}

// TestDeadPooledConnections: an application ends connections between
// requests, and the next request meets what is left of one.
func TestDeadPooledConnections(t *testing.T) {
	send := func(t *testing.T, w *world, h *http.Client, method string, i int) {
		t.Helper()
		body := fmt.Sprintf("payment %d", i)
		req, _ := http.NewRequest(method, "http://"+w.vip.String()+"/", strings.NewReader(body))
		res, err := h.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != 200 || string(b) != body {
			t.Fatalf("request %d: %d %q %v", i, res.StatusCode, b, err)
		}
	}
	t.Run("ended before", func(t *testing.T) { // nothing is sent twice, whatever the method
		var handled atomic.Int64
		told := make(chan struct{})
		w := newWorld(t, tcpApp(t, fickle(&handled, told)))
		h := client(t)
		for i := range 300 {
			send(t, w, h, "POST", i)
			if i%3 == 2 {
				<-told
			}
		}
		if n := handled.Load(); n != 300 {
			t.Errorf("300 payments were handled %d times", n)
		}
	})
	t.Run("ending meanwhile", func(t *testing.T) { // what may be sent twice never fails
		var handled atomic.Int64
		w := newWorld(t, tcpApp(t, fickle(&handled, nil)))
		h := client(t)
		for i := range 300 {
			send(t, w, h, "PUT", i)
		}
		if handled.Load() < 300 {
			t.Errorf("300 requests were handled %d times", handled.Load())
		}
	})
}

// TestBackendRestarts: the other machine's proxy is replaced; kept
// connections die with it and no request fails once the new one listens.
func TestBackendRestarts(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)))
	h := client(t)
	for round := range 3 {
		for i := range 20 {
			res, err := h.Post("http://"+w.vip.String()+"/", "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Fatalf("round %d request %d: %d", round, i, res.StatusCode)
			}
		}
		if err := w.b.stop(); err != nil {
			t.Fatal(err)
		}
		w.b = w.machine("b", w.b.open)
		_, b := w.snapshot()
		if err := w.b.p.Apply(b); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFailover: one backend refuses, one is fine; no request fails.
func TestFailover(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(hello)), func(w *world) {
		dead := netip.AddrPortFrom(w.at(40), w.vip.Port())
		w.svc.Ports[0].Endpoints = append(w.svc.Ports[0].Endpoints, wire.Backend{Addr: dead, ID: w.podB.SVID.ID})
	})
	for i := range 50 {
		if code, body := get(t, "http://"+w.vip.String()+"/"); code != 200 {
			t.Fatalf("request %d: %d %s", i, code, body)
		}
		if c := stream2(t, w.vip); c != "" {
			t.Fatalf("stream %d: %s", i, c)
		}
	}
}

// stream2 sends what is no HTTP to an HTTP server: its answer proves that a
// stream was made.
func stream2(t testing.TB, at netip.AddrPort) string {
	if b := raw(t, at, "\x00\x00\r\n\r\n"); !strings.HasPrefix(b, "HTTP/1.1 400") {
		return fmt.Sprintf("%q", b)
	}
	return ""
}

// TestApplicationDown: nothing listens in the pod.
func TestApplicationDown(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := addr(t, ln.Addr())
	ln.Close()
	w := newWorld(t, at)
	if code, body := get(t, "http://"+w.vip.String()+"/"); code != 503 || !strings.Contains(body, "application does not answer") {
		t.Errorf("%d %s", code, body)
	}
	if b := raw(t, w.vip, "\x00\x01"); b != "" {
		t.Errorf("stream got %q", b)
	}
}

// TestRotationUnderLoad replaces both certificates again and again, each
// valid for little longer than the margin before which connections are given
// up, while requests run. None may fail.
func TestRotationUnderLoad(t *testing.T) {
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var done atomic.Int64
	for range 8 {
		wg.Go(func() {
			h := client(t)
			for ctx.Err() == nil {
				res, err := h.Post("http://"+w.vip.String()+"/", "text/plain", strings.NewReader("body"))
				if err != nil {
					t.Errorf("after %d requests: %v", done.Load(), err)
					return
				}
				b, err := io.ReadAll(res.Body)
				res.Body.Close()
				if err != nil || res.StatusCode != 200 || string(b) != "body" {
					t.Errorf("after %d requests: %d %q %v", done.Load(), res.StatusCode, b, err)
					return
				}
				done.Add(1)
			}
		})
	}
	for i := range 12 {
		ttl := time.Duration(10500+100*i) * time.Millisecond // 10 s is the margin
		if i%3 == 2 {
			ttl = 1500 * time.Millisecond // runs out in use: the server ends the connections
		}
		w.podA.SVID = w.ca.Issue(t, w.podA.SVID.ID, ttl)
		w.podB.SVID = w.ca.Issue(t, w.podB.SVID.ID, ttl)
		w.apply()
		<-time.After(250 * time.Millisecond)
	}
	w.podA.SVID = w.ca.Issue(t, w.podA.SVID.ID, time.Hour)
	w.podB.SVID = w.ca.Issue(t, w.podB.SVID.ID, time.Hour)
	w.apply()
	<-time.After(1500 * time.Millisecond) // the last short ones run out under load
	stop()
	wg.Wait()
	if done.Load() < 100 {
		t.Errorf("only %d requests", done.Load())
	}
}

// TestDrain: a request under way ends well while the proxies stop; the
// connection says so.
func TestDrain(t *testing.T) {
	started, release := make(chan struct{}), make(chan struct{})
	w := newWorld(t, app(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(started)
		<-release
		io.WriteString(w, "done")
	})))
	idle := dial(t, w.vip)
	io.WriteString(idle, "OPTIONS * HTTP/1.1\r\nHost: h\r\n") // a head without its end
	c := dial(t, w.vip)
	io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
	<-started
	stopped := make(chan struct{})
	go func() { w.a.stop(); w.b.stop(); close(stopped) }()
	for { // until the drain has begun
		c, err := net.Dial("tcp", w.vip.String())
		if err != nil {
			break
		}
		c.SetDeadline(time.Now().Add(time.Second))
		_, err = c.Read(make([]byte, 1))
		c.Close()
		if errors.Is(err, io.EOF) {
			break
		}
	}
	close(release)
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(res.Body); err != nil || string(b) != "done" || !res.Close {
		t.Errorf("%q %v, close %v", b, err, res.Close)
	}
	<-stopped
}
