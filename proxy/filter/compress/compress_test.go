// SPDX-License-Identifier: Apache-2.0

package compress_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"testing"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/compress"
	"redoubt.dev/proxy/message"
)

func context(fields ...string) *filter.Context {
	r := &message.Request{Length: message.NoBody}
	r.Method, r.Path = r.PutString("GET"), r.PutString("/")
	add(&r.Head, fields...)
	return &filter.Context{Req: r, Slots: make([]any, 2)}
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

func decode(t *testing.T, lib config.Compression, b []byte) []byte {
	t.Helper()
	var r io.Reader
	var err error
	switch lib {
	case config.Gzip:
		r, err = gzip.NewReader(bytes.NewReader(b))
	case config.Brotli:
		r = brotli.NewReader(bytes.NewReader(b))
	default:
		r, err = zstd.NewReader(bytes.NewReader(b))
	}
	if err == nil {
		b, err = io.ReadAll(r)
	}
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestWhatIsCompressed(t *testing.T) {
	base := []string{"Content-Type: text/html; charset=utf-8"}
	for _, tt := range []struct {
		name   string
		cfg    config.Compressor
		accept string
		status int
		length int64
		fields []string
		coded  string
		vary   bool
	}{
		{"plain", config.Compressor{}, "gzip", 200, 100, base, "gzip", true},
		{"unknown length", config.Compressor{}, "gzip", 200, message.Unknown, base, "gzip", true},
		{"short", config.Compressor{}, "gzip", 200, 29, base, "", false},
		{"not so short", config.Compressor{MinLength: 10}, "gzip", 200, 29, base, "gzip", true},
		{"not accepted", config.Compressor{}, "br", 200, 100, base, "", true},
		{"refused", config.Compressor{}, "gzip;q=0", 200, 100, base, "", true},
		{"any", config.Compressor{}, "*;q=0.1", 200, 100, base, "gzip", true},
		{"any but this", config.Compressor{}, "*, gzip;q=0", 200, 100, base, "", true},
		{"old name", config.Compressor{}, "x-gzip", 200, 100, base, "gzip", true},
		{"nothing said", config.Compressor{}, "", 200, 100, base, "", true},
		{"encoded already", config.Compressor{}, "gzip", 200, 100, append(base, "Content-Encoding: br"), "", false},
		{"no-transform", config.Compressor{}, "gzip", 200, 100, append(base, "Cache-Control: private, No-Transform"), "", false},
		{"part", config.Compressor{}, "gzip", 206, 100, append(base, "Content-Range: bytes 0-99/200"), "", false},
		{"no body", config.Compressor{}, "gzip", 304, 100, base, "", false},
		{"image", config.Compressor{}, "gzip", 200, 100, []string{"Content-Type: image/png"}, "", false},
		{"own types", config.Compressor{ContentTypes: []string{"image/png"}}, "gzip", 200, 100, []string{"Content-Type: image/png"}, "gzip", true},
		{"no type", config.Compressor{}, "gzip", 200, 100, nil, "gzip", true},
		{"etag", config.Compressor{OffWithETag: true}, "gzip", 200, 100, append(base, `ETag: "a"`), "", false},
		{"code", config.Compressor{UncompressibleCodes: []int{404}}, "gzip", 404, 100, base, "", false},
		{"off", config.Compressor{ResponseOff: true}, "gzip", 200, 100, base, "", false},
		{"zstd", config.Compressor{Library: config.Zstd}, "gzip, zstd", 200, 100, base, "zstd", true},
		{"brotli", config.Compressor{Library: config.Brotli}, "br", 200, 100, base, "br", true},
	} {
		f, err := compress.New(&tt.cfg, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := context("Accept-Encoding: " + tt.accept)
		f.Request(c)
		c.Resp = &message.Response{Status: tt.status, Length: tt.length}
		add(&c.Resp.Head, tt.fields...)
		f.Response(c)
		coded := ""
		if c.ResponseBody != nil {
			coded = find(&c.Resp.Head, "content-encoding")
			if c.Resp.Length != message.Unknown {
				t.Errorf("%s: length %d", tt.name, c.Resp.Length)
			}
			c.ResponseBody.Close()
		}
		if coded != tt.coded || (find(&c.Resp.Head, "vary") != "") != tt.vary {
			t.Errorf("%s: coded %q, vary %q", tt.name, coded, find(&c.Resp.Head, "vary"))
		}
	}
}

func TestETagIsWeakened(t *testing.T) {
	f, err := compress.New(&config.Compressor{RemoveAcceptEncoding: true}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{`"a"`: `W/"a"`, `W/"a"`: `W/"a"`} {
		c := context("Accept-Encoding: gzip")
		f.Request(c)
		if find(&c.Req.Head, "accept-encoding") != "" {
			t.Error("accept-encoding went on")
		}
		c.Resp = &message.Response{Status: 200, Length: 100}
		add(&c.Resp.Head, "ETag: "+in, "Vary: Origin", "Accept-Ranges: bytes")
		f.Response(c)
		if got := find(&c.Resp.Head, "etag"); got != want || find(&c.Resp.Head, "accept-ranges") != "" {
			t.Errorf("%s: %s", in, got)
		}
	}
}

func TestBestCoding(t *testing.T) {
	for accept, want := range map[string]int{"gzip, br": 0, "gzip;q=0.5, br": 1, "br": 1, "gzip": 0, "*": 0, "identity": -1} {
		all := []config.Compression{config.Gzip, config.Brotli}
		got := -1
		for i, lib := range all {
			f, err := compress.New(&config.Compressor{Library: lib}, i)
			if err != nil {
				t.Fatal(err)
			}
			f.Among(all, i)
			c := context("Accept-Encoding: " + accept)
			f.Request(c)
			c.Resp = &message.Response{Status: 200, Length: 100}
			if f.Response(c); c.ResponseBody != nil {
				if got >= 0 {
					t.Errorf("%s: both", accept)
				}
				got = i
			}
		}
		if got != want {
			t.Errorf("%s: compressor %d, want %d", accept, got, want)
		}
	}
}

// What is compressed in any pieces is what comes out, and each piece can be
// read before the next one comes.
func TestRoundTrip(t *testing.T) {
	rnd := rand.New(rand.NewPCG(3, 4))
	body := make([]byte, 0, 200<<10)
	for len(body) < cap(body)-16 {
		body = append(body, []byte("account 12345;  ")...)
		body[len(body)-1] = byte(rnd.Uint32())
	}
	for lib := config.Gzip; lib <= config.Zstd; lib++ {
		cf, err := compress.New(&config.Compressor{Library: lib, ContentTypes: nil}, 0)
		if err != nil {
			t.Fatal(err)
		}
		df, err := compress.NewDecompressor(&config.Decompressor{Library: lib}, 1)
		if err != nil {
			t.Fatal(err)
		}
		for range 3 { // pooled encoders begin afresh
			c := context("Accept-Encoding: " + []string{"gzip", "br", "zstd"}[lib])
			cf.Request(c)
			c.Resp = &message.Response{Status: 200, Length: int64(len(body))}
			cf.Response(c)
			d := context()
			d.Resp = &message.Response{Status: 200, Length: message.Unknown}
			add(&d.Resp.Head, "Content-Encoding: "+find(&c.Resp.Head, "content-encoding"), "Content-Length: 5")
			df.Response(d)
			if d.ResponseBody == nil || find(&d.Resp.Head, "content-encoding")+find(&d.Resp.Head, "content-length") != "" {
				t.Fatal("not decompressed")
			}
			var coded, plain []byte
			for at := 0; at <= len(body); {
				n := min(rnd.IntN(30000)+1, len(body)-at)
				from := len(coded)
				end := at+n == len(body)
				if coded, err = c.ResponseBody.Append(coded, body[at:at+n], end, nil); err != nil {
					t.Fatal(err)
				}
				if plain, err = d.ResponseBody.Append(plain, coded[from:], end, nil); err != nil {
					t.Fatal(err)
				}
				if at += n; len(plain) != at {
					t.Fatalf("%d: %d of %d bytes came through", lib, len(plain), at)
				}
				if end {
					break
				}
			}
			if !bytes.Equal(decode(t, lib, coded), body) || !bytes.Equal(plain, body) {
				t.Fatalf("%d: another body came out", lib)
			}
			c.ResponseBody.Close()
			d.ResponseBody.Close()
		}
	}
}

func TestBombsAndGarbage(t *testing.T) {
	var bomb bytes.Buffer
	w, err := gzip.NewWriterLevel(&bomb, 9)
	if err != nil {
		t.Fatal(err)
	}
	zeros := make([]byte, 1<<20)
	for range 20 {
		if _, err = w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err = w.Close(); err != nil {
		t.Fatal(err)
	}
	good := bomb.Bytes()
	for name, body := range map[string][]byte{"bomb": good, "garbage": []byte("not gzip at all, I fear"), "cut": good[:12]} {
		f, err := compress.NewDecompressor(&config.Decompressor{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := context("Content-Encoding: gzip")
		c.Req.Length = int64(len(body))
		f.Request(c)
		out, err := c.RequestBody.Append(nil, body, true, nil)
		if err == nil || len(out) > 110*len(body)+100<<10 {
			t.Errorf("%s: %d bytes, %v", name, len(out), err)
		}
		c.RequestBody.Close()
	}
	f, err := compress.NewDecompressor(&config.Decompressor{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	c := context("Content-Encoding: gzip")
	c.Req.Length = message.Unknown
	f.Request(c)
	if _, err = c.RequestBody.Append(nil, good[:20], false, nil); err != nil {
		t.Fatal(err)
	}
	c.RequestBody.Close() // the exchange ends early: the coroutine goes too
	if find(&c.Req.Head, "accept-encoding") != "gzip" {
		t.Error("the coding is not offered to the upstream")
	}
}

// A loop is a goroutine on a thread of its own, and a decoder its coroutine.
func TestOnALoopsThread(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		f, err := compress.NewDecompressor(&config.Decompressor{}, 0)
		if err != nil {
			done <- err
			return
		}
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(bytes.Repeat([]byte("hello"), 1000))
		_ = w.Close()
		for cut := range z.Len() {
			c := context("Content-Encoding: gzip")
			c.Req.Length = message.Unknown
			f.Request(c)
			if _, err = c.RequestBody.Append(nil, z.Bytes()[:cut], false, nil); err == nil && cut > 0 {
				_, err = c.RequestBody.Append(nil, z.Bytes()[cut:], true, nil)
			}
			c.RequestBody.Close()
			if err != nil {
				break
			}
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func FuzzDecoder(f *testing.F) {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	_, _ = w.Write([]byte("hello"))
	_ = w.Close()
	f.Add(z.Bytes(), 3, byte(0))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd}, 1, byte(2))
	f.Fuzz(func(t *testing.T, body []byte, piece int, lib byte) {
		l := config.Compression(lib % 3)
		d, err := compress.NewDecompressor(&config.Decompressor{Library: l}, 0)
		if err != nil {
			t.Fatal(err)
		}
		c := context("Content-Encoding: " + []string{"gzip", "br", "zstd"}[l])
		c.Req.Length = message.Unknown
		d.Request(c)
		defer c.RequestBody.Close()
		piece = max(piece&0xff, 1)
		n := 0
		for at := 0; ; at += piece {
			end := at+piece >= len(body)
			out, err := c.RequestBody.Append(nil, body[min(at, len(body)):min(at+piece, len(body))], end, nil)
			if n += len(out); n > 101*len(body)+64<<10 {
				t.Fatalf("%d bytes of %d", n, len(body))
			}
			if err != nil || end {
				return
			}
		}
	})
}

func BenchmarkGzip4K(b *testing.B) {
	f, err := compress.New(&config.Compressor{}, 0)
	if err != nil {
		b.Fatal(err)
	}
	body := bytes.Repeat([]byte(`{"account":12345,"balance":1.5},`), 128)
	c := context("Accept-Encoding: gzip")
	c.Resp = &message.Response{}
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		c.ResponseBody = nil
		f.Request(c)
		c.Resp.Reset()
		c.Resp.Status, c.Resp.Length = 200, int64(len(body))
		f.Response(c)
		dst, _ = c.ResponseBody.Append(dst[:0], body, true, nil)
		c.ResponseBody.Close()
	}
}
