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

// FuzzResponseBeside holds the response parser to net/http's: what it takes,
// net/http takes with the same status, fields and body.
func FuzzResponseBeside(f *testing.F) {
	for _, s := range []string{
		"HTTP/1.1 200 OK\nContent-Length: 2\n\nab", "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nab\n0\n\n", "HTTP/1.0 200 OK\n\nab",
		"HTTP/1.1 204 No Content\n\n", "HTTP/1.1 304 Not Modified\nContent-Length: 5\n\n", "HTTP/1.1 101 x\nConnection: upgrade\nUpgrade: w\n\nab",
		"HTTP/1.1 200\nA: b\nA: c\n\n", "HTTP/1.1 200 \nContent-Length: 0\nConnection: close, x\nX: y\n\n",
	} {
		f.Add([]byte(crlf(s)), false)
		f.Add([]byte(crlf(s)), true)
	}
	f.Fuzz(func(t *testing.T, in []byte, head bool) {
		var r http1.Response
		n, err := r.Parse(in)
		if err != nil || n == 0 {
			return
		}
		method := "GET"
		if head {
			method = "HEAD"
		}
		want, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(in)), &http.Request{Method: method})
		if err != nil {
			if r.Minor == 0 && r.Keep || strings.Contains(err.Error(), "header") && bytes.IndexByte(in[:n], 0x80) > 0 {
				return
			}
			t.Fatalf("net/http refuses what was taken: %v\n%q", err, in)
		}
		b := r.Body(head)
		if r.Status != want.StatusCode || r.Chunked != (len(want.TransferEncoding) > 0) && b.Kind() == http1.Chunked {
			t.Fatalf("%d %v, net/http %d %v\n%q", r.Status, r.Chunked, want.StatusCode, want.TransferEncoding, in)
		}
		if r.Status == 101 {
			return
		}
		if b.Kind() == http1.UntilClose {
			body, _ := io.ReadAll(want.Body)
			if !bytes.Equal(body, in[n:]) {
				t.Fatalf("body %q, net/http %q", in[n:], body)
			}
			return
		}
		got, _, _, err := read(b, in[n:], len(in)+1)
		body, e := io.ReadAll(want.Body)
		if err == nil && (e != nil || !bytes.Equal(body, got)) {
			t.Fatalf("body %q, net/http %q, %v\n%q", got, body, e, in)
		}
	})
}

// FuzzMessageSplit reads a whole message that arrives in two arbitrary parts,
// some of it given back, and wants what reading it at once gives.
func FuzzMessageSplit(f *testing.F) {
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\nGET"), 30, 3)
	f.Add([]byte("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhelloGET"), 10, 1)
	f.Fuzz(func(t *testing.T, in []byte, cut, take int) {
		if len(in) > 1<<16 || cut < 0 || cut > len(in) || take < 1 {
			return
		}
		var whole, parts http1.Request
		n, err := whole.Parse(in)
		if n == 0 {
			return
		}
		_, early := parts.Parse(in[:cut])
		if early == nil && cut < n {
			if k, err2 := parts.Parse(in); k != n || !errors.Is(err2, err) {
				t.Fatalf("whole: %d %v, in parts at %d: %d %v", n, err, cut, k, err2)
			}
		}
		if cut < n && early != nil && err == nil {
			t.Fatalf("the first %d bytes are refused (%v), the whole is not", cut, early)
		}
		if err != nil {
			return
		}
		want, trail, rest, err1 := read(whole.Body(), in[n:], len(in)+1)
		b := whole.Body()
		var got, tr []byte
		at := n
		for !b.Done() {
			data, used, t2, err := b.Next(in[at:])
			if err != nil || used == 0 && !b.Done() {
				if err1 == nil {
					t.Fatalf("taken slowly: %v", err)
				}
				return
			}
			k := min(take, len(data))
			got, tr = append(got, data[:k]...), append(tr, t2...)
			b.Unread(len(data) - k)
			at += used - (len(data) - k)
		}
		if err1 != nil || !bytes.Equal(got, want) || !bytes.Equal(tr, trail) || !bytes.Equal(in[at:], rest) {
			t.Fatalf("slowly %q %q %q, at once %q %q %q %v", got, tr, in[at:], want, trail, rest, err1)
		}
	})
}

// FuzzRoundTrip writes what was read and reads it again: twice gives the same
// bytes as once, so that a chain of proxies sees one message.
func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("GET http://a?x HTTP/1.1\r\nHost: a\r\nConnection: close, b\r\nB: c\r\n\r\n"))
	f.Add([]byte("POST / HTTP/1.0\r\nContent-Length: 007\r\n\r\n"))
	f.Add([]byte("HTTP/1.1 426 Upgrade Required\r\nUpgrade: b\r\nContent-Length: 0\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var r http1.Request
		if n, err := r.Parse(in); err == nil && n > 0 {
			w := &http1.Rewrite{Host: []byte("h")}
			one := r.Append(nil, in[:n], w)
			var s http1.Request
			if k, err := s.Parse(one); err != nil || k != len(one) {
				t.Fatalf("cannot read %q: %d, %v", one, k, err)
			}
			if two := s.Append(nil, one, w); !bytes.Equal(one, two) {
				t.Fatalf("written once\n%q\ntwice\n%q", one, two)
			}
		}
		var p http1.Response
		if n, err := p.Parse(in); err == nil && n > 0 {
			fr := http1.Frame{Chunked: p.Chunked}
			one := p.Append(nil, in[:n], fr)
			var s http1.Response
			if k, err := s.Parse(one); err != nil || k != len(one) {
				t.Fatalf("cannot read %q: %d, %v", one, k, err)
			}
			if two := s.Append(nil, one, fr); !bytes.Equal(one, two) {
				t.Fatalf("written once\n%q\ntwice\n%q", one, two)
			}
		}
	})
}

// TestFloodMakesNoGarbage: neither good messages nor bad ones allocate.
func TestFloodMakesNoGarbage(t *testing.T) {
	for name, in := range map[string]string{
		"get":             "GET /a?b HTTP/1.1\nHost: x\nA: b\nConnection: keep-alive\n\n",
		"chunked":         "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n5;a=b\nhello\n0\nX: y\n\n",
		"both lengths":    "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\nContent-Length: 3\n\n",
		"start line":      "nonsense\n\n",
		"lookalike":       "GET / HTTP/1.1\nHost: x\nContent_Length: 3\n\n",
		"connection":      "GET / HTTP/1.1\nHost: x\nConnection: authorization\n\n",
		"chunk size":      "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\nxyz\n",
		"trailer":         "POST / HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\n0\nHost: y\n\n",
		"too many fields": "GET / HTTP/1.1\nHost: x\n" + strings.Repeat("A: b\n", 200) + "\n",
		"not whole":       "GET / HTTP/1.1\nHost: x\n",
	} {
		b := []byte(crlf(in))
		var r http1.Request
		if n := testing.AllocsPerRun(100, func() {
			r.Reset()
			n, err := r.Parse(b)
			if err != nil || n == 0 {
				return
			}
			for body := r.Body(); !body.Done(); {
				_, used, _, err := body.Next(b[n:])
				if err != nil || used == 0 {
					return
				}
				n += used
			}
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
