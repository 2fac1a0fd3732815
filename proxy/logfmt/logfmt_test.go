// SPDX-License-Identifier: Apache-2.0

package logfmt_test

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/logfmt"
	"redoubt.dev/proxy/message"
)

// exchange is a finished one, with a client that tries to forge a line.
func exchange() *filter.Context {
	req := &message.Request{Proto: message.HTTP11}
	req.Method, req.Path, req.Authority = req.PutString("GET"), req.PutString("/a?b=c"), req.PutString("bank.example")
	req.AddString("User-Agent", "curl\" 200 \"\\x\t\xff")
	req.AddString("X-Two", "1")
	req.AddString("X-Forwarded-For", "10.0.0.9")
	resp := &message.Response{Status: 503}
	resp.AddString("X-Envoy-Upstream-Service-Time", "7")
	resp.AddString("grpc-status", "14")
	began := engine.Mono() + 1
	return &filter.Context{
		Conn: &filter.ConnInfo{
			Listener: "in", ID: 42, Peer: netip.MustParseAddrPort("192.0.2.1:4242"), Source: netip.MustParseAddrPort("192.0.2.1:4242"),
			Local: netip.MustParseAddrPort("[2001:db8::1]:443"),
			TLS:   &filter.TLSInfo{Version: 0x0304, Suite: 0x1301, SNI: "bank.example", PeerURIs: []string{"spiffe://a/b", "spiffe://a/c"}, PeerHash: "ab"},
		},
		Req: req, Resp: resp, Cluster: "ledger", Flags: filter.FlagUpstreamTimeout | filter.FlagRetryLimit, Detail: "upstream response timeout",
		Began: began, HeadSent: began + int64(time.Millisecond), UpstreamHead: began + 5*int64(time.Millisecond), Ended: began + 12*int64(time.Millisecond),
		BytesIn: 3, BytesOut: 99, Attempts: 2, Remote: netip.MustParseAddr("10.0.0.9"), Host: netip.MustParseAddrPort("10.1.1.1:80"),
		Route: &config.Route{Name: "r1"},
	}
}

