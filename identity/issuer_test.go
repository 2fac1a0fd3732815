// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// flaky is the real CA behind a switch.
type flaky struct {
	*CA
	mu   sync.Mutex
	down error
}

func (f *flaky) set(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = err
}

func (f *flaky) Issue(r Record, ttl time.Duration) (wire.SVID, error) {
	f.mu.Lock()
	err := f.down
	f.mu.Unlock()
	if err != nil {
		return wire.SVID{}, err
	}
	return f.CA.Issue(r, ttl)
}

// bubble runs f with a running Issuer, an hour's SVIDs, and a fake clock. The
// wall clock may be set by skew.
func bubble(t *testing.T, f func(t *testing.T, i *Issuer, ca *flaky, skew func(time.Duration))) {
	dir := t.TempDir() + "/ca"
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var off time.Duration
		now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(off) }
		td, err := id.ParseTrustDomain("bank.example")
		if err != nil {
			t.Fatal(err)
		}
		ca, err := Open(dir, td, now)
		if err != nil {
			t.Fatal(err)
		}
		fl := &flaky{CA: ca}
		i := NewIssuer(fl, time.Hour, now)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- i.Run(ctx) }()
		f(t, i, fl, func(d time.Duration) { mu.Lock(); off += d; mu.Unlock() })
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("Run: %v", err)
		}
	})
}

func pass(d time.Duration) { <-time.After(d); synctest.Wait() }

func changes(i *Issuer) (n int) {
	for {
		select {
		case <-i.Changed():
			n++
		default:
			return n
		}
	}
}

func TestIssuerRenewsAtHalfLife(t *testing.T) {
	bubble(t, func(t *testing.T, i *Issuer, ca *flaky, _ func(time.Duration)) {
		first, err := i.Admit(testRecord(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if n := changes(i); n != 1 {
			t.Errorf("%d changes after Admit", n)
		}
		pass(29 * time.Minute)
		if n := changes(i); n != 0 || serial(t, i.SVIDs()["a"]) != serial(t, first) {
			t.Error("renewed before half life")
		}
		pass(2 * time.Minute)
		second := i.SVIDs()["a"]
		if n := changes(i); n != 1 || serial(t, second) == serial(t, first) {
			t.Errorf("not renewed at half life (%d changes)", n)
		}
		if _, err := VerifySVID(second, ca.Roots(), ca.td, time.Now()); err != nil {
			t.Error(err)
		}
		// A week goes by: at no time is there no valid SVID.
		for range 7 * 24 * 4 {
			pass(15 * time.Minute)
			if s := i.SVIDs()["a"]; time.Until(s.NotAfter) < 29*time.Minute {
				t.Fatalf("an SVID that ends at %v is in force at %v", s.NotAfter, time.Now())
			}
		}
	})
}

func TestIssuerAdmitsAndForgets(t *testing.T) {
	bubble(t, func(t *testing.T, i *Issuer, _ *flaky, _ func(time.Duration)) {
		a, err := i.Admit(testRecord(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		again, err := i.Admit(testRecord(t, "a"))
		if err != nil || serial(t, a) != serial(t, again) {
			t.Errorf("a second Admit gave another SVID: %v", err)
		}
		other := testRecord(t, "a")
		other.ID, _ = id.Workload(other.ID.TrustDomain(), "ledger", "admin")
		if _, err := i.Admit(other); !errors.Is(err, errs.Conflict) {
			t.Errorf("another name for the same pod: %v", err)
		}
		if _, err := i.Admit(testRecord(t, "b")); err != nil {
			t.Fatal(err)
		}
		if n := changes(i); n != 1 {
			t.Errorf("two changes gave %d signals", n)
		}
		i.Forget("a")
		i.Forget("unknown")
		if s := i.SVIDs(); len(s) != 1 || s["b"].ID == "" {
			t.Errorf("held: %v", s)
		}
		pass(time.Hour)
		if s := i.SVIDs(); len(s) != 1 {
			t.Error("what was forgotten was renewed")
		}
	})
}

func TestIssuerOutlivesAFailingCA(t *testing.T) {
	bubble(t, func(t *testing.T, i *Issuer, ca *flaky, _ func(time.Duration)) {
		first, err := i.Admit(testRecord(t, "a"))
		if err != nil {
			t.Fatal(err)
		}
		changes(i)
		ca.set(errs.New(errs.Unavailable, "ca", "no"))
		pass(40 * time.Minute)
		if s := i.SVIDs()["a"]; serial(t, s) != serial(t, first) {
			t.Error("the last good SVID is gone")
		}
		if err := i.Health(); !errors.Is(err, errs.Unavailable) || !strings.Contains(err.Error(), "renew the SVID of a") {
			t.Errorf("health: %v", err)
		}
		if _, err := i.Admit(testRecord(t, "b")); !errors.Is(err, errs.Unavailable) {
			t.Errorf("admitted without an SVID: %v", err)
		}
		ca.set(nil)
		pass(time.Minute + time.Second)
		if s := i.SVIDs()["a"]; serial(t, s) == serial(t, first) || i.Health() != nil {
			t.Errorf("not renewed after the CA came back: %v", i.Health())
		}
		// Down for good: the SVID leaves the snapshot when it expires, and that is told.
		ca.set(errs.New(errs.Unavailable, "ca", "no"))
		changes(i)
		pass(61 * time.Minute)
		if s := i.SVIDs(); len(s) != 0 {
			t.Errorf("an expired SVID is in force: %v", s)
		}
		if n := changes(i); n != 1 {
			t.Errorf("%d changes for the expiry", n)
		}
	})
}

func TestIssuerFollowsClockJumps(t *testing.T) {
	bubble(t, func(t *testing.T, i *Issuer, _ *flaky, skew func(time.Duration)) {
		for _, jump := range []time.Duration{45 * time.Minute, 30 * 24 * time.Hour, -2 * time.Hour, -24 * time.Hour} {
			before, err := i.Admit(testRecord(t, "a"))
			if err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			skew(jump)
			pass(maxNap)
			if serial(t, i.SVIDs()["a"]) == serial(t, before) {
				t.Errorf("not renewed within %v of a jump by %v", maxNap, jump)
			}
		}
	})
}

func serial(t *testing.T, s wire.SVID) string {
	t.Helper()
	n, err := SerialOf(s)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(s.Chain[0])
	if err != nil || Serial(c) != n {
		t.Fatal("serial helpers differ")
	}
	return n
}
