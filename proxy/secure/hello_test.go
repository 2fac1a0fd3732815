// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"slices"
	"testing"

	"redoubt.dev/proxy/secure"
)

// greet catches a ClientHello of crypto/tls.
func greet(t testing.TB, cfg *tls.Config) []byte {
	t.Helper()
	a, b := net.Pipe()
	defer b.Close()
	go func() {
		tls.Client(a, cfg).Handshake()
		a.Close()
	}()
	buf := make([]byte, 1<<16)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// split puts the handshake bytes of a record into records of n bytes each.
func split(rec []byte, n int) (out []byte) {
	for b := range slices.Chunk(rec[5:], n) {
		out = append(append(out, 22, 3, 1, byte(len(b)>>8), byte(len(b))), b...)
	}
	return out
}

func protos(h *secure.Hello) (list []string) {
	for p := range h.ALPN() {
		list = append(list, string(p))
	}
	return list
}

func TestHello(t *testing.T) {
	for _, c := range []struct {
		cfg      *tls.Config
		sni      string
		protos   []string
		versions []uint16
	}{
		{&tls.Config{ServerName: "A.Example", NextProtos: []string{"h2", "http/1.1"}}, "a.example", []string{"h2", "http/1.1"}, []uint16{tls.VersionTLS13, tls.VersionTLS12}},
		{&tls.Config{InsecureSkipVerify: true}, "", nil, []uint16{tls.VersionTLS13, tls.VersionTLS12}},
		{&tls.Config{ServerName: "b", MaxVersion: tls.VersionTLS12}, "b", nil, []uint16{tls.VersionTLS12}},
		{&tls.Config{ServerName: "b", CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}, MinVersion: tls.VersionTLS13}, "b", nil, []uint16{tls.VersionTLS13}},
	} {
		whole := greet(t, c.cfg)
		forms := map[string][]byte{"whole": whole, "behind it more": append(bytes.Clone(whole), 22, 3, 3, 0, 1, 9)}
		for _, n := range []int{1, 3, 4, 5, 100, 512} {
			forms["in records"] = split(whole, n)
			for name, b := range forms {
				var h secure.Hello
				if f := secure.ParseHello(b, &h); f != secure.IsTLS || string(h.SNI()) != c.sni || !slices.Equal(protos(&h), c.protos) || !slices.Equal(h.Versions(), c.versions) {
					t.Fatalf("%s of %d: %v, %q, %q, %x", name, n, f, h.SNI(), protos(&h), h.Versions())
				}
				for _, p := range c.protos {
					if !h.Offers(p) || h.Offers(p+"x") {
						t.Errorf("offers of %q", p)
					}
				}
			}
			for i := range forms["in records"] {
				var h secure.Hello
				if f := secure.ParseHello(forms["in records"][:i], &h); f != secure.More {
					t.Fatalf("%d bytes of records of %d: %v", i, n, f)
				}
			}
		}
	}
}

// hand builds a ClientHello from extensions.
func hand(exts ...[]byte) []byte {
	e := bytes.Join(exts, nil)
	body := append([]byte{3, 3}, make([]byte, 32)...)
	body = append(body, 0, 0, 2, 0x13, 0x01, 1, 0)
	body = append(append(body, byte(len(e)>>8), byte(len(e))), e...)
	return wrap(append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...))
}

func wrap(msg []byte) []byte {
	return append([]byte{22, 3, 1, byte(len(msg) >> 8), byte(len(msg))}, msg...)
}

func sni(name string) []byte {
	n := len(name)
	return append([]byte{0, 0, 0, byte(n + 5), 0, byte(n + 3), 0, 0, byte(n)}, name...)
}

