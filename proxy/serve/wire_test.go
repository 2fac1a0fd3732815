// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/proxy/proxyproto"
)

var quiet = log.New(io.Discard, "", 0)

// TestProxyProtocol takes both versions and sends both.
func TestProxyProtocol(t *testing.T) {
	whole(t)
	heads := make(chan string, 10)
	at := tcpOrigin(t, func(c *net.TCPConn) {
		b := make([]byte, 512)
		n := 0
		for {
			k, err := c.Read(b[n:])
			if err != nil {
				return
			}
			n += k
			h, used, found := proxyproto.Parse(b[:n])
			if found != proxyproto.Complete || !strings.Contains(string(b[used:n]), "\r\n\r\n") {
				continue
			}
			heads <- fmt.Sprint(h.Version, " ", h.Source)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			return
		}
	})
	sends := func(name, v string) string {
		return host(name, `transport_socket: {name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport, config: {version: `+v+`}, transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}}}`, at)
	}
	w := open(t, site{listener: "listener_filters: [{name: p, typed_config: {$listener.proxy_protocol.v3.ProxyProtocol}}]", manager: "use_remote_address: true",
		routes: "- {match: {prefix: /1}, route: {cluster: v1}}\n- {match: {prefix: /2}, route: {cluster: v2}}\n- {match: {prefix: /}, route: {cluster: plain}}", clusters: []string{sends("v1", "V1"), sends("v2", "V2"), host("plain", "", mirrorOf(t))}})
	for _, v := range []int{1, 2} {
		header := proxyproto.Append(nil, &proxyproto.Header{Version: v, Stream: true, Source: netip.MustParseAddrPort("10.9.8.7:123"), Dest: netip.MustParseAddrPort("10.0.0.1:80")})
		k := dialTo(t, w.at)
		k.say(string(header[:7])) // in pieces
		k.say(string(header[7:]) + "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		if a := k.response("GET"); !strings.Contains(a.body, "X-Forwarded-For: 10.9.8.7\r\n") {
			t.Error(a)
		}
		for _, up := range []string{"1", "2"} {
			k.say("GET /" + up + " HTTP/1.1\r\nHost: x\r\n\r\n")
			if a := k.response("GET"); a.StatusCode != 200 {
				t.Error(a)
			}
			if got := <-heads; got != up+" 10.9.8.7:123" {
				t.Error(got)
			}
		}
	}
	k := dialTo(t, w.at)
	k.say("GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	if !k.ended() {
		t.Error("a connection without a header is served")
	}
}

// TestTCPProxy draws clusters by weight, tries other hosts, and ends what is
// silent.
func TestTCPProxy(t *testing.T) {
	whole(t)
	echoes := func(name string) netip.AddrPort {
		return tcpOrigin(t, func(c *net.TCPConn) {
			io.WriteString(c, name)
			io.Copy(struct{ io.Writer }{c}, struct{ io.Reader }{c})
		})
	}
	listener := func(name, what string) string {
		return fmt.Sprintf("- name: %[1]s\n  address: {socket_address: {address: 127.0.0.1, port_value: {{%[1]s}}}}\n  filter_chains: [{filters: [{name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: %[1]s, %[2]s}}]}]\n", name, what)
	}
	w := open(t, site{routes: each, clusters: []string{host("one", "", echoes("1")), host("two", "", echoes("2")), host("half", "", dead(t), dead(t), echoes("h"))},
		listeners: listener("weighted", "weighted_clusters: {clusters: [{name: one, weight: 3}, {name: two, weight: 1}]}") +
			listener("tries", "cluster: half, max_connect_attempts: 3") + listener("quiet", "cluster: one, idle_timeout: 0.1s") + listener("old", "cluster: one, max_downstream_connection_duration: 0.1s")})
	first := func(name string) (byte, *wire) {
		k := dialTo(t, w.s.Addr(name).String())
		b, err := k.r.ReadByte()
		if err != nil {
			return 0, k
		}
		return b, k
	}
	got := map[byte]float64{}
	const n = 1000
	for range n {
		b, k := first("weighted")
		got[b]++
		k.Close()
	}
	if math.Abs(got['1']-n*0.75) > 80 || got['1']+got['2'] != n {
		t.Error(got)
	}
	for range 20 {
		b, k := first("tries")
		if b != 'h' {
			t.Errorf("%q", b)
		}
		k.Close()
	}
	for _, name := range []string{"quiet", "old"} {
		if _, k := first(name); !k.ended() {
			t.Errorf("%s: bytes instead of an end", name)
		}
	}
}

