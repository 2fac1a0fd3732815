// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// raw2 is a client's HTTP/2 connection spoken to by hand.
type raw2 struct {
	*wire
	f   *http2.Framer
	enc *hpack.Encoder
	b   bytes.Buffer
	id  uint32
}

func dial2(t testing.TB, at string) *raw2 {
	k := &raw2{wire: dialTo(t, at), id: 1}
	k.say(http2.ClientPreface)
	k.f = http2.NewFramer(k.Conn, k.r)
	k.f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	k.enc = hpack.NewEncoder(&k.b)
	if err := k.f.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	return k
}

// ask sends a head, and body when it is not "", and gives the status of the
// answer, or how the stream ended.
func (k *raw2) ask(body string, end bool, fields ...string) string {
	k.t.Helper()
	k.b.Reset()
	for i := 0; i < len(fields); i += 2 {
		k.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	id := k.id
	k.id += 2
	if err := k.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: k.b.Bytes(), EndHeaders: true, EndStream: end && body == ""}); err != nil {
		k.t.Fatal(err)
	}
	if body != "" {
		k.f.WriteData(id, end, []byte(body))
	}
	for {
		f, err := k.f.ReadFrame()
		if err != nil {
			return err.Error()
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if !f.IsAck() {
				k.f.WriteSettingsAck()
			}
		case *http2.MetaHeadersFrame:
			if f.StreamID == id {
				return f.PseudoValue("status")
			}
		case *http2.RSTStreamFrame:
			if f.StreamID == id {
				return f.ErrCode.String()
			}
		case *http2.GoAwayFrame:
			return f.ErrCode.String()
		}
	}
}

// heads is an origin that says yes and tells what it was asked.
func heads(t testing.TB) (netip.AddrPort, chan string) {
	got := make(chan string, 100)
	return script(t, func(c net.Conn, _ *bufio.Reader, head string) {
		got <- head
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
	}), got
}

func seen(got chan string) string {
	select {
	case h := <-got:
		return h
	default:
		return ""
	}
}

// What HTTP/1 refuses because two readers would read it in two ways must not
// reach an HTTP/1 host by way of HTTP/2.
func TestAttackHTTP2IsAsStrict(t *testing.T) {
	whole(t)
	at, got := heads(t)
	w := open(t, site{clusters: []string{host("up", "", at)}, routes: `- {match: {prefix: /}, route: {cluster: up}}`})
	for _, tt := range []struct{ name, authority, path, field, value string }{
		{"two ports", "bank:80:81", "/", "a", "b"},
		{"comma", "bank,evil", "/", "a", "b"},
		{"escape", "bank%2eevil", "/", "a", "b"},
		{"empty label", "bank..evil", "/", "a", "b"},
		{"bracket", "[::1", "/", "a", "b"},
		{"port of nothing", ":80", "/", "a", "b"},
		{"letters as port", "bank:x", "/", "a", "b"},
		{"byte above ASCII in a path", "bank", "/\xc0\xae", "a", "b"},
		{"address under another name", "bank", "/", "x_forwarded_for", "10.0.0.1"},
		{"certificate under another name", "bank", "/", "x-forwarded_client-cert", "Hash=1"},
		{"length under another name", "bank", "/", "content_length", "10"},
		{"coding under another name", "bank", "/", "transfer_encoding", "chunked"},
	} {
		k := dial2(t, w.at)
		if s := k.ask("", true, ":method", "GET", ":scheme", "http", ":authority", tt.authority, ":path", tt.path, tt.field, tt.value); s == "200" {
			t.Errorf("%s: %s, %q", tt.name, s, seen(got))
		}
		k.Close()
	}
}

// An extended CONNECT to a protocol that may be ignored must not become a
// CONNECT of the plain kind.
func TestAttackConnectByH2C(t *testing.T) {
	whole(t)
	at, got := heads(t)
	w := open(t, site{clusters: []string{host("up", "", at)}, manager: `upgrade_configs: [{upgrade_type: websocket}]`, routes: `- {match: {prefix: /}, route: {cluster: up}}`})
	k := dial2(t, w.at)
	s := k.ask("", false, ":method", "CONNECT", ":scheme", "http", ":authority", "bank", ":path", "/a", ":protocol", "h2c")
	if h := seen(got); h != "" || s == "200" {
		t.Errorf("%s, %q", s, h)
	}
	k.Close()
}

// A plain CONNECT to a host that speaks HTTP/1 has no form there.
func TestAttackPlainConnect(t *testing.T) {
	whole(t)
	at, got := heads(t)
	w := open(t, site{clusters: []string{host("up", "", at)}, routes: `- {match: {connect_matcher: {}}, route: {cluster: up}}`})
	k := dial2(t, w.at)
	s := k.ask("", false, ":method", "CONNECT", ":authority", "bank:80")
	if h := seen(got); h != "" || s == "200" {
		t.Errorf("%s, %q", s, h)
	}
	k.Close()
}