func TestHelloRefuses(t *testing.T) {
	good := hand(sni("a.example"))
	alpn := []byte{0, 16, 0, 5, 0, 3, 2, 'h', '2'}
	for name, b := range map[string][]byte{
		"HTTP":                []byte("GET / HTTP/1.1\r\n\r\n"),
		"an alert":            {21, 3, 1, 0, 2, 1, 0},
		"SSL 2":               {0x80, 46, 1, 3, 1},
		"version 2":           {22, 2},
		"an empty record":     {22, 3, 1, 0, 0},
		"a huge record":       {22, 3, 1, 0x40, 1},
		"a ServerHello":       {22, 3, 1, 0, 40, 2},
		"a huge hello":        {22, 3, 1, 0x3f, 0xff, 1, 0, 0x40, 0},
		"two messages":        wrap(append(bytes.Clone(good[5:]), 1, 0, 0, 0)),
		"two names":           hand(sni("a.example"), sni("b.example")),
		"two unknown ones":    hand([]byte{9, 9, 0, 0}, []byte{9, 9, 0, 0}),
		"an empty name":       hand(sni("")),
		"a trailing dot":      hand(sni("a.example.")),
		"two dots":            hand(sni("a..example")),
		"a NUL":               hand(sni("a\x00.example")),
		"a slash":             hand(sni("a/b")),
		"a list of two":       hand([]byte{0, 0, 0, 10, 0, 8, 0, 0, 1, 'a', 0, 0, 1, 'b'}),
		"another name's type": hand([]byte{0, 0, 0, 6, 0, 4, 1, 0, 1, 'a'}),
		"bytes behind a name": hand([]byte{0, 0, 0, 7, 0, 4, 0, 0, 1, 'a', 0}),
		"an empty protocol":   hand([]byte{0, 16, 0, 3, 0, 1, 0}),
		"a protocol too long": hand([]byte{0, 16, 0, 4, 0, 2, 5, 'h'}),
		"no protocol":         hand([]byte{0, 16, 0, 2, 0, 0}),
		"half a version":      hand([]byte{0, 43, 0, 4, 3, 3, 4, 3}),
		"half an extension":   hand(alpn[:4]),
		"extension too long":  hand([]byte{9, 9, 0, 9, 1}),
		"bytes behind it all": wrap(append([]byte{1, 0, 0, byte(len(good) - 9 + 1)}, append(bytes.Clone(good[9:]), 0)...)),
		"cut short":           wrap(append([]byte{1, 0, 0, 10}, good[9:19]...)),
		"a long session ID":   wrap(append([]byte{1, 0, 0, 70, 3, 3}, append(make([]byte, 32), append([]byte{33}, make([]byte, 35)...)...)...)),
		"more than a hundred": hand(many(100)),
	} {
		var h secure.Hello
		if f := secure.ParseHello(b, &h); f != secure.NotTLS {
			t.Errorf("%s: %v %q", name, f, h.SNI())
		}
	}
	var h secure.Hello
	if f := secure.ParseHello(bytes.Repeat([]byte{22, 3, 1, 0, 1, 1}, 10), &h); f != secure.NotTLS {
		t.Errorf("length 010101 in records of one byte: %v", f)
	}
	long := split(hand(sni("a.example"), append([]byte{9, 9, 12, 0}, make([]byte, 3072)...)), 1)
	if f := secure.ParseHello(long, &h); f != secure.NotTLS { // 18 KiB on the wire
		t.Errorf("beyond the bound on the wire: %v", f)
	}
	// No extensions at all is a client of TLS 1.2.
	old := append([]byte{3, 3}, make([]byte, 32)...)
	old = append(old, 0, 0, 2, 0, 1, 1, 0)
	if f := secure.ParseHello(wrap(append([]byte{1, 0, 0, byte(len(old))}, old...)), &h); f != secure.IsTLS || len(h.SNI()) != 0 || h.Versions()[0] != tls.VersionTLS12 {
		t.Errorf("without extensions: %v", f)
	}
}

func many(n int) (b []byte) {
	for i := range n {
		b = append(b, 0x77, byte(i), 0, 0)
	}
	return b
}

func TestHelloAllocatesNothing(t *testing.T) {
	b := split(greet(t, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2", "http/1.1"}}), 100)
	h := new(secure.Hello)
	ok := false
	if n := testing.AllocsPerRun(100, func() {
		secure.ParseHello(b, h)
		ok = h.Offers("http/1.1") && string(h.SNI()) == "a.example"
	}); n != 0 || !ok {
		t.Errorf("%v allocations, %v", n, ok)
	}
}

// FuzzHello: what ParseHello takes, crypto/tls reads the same, if it takes it
// too.
func FuzzHello(f *testing.F) {
	f.Add(greet(f, &tls.Config{ServerName: "a.example", NextProtos: []string{"h2"}}))
	f.Add(split(greet(f, &tls.Config{ServerName: "a.example"}), 7))
	f.Add(hand(sni("a.example")))
	f.Fuzz(func(t *testing.T, b []byte) {
		h := new(secure.Hello)
		found := secure.ParseHello(b, h)
		if found == secure.More {
			if len(b) >= secure.MaxHello {
				t.Fatalf("more than %d bytes wanted", len(b))
			}
			return
		}
		for i := range len(b) {
			if f := secure.ParseHello(b[:i], new(secure.Hello)); f != secure.More && f != found {
				t.Fatalf("%v of %d bytes, %v of all", f, i, found)
			}
			if i > 64 {
				break
			}
		}
		if found != secure.IsTLS {
			return
		}
		theirs := theirHello(b)
		if theirs == nil {
			return
		}
		if name := string(h.SNI()); name != string(bytes.ToLower([]byte(theirs.ServerName))) {
			t.Fatalf("%q, crypto/tls %q", name, theirs.ServerName)
		}
		if !slices.Equal(protos(h), theirs.SupportedProtos) {
			t.Fatalf("%q, crypto/tls %q", protos(h), theirs.SupportedProtos)
		}
	})
}

// theirHello is what crypto/tls makes of a ClientHello; nil when it refuses.
func theirHello(b []byte) (info *tls.ClientHelloInfo) {
	a, c := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s := tls.Server(c, &tls.Config{GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			info = i
			return nil, context.Canceled
		}})
		s.Handshake()
		c.Close()
	}()
	go io.Copy(io.Discard, a) // alerts
	a.Write(b)
	a.Close() // nothing else will come
	<-done
	return info
}