// TestUDP carries datagrams by session, and forgets silent ones.
func TestUDP(t *testing.T) {
	whole(t)
	var seen sync.Map
	host2 := func(name string) netip.AddrPort {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { pc.Close() })
		go func() {
			b := make([]byte, 64<<10)
			for {
				n, from, err := pc.ReadFrom(b)
				if err != nil {
					return
				}
				seen.Store(from.String(), name)
				pc.WriteTo(append([]byte(name+":"), b[:n]...), from)
			}
		}()
		return netip.MustParseAddrPort(pc.LocalAddr().String())
	}
	w := open(t, site{routes: each, clusters: []string{host("one", "lb_policy: MAGLEV", host2("a"), host2("b"), host2("c"))}, listeners: `
- name: udp
  address: {socket_address: {protocol: UDP, address: 127.0.0.1, port_value: {{udp}}}}
  listener_filters:
  - name: u
    typed_config:
      $udp.udp_proxy.v3.UdpProxyConfig
      stat_prefix: u
      idle_timeout: 2s
      matcher: {on_no_match: {action: {name: route, typed_config: {$udp.udp_proxy.v3.Route, cluster: one}}}}
      hash_policies: [{source_ip: true}]`})
	conn, err := net.Dial("udp", w.s.Addr("udp").String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	b := make([]byte, 64<<10)
	where := ""
	for i := range 20 {
		msg := strings.Repeat(fmt.Sprint(i%10), 1+i*60)
		fmt.Fprint(conn, msg)
		n, err := conn.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		name, got, _ := strings.Cut(string(b[:n]), ":")
		if got != msg || where != "" && name != where {
			t.Errorf("%q from %s and %s", got, name, where)
		}
		where = name
	}
	ports := func() (n int) {
		seen.Range(func(any, any) bool { n++; return true })
		return n
	}
	if n := ports(); n != 1 {
		t.Errorf("%d sessions for one client", n)
	}
	// After the idle time there is another session.
	until(t, func() string {
		<-time.After(2500 * time.Millisecond)
		fmt.Fprint(conn, "x")
		if _, err := conn.Read(b); err != nil {
			return err.Error()
		}
		return map[bool]string{true: "a new session"}[ports() < 2]
	})
}

// TestContinue passes 100 Continue on, or gives it itself, in each pair of
// versions.
func TestContinue(t *testing.T) {
	whole(t)
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Refuse") != "" {
			w.WriteHeader(417)
			return
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	}), true)
	for _, two := range []string{"", speaks2} {
		for _, filters := range []string{"", "- {name: b, typed_config: {$http.buffer.v3.Buffer, max_request_bytes: 1000}}"} {
			w := open(t, site{filters: filters, routes: each, clusters: []string{host("one", two, at)}})
			k := dialTo(t, w.at)
			k.say("POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n")
			if line, err := k.r.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
				t.Fatalf("%q %v", line, err)
			}
			k.r.ReadString('\n')
			k.say("body")
			if a := k.response("POST"); a.body != "body" {
				t.Error(a)
			}
			for _, h2 := range []bool{false, true} {
				c := plain(t, h2)
				c.Transport.(*http.Transport).ExpectContinueTimeout = 5 * time.Second
				if a := w.ask(c, "POST /", "body", "Expect", "100-continue"); a.body != "body" {
					t.Error(h2, a)
				}
				if a := w.ask(c, "POST /", "body", "Expect", "100-continue", "X-Refuse", "1"); a.StatusCode != 417 {
					t.Error(h2, a)
				}
			}
		}
	}
}

