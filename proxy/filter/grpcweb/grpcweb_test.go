// SPDX-License-Identifier: Apache-2.0

package grpcweb_test

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strings"
	"testing"

	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/grpcweb"
	"redoubt.dev/proxy/message"
)

func context(method string, fields ...string) *filter.Context {
	r := &message.Request{Length: message.Unknown}
	r.Method, r.Path = r.PutString(method), r.PutString("/bank.Ledger/Get")
	add(&r.Head, fields...)
	return &filter.Context{Req: r, Slots: make([]any, 1)}
}

func add(h *message.Head, fields ...string) {
	for _, f := range fields {
		n, v, _ := strings.Cut(f, ": ")
		h.AddString(n, v)
	}
}

func find(h *message.Head, name string) string {
	v, _ := h.Find(name)
	return string(v)
}

func frame(msg string) []byte {
	b := make([]byte, 5, 5+len(msg))
	binary.BigEndian.PutUint32(b[1:], uint32(len(msg)))
	return append(b, msg...)
}

func TestHeads(t *testing.T) {
	f := grpcweb.New(0)
	for _, tt := range []struct{ method, in, accept, up, down string }{
		{"POST", "application/grpc-web", "", "application/grpc", "application/grpc-web+proto"},
		{"POST", "application/grpc-web+json", "*/*", "application/grpc+json", "application/grpc-web+proto"},
		{"POST", "application/grpc-web-text+proto; charset=utf-8", "", "application/grpc+proto", "application/grpc-web-text+proto"},
		{"POST", "application/grpc-web", "application/grpc-web-text", "application/grpc", "application/grpc-web-text+proto"},
		{"POST", "application/grpc", "", "application/grpc", "application/grpc"},
		{"GET", "application/grpc-web", "", "application/grpc-web", "application/grpc"},
		{"POST", "application/grpc-website", "", "application/grpc-website", "application/grpc"},
	} {
		c := context(tt.method, "Content-Type: "+tt.in, "Accept: "+tt.accept)
		if f.Request(c) != filter.Next || find(&c.Req.Head, "content-type") != tt.up {
			t.Errorf("%s: %s", tt.in, find(&c.Req.Head, "content-type"))
		}
		c.Resp = &message.Response{Status: 200, Length: message.Unknown}
		add(&c.Resp.Head, "Content-Type: application/grpc")
		f.Response(c)
		if got := find(&c.Resp.Head, "content-type"); got != tt.down || (c.ResponseBody != nil) != (tt.down != "application/grpc") {
			t.Errorf("%s: %s", tt.in, got)
		}
	}
}

func TestForeignResponse(t *testing.T) {
	f := grpcweb.New(0)
	c := context("POST", "Content-Type: application/grpc-web")
	f.Request(c)
	c.Resp = &message.Response{Status: 503, Length: 10}
	add(&c.Resp.Head, "Content-Type: text/html", "Content-Length: 10")
	f.Response(c)
	out, err := c.ResponseBody.Append(nil, []byte("<h1>no</h1>"), true, nil)
	if err != nil || len(out) != 0 || c.Resp.Status != 200 || find(&c.Resp.Head, "grpc-status") != "14" {
		t.Errorf("%d %s %q %v", c.Resp.Status, find(&c.Resp.Head, "grpc-status"), out, err)
	}
}

// pieces feeds b to a transform in pieces of n bytes.
func pieces(t *testing.T, tr filter.Transform, b []byte, n int, trailers *message.Head) []byte {
	t.Helper()
	var out []byte
	var err error
	for at := 0; ; at += n {
		end := at+n >= len(b)
		tl := trailers
		if !end {
			tl = nil
		}
		if out, err = tr.Append(out, b[min(at, len(b)):min(at+n, len(b))], end, tl); err != nil {
			t.Fatal(err)
		}
		if end {
			return out
		}
	}
}

func TestBodies(t *testing.T) {
	f := grpcweb.New(0)
	up := append(append(frame("one"), frame("")...), frame(strings.Repeat("two", 100))...)
	for _, text := range []bool{false, true} {
		for n := 1; n < 20; n++ {
			ct := "Content-Type: application/grpc-web"
			if text {
				ct += "-text"
			}
			c := context("POST", ct)
			f.Request(c)
			if text {
				in := base64.StdEncoding.EncodeToString(up[:10]) + base64.StdEncoding.EncodeToString(up[10:])
				if got := pieces(t, c.RequestBody, []byte(in), n, nil); !bytes.Equal(got, up) {
					t.Fatalf("request in pieces of %d: %q", n, got)
				}
			} else if c.RequestBody != nil {
				t.Fatal("a binary request is changed")
			}
			c.Resp = &message.Response{Status: 200, Length: message.Unknown}
			add(&c.Resp.Head, "Content-Type: application/grpc")
			f.Response(c)
			var trailers message.Head
			add(&trailers, "Grpc-Status: 0", "grpc-message: fine")
			got := pieces(t, c.ResponseBody, up, n, &trailers)
			if text {
				got = unbase(t, got)
			}
			last := "grpc-status: 0\r\ngrpc-message: fine\r\n"
			want := append(bytes.Clone(up), frame(last)...)
			want[len(up)] = 0x80
			if !bytes.Equal(got, want) {
				t.Fatalf("response in pieces of %d, text %v: %q", n, text, got)
			}
			if _, left := trailers.Find("grpc-status"); left {
				t.Fatal("trailers left twice")
			}
		}
	}
}

// unbase decodes groups that are padded on their own.
func unbase(t *testing.T, b []byte) []byte {
	t.Helper()
	var out []byte
	for ; len(b) > 0; b = b[4:] {
		if len(b) < 4 {
			t.Fatalf("%d bytes left", len(b))
		}
		g, err := base64.StdEncoding.DecodeString(string(b[:4]))
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, g...)
	}
	return out
}

// A message can be read when its frame is whole, though more is to come.
func TestTextIsNotHeldBack(t *testing.T) {
	f := grpcweb.New(0)
	c := context("POST", "Content-Type: application/grpc-web-text")
	f.Request(c)
	c.Resp = &message.Response{Status: 200, Length: message.Unknown}
	add(&c.Resp.Head, "Content-Type: application/grpc")
	f.Response(c)
	for _, m := range []string{"", "a", "ab", "abc", "abcd"} {
		out, err := c.ResponseBody.Append(nil, frame(m), false, nil)
		if err != nil || !bytes.Equal(unbase(t, out), frame(m)) {
			t.Errorf("%q: %q %v", m, out, err)
		}
	}
}

func FuzzText(f *testing.F) {
	f.Add([]byte("AAAAAAM="), 3)
	f.Add([]byte("AAA=AAA="), 1)
	f.Add([]byte("===="), 5)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		n = max(n&0xff, 1)
		fl := grpcweb.New(0)
		whole, parts := context("POST", "Content-Type: application/grpc-web-text"), context("POST", "Content-Type: application/grpc-web-text")
		fl.Request(whole)
		fl.Request(parts)
		want, werr := whole.RequestBody.Append(nil, in, true, nil)
		var got []byte
		var err error
		for at := 0; err == nil; at += n {
			end := at+n >= len(in)
			if got, err = parts.RequestBody.Append(got, in[min(at, len(in)):min(at+n, len(in))], end, nil); end {
				break
			}
		}
		if (err == nil) != (werr == nil) || err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%q: whole %q %v, in pieces of %d %q %v", in, want, werr, n, got, err)
		}
	})
}
