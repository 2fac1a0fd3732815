// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
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
)

// TestTimeouts holds each limit of time, as a status or as an end.
func TestTimeouts(t *testing.T) {
	whole(t)
	hang := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			io.WriteString(w, "half")
			w.(http.Flusher).Flush()
		}
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}), true)
	for _, two := range []string{"", speaks2} {
		w := open(t, site{manager: "request_timeout: 0.4s\nrequest_headers_timeout: 0.3s\ncommon_http_protocol_options: {idle_timeout: 0.3s}", routes: `
- {match: {prefix: /route}, route: {cluster: one, timeout: 0.15s}}
- {match: {prefix: /half}, route: {cluster: one, timeout: 0.15s}}
- {match: {prefix: /idle}, route: {cluster: one, timeout: 0s, idle_timeout: 0.15s}}
- {match: {prefix: /most}, route: {cluster: one, timeout: 0s, max_stream_duration: {max_stream_duration: 0.15s}}}
- {match: {prefix: /grpc}, route: {cluster: one, max_stream_duration: {grpc_timeout_header_max: 5s}}}
- {match: {prefix: /long}, route: {cluster: one, timeout: 20s}}`, clusters: []string{host("one", two, hang)}})
		for _, h2 := range []bool{false, true} {
			c := plain(t, h2)
			for target, want := range map[string]int{"/route": 504, "/idle": 504, "/most": 504, "POST /route": 504} {
				if a := w.ask(c, target, strings.Repeat("b", 10)); a.StatusCode != want {
					t.Errorf("%v %s: %v", h2, target, a)
				}
			}
			if a, err := w.try(c, "/half", ""); err == nil {
				t.Errorf("%v: half a response taken for whole: %v", h2, a)
			}
			a := w.ask(c, "POST /grpc", "", "Content-Type", "application/grpc", "Grpc-Timeout", "150m")
			if a.StatusCode != 200 || a.Header.Get("Grpc-Status") != "4" && a.Header.Get("Grpc-Status") != "14" {
				t.Error(a)
			}
		}
		// A request that stalls.
		k := dialTo(t, w.at)
		k.say("POST /long HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
		if a := k.response("POST"); a.StatusCode != 408 {
			t.Error(a)
		}
		// A head that stalls, and a connection without requests.
		k = dialTo(t, w.at)
		k.say("GET / HTTP/1.1\r\nHo")
		if a := k.response("GET"); a.StatusCode != 408 {
			t.Error(a)
		}
		k = dialTo(t, w.at)
		k.say("GET /none HTTP/1.1\r\nHost: x\r\n\r\n")
		k.response("GET")
		if !k.ended() {
			t.Error("bytes instead of an end")
		}
	}
}

// TestWholeRequestHasNoRequestTimeout lets the origin take its time.
func TestWholeRequestHasNoRequestTimeout(t *testing.T) {
	whole(t)
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-time.After(500 * time.Millisecond)
		io.WriteString(w, "late")
	}), true)
	w := open(t, site{manager: "request_timeout: 0.2s", filters: `- {name: b, typed_config: {$http.buffer.v3.Buffer, max_request_bytes: 1000}}`,
		routes: `- {match: {prefix: /}, route: {cluster: one, timeout: 5s}}`, clusters: []string{host("one", "", at)}})
	for _, h2 := range []bool{false, true} {
		for _, target := range []string{"GET /", "POST /"} {
			if a := w.ask(plain(t, h2), target, map[bool]string{true: "body"}[target == "POST /"]); a.body != "late" {
				t.Error(h2, target, a)
			}
		}
	}
}

// gate is an origin whose responses wait for the test.
type gate struct {
	inside atomic.Int64
	pass   chan struct{}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.inside.Add(1)
	select {
	case <-g.pass:
	case <-r.Context().Done():
	}
	io.WriteString(w, "ok")
}