// TestUpgrade switches protocols in each pair of versions that can.
func TestUpgrade(t *testing.T) {
	whole(t)
	at := script(t, func(c net.Conn, r *bufio.Reader, head string) {
		if !strings.Contains(strings.ToLower(head), "upgrade: websocket") {
			io.WriteString(c, "HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\nhello")
		io.Copy(struct{ io.Writer }{c}, r)
		c.(*net.TCPConn).CloseWrite()
	})
	w := open(t, site{manager: "upgrade_configs: [{upgrade_type: websocket}]", routes: each, clusters: []string{host("one", "", at)}})
	k := dialTo(t, w.at)
	k.say("GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	a, err := http.ReadResponse(k.r, nil)
	if err != nil || a.StatusCode != 101 || a.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" {
		t.Fatal(a, err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(k.r, b); err != nil || string(b) != "hello" {
		t.Errorf("%q %v", b, err)
	}
	big := strings.Repeat("0123456789", 200_000)
	go func() {
		io.WriteString(k, big)
		k.Conn.(*net.TCPConn).CloseWrite()
	}()
	if got, err := io.ReadAll(k.r); err != nil || string(got) != big {
		t.Errorf("%d bytes of %d, %v", len(got), len(big), err)
	}
	k = dialTo(t, w.at)
	k.say("GET /x HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
	if a := k.response("GET"); a.StatusCode != 403 {
		t.Error(a)
	}
}

// TestFraming holds messages without a body, of old versions, and pipelines.
func TestFraming(t *testing.T) {
	whole(t)
	var n atomic.Int64
	at := script(t, func(c net.Conn, r *bufio.Reader, head string) {
		n.Add(1)
		path := strings.Fields(head)[1]
		switch path {
		case "/304":
			io.WriteString(c, "HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\nEtag: \"x\"\r\n\r\n")
		case "/204":
			io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		case "/close":
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nuntil the end")
			c.Close()
		case "/old":
			io.WriteString(c, "HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nold")
			c.Close()
		case "/trailers":
			io.WriteString(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n4\r\nbody\r\n0\r\nX-Sum: 4\r\n\r\n")
		case "/hints":
			io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
		default:
			if strings.HasPrefix(head, "HEAD") {
				io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
				return
			}
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(path), path)
		}
	})
	w := open(t, site{routes: each, clusters: []string{host("one", "", at)}})
	for _, h2 := range []bool{false, true} {
		c := plain(t, h2)
		for range 3 {
			for target, want := range map[string]string{"/304": "304 ", "/204": "204 ", "/close": "200 until the end", "/old": "200 old", "/trailers": "200 body", "/hints": "200 ok", "HEAD /": "200 ", "/x": "200 /x"} {
				a, err := w.try(c, target, "")
				if err != nil {
					t.Fatal(h2, target, a, err)
				}
				if got := fmt.Sprint(a.StatusCode, " ", a.body); got != want {
					t.Errorf("h2=%v %s: %q", h2, target, got)
				}
				if target == "/trailers" && a.Trailer.Get("X-Sum") != "4" {
					t.Errorf("h2=%v: trailers %v", h2, a.Trailer)
				}
				if target == "HEAD /" && a.ContentLength != 1000 {
					t.Errorf("h2=%v: HEAD %d", h2, a.ContentLength)
				}
			}
		}
	}
	// HTTP/1.0: no chunks, an end for an end, keep-alive if asked.
	k := dialTo(t, w.at)
	k.say("GET /trailers HTTP/1.0\r\n\r\n")
	if b, err := io.ReadAll(k.r); err != nil || strings.Contains(string(b), "chunked") || !strings.HasSuffix(string(b), "\r\n\r\nbody") {
		t.Errorf("%q %v", b, err)
	}
	k = dialTo(t, w.at)
	for range 2 {
		k.say("GET /y HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
		if a := k.response("GET"); a.body != "/y" {
			t.Error(a)
		}
	}
	// A pipeline, half closed behind.
	k = dialTo(t, w.at)
	var all strings.Builder
	for i := range 200 {
		fmt.Fprintf(&all, "GET /%d HTTP/1.1\r\nHost: x\r\n\r\n", i)
	}
	k.say(all.String())
	k.Conn.(*net.TCPConn).CloseWrite()
	for i := range 200 {
		if a := k.response("GET"); a.body != fmt.Sprint("/", i) {
			t.Fatal(i, a)
		}
	}
	if !k.ended() {
		t.Error("bytes behind the pipeline")
	}
}
