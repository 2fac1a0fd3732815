// SPDX-License-Identifier: Apache-2.0

package hpack

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	xhpack "golang.org/x/net/http2/hpack"
)

type field struct{ name, value string }

func decodeAll(d *Decoder, b []byte, limit int) (out []field, skipped int, err error) {
	n, err := d.Begin(b)
	if err != nil {
		return nil, 0, err
	}
	for b = b[n:]; len(b) > 0; {
		var f Field
		n, arena, err := d.Next(&f, b, nil, limit)
		if err != nil {
			return out, skipped, err
		}
		b = b[n:]
		if f.Skipped {
			skipped++
			limit = 0
			continue
		}
		limit -= f.Size()
		out = append(out, field{string(arena[:f.Name]), string(arena[f.Name:])})
	}
	return out, skipped, nil
}

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// RFC 7541, appendix C: blocks, what they hold, and the table's size after.
var vectors = []struct {
	name   string
	size   uint32 // of the table; 0: 4096
	encode bool   // our encoder, told to index all, writes the same
	blocks []string
	fields [][]field
	after  []uint32
}{
	{"C.2.1 literal with indexing", 0, true, []string{"400a637573746f6d2d6b65790d637573746f6d2d686561646572"},
		[][]field{{{"custom-key", "custom-header"}}}, []uint32{55}},
	{"C.2.2 literal without indexing", 0, false, []string{"040c2f73616d706c652f70617468"},
		[][]field{{{":path", "/sample/path"}}}, []uint32{0}},
	{"C.2.3 never indexed", 0, false, []string{"100870617373776f726406736563726574"},
		[][]field{{{"password", "secret"}}}, []uint32{0}},
	{"C.2.4 indexed", 0, true, []string{"82"}, [][]field{{{":method", "GET"}}}, []uint32{0}},
	{"C.3 requests without Huffman", 0, false, []string{
		"828684410f7777772e6578616d706c652e636f6d",
		"828684be58086e6f2d6361636865",
		"828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
	}, requests, []uint32{57, 110, 164}},
	{"C.4 requests with Huffman", 0, true, []string{
		"828684418cf1e3c2e5f23a6ba0ab90f4ff",
		"828684be5886a8eb10649cbf",
		"828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
	}, requests, []uint32{57, 110, 164}},
	{"C.5 responses without Huffman", 256, false, []string{
		"4803333032580770726976617465611d4d6f6e2c203231204f637420323031332032303a31333a323120474d546e1768747470733a2f2f7777772e6578616d706c652e636f6d",
		"4803333037c1c0bf",
		"88c1611d4d6f6e2c203231204f637420323031332032303a31333a323220474d54c05a04677a69707738666f6f3d4153444a4b48514b425a584f5157454f50495541585157454f49553b206d61782d6167653d333630303b2076657273696f6e3d31",
	}, responses, []uint32{222, 222, 215}},
	{"C.6 responses with Huffman", 256, false, []string{
		"488264025885aec3771a4b6196d07abe941054d444a8200595040b8166e082a62d1bff6e919d29ad171863c78f0b97c8e9ae82ae43d3",
		"4883640effc1c0bf",
		"88c16196d07abe941054d444a8200595040b8166e084a62d1bffc05a839bd9ab77ad94e7821dd7f2e6c7b335dfdfcd5b3960d5af27087f3672c1ab270fb5291f9587316065c003ed4ee5b1063d5007",
	}, responses, []uint32{222, 222, 215}},
}

var requests = [][]field{
	{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "www.example.com"}},
	{{":method", "GET"}, {":scheme", "http"}, {":path", "/"}, {":authority", "www.example.com"}, {"cache-control", "no-cache"}},
	{{":method", "GET"}, {":scheme", "https"}, {":path", "/index.html"}, {":authority", "www.example.com"}, {"custom-key", "custom-value"}},
}

var responses = [][]field{
	{{":status", "302"}, {"cache-control", "private"}, {"date", "Mon, 21 Oct 2013 20:13:21 GMT"}, {"location", "https://www.example.com"}},
	{{":status", "307"}, {"cache-control", "private"}, {"date", "Mon, 21 Oct 2013 20:13:21 GMT"}, {"location", "https://www.example.com"}},
	{{":status", "200"}, {"cache-control", "private"}, {"date", "Mon, 21 Oct 2013 20:13:22 GMT"}, {"location", "https://www.example.com"},
		{"content-encoding", "gzip"}, {"set-cookie", "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1"}},
}

func TestVectors(t *testing.T) {
	for _, v := range vectors {
		t.Run(v.name, func(t *testing.T) {
			var d Decoder
			d.Init()
			var e Encoder
			e.Init(4096)
			if v.size > 0 {
				d.t.resize(v.size)
			}
			for i, h := range v.blocks {
				b := unhex(t, h)
				got, _, err := decodeAll(&d, b, 1<<20)
				if err != nil || fmt.Sprint(got) != fmt.Sprint(v.fields[i]) {
					t.Fatalf("block %d: %v, %v", i, got, err)
				}
				if d.t.size != v.after[i] {
					t.Errorf("block %d: table has %d bytes, want %d", i, d.t.size, v.after[i])
				}
				if !v.encode {
					continue
				}
				out := e.Begin(nil)
				for _, f := range v.fields[i] {
					out = e.Append(out, []byte(f.name), []byte(f.value), Index)
				}
				if v.name[:3] != "C.2" && !bytes.Equal(out, b) {
					t.Errorf("block %d: encoded %x, want %x", i, out, b)
				}
			}
		})
	}
}

