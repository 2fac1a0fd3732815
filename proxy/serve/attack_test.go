// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

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
