// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"bytes"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"testing"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/record"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// secrets are the application traffic secrets of RFC 8448, section 3.
func secrets(t testing.TB) (client, server []byte) {
	return unhex(t, "9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5"),
		unhex(t, "a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643")
}

// TestVectors seals what RFC 8448, section 3 seals.
func TestVectors(t *testing.T) {
	cs, ss := secrets(t)
	c, err := record.New(&record.Params{Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Client: true, Read: ss, Write: cs})
	if err != nil {
		t.Fatal(err)
	}
	plain := make([]byte, 50)
	for i := range plain {
		plain[i] = byte(i)
	}
	want := unhex(t, "1703030043a23f7054b62c94d0affafe8228ba55cbefacea42f914aa66bcab3f2b9819a8a5b46b395bd54a9a20441e2b62974e1f5a6292a2977014bd1e3deae63aeebb21694915e4")
	if got := c.Seal(nil, plain); !bytes.Equal(got, want) {
		t.Errorf("sealed\n%x, want\n%x", got, want)
	}
	if got, want := c.Closing(nil), unhex(t, "1703030013c9872760655666b74d7ff1153efd6db6d0b0e3"); !bytes.Equal(got, want) {
		t.Errorf("closing alert\n%x, want\n%x", got, want)
	}
}

var (
	suites   = []uint16{tls.TLS_AES_128_GCM_SHA256, tls.TLS_AES_256_GCM_SHA384, tls.TLS_CHACHA20_POLY1305_SHA256}
	suites12 = []uint16{tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256}
	both     = append(append([]uint16(nil), suites...), suites12...)
)