// TestBreakers opens each circuit breaker.
func TestBreakers(t *testing.T) {
	whole(t)
	for _, x := range []struct {
		name, limits, two string
		inside            int64 // requests that reach the host
		more              int   // of the others: how many are refused at once
	}{
		{"requests", "max_requests: 3", "", 3, 5},
		{"requests h2", "max_requests: 3", speaks2, 3, 5},
		{"pending", "max_connections: 1, max_pending_requests: 2", "", 1, 5},
	} {
		t.Run(x.name, func(t *testing.T) {
			g := &gate{pass: make(chan struct{})}
			at := origin(t, g, true)
			more := "circuit_breakers: {thresholds: [{" + x.limits + "}]}"
			if x.two != "" {
				more += ", " + x.two
			}
			w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", more, at)}})
			const n = 8
			answers := make(chan *answer, n)
			c := plain(t, false)
			for range n {
				go func() {
					a, err := w.try(c, "/", "")
					if err != nil {
						t.Error(err)
					}
					answers <- a
				}()
			}
			least := n - int(x.inside)
			if x.name == "pending" {
				least -= 2 * 2 // each loop may have one connection, and two wait
			}
			for range least {
				if a := <-answers; a == nil || a.StatusCode != 503 || a.Header.Get("X-Envoy-Overloaded") != "true" {
					t.Fatal(a)
				}
			}
			close(g.pass)
			for range n - least {
				if a := <-answers; a == nil || a.StatusCode != 200 && a.StatusCode != 503 {
					t.Error(a)
				}
			}
			if _, _, _, _, over := w.s.Count("one"); over == 0 {
				t.Error("overflow was not counted")
			}
		})
	}
	t.Run("retries", func(t *testing.T) {
		at := failing(t, 1<<30, status(500))
		w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one, retry_policy: {retry_on: 5xx, num_retries: 3, retry_back_off: {base_interval: 0.2s}}}}`,
			clusters: []string{host("one", "circuit_breakers: {thresholds: [{max_retries: 1}]}", at)}})
		var wg sync.WaitGroup
		c := plain(t, false)
		for range 10 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				if a, err := w.try(c, "/", ""); err != nil || a.StatusCode < 500 {
					t.Error(a, err)
				}
			}()
		}
		wg.Wait()
		if n, _, retries, _, _ := w.s.Count("one"); n != 10 || retries >= 30 || retries == 0 {
			t.Errorf("%d requests, %d retries", n, retries)
		}
	})
	t.Run("tcp connections", func(t *testing.T) {
		at := tcpOrigin(t, func(c *net.TCPConn) { io.Copy(c, c) })
		w := open(t, site{routes: `- {match: {prefix: /}, direct_response: {status: 200}}`, clusters: []string{host("one", "circuit_breakers: {thresholds: [{max_connections: 1}]}", at)},
			listeners: `
- name: tcp
  address: {socket_address: {address: 127.0.0.1, port_value: {{tcp}}}}
  filter_chains: [{filters: [{name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: one}}]}]`})
		a := dialTo(t, w.s.Addr("tcp").String())
		a.say("x")
		if b, err := a.r.ReadByte(); b != 'x' || err != nil {
			t.Fatal(b, err)
		}
		if b := dialTo(t, w.s.Addr("tcp").String()); !b.ended() {
			t.Error("a second connection lives")
		}
		a.Close()
		until(t, func() string {
			c := dialTo(t, w.s.Addr("tcp").String())
			defer c.Close()
			io.WriteString(c, "y")
			if b, err := c.r.ReadByte(); b != 'y' || err != nil {
				return "a connection after the first"
			}
			return ""
		})
	})
}

// TestWaitingGoOn has requests wait for the only connection, whose client then
// leaves: the next is served by a new one.
func TestWaitingGoOn(t *testing.T) {
	whole(t)
	for _, two := range []string{"", ", " + speaks2} {
		g := &gate{pass: make(chan struct{}, 16)}
		at := origin(t, g, true)
		w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one, timeout: 10s}}`,
			clusters: []string{host("one", "circuit_breakers: {thresholds: [{max_connections: 1}]}, max_requests_per_connection: 1"+two, at)}})
		first := dialTo(t, w.at)
		first.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		until(t, func() string { return map[bool]string{true: "a request"}[g.inside.Load() == 0] })
		var rest []*wire
		for range 6 {
			k := dialTo(t, w.at)
			k.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			rest = append(rest, k)
		}
		first.Conn.(*net.TCPConn).SetLinger(0)
		first.Close()
		for range len(rest) + 1 { // the first may still take one
			g.pass <- struct{}{}
		}
		for _, k := range rest {
			if a := k.response("GET"); a.StatusCode != 200 {
				t.Error(a)
			}
		}
	}
}

