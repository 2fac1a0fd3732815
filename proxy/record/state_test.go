// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"testing"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/record"
)

// move takes c apart and together, as between two processes.
func move(t testing.TB, c *record.Conn) *record.Conn {
	t.Helper()
	s := c.Export()
	b := s.Append(nil)
	s.Wipe()
	c.Retire()
	d, err := record.Import(b)
	if err != nil {
		t.Fatal(err)
	}
	clear(b) // nothing of it is kept
	return d
}

// TestStateUnderTraffic moves both ends again and again between records of
// both directions, key updates, and parts of messages.
func TestStateUnderTraffic(t *testing.T) {
	for _, suite := range both {
		a, b := pair(t, suite)
		modern := suite>>8 == 0x13
		say := func(from, to *record.Conn, n int) {
			t.Helper()
			p := bytes.Repeat([]byte{byte(n)}, n)
			out, kind, err := to.Open(make([]byte, 0, engine.MaxCipher), from.Seal(nil, p))
			if err != nil || kind != engine.Data || !bytes.Equal(out, p) {
				t.Fatalf("%s: %d bytes: kind %d, %v", tls.CipherSuiteName(suite), n, kind, err)
			}
		}
		for i := range 20 {
			say(a, b, i*100)
			say(b, a, 17)
			if modern && i%3 == 0 {
				if _, _, err := b.Open(nil, record.KeyUpdateForTest(a, true)); err != nil {
					t.Fatal(err)
				}
				b = move(t, b) // with the answer still to be said
				if _, _, err := a.Open(nil, b.Pending(nil)); err != nil {
					t.Fatal(err)
				}
			}
			if i%2 == 0 {
				a = move(t, a)
			} else {
				b = move(t, b)
			}
		}
		if modern { // b is the client; it is moved in the middle of a ticket
			ticket := append([]byte{4, 0, 0, 10}, make([]byte, 10)...)
			if _, _, err := b.Open(nil, record.SealForTest(a, 22, ticket[:7])); err != nil {
				t.Fatal(err)
			}
			b = move(t, b)
			if _, _, err := b.Open(nil, record.SealForTest(a, 22, ticket[7:])); err != nil {
				t.Fatal(err)
			}
		}
		say(a, b, 5)
		if _, kind, err := move(t, b).Open(nil, a.Closing(nil)); err != nil || kind != engine.Closed {
			t.Fatalf("close_notify: %d, %v", kind, err)
		}
	}
}

func TestRetired(t *testing.T) {
	a, b := pair(t, suites[0])
	rec := b.Seal(nil, []byte("x"))
	a.Retire()
	if _, _, err := a.Open(nil, rec); err == nil {
		t.Error("opened")
	}
	defer func() {
		if recover() == nil {
			t.Error("sealed")
		}
	}()
	a.Seal(nil, []byte("x"))
}

func TestImportRefuses(t *testing.T) {
	a, _ := pair(t, suites[0])
	s := a.Export()
	good := s.Append(nil)
	if _, err := record.Import(good); err != nil {
		t.Fatal(err)
	}
	for i := range good {
		if _, err := record.Import(good[:i]); err == nil {
			t.Errorf("%d of %d bytes were taken", i, len(good))
		}
	}
	change := func(f func(*record.State)) []byte {
		s := a.Export()
		f(&s)
		return s.Append(nil)
	}
	for name, b := range map[string][]byte{
		"a byte more":     append(bytes.Clone(good), 0),
		"another form":    append([]byte("rcd2"), good[4:]...),
		"unknown flag":    append(append(bytes.Clone(good[:8]), 0x80), good[9:]...),
		"TLS 1.1":         change(func(s *record.State) { s.Version = tls.VersionTLS11 }),
		"another version": change(func(s *record.State) { s.Version = tls.VersionTLS12 }),
		"unknown suite":   change(func(s *record.State) { s.Suite = 0 }),
		"a longer secret": change(func(s *record.State) { s.Read = append(s.Read, 0) }),
		"a worn key":      change(func(s *record.State) { s.WriteSeq = 1<<24 + 1 }),
		"no number left":  change(func(s *record.State) { s.ReadSeq = 1 << 63 }),
		"silence":         change(func(s *record.State) { s.Empty = 33 }),
		"updates":         change(func(s *record.State) { s.Updates = 65 }),
		"a whole message": change(func(s *record.State) { s.Message = []byte{4, 0, 0, 1, 9} }),
		"too long a message": change(func(s *record.State) {
			s.Message = append([]byte{4, 0xff, 0xff, 0xff}, make([]byte, 64<<10)...)
		}),
	} {
		if _, err := record.Import(b); err == nil {
			t.Errorf("%s was taken", name)
		}
	}
}

// FuzzImport: what is taken is written the same.
func FuzzImport(f *testing.F) {
	for _, suite := range both {
		a, b := pair(f, suite)
		for _, c := range []*record.Conn{a, b} {
			s := c.Export()
			f.Add(s.Append(nil))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := record.Import(b)
		if err != nil {
			return
		}
		s := c.Export()
		if !bytes.Equal(s.Append(nil), b) {
			t.Fatal("written otherwise")
		}
		c.Open(make([]byte, 0, 64), make([]byte, 64))
		c.Seal(nil, []byte("x"))
		c.Pending(nil)
	})
}