// pair gives a server and a client.
func pair(t testing.TB, suite uint16) (a, b *record.Conn) {
	t.Helper()
	p := record.Params{Version: tls.VersionTLS13, Suite: suite}
	if _, _, err := record.Keys12(suite, false, make([]byte, 48), make([]byte, 32), make([]byte, 32)); err == nil {
		p.Version, p.ReadSeq, p.WriteSeq = tls.VersionTLS12, 1, 1
	}
	n := record.SecretLenForTest(suite)
	p.Read, p.Write = bytes.Repeat([]byte{1}, n), bytes.Repeat([]byte{2}, n)
	a, err := record.New(&p)
	if err != nil {
		t.Fatal(err)
	}
	p.Read, p.Write, p.Client = p.Write, p.Read, true
	if b, err = record.New(&p); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestRoundTrip(t *testing.T) {
	for _, s := range both {
		t.Run(tls.CipherSuiteName(s), func(t *testing.T) {
			a, b := pair(t, s)
			rng := rand.New(rand.NewPCG(1, 2))
			for i, n := range []int{0, 1, 15, 16, 17, 1000, engine.MaxPlain - 1, engine.MaxPlain, 0, 3} {
				p := make([]byte, n)
				for j := range p {
					p[j] = byte(rng.Uint32())
				}
				prefix := []byte("before")
				var rec []byte
				if i%2 == 0 {
					rec = a.Seal(prefix, p)[len(prefix):]
				} else {
					gap := append(append([]byte("before"), 0, 0, 0, 0, 0), p...)
					rec = a.SealInPlace(gap, len(prefix))[len(prefix):]
				}
				dst := make([]byte, 3, 3+engine.MaxCipher)
				out, kind, err := b.Open(dst, rec)
				if err != nil || kind != engine.Data || !bytes.Equal(out[3:], p) {
					t.Fatalf("record %d of %d bytes: %d bytes, kind %d, %v", i, n, len(out)-3, kind, err)
				}
			}
			if _, kind, err := b.Open(nil, a.Closing(nil)); err != nil || kind != engine.Closed {
				t.Fatalf("close_notify: kind %d, %v", kind, err)
			}
		})
	}
}

func TestTamperingIsSeen(t *testing.T) {
	for _, s := range both {
		a, _ := pair(t, s)
		good := a.Seal(nil, []byte("pay 100 to alice"))
		for i := range good {
			_, b := pair(t, s)
			bad := bytes.Clone(good)
			bad[i] ^= 1
			if i == 3 || i == 4 { // the length: the engine cuts records by it, so it cannot differ from the slice
				continue
			}
			if out, _, err := b.Open(nil, bad); err == nil {
				t.Fatalf("suite %#x: byte %d changed and opened to %q", s, i, out)
			}
		}
		_, b := pair(t, s)
		second := a.Seal(nil, []byte("x"))
		if _, _, err := b.Open(nil, second); err == nil {
			t.Fatal("a record out of order was opened")
		}
	}
}

func TestKeyUpdate(t *testing.T) {
	for _, s := range suites {
		a, b := pair(t, s)
		for i := range 5 {
			// a asks b for an update in return.
			if _, kind, err := b.Open(nil, record.KeyUpdateForTest(a, true)); err != nil || kind != engine.Control {
				t.Fatalf("key update %d: kind %d, %v", i, kind, err)
			}
			answer := b.Pending(nil)
			if len(answer) == 0 || len(b.Pending(nil)) != 0 {
				t.Fatal("asked for one key update, got none or two")
			}
			if _, kind, err := a.Open(nil, answer); err != nil || kind != engine.Control {
				t.Fatalf("answer %d: kind %d, %v", i, kind, err)
			}
			for _, d := range [][2]*record.Conn{{a, b}, {b, a}} {
				out, _, err := d[1].Open(make([]byte, 0, 64), d[0].Seal(nil, []byte("under the next key")))
				if err != nil || string(out) != "under the next key" {
					t.Fatalf("after update %d: %q, %v", i, out, err)
				}
			}
		}
	}
}

func TestRekeyBeforeTheLimit(t *testing.T) {
	a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
	record.LimitForTest(a, 3)
	updates := 0
	for i := range 20 {
		rec := a.Seal(nil, []byte{byte(i)})
		for len(rec) > 0 {
			n := engine.HeaderLen + int(rec[3])<<8 + int(rec[4])
			out, kind, err := b.Open(make([]byte, 0, 64), rec[:n])
			if err != nil {
				t.Fatal(err)
			}
			if kind == engine.Control {
				updates++
			} else if len(out) != 1 || out[0] != byte(i) {
				t.Fatalf("record %d opened to %v", i, out)
			}
			rec = rec[n:]
		}
	}
	if updates == 0 {
		t.Fatal("20 records under one key of limit 3")
	}
}

func TestBadRecords(t *testing.T) {
	for name, c := range map[string]struct {
		kind byte
		body []byte
		ok   bool
	}{
		"fatal alert":            {21, []byte{2, 40}, false},
		"short alert":            {21, []byte{1}, false},
		"long alert":             {21, []byte{1, 0, 0}, false},
		"change cipher spec":     {20, []byte{1}, false},
		"no type":                {0, nil, false},
		"unknown type":           {99, []byte{1}, false},
		"empty handshake":        {22, nil, false},
		"ticket":                 {22, []byte{4, 0, 0, 1, 0}, true},
		"client hello":           {22, []byte{1, 0, 0, 1, 0}, false},
		"certificate request":    {22, []byte{13, 0, 0, 1, 0}, false},
		"huge message":           {22, []byte{4, 255, 255, 255}, false},
		"key update of 2":        {22, []byte{24, 0, 0, 1, 2}, false},
		"long key update":        {22, []byte{24, 0, 0, 2, 0, 0}, false},
		"bytes after key update": {22, []byte{24, 0, 0, 1, 0, 4}, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
			_, _, err := b.Open(make([]byte, 0, 64), record.SealForTest(a, c.kind, c.body))
			if (err == nil) != c.ok {
				t.Fatalf("got %v", err)
			}
		})
	}
	a, _ := pair(t, tls.TLS_AES_128_GCM_SHA256)
	_, _, err := a.Open(nil, []byte{23, 3, 3, 0, 0})
	if err == nil {
		t.Error("an empty record was opened")
	}
	var alert record.Alert
	c, d := pair(t, tls.TLS_AES_128_GCM_SHA256)
	if _, _, err := d.Open(nil, record.SealForTest(c, 21, []byte{2, 40})); !errors.As(err, &alert) || alert != 40 {
		t.Errorf("fatal alert: %v", err)
	}
}