// TestHTTP2Dies ends a connection under 50 requests, by a plain end and by
// GOAWAY: those that may be sent again are.
func TestHTTP2Dies(t *testing.T) {
	whole(t)
	var conns atomic.Int64
	var mu sync.Mutex
	open2 := map[net.Conn]int{}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pass := make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if r.URL.Path == "/first" {
			return
		}
		select {
		case <-pass:
		case <-r.Context().Done():
		}
		io.WriteString(w, "ok")
	}), ConnState: func(c net.Conn, s http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if s == http.StateNew {
			conns.Add(1)
			open2[c] = 1
		}
	}}
	srv.Protocols = new(http.Protocols)
	srv.Protocols.SetUnencryptedHTTP2(true)
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one, timeout: 10s}}`, clusters: []string{host("one", speaks2, addrOf(ln))}})
	c := plain(t, true)
	if a := w.ask(c, "/first", ""); a.StatusCode != 200 { // whom a connection is made for is not repeated without a policy
		t.Fatal(a)
	}
	var got, put atomic.Int64
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			target, body := "GET /", ""
			if i%2 == 1 {
				target, body = "POST /", "body"
			}
			a, err := w.try(c, target, body)
			switch {
			case err != nil:
				t.Error(err)
			case a.StatusCode == 200 && body == "":
				got.Add(1)
			case a.StatusCode == 503 && body != "":
				put.Add(1)
			default:
				t.Error(target, a)
			}
		}()
	}
	until(t, func() string { return w.s.Under("one", 50) })
	first := conns.Load()
	mu.Lock()
	for k := range open2 {
		k.Close()
	}
	clear(open2)
	mu.Unlock()
	until(t, func() string {
		if put.Load() < 25 {
			return fmt.Sprint(put.Load(), " POST cut")
		}
		return w.s.Under("one", 25)
	})
	close(pass)
	wg.Wait()
	if got.Load() != 25 {
		t.Errorf("%d GET went on; %d and %d connections", got.Load(), first, conns.Load())
	}
}

func addrOf(ln net.Listener) netip.AddrPort { return netip.MustParseAddrPort(ln.Addr().String()) }

// TestLeftBehind has clients that do not read their responses on one HTTP/2
// connection to a host: others go on.
func TestLeftBehind(t *testing.T) {
	whole(t)
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/big" {
			for range 64 {
				w.Write(make([]byte, 256<<10))
			}
			return
		}
		io.WriteString(w, "ok")
	}), true)
	w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", speaks2, at)}})
	for range 20 {
		k := dialTo(t, w.at)
		k.say("GET /big HTTP/1.1\r\nHost: x\r\n\r\n")
		if _, err := k.r.Peek(1000); err != nil {
			t.Fatal(err)
		}
	}
	c := plain(t, false)
	c.Timeout = 5 * time.Second
	for range 50 {
		if a := w.ask(c, "/", ""); a.body != "ok" {
			t.Fatal(a)
		}
	}
}

// TestSlowUpload passes a body that is long against all windows to an origin
// that reads slowly, and holds what arrives.
func TestSlowUpload(t *testing.T) {
	whole(t)
	var most atomic.Int64
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, n := make([]byte, 8<<10), 0
		for {
			k, err := r.Body.Read(b)
			n += k
			if err != nil {
				break
			}
			if n%(256<<10) < 8<<10 {
				<-time.After(time.Millisecond)
			}
		}
		most.Store(int64(n))
		fmt.Fprint(w, n)
	}), true)
	for _, up := range []string{"", speaks2} {
		w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", up, at)}})
		for _, h2 := range []bool{false, true} {
			body := strings.Repeat("x", 24<<20)
			if a := w.ask(plain(t, h2), "POST /", body); a.body != fmt.Sprint(len(body)) {
				t.Error(h2, up, a)
			}
		}
	}
}

// TestBufferedEarlyResponse has an origin answer before it reads a body that a
// filter has buffered: all of the body still reaches it.
func TestBufferedEarlyResponse(t *testing.T) {
	whole(t)
	const n = 8 << 20
	read := make(chan int64, 1)
	at := script(t, func(c net.Conn, r *bufio.Reader, head string) {
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nearly")
		<-time.After(50 * time.Millisecond)
		k, _ := io.Copy(io.Discard, io.LimitReader(r, n))
		read <- k
		io.WriteString(c, "later")
	})
	w := open(t, site{filters: `- {name: b, typed_config: {$http.buffer.v3.Buffer, max_request_bytes: 10000000}}`,
		routes: `- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", "", at)}})
	for _, h2 := range []bool{false, true} {
		a := w.ask(plain(t, h2), "POST /", strings.Repeat("x", n))
		if k := <-read; k != n || a.body != "earlylater" {
			t.Errorf("h2=%v: %d bytes of %d, %v", h2, k, n, a)
		}
	}
}
