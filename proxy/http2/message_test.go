// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
)

// with gives the pseudo-headers of a GET with changes: "name", "value" replaces
// or adds, "name", "-" removes; other fields follow.
func with(kv ...string) []string {
	base := []string{":method", "GET", ":scheme", "https", ":authority", "a.b", ":path", "/x"}
	var out, rest []string
	for i := 0; i < len(base); i += 2 {
		v := base[i+1]
		for j := 0; j < len(kv); j += 2 {
			if kv[j] == base[i] {
				v = kv[j+1]
			}
		}
		if v != "-" {
			out = append(out, base[i], v)
		}
	}
	for j := 0; j < len(kv); j += 2 {
		switch kv[j] {
		case ":method", ":scheme", ":authority", ":path":
		default:
			rest = append(rest, kv[j], kv[j+1])
		}
	}
	return append(out, rest...)
}

func TestMalformedRequests(t *testing.T) {
	for name, kv := range map[string][]string{
		"no method":                  with(":method", "-"),
		"no scheme":                  with(":scheme", "-"),
		"no path":                    with(":path", "-"),
		"empty path":                 with(":path", ""),
		"path without slash":         with(":path", "x"),
		"path with space":            with(":path", "/a b"),
		"path with fragment":         with(":path", "/a#b"),
		"path in absolute form":      with(":path", "http://a/"),
		"asterisk without OPTIONS":   with(":path", "*"),
		"no authority, no host":      with(":authority", "-"),
		"empty authority":            with(":authority", ""),
		"user in authority":          with(":authority", "u@a.b"),
		"slash in authority":         with(":authority", "a/b"),
		"host differs":               with("host", "other"),
		"host twice":                 with("host", "a.b", "host", "a.b"),
		"strange scheme":             with(":scheme", "ftp"),
		"method with space":          with(":method", "GET /"),
		"method twice":               {":method", "GET", ":method", "GET", ":scheme", "http", ":authority", "a", ":path", "/"},
		"pseudo after a field":       {":method", "GET", ":scheme", "http", ":authority", "a", "x", "y", ":path", "/"},
		"unknown pseudo":             with(":x", "y"),
		"status in a request":        append([]string{":status", "200"}, with()...),
		"upper case":                 with("X-Y", "z"),
		"empty name":                 with("", "z"),
		"space in a name":            with("x y", "z"),
		"colon in a name":            with("x:y", "z"),
		"line feed in a value":       with("x", "a\nb"),
		"carriage return in a value": with("x", "a\rb"),
		"zero in a value":            with("x", "a\x00b"),
		"value begins with space":    with("x", " a"),
		"value ends with tab":        with("x", "a\t"),
		"line feed in the path":      with(":path", "/a\nb"),
		"connection":                 with("connection", "close"),
		"keep-alive":                 with("keep-alive", "1"),
		"proxy-connection":           with("proxy-connection", "close"),
		"transfer-encoding":          with("transfer-encoding", "chunked"),
		"upgrade":                    with("upgrade", "h2c"),
		"http2-settings":             with("http2-settings", "AAAA"),
		"te":                         with("te", "trailers, gzip"),
		"length of a word":           with("content-length", "x"),
		"length with sign":           with("content-length", "+0"),
		"length twice":               with("content-length", "0", "content-length", "0"),
		"length without body":        with("content-length", "1"),
		"CONNECT with path":          with(":method", "CONNECT"),
		"CONNECT without authority":  {":method", "CONNECT"},
		"CONNECT without port":       {":method", "CONNECT", ":authority", "a"},
		"CONNECT with empty port":    {":method", "CONNECT", ":authority", "a:"},
		"protocol without CONNECT":   append([]string{":protocol", "websocket"}, with()...),
		"extended CONNECT, not open": append([]string{":protocol", "websocket"}, with(":method", "CONNECT")...),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRaw(t, Server, Options{})
			r.headers(1, true, kv...)
			r.ok()
			if a := r.answers(); a != "reset 1 PROTOCOL_ERROR;" || strings.Contains(r.o.log.String(), "GET") {
				t.Fatal(a, r.o.log.String())
			}
			if r.o.opened != 1 || r.o.closed != 1 {
				t.Error("not closed")
			}
			r.alive(3)
		})
	}
}