func TestSilentFloodsEnd(t *testing.T) {
	for name, f := range map[string]func(*record.Conn) []byte{
		"empty records": func(c *record.Conn) []byte { return c.Seal(nil, nil) },
		"key updates":   func(c *record.Conn) []byte { return record.KeyUpdateForTest(c, false) },
		"tickets":       func(c *record.Conn) []byte { return record.SealForTest(c, 22, []byte{4, 0, 0, 1, 0}) },
	} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
			for range 1000 {
				if _, _, err := b.Open(make([]byte, 0, 64), f(a)); err != nil {
					return
				}
			}
			t.Fatal("1000 records that say nothing were taken")
		})
	}
}

func TestFragmentedMessages(t *testing.T) {
	a, b := pair(t, tls.TLS_AES_128_GCM_SHA256)
	ticket := append([]byte{4, 0, 1, 0}, make([]byte, 256)...)
	for i := range ticket {
		if _, kind, err := b.Open(make([]byte, 0, 64), record.SealForTest(a, 22, ticket[i:i+1])); err != nil || kind != engine.Control {
			t.Fatalf("byte %d: %v", i, err)
		}
	}
	out, _, err := b.Open(make([]byte, 0, 64), a.Seal(nil, []byte("data")))
	if err != nil || string(out) != "data" {
		t.Fatalf("%q, %v", out, err)
	}
	b.Open(make([]byte, 0, 64), record.SealForTest(a, 22, ticket[:5]))
	if _, _, err := b.Open(make([]byte, 0, 64), a.Seal(nil, []byte("data"))); err == nil {
		t.Fatal("data inside a handshake message was taken")
	}
}

func TestNoAllocation(t *testing.T) {
	for _, s := range both {
		noAllocation(t, s)
	}
}

func noAllocation(t *testing.T, suite uint16) {
	a, b := pair(t, suite)
	buf, out := make([]byte, 0, 2048), make([]byte, 0, 2048)
	p := make([]byte, 1000)
	if n := testing.AllocsPerRun(100, func() {
		rec := a.Seal(buf, p)
		if _, _, err := b.Open(out, rec); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v allocations per record", n)
	}
}

func TestBadSecrets(t *testing.T) {
	for name, p := range map[string]record.Params{
		"a short secret":    {Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Read: make([]byte, 31), Write: make([]byte, 32)},
		"a TLS 1.2 suite":   {Version: tls.VersionTLS13, Suite: tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, Read: make([]byte, 32), Write: make([]byte, 32)},
		"a TLS 1.3 suite":   {Version: tls.VersionTLS12, Suite: tls.TLS_AES_128_GCM_SHA256, Read: make([]byte, 32), Write: make([]byte, 32)},
		"CBC":               {Version: tls.VersionTLS12, Suite: tls.TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256, Read: make([]byte, 20), Write: make([]byte, 20)},
		"no version":        {Suite: tls.TLS_AES_128_GCM_SHA256, Read: make([]byte, 32), Write: make([]byte, 32)},
		"an endless number": {Version: tls.VersionTLS13, Suite: tls.TLS_AES_128_GCM_SHA256, Read: make([]byte, 32), Write: make([]byte, 32), WriteSeq: 1 << 63},
	} {
		if _, err := record.New(&p); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// FuzzOpen gives arbitrary plaintext under right keys, and arbitrary bytes.
func FuzzOpen(f *testing.F) {
	f.Add([]byte{22, 24, 0, 0, 1, 1}, true)
	f.Add([]byte{23, 1, 2, 3}, true)
	f.Add([]byte{21, 1, 0}, true)
	f.Add([]byte{23, 3, 3, 0, 20}, false)
	f.Fuzz(func(t *testing.T, b []byte, sealed bool) {
		if len(b) == 0 || len(b) > engine.MaxPlain {
			return
		}
		x, y := pair(t, tls.TLS_AES_128_GCM_SHA256)
		rec := b
		if sealed {
			rec = record.SealForTest(x, b[0], b[1:])
		}
		out, kind, err := y.Open(make([]byte, 7, 7+engine.MaxCipher), rec)
		if err == nil && (!sealed || len(out) < 7) {
			t.Fatalf("opened: kind %d, %d bytes", kind, len(out))
		}
		if got := y.Pending(nil); err == nil && len(got) > 0 {
			if _, k, err := x.Open(nil, got); err != nil || k != engine.Control {
				t.Fatalf("answer: %v", err)
			}
		}
	})
}