func TestHuffmanAgreesWithAnother(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		s := make([]byte, r.IntN(80))
		for i := range s {
			s[i] = byte(r.Uint32())
			if r.IntN(2) == 0 {
				s[i] = "abcdefgh/0123-=%"[r.IntN(16)]
			}
		}
		enc := appendEncoded(nil, s)
		if want := xhpack.AppendHuffmanString(nil, string(s)); !bytes.Equal(enc, want) {
			t.Fatalf("%q: %x, want %x", s, enc, want)
		}
		if len(enc) != encodedLen(s) {
			t.Fatalf("%q: length %d, said %d", s, len(enc), encodedLen(s))
		}
		dec, ok := appendDecoded(nil, enc)
		if !ok || !bytes.Equal(dec, s) {
			t.Fatalf("%q came back as %q %v", s, dec, ok)
		}
	}
	for _, bad := range []string{"ff", "ffff", "ffffffff", "ffffffffffffffffff", "00", "1f80", "fffffffcff"} {
		if _, ok := appendDecoded(nil, unhex(t, bad)); ok && bad != "1f80" {
			if _, err := xhpack.HuffmanDecodeToString(unhex(t, bad)); err != nil {
				t.Errorf("%s was taken", bad)
			}
		}
	}
}

func TestBadBlocks(t *testing.T) {
	for _, c := range []struct{ name, block string }{
		{"index zero", "80"},
		{"index beyond the tables", "be"},
		{"name index beyond the tables", "7f0000"},
		{"size update after a field", "8220"},
		{"size update above the limit", "3fe21f"},
		{"three size updates", "20213e"},
		{"integer without end", "ffffffffff7f"},
		{"integer cut", "ff"},
		{"string cut", "40056162"},
		{"string without length", "40"},
		{"value missing", "4001 61"},
		{"end of string inside", "4084ffffffff00"},
		{"padding of eight ones", "40 82 1fff 00"},
		{"padding of zeros", "4081 18 00"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var d Decoder
			d.Init()
			if f, _, err := decodeAll(&d, unhex(t, c.block), 1<<20); err == nil {
				t.Errorf("taken: %v", f)
			}
		})
	}
}

// TestBomb: an entry of 4 KB named many times costs a step each, not a copy.
func TestBomb(t *testing.T) {
	var d Decoder
	d.Init()
	b := append([]byte{0x40, 1, 'a'}, appendInteger(nil, 0, 7, 4000)...)
	b = append(b, bytes.Repeat([]byte{'x'}, 4000)...)
	b = append(b, bytes.Repeat([]byte{0xbe}, 60000)...)
	got, skipped, err := decodeAll(&d, b, 16<<10)
	if err != nil || len(got) != 4 || skipped != 59997 {
		t.Fatalf("%d fields, %d skipped, %v", len(got), skipped, err)
	}
}

// TestTableSizeGames: sizes go up and down; both sides agree and hold no more
// than was allowed.
func TestTableSizeGames(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	var d Decoder
	d.Init()
	var e Encoder
	e.Init(8192)
	for round := range 3000 {
		if r.IntN(4) == 0 {
			for range 1 + r.IntN(3) {
				size := []uint32{0, 33, 100, 256, 4096, 8192}[r.IntN(6)]
				e.Allow(size)
				d.Allow(size)
			}
			if r.IntN(2) == 0 && d.owing {
				x := d
				if _, err := x.Begin([]byte{0x82}); err == nil {
					t.Fatal("a block that does not say that the table shrank was taken")
				}
			}
		}
		out := e.Begin(nil)
		var want []field
		for range r.IntN(10) {
			f := field{fmt.Sprintf("n%d", r.IntN(20)), strings.Repeat("v", r.IntN(90)) + fmt.Sprint(r.IntN(3))}
			want = append(want, f)
			out = e.Append(out, []byte(f.name), []byte(f.value), Policy(r.IntN(4)))
		}
		got, _, err := decodeAll(&d, out, 1<<20)
		if err != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("round %d: %v\ngot  %v\nwant %v", round, err, got, want)
		}
		if d.t.size > d.t.limit || d.t.limit > d.allowed || e.t.size != d.t.size || cap(d.t.buf) > 2*8192 {
			t.Fatalf("round %d: size %d limit %d allowed %d, encoder %d, memory %d", round, d.t.size, d.t.limit, d.allowed, e.t.size, cap(d.t.buf))
		}
	}
}