func TestRequests(t *testing.T) {
	for _, c := range []struct {
		name string
		kv   []string
		want string
	}{
		{"plain", with("accept", "*/*"), "GET https://a.b /x up= length 0 accept=*/*"},
		{"host only", with(":authority", "-", "host", "h:80"), "GET https://h:80 /x up= length 0"},
		{"host in other case", with("host", "A.b"), "GET https://a.b /x up= length 0"},
		{"cookies", with("cookie", "a=1", "x", "y", "cookie", "b=2", "cookie", "c"), "GET https://a.b /x up= length 0 cookie=a=1; b=2; c x=y"},
		{"trailers", with("te", "trailers"), "GET https://a.b /x up= length 0"},
		{"connect", []string{":method", "CONNECT", ":authority", "a:443"}, "CONNECT ://a:443  up= length 0"},
		{"websocket", append([]string{":protocol", "websocket"}, with(":method", "CONNECT")...), "CONNECT https://a.b /x up=websocket length 0"},
		{"asterisk", with(":method", "OPTIONS", ":path", "*"), "OPTIONS https://a.b * up= length 0"},
		{"obs-text", with("x", "\xe4"), "GET https://a.b /x up= length 0 x=\xe4"},
		{"length of nothing", with("content-length", "0"), "GET https://a.b /x up= length 0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t, Server, Options{AllowConnect: true})
			r.headers(1, true, c.kv...)
			r.ok()
			if got := r.o.log.String(); got != "settled\n1 "+c.want+" end=true\n" {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
	r := newRaw(t, Server, Options{})
	r.headers(1, false, request("/hold", "te", "trailers", "expect", "100-continue", "content-length", "7", "priority", "u=1, i")...)
	r.ok()
	e := r.o.held[0]
	if m := e.req; !m.Trailers || !m.Continue || m.Length != 7 || e.s.Urgency != 1 || !e.s.Incremental {
		t.Errorf("%+v", m)
	}
}

func TestTrailersAndLengths(t *testing.T) {
	for _, c := range []struct {
		name string
		do   func(r *raw)
		want string // of the log; or the answer
	}{
		{"trailers", func(r *raw) {
			r.headers(1, false, request("/hold")...)
			r.headers(1, true, "x-sum", "1", "content-length", "3", "authorization", "a", "grpc-status", "0")
		}, "1 trailers x-sum=1 grpc-status=0\n"},
		{"pseudo in trailers", func(r *raw) {
			r.headers(1, false, request("/hold")...)
			r.headers(1, true, ":path", "/")
		}, "1 reset PROTOCOL_ERROR"},
		{"connection in trailers", func(r *raw) {
			r.headers(1, false, request("/hold")...)
			r.headers(1, true, "connection", "x")
		}, "1 reset PROTOCOL_ERROR"},
		{"trailers that do not end", func(r *raw) {
			r.headers(1, false, request("/hold")...)
			r.headers(1, false, "x", "y")
		}, "1 reset PROTOCOL_ERROR"},
		{"trailers too large", func(r *raw) {
			r.headers(1, false, request("/hold")...)
			r.headers(1, true, "x", strings.Repeat("y", 5000))
		}, "1 reset ENHANCE_YOUR_CALM"},
		{"body too short for trailers", func(r *raw) {
			r.headers(1, false, request("/hold", "content-length", "5")...)
			r.headers(1, true, "x", "y")
		}, "1 reset PROTOCOL_ERROR"},
		{"body too short", func(r *raw) {
			r.headers(1, false, request("/hold", "content-length", "5")...)
			r.fr.WriteData(1, true, []byte("four"))
		}, "1 reset PROTOCOL_ERROR"},
		{"body too long", func(r *raw) {
			r.headers(1, false, request("/hold", "content-length", "5")...)
			r.fr.WriteData(1, false, []byte("fivesix"))
		}, "1 reset PROTOCOL_ERROR"},
		{"body with padding", func(r *raw) {
			r.headers(1, false, request("/hold", "content-length", "4")...)
			r.fr.WriteDataPadded(1, true, []byte("four"), make([]byte, 200))
		}, "1 body 4 300d26 end=true\n"},
		{"stream depends on itself", func(r *raw) {
			r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...), EndHeaders: true, Priority: xhttp2.PriorityParam{StreamDep: 1}})
			r.headers(3, true, request("/hold")...)
		}, "3 POST"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t, Server, Options{MaxList: 4096})
			c.do(r)
			r.ok()
			if got := r.o.log.String(); !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			r.alive(5)
		})
	}
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name, method string
		do           func(r *raw)
		want         string
	}{
		{"plain", "GET", func(r *raw) { r.headers(1, true, ":status", "200", "x", "y") }, "1 response 200 length 0 x=y end=true\n"},
		{"interim", "GET", func(r *raw) { r.headers(1, false, ":status", "103", "link", "l"); r.headers(1, true, ":status", "204") },
			"1 response 103 length -1 link=l end=false\n1 response 204 length 0 end=true\n"},
		{"length", "GET", func(r *raw) {
			r.headers(1, false, ":status", "200", "content-length", "2")
			r.fr.WriteData(1, true, []byte("ab"))
		}, "1 response 200 length 2 end=false\n1 body 2 c21 end=true\n"},
		{"HEAD", "HEAD", func(r *raw) { r.headers(1, true, ":status", "200", "content-length", "22") }, "1 response 200 length 22 end=true\n"},
		{"HEAD with body", "HEAD", func(r *raw) {
			r.headers(1, false, ":status", "200", "content-length", "2")
			r.fr.WriteData(1, true, []byte("ab"))
		}, "1 reset PROTOCOL_ERROR"},
		{"not modified", "GET", func(r *raw) { r.headers(1, true, ":status", "304", "content-length", "22") }, "1 response 304 length 22 end=true\n"},
		{"304 ended by data", "GET", func(r *raw) {
			r.headers(1, false, ":status", "304", "content-length", "22")
			r.fr.WriteData(1, true, nil)
		},
			"1 response 304 length 22 end=false\n1 body 0 0 end=true\n"},
		{"204 with body", "GET", func(r *raw) { r.headers(1, false, ":status", "204"); r.fr.WriteData(1, true, []byte("x")) }, "1 reset PROTOCOL_ERROR"},
		{"length without body", "GET", func(r *raw) { r.headers(1, true, ":status", "200", "content-length", "2") }, "1 reset PROTOCOL_ERROR"},
		{"no status", "GET", func(r *raw) { r.headers(1, true, "x", "y") }, "1 reset PROTOCOL_ERROR"},
		{"status of two digits", "GET", func(r *raw) { r.headers(1, true, ":status", "20") }, "1 reset PROTOCOL_ERROR"},
		{"switching protocols", "GET", func(r *raw) { r.headers(1, false, ":status", "101") }, "1 reset PROTOCOL_ERROR"},
		{"interim at the end", "GET", func(r *raw) { r.headers(1, true, ":status", "100") }, "1 reset PROTOCOL_ERROR"},
		{"request's pseudo", "GET", func(r *raw) { r.headers(1, true, ":status", "200", ":path", "/") }, "1 reset PROTOCOL_ERROR"},
		{"data before the head", "GET", func(r *raw) { r.fr.WriteData(1, true, []byte("x")) }, "1 reset PROTOCOL_ERROR"},
		{"head too large", "GET", func(r *raw) { r.headers(1, true, ":status", "200", "x", strings.Repeat("y", 5000)) }, "1 reset ENHANCE_YOUR_CALM"},
		{"trailers", "GET", func(r *raw) { r.headers(1, false, ":status", "200"); r.headers(1, true, "grpc-status", "0") }, "1 trailers grpc-status=0\n"},
		{"refused", "GET", func(r *raw) { r.fr.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream) }, "1 reset REFUSED_STREAM unprocessed=true\n"},
		{"refused after the head", "GET", func(r *raw) {
			r.headers(1, false, ":status", "200")
			r.fr.WriteRSTStream(1, xhttp2.ErrCodeRefusedStream)
		}, "1 reset REFUSED_STREAM unprocessed=false\n"},
		{"gone away before", "GET", func(r *raw) { r.fr.WriteGoAway(0, 0, nil) }, "goaway 0 NO_ERROR\n1 reset REFUSED_STREAM unprocessed=true\n"},
		{"gone away after", "GET", func(r *raw) { r.fr.WriteGoAway(1, 0, nil); r.headers(1, true, ":status", "200") }, "1 response 200"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRaw(t, Client, Options{MaxList: 4096})
			e := r.o.get(c.method, "/", 0, true)
			c.do(r)
			r.ok()
			if got := r.o.log.String(); !strings.Contains(got, c.want) {
				t.Errorf("%s, want %s", got, c.want)
			}
			if strings.Contains(c.want, "end=true") && (e.s != nil || r.o.closed != 1) {
				t.Error("not closed")
			}
		})
	}
}

