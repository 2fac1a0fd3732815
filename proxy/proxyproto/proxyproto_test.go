// SPDX-License-Identifier: Apache-2.0

package proxyproto_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"redoubt.dev/proxy/proxyproto"
)

func addr(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestV1(t *testing.T) {
	four := proxyproto.Header{Version: 1, Stream: true, Source: addr("192.168.0.1:56324"), Dest: addr("192.168.0.11:443")}
	six := proxyproto.Header{Version: 1, Stream: true, Source: addr("[2001:db8::1]:1"), Dest: addr("[::1]:65535")}
	unknown := proxyproto.Header{Version: 1}
	widest := proxyproto.Header{Version: 1, Stream: true, Source: addr("255.255.255.255:65535"), Dest: addr("255.255.255.255:65535")}
	for _, c := range []struct {
		in    string
		found proxyproto.Found
		want  proxyproto.Header
	}{
		// the lines that section 2.1 gives
		{"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", proxyproto.Complete, widest},
		{"PROXY UNKNOWN\r\n", proxyproto.Complete, unknown},
		{"PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", proxyproto.Complete, unknown},
		{"PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\nGET / HTTP/1.1\r\n", proxyproto.Complete, four},
		{"PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", proxyproto.Complete, six},
		{"PROXY TCP6 ::ffff:1.2.3.4 ::1 0 1\r\n", proxyproto.Complete, proxyproto.Header{Version: 1, Stream: true, Source: addr("1.2.3.4:0"), Dest: addr("[::1]:1")}},

		{"", proxyproto.More, unknown}, {"PROX", proxyproto.More, unknown}, {"PROXY TCP4 1.2.3.4", proxyproto.More, unknown},
		{"PROXY UNKNOWN\r", proxyproto.More, unknown},

		{"GET / HTTP/1.1\r\n", proxyproto.Absent, unknown}, {"PROXYX", proxyproto.Absent, unknown}, {"PROXY\r\n", proxyproto.Absent, unknown}, {"proxy TCP4", proxyproto.Absent, unknown},

		{"PROXY  TCP4 1.2.3.4 1.2.3.4 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 1 \r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 01\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 1 -1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.4 1.2.3.4 +1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 1.2.3.04 1.2.3.4 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP4 ::1 ::1 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP6 1.2.3.4 1.2.3.4 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY TCP6 fe80::1%eth0 ::1 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY UDP4 1.2.3.4 1.2.3.4 1 1\r\n", proxyproto.Malformed, unknown},
		{"PROXY UNKNOWNX\r\n", proxyproto.Malformed, unknown},
		{"PROXY UNKNOWN a\rb\r\n", proxyproto.Malformed, unknown},
		{"PROXY UNKNOWN a\rb", proxyproto.Malformed, unknown},
		{"PROXY UNKNOWN " + strings.Repeat("x", 91) + "\r\n", proxyproto.Complete, unknown}, // 107 bytes
		{"PROXY UNKNOWN " + strings.Repeat("x", 92) + "\r\n", proxyproto.Malformed, unknown},
	} {
		h, n, f := proxyproto.Parse([]byte(c.in))
		if f != c.found || f == proxyproto.Complete && (!reflect.DeepEqual(h, c.want) || n != strings.Index(c.in, "\n")+1) || f != proxyproto.Complete && n != 0 {
			t.Errorf("%q: %v, %d, %+v", c.in, f, n, h)
		}
	}
	for h, want := range map[*proxyproto.Header]string{
		&four: "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", &six: "PROXY TCP6 2001:db8::1 ::1 1 65535\r\n", &unknown: "PROXY UNKNOWN\r\n",
		{Version: 1, Stream: true, Source: addr("1.2.3.4:5"), Dest: addr("[::1]:6")}: "PROXY TCP6 ::ffff:1.2.3.4 ::1 5 6\r\n",
	} {
		if got := string(proxyproto.Append(nil, h)); got != want {
			t.Errorf("appended %q, want %q", got, want)
		}
	}
}

// head builds a header by the text of section 2.2.
func head(verCmd, family byte, body ...[]byte) []byte {
	all := bytes.Join(body, nil)
	b := append([]byte{0x0D, 0x0A, 0x0D, 0x0A, 0x00, 0x0D, 0x0A, 0x51, 0x55, 0x49, 0x54, 0x0A}, verCmd, family)
	b = binary.BigEndian.AppendUint16(b, uint16(len(all)))
	return append(b, all...)
}

func path(s string) []byte { return append([]byte(s), make([]byte, 108-len(s))...) }

var (
	v4  = []byte{10, 0, 0, 1, 10, 0, 0, 2, 0x1f, 0x90, 0x01, 0xbb}
	v6  = append(append(append(make([]byte, 15), 1), append(make([]byte, 15), 2)...), 0, 1, 0, 2)
	tlv = func(kind byte, v ...byte) []byte { return proxyproto.AppendTLV(nil, kind, v) }
)

func TestV2(t *testing.T) {
	four := proxyproto.Header{Version: 2, Stream: true, Source: addr("10.0.0.1:8080"), Dest: addr("10.0.0.2:443"), TLVs: []byte{}}
	withTLV := four
	withTLV.TLVs = append(tlv(proxyproto.TypeAuthority, []byte("a.example")...), tlv(proxyproto.TypeSSL, append([]byte{1, 0, 0, 0, 0}, tlv(0x21, []byte("TLSv1.3")...)...)...)...)
	good := map[string]struct {
		in   []byte
		want proxyproto.Header
		same bool // Append gives the very bytes
	}{
		"TCP4":             {head(0x21, 0x11, v4), four, true},
		"UDP4":             {head(0x21, 0x12, v4), proxyproto.Header{Version: 2, Source: four.Source, Dest: four.Dest, TLVs: []byte{}}, true},
		"TCP6":             {head(0x21, 0x21, v6), proxyproto.Header{Version: 2, Stream: true, Source: addr("[::1]:1"), Dest: addr("[::2]:2"), TLVs: []byte{}}, true},
		"UNIX":             {head(0x21, 0x31, path("/a"), path("\x00abstract")), proxyproto.Header{Version: 2, Stream: true, SourceUnix: []byte("/a"), DestUnix: []byte("\x00abstract"), TLVs: []byte{}}, true},
		"UNIX datagram":    {head(0x21, 0x32, path("/a"), path("/b")), proxyproto.Header{Version: 2, SourceUnix: []byte("/a"), DestUnix: []byte("/b"), TLVs: []byte{}}, true},
		"LOCAL":            {head(0x20, 0x00), proxyproto.Header{Version: 2, Local: true}, true},
		"LOCAL with noise": {head(0x20, 0x11, []byte("whatever")), proxyproto.Header{Version: 2, Local: true}, false},
		"LOCAL of 0xff":    {head(0x20, 0xff), proxyproto.Header{Version: 2, Local: true}, false},
		"unspecified":      {head(0x21, 0x00), proxyproto.Header{Version: 2}, true},
		"unspecified more": {head(0x21, 0x00, []byte{1, 2, 3}), proxyproto.Header{Version: 2}, false},
		"TLVs":             {head(0x21, 0x11, v4, withTLV.TLVs), withTLV, true},
		"no-op":            {head(0x21, 0x11, v4, tlv(4, 0, 0, 0)), proxyproto.Header{Version: 2, Stream: true, Source: four.Source, Dest: four.Dest, TLVs: tlv(4, 0, 0, 0)}, true},
	}
	for name, c := range good {
		t.Run(name, func(t *testing.T) {
			for i := range c.in {
				if _, n, f := proxyproto.Parse(c.in[:i]); f != proxyproto.More || n != 0 {
					t.Fatalf("%d bytes: %v", i, f)
				}
			}
			h, n, f := proxyproto.Parse(append(bytes.Clone(c.in), "GET /"...))
			if f != proxyproto.Complete || n != len(c.in) || !reflect.DeepEqual(h, c.want) {
				t.Fatalf("%v, %d, %+v", f, n, h)
			}
			if got := proxyproto.Append(nil, &h); c.same && !bytes.Equal(got, c.in) {
				t.Errorf("appended\n%x, want\n%x", got, c.in)
			}
		})
	}
	for name, b := range map[string][]byte{
		"version 1":           head(0x11, 0x11, v4),
		"version 3":           head(0x31, 0x11, v4),
		"command 2":           head(0x22, 0x11, v4),
		"family 4":            head(0x21, 0x41, v4),
		"transport 3":         head(0x21, 0x13, v4),
		"INET, no transport":  head(0x21, 0x10, v4),
		"no family, TCP":      head(0x21, 0x01, v4),
		"short address":       head(0x21, 0x11, v4[:11]),
		"short IPv6":          head(0x21, 0x21, v4),
		"short UNIX":          head(0x21, 0x31, path("/a")),
		"half a TLV":          head(0x21, 0x11, v4, []byte{4, 0}),
		"long TLV":            head(0x21, 0x11, v4, []byte{4, 0, 2, 0}),
		"short SSL":           head(0x21, 0x11, v4, tlv(0x20, 1, 0, 0, 0)),
		"bad TLV in SSL":      head(0x21, 0x11, v4, tlv(0x20, 1, 0, 0, 0, 0, 0x21, 0, 9)),
		"long unique ID":      head(0x21, 0x11, v4, tlv(5, make([]byte, 129)...)),
		"short checksum":      head(0x21, 0x11, v4, tlv(3, 0, 0, 0)),
		"wrong checksum":      head(0x21, 0x11, v4, tlv(3, 0, 0, 0, 0)),
		"beyond the bound":    head(0x21, 0x11, v4, make([]byte, proxyproto.MaxLen)),
		"LOCAL beyond it too": head(0x20, 0x00, make([]byte, proxyproto.MaxLen)),
	} {
		if h, n, f := proxyproto.Parse(b); f != proxyproto.Malformed || n != 0 {
			t.Errorf("%s: %v %+v", name, f, h)
		}
	}
	if _, _, f := proxyproto.Parse([]byte("\r\n\r\n\x00\r\nQUIT\r")); f != proxyproto.Absent {
		t.Errorf("another signature: %v", f)
	}
}

func TestChecksum(t *testing.T) {
	h := proxyproto.Header{Version: 2, Stream: true, Source: addr("10.0.0.1:1"), Dest: addr("10.0.0.2:2"), TLVs: bytes.Join([][]byte{tlv(4, 1), tlv(3, 0, 0, 0, 0), tlv(2, 'x')}, nil)}
	b := proxyproto.Append(nil, &h)
	if _, n, f := proxyproto.Parse(b); f != proxyproto.Complete || n != len(b) {
		t.Fatalf("%v", f)
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, _, f := proxyproto.Parse(bad); f == proxyproto.Complete && i != 12 && i != 32 { // LOCAL, which says nothing, and another type than that of a checksum
			t.Errorf("byte %d changed and was taken", i)
		}
	}
	h.TLVs = append(h.TLVs, tlv(3, 0, 0, 0, 0)...)
	if b := proxyproto.Append(nil, &h); len(b) != 0 {
		t.Error("two checksums were written")
	}
}

// TestCRC32C: the check value of the CRC catalogue for CRC-32C, by way of a
// header whose other bytes are known.
func TestCRC32C(t *testing.T) {
	const check = 0xe3069283 // of "123456789"
	got := uint32(0xffffffff)
	for _, c := range []byte("123456789") { // bit by bit, as the polynomial says
		got ^= uint32(c)
		for range 8 {
			got = got>>1 ^ 0x82f63b78*(got&1)
		}
	}
	if ^got != check {
		t.Fatalf("the reference is wrong: %x", ^got)
	}
	b := head(0x21, 0x11, v4, tlv(3, 0, 0, 0, 0))
	crc := uint32(0xffffffff)
	for _, c := range b {
		crc ^= uint32(c)
		for range 8 {
			crc = crc>>1 ^ 0x82f63b78*(crc&1)
		}
	}
	binary.BigEndian.PutUint32(b[len(b)-4:], ^crc)
	if _, _, f := proxyproto.Parse(b); f != proxyproto.Complete {
		t.Fatalf("%v", f)
	}
}

func TestAppendRefuses(t *testing.T) {
	for i, h := range []proxyproto.Header{
		{Version: 2, Source: addr("1.2.3.4:1")},
		{Version: 2, SourceUnix: make([]byte, 109)},
		{Version: 2, Source: addr("1.2.3.4:1"), Dest: addr("1.2.3.4:1"), TLVs: []byte{1}},
		{Version: 2, Source: addr("1.2.3.4:1"), Dest: addr("1.2.3.4:1"), TLVs: tlv(4, make([]byte, proxyproto.MaxLen)...)},
	} {
		if b := proxyproto.Append([]byte("x"), &h); string(b) != "x" {
			t.Errorf("header %d was written: %q", i, b)
		}
	}
}

func TestNoAllocation(t *testing.T) {
	b := head(0x21, 0x11, v4, tlv(5, 1, 2))
	buf := make([]byte, 0, 256)
	if n := testing.AllocsPerRun(100, func() {
		h, _, _ := proxyproto.Parse(b)
		buf = proxyproto.Append(buf[:0], &h)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add(head(0x21, 0x11, v4, tlv(4, 1)))
	f.Add(head(0x21, 0x31, path("/a"), path("/b")))
	f.Add(head(0x20, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, n, found := proxyproto.Parse(b)
		switch found {
		case proxyproto.Complete:
			if n == 0 || n > len(b) || n > proxyproto.MaxLen {
				t.Fatalf("length %d of %d", n, len(b))
			}
			for i := range n {
				if _, _, f := proxyproto.Parse(b[:i]); f != proxyproto.More {
					t.Fatalf("%d of %d bytes: %v", i, n, f)
				}
			}
			out := proxyproto.Append(nil, &h)
			h2, n2, f2 := proxyproto.Parse(out)
			if f2 != proxyproto.Complete || n2 != len(out) || fmt.Sprint(h) != fmt.Sprint(h2) {
				t.Fatalf("%+v written as %q and read as %v %+v", h, out, f2, h2)
			}
		case proxyproto.More:
			if len(b) >= proxyproto.MaxLen {
				t.Fatalf("more than %d bytes wanted", len(b))
			}
		}
	})
}