// TestEncoderAgainstAnother: what we encode another decoder reads, names in
// lower case.
func TestEncoderAgainstAnother(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var e Encoder
	e.Init(4096)
	d := xhpack.NewDecoder(4096, nil)
	for round := range 3000 {
		out := e.Begin(nil)
		var want []field
		for range r.IntN(12) {
			name := []string{"Accept", "x-Y", ":path", "server", "date", "set-cookie", "X-Request-ID"}[r.IntN(7)]
			f := field{name, fmt.Sprint(r.IntN(1 << r.IntN(20)))}
			want = append(want, field{strings.ToLower(f.name), f.value})
			out = e.Append(out, []byte(f.name), []byte(f.value), Policy(r.IntN(4)))
		}
		got, err := d.DecodeFull(out)
		if err != nil || len(got) != len(want) {
			t.Fatal(round, err)
		}
		for i, f := range got {
			if f.Name != want[i].name || f.Value != want[i].value {
				t.Fatalf("round %d: %v, want %v", round, f, want[i])
			}
		}
	}
}

func TestLearn(t *testing.T) {
	var e Encoder
	e.Init(4096)
	lens := []int{}
	for range 3 {
		lens = append(lens, len(e.Append(nil, []byte("x-build"), []byte("2026-11-25"), Learn)))
	}
	if lens[0] < 10 || lens[1] < 10 || lens[2] != 1 {
		t.Error(lens)
	}
	if e.Append(nil, []byte("authorization"), []byte("x"), Never)[0]&0xf0 != 0x10 {
		t.Error("authorization is not marked")
	}
}

func TestNoGarbage(t *testing.T) {
	var e Encoder
	var d Decoder
	e.Init(4096)
	d.Init()
	var out, arena []byte
	i := 0
	f := func() {
		i++
		out = e.Begin(out[:0])
		out = e.Append(out, []byte(":status"), []byte("200"), Index)
		out = e.Append(out, []byte("Server"), []byte("redoubt"), Index)
		out = append(out, 0x40, 1, 'n', 3, byte('0'+i%10), byte('0'+i/10%10), byte('0'+i/100%10))
		n, _ := d.Begin(out)
		arena = arena[:0]
		for b := out[n:]; len(b) > 0; {
			var fd Field
			m, a, err := d.Next(&fd, b, arena, 1<<16)
			if err != nil {
				t.Fatal(err)
			}
			arena, b = a, b[m:]
		}
	}
	for range 2000 {
		f()
	}
	if n := testing.AllocsPerRun(2000, f); n != 0 {
		t.Errorf("%v allocations a block", n)
	}
}

// FuzzHPACK: what we take, another decoder takes and reads alike; we refuse
// nothing that it takes but integers beyond 2^28 and a third size update.
func FuzzHPACK(f *testing.F) {
	for _, v := range vectors {
		for _, b := range v.blocks {
			raw, _ := hex.DecodeString(b)
			f.Add(raw, raw)
		}
	}
	f.Add([]byte{0x20, 0x3f, 0xe1, 0x1f, 0x40, 1, 'a', 1, 'b', 0xbe}, []byte{0xbe})
	f.Fuzz(func(t *testing.T, one, two []byte) {
		var d Decoder
		d.Init()
		x := xhpack.NewDecoder(4096, nil)
		for _, b := range [][]byte{one, two} {
			got, _, err := decodeAll(&d, b, 1<<30)
			want, xerr := x.DecodeFull(b)
			if err != nil {
				if xerr == nil && err != errInteger && err != errUpdate {
					t.Fatalf("%x: we refuse (%v), the other takes %v", b, err, want)
				}
				return
			}
			if xerr != nil || len(got) != len(want) {
				t.Fatalf("%x: the other says %v %v, we %v", b, want, xerr, got)
			}
			for i := range got {
				if got[i].name != want[i].Name || got[i].value != want[i].Value {
					t.Fatalf("%x: %v, the other %v", b, got[i], want[i])
				}
			}
		}
	})
}

// TestStaticNames: each constant names the first entry of its name, and both
// ways to encode agree.
func TestStaticNames(t *testing.T) {
	var a, b Encoder
	a.Init(4096)
	b.Init(4096)
	for _, i := range []int{NameAuthority, NameMethod, NamePath, NameScheme, NameStatus, NameAuthorization, NameContentEncoding,
		NameContentLength, NameContentRange, NameContentType, NameCookie, NameExpect, NameSetCookie} {
		if string(static[i].name) == string(static[i-1].name) {
			t.Errorf("%d is not the first %s", i, static[i].name)
		}
		for _, v := range []string{"", "GET", "POST", "/", "/index.html", "http", "https", "200", "500", "text/html", "200"} {
			for p := Learn; p <= Never; p++ {
				x, y := a.Append(nil, static[i].name, []byte(v), p), b.AppendStatic(nil, i, []byte(v), p)
				if !bytes.Equal(x, y) {
					t.Errorf("%s: %s with policy %d: %x and %x", static[i].name, v, p, x, y)
				}
			}
		}
	}
}

func TestHasUpper(t *testing.T) {
	for c := range 256 {
		for at := range 20 {
			p := bytes.Repeat([]byte{'x'}, 20)
			p[at] = byte(c)
			if got, want := hasUpper(p), 'A' <= c && c <= 'Z'; got != want {
				t.Errorf("%#x at %d: %v", c, at, got)
			}
		}
	}
}
