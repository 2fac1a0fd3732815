// SPDX-License-Identifier: Apache-2.0

package http1_test

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"net/http"
	"strings"
	"testing"

	"redoubt.dev/proxy/http1"
)

func crlf(s string) string { return strings.ReplaceAll(s, "\n", "\r\n") }

func TestRequestsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		in     string
		status int
	}{
		"both lengths":                {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nTransfer-Encoding: chunked\n\n"), 400},
		"both lengths, other order":   {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nContent-Length: 3\n\n"), 400},
		"length twice":                {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nContent-Length: 3\n\n"), 400},
		"length list":                 {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 3, 3\n\n"), 400},
		"length with plus":            {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: +3\n\n"), 400},
		"negative length":             {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: -3\n\n"), 400},
		"hexadecimal length":          {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 0x3\n\n"), 400},
		"length with underscore":      {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 1_0\n\n"), 400},
		"empty length":                {crlf("POST / HTTP/1.1\nHost: a\nContent-Length:\n\n"), 400},
		"length overflow":             {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 9999999999999999999\n\n"), 400},
		"coding twice":                {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\nTransfer-Encoding: chunked\n\n"), 501},
		"coding list":                 {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: gzip, chunked\n\n"), 501},
		"coding identity":             {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: identity\n\n"), 501},
		"coding with vertical tab":    {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \vchunked\n\n"), 400},
		"coding quoted":               {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: \"chunked\"\n\n"), 501},
		"coding with parameter":       {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked;x=1\n\n"), 501},
		"coding in HTTP/1.0":          {crlf("POST / HTTP/1.0\nHost: a\nTransfer-Encoding: chunked\n\n"), 400},
		"space before colon":          {crlf("POST / HTTP/1.1\nHost: a\nContent-Length : 3\n\n"), 400},
		"tab before colon":            {crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding\t: chunked\n\n"), 400},
		"space in name":               {crlf("POST / HTTP/1.1\nHost: a\nX Y: 3\n\n"), 400},
		"folded line":                 {crlf("POST / HTTP/1.1\nHost: a\nX: 1\n Content-Length: 3\n\n"), 400},
		"fold with tab":               {crlf("POST / HTTP/1.1\nHost: a\nX: 1\n\tmore\n\n"), 400},
		"space before first field":    {crlf("POST / HTTP/1.1\n Host: a\n\n"), 400},
		"no colon":                    {crlf("POST / HTTP/1.1\nHost: a\nnonsense\n\n"), 400},
		"empty name":                  {crlf("POST / HTTP/1.1\nHost: a\n: x\n\n"), 400},
		"bare line feed":              {"POST / HTTP/1.1\r\nHost: a\nContent-Length: 3\r\n\r\n", 400},
		"bare line feeds only":        {"GET / HTTP/1.1\nHost: a\n\n", 400},
		"bare line feed at the end":   {"GET / HTTP/1.1\r\nHost: a\r\n\n", 400},
		"bare carriage return":        {"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", 400},
		"NUL in value":                {"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", 400},
		"escape in value":             {"GET / HTTP/1.1\r\nHost: a\r\nX: a\x1bb\r\n\r\n", 400},
		"leading empty line":          {crlf("\nGET / HTTP/1.1\nHost: a\n\n"), 400},
		"no host":                     {crlf("GET / HTTP/1.1\n\n"), 400},
		"old method with body":        {crlf("GET / HTTP/1.0\nContent-Length: 3\n\n"), 400},
		"empty host":                  {crlf("GET / HTTP/1.1\nHost:\n\n"), 400},
		"two hosts":                   {crlf("GET / HTTP/1.1\nHost: a\nHost: a\n\n"), 400},
		"host with path":              {crlf("GET / HTTP/1.1\nHost: a/b\n\n"), 400},
		"host with at sign":           {crlf("GET / HTTP/1.1\nHost: a@b\n\n"), 400},
		"host against target":         {crlf("GET http://b/ HTTP/1.1\nHost: a\n\n"), 400},
		"target with user":            {crlf("GET http://u@b/ HTTP/1.1\nHost: b\n\n"), 400},
		"target without host":         {crlf("GET http:///x HTTP/1.1\nHost: b\n\n"), 400},
		"two spaces":                  {crlf("GET  / HTTP/1.1\nHost: a\n\n"), 400},
		"space in target":             {crlf("GET /a b HTTP/1.1\nHost: a\n\n"), 400},
		"fragment":                    {crlf("GET /a#b HTTP/1.1\nHost: a\n\n"), 400},
		"relative target":             {crlf("GET a HTTP/1.1\nHost: a\n\n"), 400},
		"asterisk without OPTIONS":    {crlf("GET * HTTP/1.1\nHost: a\n\n"), 400},
		"other scheme":                {crlf("GET ftp://a/ HTTP/1.1\nHost: a\n\n"), 400},
		"connect":                     {crlf("CONNECT a:443 HTTP/1.1\nHost: a:443\n\n"), 501},
		"no version":                  {crlf("GET /\nHost: a\n\n"), 400},
		"HTTP/2.0":                    {crlf("PRI * HTTP/2.0\n\n"), 505},
		"HTTP/1.2":                    {crlf("GET / HTTP/1.2\nHost: a\n\n"), 505},
		"http in lower case":          {crlf("GET / http/1.1\nHost: a\n\n"), 400},
		"long version":                {crlf("GET / HTTP/1.10\nHost: a\n\n"), 505},
		"method with brace":           {crlf("GE{T / HTTP/1.1\nHost: a\n\n"), 400},
		"port not a number":           {crlf("GET / HTTP/1.1\nHost: a:b\n\n"), 400},
		"port too large":              {crlf("GET / HTTP/1.1\nHost: a:65536\n\n"), 400},
		"port twice":                  {crlf("GET / HTTP/1.1\nHost: a:1:2\n\n"), 400},
		"open bracket":                {crlf("GET / HTTP/1.1\nHost: [::1\n\n"), 400},
		"name in brackets":            {crlf("GET / HTTP/1.1\nHost: [a]\n\n"), 400},
		"word behind bracket":         {crlf("GET / HTTP/1.1\nHost: [::1]a\n\n"), 400},
		"high byte in target":         {crlf("GET /\xe9 HTTP/1.1\nHost: a\n\n"), 400},
		"length with lookalike name":  {crlf("POST / HTTP/1.1\nHost: a\nContent_Length: 3\n\n"), 400},
		"lookalike of a trusted one":  {crlf("GET / HTTP/1.1\nHost: a\nX-Forwarded_Proto: https\n\n"), 400},
		"connection names many":       {crlf("GET / HTTP/1.1\nHost: a\nConnection: " + strings.Repeat("x,", 40) + "\n\n"), 400},
		"host with two dots":          {crlf("GET / HTTP/1.1\nHost: a..b\n\n"), 400},
		"port without host":           {crlf("GET / HTTP/1.1\nHost: :80\n\n"), 400},
		"close and keep-alive":        {crlf("GET / HTTP/1.1\nHost: a\nConnection: close, keep-alive\n\n"), 400},
		"host with comma":             {crlf("GET / HTTP/1.1\nHost: a,b\n\n"), 400},
		"host with escape":            {crlf("GET / HTTP/1.1\nHost: a%2fb\n\n"), 400},
		"connection option quoted":    {crlf("GET / HTTP/1.1\nHost: a\nConnection: \"close\"\n\n"), 400},
		"connection names host":       {crlf("GET / HTTP/1.1\nHost: a\nConnection: host\n\n"), 400},
		"connection names length":     {crlf("POST / HTTP/1.1\nHost: a\nContent-Length: 3\nConnection: close, Content-Length\n\n"), 400},
		"connection names cert":       {crlf("GET / HTTP/1.1\nHost: a\nConnection: X-Forwarded-Client-Cert\n\n"), 400},
		"connection names credential": {crlf("GET / HTTP/1.1\nHost: a\nConnection: Authorization\n\n"), 400},
		"unknown expectation":         {crlf("POST / HTTP/1.1\nHost: a\nExpect: magic\n\n"), 417},
		"too many fields":             {crlf("GET / HTTP/1.1\nHost: a\n" + strings.Repeat("X: y\n", 200) + "\n"), 431},
		"too large":                   {crlf("GET / HTTP/1.1\nHost: a\nX: " + strings.Repeat("y", http1.MaxHead) + "\n\n"), 431},
		"never ends":                  {crlf("GET / HTTP/1.1\nHost: a\nX: " + strings.Repeat("y", http1.MaxHead)), 431},
	} {
		t.Run(name, func(t *testing.T) {
			var r http1.Request
			n, err := r.Parse([]byte(c.in))
			var f *http1.Fault
			if !errors.As(err, &f) || f.Status != c.status {
				t.Fatalf("got %d, %v, want status %d", n, err, c.status)
			}
		})
	}
}

func TestRequestsTaken(t *testing.T) {
	for name, c := range map[string]struct{ in, out string }{
		"plain":              {"GET /a?b HTTP/1.1\nHost: x\nA: b\n\n", "GET /a?b HTTP/1.1\nHost: x\nA: b\n\n"},
		"absolute form":      {"GET http://x/a?b HTTP/1.1\nHost: X\n\n", "GET /a?b HTTP/1.1\nHost: x\n\n"},
		"absolute, no path":  {"GET http://x?b HTTP/1.1\nHost: x\n\n", "GET /?b HTTP/1.1\nHost: x\n\n"},
		"asterisk":           {"OPTIONS * HTTP/1.1\nHost: x\n\n", "OPTIONS * HTTP/1.1\nHost: x\n\n"},
		"old":                {"GET / HTTP/1.0\n\n", "GET / HTTP/1.1\nHost: 10.0.0.1:80\n\n"},
		"hop by hop":         {"GET / HTTP/1.1\nHost: x\nConnection: close, X-Own\nX-Own: 1\nKeep-Alive: 3\nProxy-Connection: y\nX: z\n\n", "GET / HTTP/1.1\nHost: x\nX: z\n\n"},
		"trailers wanted":    {"GET / HTTP/1.1\nHost: x\nConnection: TE\nTE: trailers\n\n", "GET / HTTP/1.1\nHost: x\nTE: trailers\n\n"},
		"other TE":           {"GET / HTTP/1.1\nHost: x\nConnection: TE\nTE: gzip\n\n", "GET / HTTP/1.1\nHost: x\n\n"},
		"sized":              {"POST / HTTP/1.1\nHost: x\nContent-Length: 003\n\n", "POST / HTTP/1.1\nHost: x\nContent-Length: 3\n\n"},
		"empty body":         {"POST / HTTP/1.1\nHost: x\ncontent-length: 0\n\n", "POST / HTTP/1.1\nHost: x\nContent-Length: 0\n\n"},
		"chunked":            {"POST / HTTP/1.1\nHost: x\nTransfer-Encoding: Chunked\n\n", "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n"},
		"upgrade":            {"GET / HTTP/1.1\nHost: x\nConnection: keep-alive, Upgrade\nUpgrade: websocket\n\n", "GET / HTTP/1.1\nHost: x\nConnection: Upgrade\nUpgrade: websocket\n\n"},
		"upgrade not named":  {"GET / HTTP/1.1\nHost: x\nUpgrade: websocket\n\n", "GET / HTTP/1.1\nHost: x\n\n"},
		"forged certificate": {"GET / HTTP/1.1\nHost: x\nx-forwarded-client-cert: URI=spiffe://me\n\n", "GET / HTTP/1.1\nHost: x\n\n"},
		"port":               {"GET / HTTP/1.1\nHost: x:8080\nX_Own: 1\n\n", "GET / HTTP/1.1\nHost: x:8080\nX_Own: 1\n\n"},
		"IPv6":               {"GET / HTTP/1.1\nHost: [::1]:8080\n\n", "GET / HTTP/1.1\nHost: [::1]:8080\n\n"},
		"white space":        {"GET / HTTP/1.1\nHost: \t x \nA:b\nC:\n\n", "GET / HTTP/1.1\nHost: x\nA: b\nC: \n\n"},
		"continue":           {"POST / HTTP/1.1\nHost: x\nExpect: 100-Continue\nContent-Length: 1\n\n", "POST / HTTP/1.1\nHost: x\nExpect: 100-Continue\nContent-Length: 1\n\n"},
		"old continue":       {"POST / HTTP/1.0\nHost: x\nExpect: 100-continue\nContent-Length: 1\n\n", "POST / HTTP/1.1\nHost: x\nContent-Length: 1\n\n"},
	} {
		t.Run(name, func(t *testing.T) {
			in := []byte(crlf(c.in) + "rest")
			var r http1.Request
			for i := range len(in) - len("rest") { // every way of arriving in two parts
				if n, err := r.Parse(in[:i]); n != 0 || err != nil {
					t.Fatalf("%d bytes: %d, %v", i, n, err)
				}
			}
			n, err := r.Parse(in)
			if err != nil || n != len(in)-len("rest") {
				t.Fatalf("got %d, %v", n, err)
			}
			out := r.Append(nil, in[:n], &http1.Rewrite{Host: []byte("10.0.0.1:80")})
			if string(out) != crlf(c.out) {
				t.Fatalf("wrote\n%s\nwant\n%s", out, crlf(c.out))
			}
		})
	}
}

func TestRewrite(t *testing.T) {
	in := []byte(crlf("GET /a/../b HTTP/1.1\nHost: x\nX-Forwarded-For: 1.2.3.4\n\n"))
	var r http1.Request
	n, err := r.Parse(in)
	if err != nil {
		t.Fatal(err)
	}
	out := r.Append(nil, in[:n], &http1.Rewrite{Target: []byte("/b"), ClientCert: []byte("URI=u"), For: []byte("9.9.9.9")})
	if want := crlf("GET /b HTTP/1.1\nHost: x\nX-Forwarded-For: 9.9.9.9\nX-Forwarded-Client-Cert: URI=u\n\n"); string(out) != want {
		t.Fatalf("wrote\n%s\nwant\n%s", out, want)
	}
}

func TestResponses(t *testing.T) {
	for name, c := range map[string]struct {
		in, out string
		fr      http1.Frame
		head    bool
		kind    http1.Framing
	}{
		"sized":      {in: "HTTP/1.1 200 OK\nContent-Length: 2\n\n", out: "HTTP/1.1 200 OK\nContent-Length: 2\n\n", kind: http1.Sized},
		"to head":    {in: "HTTP/1.1 200 OK\nContent-Length: 2\n\n", out: "HTTP/1.1 200 OK\nContent-Length: 2\n\n", head: true, kind: http1.None},
		"no content": {in: "HTTP/1.1 204 No Content\n\n", out: "HTTP/1.1 204 No Content\n\n", kind: http1.None},
		"unchanged":  {in: "HTTP/1.1 304 x\nContent-Length: 9\n\n", out: "HTTP/1.1 304 x\nContent-Length: 9\n\n", kind: http1.None},
		"no reason":  {in: "HTTP/1.1 200\n\n", out: "HTTP/1.1 200 \nConnection: close\n\n", fr: http1.Frame{Close: true}, kind: http1.UntilClose},
		"chunked":    {in: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\nTrailer: x\n\n", out: "HTTP/1.1 200 OK\nTrailer: x\nTransfer-Encoding: chunked\n\n", fr: http1.Frame{Chunked: true}, kind: http1.Chunked},
		"until end":  {in: "HTTP/1.0 200 OK\nConnection: close\n\n", out: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n", fr: http1.Frame{Chunked: true}, kind: http1.UntilClose},
		"switching":  {in: "HTTP/1.1 101 x\nConnection: upgrade\nUpgrade: w\n\n", out: "HTTP/1.1 101 x\nConnection: Upgrade\nUpgrade: w\n\n", kind: http1.None},
		"early":      {in: "HTTP/1.1 103 Early Hints\nLink: x\n\n", out: "HTTP/1.1 103 Early Hints\nLink: x\n\n", kind: http1.None},
	} {
		t.Run(name, func(t *testing.T) {
			in := []byte(crlf(c.in))
			var r http1.Response
			n, err := r.Parse(in)
			if err != nil || n != len(in) {
				t.Fatalf("got %d, %v", n, err)
			}
			b := r.Body(c.head)
			if b.Kind() != c.kind {
				t.Errorf("framing %d, want %d", b.Kind(), c.kind)
			}
			if out := string(r.Append(nil, in, c.fr)); out != crlf(c.out) {
				t.Errorf("wrote\n%s\nwant\n%s", out, crlf(c.out))
			}
		})
	}
	for name, in := range map[string]string{
		"both":          "HTTP/1.1 200 OK\nContent-Length: 2\nTransfer-Encoding: chunked\n\n",
		"two lengths":   "HTTP/1.1 200 OK\nContent-Length: 2\nContent-Length: 3\n\n",
		"short status":  "HTTP/1.1 20 OK\n\n",
		"long status":   "HTTP/1.1 2000 OK\n\n",
		"word":          "HTTP/1.1 abc OK\n\n",
		"other version": "HTTP/2.0 200 OK\n\n",
		"no HTTP":       "SSH-2.0-OpenSSH\n\n",
	} {
		var r http1.Response
		if _, err := r.Parse([]byte(crlf(in))); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

// read runs a body through Next in pieces of the given size.
func read(b http1.Body, in []byte, piece int) (out, trailers []byte, rest []byte, err error) {
	var buf []byte
	for !b.Done() {
		data, n, t, err := b.Next(buf)
		if err != nil {
			return out, trailers, nil, err
		}
		out, trailers = append(out, data...), append(trailers, t...)
		buf = buf[n:]
		if n == 0 {
			if len(in) == 0 {
				return out, trailers, nil, io.ErrUnexpectedEOF
			}
			k := min(piece, len(in))
			buf, in = append(buf[:len(buf):len(buf)], in[:k]...), in[k:]
		}
	}
	return out, trailers, append(buf, in...), nil
}

func chunked(t testing.TB) http1.Body {
	t.Helper()
	var r http1.Request
	if _, err := r.Parse([]byte(crlf("POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n"))); err != nil {
		t.Fatal(err)
	}
	return r.Body()
}

func TestChunked(t *testing.T) {
	good := "5\r\nhello\r\n00A;x=\"a;\\\"b\";y\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-T: 2\r\n\r\nnext"
	for piece := 1; piece < len(good); piece++ {
		out, tr, rest, err := read(chunked(t), []byte(good), piece)
		if err != nil || string(out) != "hello0123456789" || string(tr) != "X-Sum: 1\r\nX-T: 2\r\n" || string(rest) != "next" {
			t.Fatalf("pieces of %d: %q %q %q %v", piece, out, tr, rest, err)
		}
	}
	for name, in := range map[string]string{
		"bare line feed":        "5\nhello\r\n0\r\n\r\n",
		"bare line feed after":  "5\r\nhello\n0\r\n\r\n",
		"bare at the end":       "0\r\n\n",
		"data too long":         "5\r\nhelloo\r\n0\r\n\r\n",
		"data too short":        "5\r\nhell\r\n0\r\n\r\n",
		"hex prefix":            "0x5\r\nhello\r\n0\r\n\r\n",
		"plus":                  "+5\r\nhello\r\n0\r\n\r\n",
		"negative":              "-5\r\nhello\r\n0\r\n\r\n",
		"space before":          " 5\r\nhello\r\n0\r\n\r\n",
		"space after":           "5 \r\nhello\r\n0\r\n\r\n",
		"empty size":            "\r\nhello\r\n0\r\n\r\n",
		"overflow":              "10000000000000005\r\nhello\r\n0\r\n\r\n",
		"many zeros":            strings.Repeat("0", 20) + "5\r\nhello\r\n0\r\n\r\n",
		"extension with CR":     "5;a=\rb\r\nhello\r\n0\r\n\r\n",
		"extension open quote":  "5;a=\"b\r\nhello\r\n0\r\n\r\n",
		"extension without":     "5;\r\nhello\r\n0\r\n\r\n",
		"extension odd":         "5,a\r\nhello\r\n0\r\n\r\n",
		"long extension":        "5;" + strings.Repeat("a", 1000) + "\r\nhello\r\n0\r\n\r\n",
		"endless extension":     "5;" + strings.Repeat("a", 1000),
		"length in trailer":     "0\r\nContent-Length: 3\r\n\r\n",
		"coding in trailer":     "0\r\nTransfer-Encoding: chunked\r\n\r\n",
		"host in trailer":       "0\r\nHost: b\r\n\r\n",
		"credential in trailer": "0\r\nAuthorization: b\r\n\r\n",
		"bad trailer":           "0\r\nA b: c\r\n\r\n",
		"folded trailer":        "0\r\nA: b\r\n c\r\n\r\n",
		"long trailer":          "0\r\nA: " + strings.Repeat("a", 9000) + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 7, len(in)} {
				var f *http1.Fault
				if out, _, _, err := read(chunked(t), []byte(in), piece); !errors.As(err, &f) {
					t.Fatalf("pieces of %d: %q, %v", piece, out, err)
				}
			}
		})
	}
}

func TestUnread(t *testing.T) {
	b := chunked(t)
	in := []byte("5\r\nhello\r\n3\r\nabc\r\n0\r\n\r\n")
	var out []byte
	for at := 0; !b.Done(); {
		data, n, _, err := b.Next(in[at:])
		if err != nil {
			t.Fatal(err)
		}
		take := min(len(data), 1)
		out = append(out, data[:take]...)
		b.Unread(len(data) - take)
		at += n - (len(data) - take)
	}
	if string(out) != "helloabc" {
		t.Fatalf("got %q", out)
	}
}

func TestSniff(t *testing.T) {
	for in, want := range map[string]http1.Verdict{
		"":                             http1.More,
		"G":                            http1.More,
		"GET /x HT":                    http1.More,
		"GET /x HTTP/1.1\r\n":          http1.Yes,
		"GET /x HTTP/1.1\nHost":        http1.Yes, // and refused, with an answer
		"PATCH /x HTTP/1.0\r\nA":       http1.Yes,
		"PRI * HTTP/2.0\r\n\r\nSM\r\n": http1.No,
		"GET key\r\n":                  http1.No,
		"*1\r\n$4\r\nPING\r\n":         http1.No,
		"EHLO me\r\n":                  http1.No,
		"\x16\x03\x01\x02\x00":         http1.No,
		"\x00\x00\x00\x08\x04\xd2":     http1.No,
		"get / HTTP/1.1\r\n":           http1.No,
		"GET /\x00":                    http1.No,
	} {
		if got := http1.Sniff([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	in := []byte(crlf("GET /index.html?a=b HTTP/1.1\nHost: example\nUser-Agent: x\nAccept: */*\nConnection: keep-alive\nContent-Type: text/plain\n\n"))
	res := []byte(crlf("HTTP/1.1 200 OK\nContent-Length: 3\nContent-Type: text/plain\n\n"))
	var r http1.Request
	var p http1.Response
	buf := make([]byte, 0, 4096)
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Parse(in); err != nil {
			t.Fatal(err)
		}
		buf = r.Append(buf[:0], in, &http1.Rewrite{})
		if _, err := p.Parse(res); err != nil {
			t.Fatal(err)
		}
		buf = p.Append(buf[:0], res, http1.Frame{})
	}); n != 0 {
		t.Errorf("%v allocations per exchange", n)
	}
}

// FuzzRequest holds the parser to net/http's: what it takes, net/http takes
// too and sees the same message; what it writes means what it read.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET / HTTP/1.1\nHost: a\n\n", "POST /x?y HTTP/1.1\nHost: a\nContent-Length: 3\n\nabc", "POST / HTTP/1.1\nHost: a\nTransfer-Encoding: chunked\n\n3\nabc\n0\n\n",
		"GET http://a/b HTTP/1.1\nHost: a\n\n", "OPTIONS * HTTP/1.1\nHost: a\n\n", "GET / HTTP/1.0\nConnection: keep-alive\n\n",
		"GET / HTTP/1.1\nHost: a\nConnection: Upgrade, x\nUpgrade: w\nX: 1\n\n", "GET / HTTP/1.1\nHost: a\nA: \x80\n\n",
	} {
		f.Add([]byte(crlf(s)))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var r http1.Request
		n, err := r.Parse(in)
		if err != nil || n == 0 {
			return
		}
		want, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in[:n])))
		if err != nil {
			if stricter(err) {
				return
			}
			t.Fatalf("net/http refuses what was taken: %v\n%q", err, in[:n])
		}
		same(t, &r, in[:n], want)
		out := r.Append(nil, in[:n], &http1.Rewrite{Host: []byte("h")})
		var again http1.Request
		if k, err := again.Parse(out); err != nil || k != len(out) {
			t.Fatalf("cannot read what was written: %d of %d, %v\n%q", k, len(out), err, out)
		}
		if again.Length != r.Length || again.Chunked != r.Chunked || again.Upgrade != r.Upgrade || !bytes.Equal(again.Method.In(out), r.Method.In(in)) {
			t.Fatalf("written request differs\n%q\n%q", in[:n], out)
		}
		if _, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(out))); err != nil && !stricter(err) {
			t.Fatalf("net/http refuses what was written: %v\n%q", err, out)
		}
	})
}

// stricter tells that net/http judged the URL, which a proxy passes on as it
// is: its parser refuses escapes and ports that HTTP's grammar allows.
func stricter(err error) bool {
	s := err.Error()
	return strings.Contains(s, "invalid URL") || strings.Contains(s, "invalid port") || strings.Contains(s, "parse \"") || strings.Contains(s, "malformed Host")
}

func same(t *testing.T, r *http1.Request, b []byte, want *http.Request) {
	t.Helper()
	if got := string(r.Method.In(b)); got != want.Method {
		t.Errorf("method %q, net/http %q", got, want.Method)
	}
	if got := string(r.HostSpan.In(b)); !strings.EqualFold(got, want.Host) {
		t.Errorf("host %q, net/http %q", got, want.Host)
	}
	if r.Chunked != (len(want.TransferEncoding) > 0) {
		t.Errorf("chunked %v, net/http %v", r.Chunked, want.TransferEncoding)
	}
	if l := max(r.Length, 0); !r.Chunked && l != want.ContentLength {
		t.Errorf("length %d, net/http %d", l, want.ContentLength)
	}
	fields := 0
	for _, v := range want.Header {
		fields += len(v)
	}
	own := 0
	for _, f := range r.Fields {
		if f.Known != http1.Host && f.Known != http1.TransferEncoding {
			own++
		}
		if f.Known == http1.Trailer {
			return // net/http takes it out of the header
		}
	}
	if own != fields {
		t.Errorf("%d fields, net/http %d: %v", own, fields, want.Header)
	}
	if t.Failed() {
		t.Logf("%q", b)
	}
}

// FuzzChunked holds the body reader to net/http's.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("5\r\nhello\r\n0\r\n\r\n"), 3)
	f.Add([]byte("a;x=y\r\n0123456789\r\n0\r\nA: b\r\n\r\n"), 1)
	f.Fuzz(func(t *testing.T, in []byte, piece int) {
		if piece < 1 || len(in) > 1<<16 {
			return
		}
		out, _, rest, err := read(chunked(t), in, piece)
		one, _, rest1, err1 := read(chunked(t), in, len(in)+1)
		if !bytes.Equal(out, one) && err == nil || (err == nil) != (err1 == nil) || !bytes.Equal(rest, rest1) {
			t.Fatalf("pieces of %d: %q %v, whole: %q %v", piece, out, err, one, err1)
		}
		if err != nil {
			return
		}
		msg := append([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"), in...)
		req, e := http.ReadRequest(bufio.NewReader(bytes.NewReader(msg)))
		if e != nil {
			t.Fatal(e)
		}
		want, e := io.ReadAll(req.Body)
		if e != nil || !bytes.Equal(want, out) {
			t.Fatalf("got %q, net/http %q, %v\n%q", out, want, e, in)
		}
	})
}

// FuzzResponse must not fault, and must read what it wrote.
func FuzzResponse(f *testing.F) {
	f.Add([]byte("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 101\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r, again http1.Response
		n, err := r.Parse(in)
		if err != nil || n == 0 {
			return
		}
		out := r.Append(nil, in[:n], http1.Frame{Chunked: r.Chunked})
		k, err := again.Parse(out)
		if err != nil || k != len(out) || again.Status != r.Status || again.Chunked != r.Chunked {
			t.Fatalf("cannot read what was written: %v\n%q\n%q", err, in[:n], out)
		}
	})
}
