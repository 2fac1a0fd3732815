// SPDX-License-Identifier: Apache-2.0

package secure_test

import (
	"bytes"
	"testing"
	"time"

	"redoubt.dev/proxy/secure"
)

func TestTicket(t *testing.T) {
	tk, now := secure.NewTicketer(), time.Now()
	session, bound := []byte("a session"), []byte("trust and name")
	b := tk.Seal(session, now.Add(time.Minute), now, bound)
	if got, ok := tk.Open(b, now, bound); !ok || !bytes.Equal(got, session) {
		t.Fatalf("%q, %v", got, ok)
	}
	if bytes.Equal(b, tk.Seal(session, now.Add(time.Minute), now, bound)) {
		t.Error("two tickets are the same")
	}
	for i := range b {
		bad := bytes.Clone(b)
		bad[i] ^= 1
		if _, ok := tk.Open(bad, now, bound); ok {
			t.Errorf("byte %d changed and was taken", i)
		}
		if _, ok := tk.Open(b[:i], now, bound); ok {
			t.Errorf("%d bytes were taken", i)
		}
	}
	for name, ok := range map[string]bool{
		"another bond": first(tk.Open(b, now, []byte("trust and nama"))),
		"late":         first(tk.Open(b, now.Add(2*time.Minute), bound)),
		"too old":      first(tk.Open(tk.Seal(session, time.Time{}, now, bound), now.Add(61*time.Minute), bound)),
		"of to-morrow": first(tk.Open(tk.Seal(session, time.Time{}, now.Add(24*time.Hour), bound), now, bound)),
		"too long":     first(tk.Open(tk.Seal(make([]byte, 20<<10), time.Time{}, now, bound), now, bound)),
	} {
		if ok {
			t.Errorf("%s: taken", name)
		}
	}
	if n := len(tk.Seal(make([]byte, 60<<10), time.Time{}, now, bound)); n > 1<<10 {
		t.Errorf("a ticket of %d bytes", n)
	}
}

func first(_ []byte, ok bool) bool { return ok }

func FuzzTicket(f *testing.F) {
	tk, now := secure.NewTicketer(), time.Now()
	f.Add([]byte{})
	f.Add(make([]byte, 80))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, ok := tk.Open(b, now, nil); ok {
			t.Fatal("a ticket was forged")
		}
	})
}