// TestPRF: the vector for P_SHA256 that is known from the IETF's TLS list.
func TestPRF(t *testing.T) {
	want := unhex(t, "e3f229ba727be17b8d122620557cd453c2aab21d07c3d495329b52d4e61edb5a6b301791e90d35c9c9a46b4e14baf9af0fa022f7077def17abfd3797c0564bab4fbc91666e9def9b97fce34f796789baa48082d122ee42c5a72e5a5110fff70187347b66")
	got := record.PRFForTest(unhex(t, "9bbe436ba940f017b17652849a71db35"), "test label", unhex(t, "a0ba9f936cda311827a6f796ffd5198c"), len(want))
	if !bytes.Equal(got, want) {
		t.Errorf("%x", got)
	}
}

func TestRenegotiation(t *testing.T) {
	suite := suites12[0]
	server, client := pair(t, suite)
	request := record.SealForTest(server, 22, []byte{0, 0})
	if _, kind, err := client.Open(nil, request); err != nil || kind != engine.Control || len(client.Pending(nil)) > 0 {
		t.Fatalf("half a HelloRequest: %d, %v", kind, err)
	}
	client = move(t, client)
	if _, _, err := client.Open(nil, record.SealForTest(server, 22, []byte{0, 0})); err != nil {
		t.Fatal(err)
	}
	answer := client.Pending(nil)
	if answer[0] != 21 || len(client.Pending(nil)) != 0 {
		t.Fatalf("answered %x", answer)
	}
	if out, kind, err := server.Open(nil, answer); err != nil || kind != engine.Data || len(out) > 0 { // a warning
		t.Fatalf("%d, %v", kind, err)
	}
	for i := range 100 {
		_, _, err := client.Open(nil, record.SealForTest(server, 22, []byte{0, 0, 0, 0}))
		if err != nil {
			break
		}
		if i == 99 {
			t.Error("100 requests were taken")
		}
	}
	for name, c := range map[string]struct {
		to   bool // the client
		kind byte
		body []byte
		ok   bool
	}{
		"ClientHello":        {false, 22, []byte{1, 0, 0, 0}, false},
		"request to server":  {false, 22, []byte{0, 0, 0, 0}, false},
		"ServerHello":        {true, 22, []byte{2, 0, 0, 0}, false},
		"request of a body":  {true, 22, []byte{0, 0, 0, 1}, false},
		"empty handshake":    {true, 22, nil, false},
		"change cipher spec": {true, 20, []byte{1}, false},
		"heartbeat":          {true, 24, []byte{1, 0, 1, 0}, false},
		"fatal":              {true, 21, []byte{2, 40}, false},
		"warning":            {true, 21, []byte{1, 90}, true},
		"short alert":        {true, 21, []byte{1}, false},
	} {
		a, b := pair(t, suite)
		if !c.to {
			a, b = b, a
		}
		if _, _, err := b.Open(make([]byte, 0, 64), record.SealForTest(a, c.kind, c.body)); (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	a, b := pair(t, suite)
	for i := range 100 {
		if _, _, err := b.Open(nil, a.Seal(nil, nil)); err != nil {
			break
		}
		if i == 99 {
			t.Error("100 empty records were taken")
		}
	}
}

// TestExplicitNonces: every record of AES-GCM in TLS 1.2 carries another one.
func TestExplicitNonces(t *testing.T) {
	a, _ := pair(t, suites12[0])
	for i := range uint64(5) {
		if got := binary.BigEndian.Uint64(a.Seal(nil, []byte("x"))[5:]); got != i+1 {
			t.Errorf("record %d has nonce %d", i, got)
		}
	}
}

// TestWorn: TLS 1.2 has no key update; the limit is told.
func TestWorn(t *testing.T) {
	a, _ := pair(t, suites12[0])
	record.LimitForTest(a, 3)
	a.Seal(nil, nil)
	if a.Worn() {
		t.Error("worn after one")
	}
	a.Seal(nil, nil)
	if !a.Worn() {
		t.Error("not worn at the limit")
	}
	b, _ := pair(t, suites[0])
	record.LimitForTest(b, 0)
	if b.Worn() {
		t.Error("TLS 1.3 changes keys")
	}
}

// TestCramped: what leaves room for a record of TLS 1.3 only is given nothing
// longer, and the peer is told that the stream is broken.
func TestCramped(t *testing.T) {
	for _, suite := range both {
		for over := 22; over < 60; over++ {
			a, b := pair(t, suite)
			buf := make([]byte, 5+100, 100+over)
			rec := a.SealInPlace(buf, 0)
			if len(rec) > cap(buf) && over >= 22 {
				t.Fatalf("%s: %d bytes into %d", tls.CipherSuiteName(suite), len(rec), cap(buf))
			}
			out, _, err := b.Open(make([]byte, 0, 256), rec)
			if fits := over >= len(a.Seal(nil, nil)); (err == nil) != fits || fits && len(out) != 100 {
				t.Errorf("%s, %d bytes beside the plaintext: %d bytes, %v", tls.CipherSuiteName(suite), over, len(out), err)
			}
		}
	}
}