// A redirect leads to the host that was asked, whatever the path.
func TestAttackOpenRedirect(t *testing.T) {
	whole(t)
	for _, m := range []string{"", "\nnormalize_path: false", "\nmerge_slashes: true"} {
		w := open(t, site{manager: "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT" + m, routes: `- {match: {prefix: /}, direct_response: {status: 200}}`})
		c := plain(t, false)
		for _, p := range []string{"/%2fevil.example/a", "/%5cevil.example", "//%2fevil.example", "/.%2f%2fevil.example", "/%2f%2fevil.example"} {
			a := w.ask(c, p, "")
			if l := a.Header.Get("Location"); strings.HasPrefix(l, "//") || strings.HasPrefix(l, `/\`) {
				t.Errorf("%q %s: %s %q", m, p, a.Status, l)
			}
		}
	}
	w := open(t, site{routes: `
- {match: {prefix: /old}, redirect: {prefix_rewrite: ""}}
- {match: {prefix: /slash/}, redirect: {prefix_rewrite: "x"}}
- {match: {prefix: /re}, redirect: {regex_rewrite: {pattern: {regex: "^/re"}, substitution: ""}}}`})
	for _, p := range []string{"/old.evil.example/", "/old@evil.example/", "/re.evil.example", "/re:80@evil.example", "/slash/a"} {
		a := w.ask(plain(t, false), p, "", "host", "bank.example")
		if l := a.Header.Get("Location"); !strings.HasPrefix(l, "http://bank.example/") {
			t.Errorf("%s: %s %q", p, a.Status, l)
		}
	}
}

// A prefix that is replaced must not let a request climb out of what replaces
// it.
func TestAttackPrefixRewriteClimbs(t *testing.T) {
	whole(t)
	at, got := heads(t)
	w := open(t, site{clusters: []string{host("up", "", at)}, routes: `
- {match: {prefix: /api}, route: {cluster: up, prefix_rewrite: /public/}}
- {match: {prefix: /re}, route: {cluster: up, regex_rewrite: {pattern: {regex: "^/re"}, substitution: "/public/"}}}`})
	for _, p := range []string{"/api../admin", "/api..", "/re../admin", "/api./admin"} {
		k := dialTo(t, w.at)
		k.say("GET " + p + " HTTP/1.1\r\nHost: bank\r\nConnection: close\r\n\r\n")
		a := k.response("GET")
		if h := seen(got); h != "" && (strings.Contains(h, "/../") || strings.Contains(h, "/.. ") || strings.Contains(h, "/./")) {
			t.Errorf("%s: %s %q", p, a.Status, h)
		}
		k.Close()
	}
}

// firstFlight is what a TLS client of that name sends first.
func firstFlight(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer a.Close()
	go func() {
		tls.Client(b, cfg).Handshake()
		b.Close()
	}()
	buf := make([]byte, 64<<10)
	n, err := io.ReadAtLeast(a, buf, 5)
	if err != nil {
		t.Fatal(err)
	}
	need := 5 + int(buf[3])<<8 + int(buf[4])
	for n < need {
		m, err := a.Read(buf[n:])
		if err != nil {
			t.Fatal(err)
		}
		n += m
	}
	return buf[:n]
}

// A chain is chosen by the server's name. A hello that is not whole in time,
// or not understood, must not be carried by a chain for what is not TLS: the
// host behind it may read the name well.
func TestAttackHelloAroundItsChain(t *testing.T) {
	whole(t)
	reached := make(chan string, 10)
	at := tcpOrigin(t, func(c *net.TCPConn) {
		b := make([]byte, 64<<10)
		for n := 0; ; {
			m, err := c.Read(b[n:])
			if n += m; bytes.Contains(b[:n], []byte("secret")) {
				reached <- "the hello for the secret host"
				n = 0
			}
			if err != nil {
				return
			}
		}
	})
	w := open(t, site{routes: `- {match: {prefix: /}, direct_response: {status: 200}}`, clusters: []string{host("all", "", at)}, listeners: `
- name: names
  address: {socket_address: {address: 127.0.0.1, port_value: {{names}}}}
  listener_filters_timeout: 0.2s
  listener_filters: [{name: i, typed_config: {$listener.tls_inspector.v3.TlsInspector}}]
  filter_chains:
  - filter_chain_match: {server_names: [secret.bank]}
    filters:
    - {name: r, typed_config: {$network.rbac.v3.RBAC, stat_prefix: r, rules: {action: DENY, policies: {all: {permissions: [{any: true}], principals: [{any: true}]}}}}}
    - {name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: all}}
  - filters: [{name: t, typed_config: {$network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: all}}]`})
	hello := firstFlight(t, &tls.Config{ServerName: "secret.bank"})
	dotted := bytes.Replace(hello, []byte("secret.bank"), []byte("secret.ban."), 1)
	for name, parts := range map[string][2][]byte{
		"whole":        {hello, nil},
		"in two parts": {hello[:20], hello[20:]},
		"trailing dot": {dotted, nil},
	} {
		k := dialTo(t, w.s.Addr("names").String())
		k.Write(parts[0])
		if parts[1] != nil {
			k.SetReadDeadline(time.Now().Add(2 * time.Second)) // the listener's time is over before
			k.ended()
			k.Write(parts[1])
		}
		k.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		k.ended()
		select {
		case s := <-reached:
			t.Errorf("%s: %s", name, s)
		default:
		}
		k.Close()
	}
}

// A client must neither choose how many connections there are to the
// authorization service, nor have it judge another path, nor pass by making a
// request that cannot be judged.
func TestAttackAuthorizationService(t *testing.T) {
	whole(t)
	var conns sync.Map
	var n atomic.Int64
	asked := make(chan string, 100)
	judge := script(t, func(c net.Conn, _ *bufio.Reader, head string) {
		if _, known := conns.LoadOrStore(c, true); !known {
			n.Add(1)
		}
		asked <- head
		io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
	})
	at, got := heads(t)
	w := open(t, site{clusters: []string{host("up", "", at), host("judge", "", judge)}, routes: `- {match: {prefix: /}, route: {cluster: up}}`, filters: `
- name: authz
  typed_config: {$http.ext_authz.v3.ExtAuthz, transport_api_version: V3, failure_mode_allow: true, http_service: {server_uri: {uri: "http://judge", cluster: judge, timeout: 5s}}}`})
	c := plain(t, false)
	for i := range 20 {
		name := fmt.Sprintf("host%d.example", i)
		if a := w.ask(c, "/", "", "host", name); a.StatusCode != 200 {
			t.Fatal(a)
		}
		if q := seen(asked); !strings.Contains(q, "Host: "+name+"\r\n") {
			t.Errorf("%q", q)
		}
		seen(got)
	}
	if n.Load() > 2 {
		t.Errorf("%d connections for 20 names", n.Load())
	}
	for _, p := range []string{"//a%2fb?c", "//a", "//a?", `//a"b`, "//a|b%41"} {
		k := dialTo(t, w.at)
		k.say("GET " + p + " HTTP/1.1\r\nHost: bank\r\n\r\n")
		a := k.response("GET")
		q, h := seen(asked), seen(got)
		line, _, _ := strings.Cut(q, "\r\n")
		if h != "" && !strings.HasPrefix(h, line+"\r\n") || h == "" && a.StatusCode != 403 || h != "" && q == "" {
			t.Errorf("%s: %s, asked %q, passed %q", p, a.Status, q, h)
		}
		k.Close()
	}
}

// A client that asks and asks, and reads nothing, is not asked on: what it
// would be told must not be kept.
func TestAttackPipelineUnread(t *testing.T) {
	whole(t)
	w := open(t, site{routes: `- {match: {prefix: /}, direct_response: {status: 200}}`})
	k := dialTo(t, w.at)
	k.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
	many := []byte(strings.Repeat("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", 400_000))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	k.SetWriteDeadline(time.Now().Add(2 * time.Second))
	n, err := k.Write(many)
	if err == nil {
		t.Error("all of", n, "bytes were taken")
	}
	runtime.ReadMemStats(&after)
	if made := (after.TotalAlloc - before.TotalAlloc) >> 20; made > 128 {
		t.Errorf("%d MiB were made for answers that nobody reads", made)
	}
	k.Close()
}

// A connection to a host that has proven one name carries no request for
// another.
func TestAttackProvenNameIsNotAnothers(t *testing.T) {
	whole(t)
	c := newCA(t)
	at := tlsOrigin(t, &tls.Config{Certificates: []tls.Certificate{c.issue("origin", "a.bank")}})
	for _, options := range []string{"http_protocol_options: {}", "http2_protocol_options: {}"} {
		w := open(t, site{routes: each, clusters: []string{host("one", `typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {"@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {`+options+`}, upstream_http_protocol_options: {auto_sni: true, auto_san_validation: true}}}, circuit_breakers: {thresholds: [{max_connections: 2}]}, `+c.client(c.trust(""), ""), at)}})
		hc := plain(t, false)
		for i := range 12 {
			name, want := "a.bank", 200
			if i%3 != 0 {
				name, want = fmt.Sprintf("b%d.bank", i), 503
			}
			if a := w.ask(hc, "/", "", "host", name); a.StatusCode != want {
				t.Errorf("%s %s: %v", options, name, a)
			}
		}
	}
}