func TestOperators(t *testing.T) {
	for format, want := range map[string]string{
		"100%%":                           "100%",
		"%REQ(:METHOD)% %REQ(:path)%":     "GET /a?b=c",
		"%PATH(NQ)% %PATH%":               "/a /a?b=c",
		"%REQ(X-NONE?X-TWO)%":             "1",
		"%REQ(X-NONE)%|%RESP(X-NONE)%":    "-|-",
		"%REQ(:AUTHORITY):4%":             "bank",
		"%REQ(USER-AGENT)%":               `curl\x22 200 \x22\x5cx\x09\xff`,
		"%PROTOCOL% %RESPONSE_CODE%":      "HTTP/1.1 503",
		"%RESPONSE_FLAGS%":                "URX,UT",
		"%RESPONSE_FLAGS_LONG%":           "UpstreamRetryLimitExceeded,UpstreamRequestTimeout",
		"%RESPONSE_CODE_DETAILS%":         "upstream_response_timeout",
		"%BYTES_RECEIVED% %BYTES_SENT%":   "3 99",
		"%DURATION% %RESPONSE_DURATION%":  "12 5",
		"%REQUEST_DURATION%":              "-",
		"%RESPONSE_TX_DURATION%":          "7",
		"%UPSTREAM_HOST%":                 "10.1.1.1:80",
		"%UPSTREAM_CLUSTER% %ROUTE_NAME%": "ledger r1",
		"%DOWNSTREAM_REMOTE_ADDRESS%":     "10.0.0.9:0",
		"%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%|%DOWNSTREAM_DIRECT_REMOTE_PORT%": "192.0.2.1:4242|4242",
		"%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%":                           "10.0.0.9",
		"%DOWNSTREAM_LOCAL_ADDRESS%|%DOWNSTREAM_LOCAL_PORT%":                 "[2001:db8::1]:443|443",
		"%REQUESTED_SERVER_NAME%":                                            "bank.example",
		"%DOWNSTREAM_TLS_VERSION% %DOWNSTREAM_TLS_CIPHER%":                   "TLSv1.3 TLS_AES_128_GCM_SHA256",
		"%DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_SUBJECT%":                "spiffe://a/b,spiffe://a/c -",
		"%CONNECTION_ID% %UPSTREAM_REQUEST_ATTEMPT_COUNT%":                   "42 2",
		"%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS_NUMBER%":     "Unavailable UNAVAILABLE 14",
		"%TRAILER(X)%|%TRACE_ID%":                                            "-|-",
	} {
		f, err := logfmt.Compile(format)
		if err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		if got := string(f.Append(nil, exchange())); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

func TestCiphersAreNamedAsOpenSSLDoes(t *testing.T) {
	f, err := logfmt.Compile("%DOWNSTREAM_TLS_CIPHER%")
	if err != nil {
		t.Fatal(err)
	}
	for suite, want := range map[uint16]string{
		0xc02f: "ECDHE-RSA-AES128-GCM-SHA256", 0xc02c: "ECDHE-ECDSA-AES256-GCM-SHA384", 0xcca9: "ECDHE-ECDSA-CHACHA20-POLY1305", 0x1303: "TLS_CHACHA20_POLY1305_SHA256",
	} {
		c := exchange()
		c.Conn.TLS.Suite = suite
		if got := string(f.Append(nil, c)); got != want {
			t.Errorf("%04x: %q, want %q", suite, got, want)
		}
	}
}

func TestStartTime(t *testing.T) {
	c := exchange()
	at := engine.Wall(c.Began).UTC()
	for format, layout := range map[string]string{
		"%START_TIME%":                          "2006-01-02T15:04:05.000Z",
		"%START_TIME(%Y/%m/%dT%H:%M:%S%z)%":     "2006/01/02T15:04:05-0700",
		"%START_TIME(%d/%b/%Y %F %T %6f %y)%":   "02/Jan/2006 2006-01-02 15:04:05 .000000 06",
		"%START_TIME(%A %a %B %p %I %j %R %%)%": "Monday Mon January PM 03 002 15:04 %",
	} {
		f, err := logfmt.Compile(format)
		if err != nil {
			t.Fatal(err)
		}
		want := strings.ReplaceAll(at.Format(layout), " .", " ")
		if got := string(f.Append(nil, c)); got != want {
			t.Errorf("%s: %q, want %q", format, got, want)
		}
	}
}

func TestWithoutSourceRefused(t *testing.T) {
	for _, format := range []string{
		"%DYNAMIC_METADATA(a:b)%", "%FILTER_STATE(a)%", "%VIRTUAL_CLUSTER_NAME%", "%HOSTNAME%", "%ENVIRONMENT(PATH)%", "%Nope%", "%REQ%", "%REQ()%", "%REQ(a",
		"%REQ(a)", "%REQ(a):0%", "%REQ(a):x%", "%REQ(a?b?c)%", "%REQ(a b)%", "50% of", "%PROTOCOL(x)%", "%START_TIME(%Q)%", "%GRPC_STATUS(x)%",
	} {
		_, err := logfmt.Compile(format)
		var e *errs.Error
		if !errors.As(err, &e) {
			t.Errorf("%s: %v, want a refusal", format, err)
		}
	}
}

func TestJSON(t *testing.T) {
	f, err := logfmt.CompileJSON([]config.JSONField{
		{Key: `a"b`, Format: "%REQ(USER-AGENT)%"}, {Key: "code", Format: "%RESPONSE_CODE%"}, {Key: "none", Format: "%REQ(X)%"},
		{Key: "in", Object: []config.JSONField{{Key: "x", Format: "say \"%PROTOCOL%\"\n"}, {Key: "y", Format: "%REQ(X)%"}}},
	}, false)
	if err != nil {
		t.Fatal(err)
	}
	line := f.Append(nil, exchange())
	want := `{"a\"b":"curl\" 200 \"\\x\u0009\ufffd","code":503,"none":null,"in":{"x":"say \"HTTP/1.1\"\u000a","y":null}}` + "\n"
	if string(line) != want || !json.Valid(line) {
		t.Errorf("got  %swant %s", line, want)
	}
	omit, err := logfmt.CompileJSON([]config.JSONField{{Key: "x", Format: "%REQ(X)%"}, {Key: "o", Object: []config.JSONField{{Key: "x", Format: "%REQ(X)%"}}}, {Key: "c", Format: "%RESPONSE_CODE%"}}, true)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(omit.Append(nil, exchange())); got != "{\"c\":503}\n" {
		t.Errorf("omit: %s", got)
	}
}

// A value that a client chose never ends a line, leaves its quotes, or makes
// invalid UTF-8, whatever the sink.
func FuzzInjection(f *testing.F) {
	f.Add("a\nb\"c\\", 3)
	f.Add("\u2028\u0085é\xc3", 2)
	f.Fuzz(func(t *testing.T, v string, n int) {
		c := exchange()
		c.Req.AddString("X-Evil", v)
		text, err := logfmt.Compile(`"%REQ(X-EVIL)%"` + "\n")
		if err != nil {
			t.Fatal(err)
		}
		line := text.Append(nil, c)
		inner := line[1 : len(line)-2]
		for _, b := range inner {
			if b < ' ' || b > '~' || b == '"' {
				t.Fatalf("%q", line)
			}
		}
		js, err := logfmt.CompileJSON([]config.JSONField{{Key: "k", Format: "%REQ(X-EVIL)%"}, {Key: "l", Format: "<%REQ(X-EVIL)%>"}}, false)
		if err != nil {
			t.Fatal(err)
		}
		line = js.Append(nil, c)
		if !json.Valid(line) || !utf8.Valid(line) || strings.Count(string(line), "\n") != 1 {
			t.Fatalf("%q", line)
		}
		value, err := logfmt.CompileValue("%REQ(X-EVIL)%")
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range value.Append(nil, c) {
			if !message.IsValue(b) {
				t.Fatalf("%q in a field value", b)
			}
		}
	})
}

func FuzzCompile(f *testing.F) {
	for _, s := range []string{logfmt.Default, "%REQ(a?b):3%", "%START_TIME(%s.%3f)%", "%%%", "%GRPC_STATUS(NUMBER)%"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if g, err := logfmt.Compile(s); err == nil {
			g.Append(nil, exchange())
			g.Append(nil, &filter.Context{})
		}
	})
}

func TestAppendDoesNotAllocate(t *testing.T) {
	c := exchange()
	text, err := logfmt.Compile("")
	if err != nil {
		t.Fatal(err)
	}
	js, err := logfmt.CompileJSON([]config.JSONField{{Key: "t", Format: "%START_TIME%"}, {Key: "ua", Format: "%REQ(USER-AGENT)%"}, {Key: "c", Format: "%RESPONSE_CODE%"}, {Key: "h", Format: "%UPSTREAM_HOST%"}}, false)
	if err != nil {
		t.Fatal(err)
	}
	dst := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(200, func() { text.Append(dst, c); js.Append(dst, c) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestFilters(t *testing.T) {
	c := exchange()
	c.Rand = func() uint64 { return 42 }
	yes := &config.LogFilter{Kind: "status", Op: "GE", Value: 500}
	no := &config.LogFilter{Kind: "duration", Op: "LE", Value: 11}
	for _, tt := range []struct {
		f    *config.LogFilter
		want bool
	}{
		{nil, true}, {yes, true}, {no, false},
		{&config.LogFilter{Kind: "and", All: []*config.LogFilter{yes, no}}, false},
		{&config.LogFilter{Kind: "or", All: []*config.LogFilter{no, yes}}, true},
		{&config.LogFilter{Kind: "flags", Flags: []string{"UT"}}, true},
		{&config.LogFilter{Kind: "flags", Flags: []string{"NR"}}, false},
		{&config.LogFilter{Kind: "flags"}, true},
		{&config.LogFilter{Kind: "grpc_status", Codes: []uint32{14}}, true},
		{&config.LogFilter{Kind: "grpc_status", Codes: []uint32{14}, Exclude: true}, false},
		{&config.LogFilter{Kind: "fraction", Fraction: &config.Fraction{Num: 43, Den: 100}}, true},
		{&config.LogFilter{Kind: "fraction", Fraction: &config.Fraction{Num: 42, Den: 100}}, false},
		{&config.LogFilter{Kind: "header", Header: &config.HeaderMatch{Name: "x-two"}}, true},
		{&config.LogFilter{Kind: "not_health_check"}, true},
	} {
		f, err := logfmt.CompileFilter(tt.f)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Match(c); got != tt.want {
			t.Errorf("%+v: %v", tt.f, got)
		}
	}
	if _, err := logfmt.CompileFilter(&config.LogFilter{Kind: "cel"}); !errors.Is(err, errs.Unsupported) {
		t.Errorf("unknown kind: %v", err)
	}
}

func BenchmarkDefault(b *testing.B) {
	f, err := logfmt.Compile("")
	if err != nil {
		b.Fatal(err)
	}
	c := exchange()
	dst := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		f.Append(dst, c)
	}
}