func TestWritten(t *testing.T) {
	r := newRaw(t, Client, Options{})
	e := &exchange{h: r.o}
	m := &e.req
	m.Method, m.Scheme, m.Authority, m.Path = m.PutString("POST"), m.PutString("https"), m.PutString("a"), m.PutString("/p?q")
	for _, f := range []string{"Host", "Connection", "Keep-Alive", "Transfer-Encoding", "Upgrade", "TE", "Content-Length", "Proxy-Connection"} {
		m.AddString(f, "x")
	}
	m.AddString("X-Mixed", "V")
	m.AddString("Authorization", "secret")
	m.AddString("Cookie", "short")
	m.AddString("x-gone", "v")
	m.Remove("x-gone")
	m.Length, m.Trailers = 3, true
	for range 2 {
		s := r.o.c.NewStream()
		s.Resp = &e.resp
		if err := r.o.c.WriteRequest(m, s, false); err != nil {
			t.Fatal(err)
		}
	}
	want := " :method=POST :scheme=https :authority=a :path=/p?q x-mixed=V authorization=secret! cookie=short! content-length=3 te=trailers end=false;"
	if a := r.answers(); a != "headers 1"+want+"headers 3"+want {
		t.Error(a)
	}
	m.Upgrade = m.PutString("websocket")
	if err := r.o.c.WriteRequest(m, r.o.c.NewStream(), false); err == nil {
		t.Error("extended CONNECT without the peer's word")
	}
	r.fr.WriteSettings(xhttp2.Setting{ID: 8, Val: 1})
	r.ok()
	r.answers()
	if err := r.o.c.WriteRequest(m, r.o.c.NewStream(), false); err != nil {
		t.Error(err)
	}
	if a := r.answers(); !strings.HasPrefix(a, "headers 5 :method=CONNECT :scheme=https :authority=a :path=/p?q :protocol=websocket") {
		t.Error(a)
	}
}

func TestPriorityField(t *testing.T) {
	for v, want := range map[string]struct {
		u uint8
		i bool
	}{
		"": {3, false}, "u=0": {0, false}, "u=7, i": {7, true}, "i=?0,u=2": {2, false}, "u=8": {3, false}, "x;y, i=?1": {3, true},
		"u=1 , i ": {1, true}, strings.Repeat("u", 100): {3, true},
	} {
		if u, i := parsePriority([]byte(v)); u != want.u || i != want.i {
			t.Errorf("%q: %d %v", v, u, i)
		}
	}
}
