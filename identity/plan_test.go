// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"testing"
	"time"
)

func TestPlan(t *testing.T) {
	// fresh is an SVID of one hour, issued at epoch, valid 30 s before.
	fresh := slot{NotBefore: epoch.Add(-30 * time.Second), Issued: epoch, NotAfter: epoch.Add(time.Hour)}
	failed := func(n int, tried time.Duration) slot {
		s := fresh
		s.Failures, s.Tried = n, epoch.Add(tried)
		return s
	}
	told := failed(9, 59*time.Minute)
	told.Told = true
	short := slot{NotBefore: epoch, Issued: epoch, NotAfter: epoch.Add(time.Second)}
	const min = time.Minute
	for name, c := range map[string]struct {
		slots   map[string]slot
		now     time.Duration // since epoch
		due     []string
		expired []string
		wake    time.Duration // from now
	}{
		"nothing held":                     {wake: maxNap},
		"far from due":                     {slots: map[string]slot{"a": fresh}, now: min, wake: maxNap},
		"soon due":                         {slots: map[string]slot{"a": fresh}, now: 30*min - 7*time.Second, wake: 7 * time.Second},
		"due at half life":                 {slots: map[string]slot{"a": fresh}, now: 30 * min, due: []string{"a"}, wake: maxNap},
		"several, in order":                {slots: map[string]slot{"b": fresh, "a": fresh, "c": fresh}, now: 31 * min, due: []string{"a", "b", "c"}, wake: maxNap},
		"one of two":                       {slots: map[string]slot{"a": fresh, "b": {Issued: epoch.Add(20 * min), NotAfter: epoch.Add(80 * min)}}, now: 31 * min, due: []string{"a"}, wake: maxNap},
		"the clock went back":              {slots: map[string]slot{"a": fresh}, now: -min, due: []string{"a"}, wake: maxNap},
		"the clock went back a little":     {slots: map[string]slot{"a": fresh}, now: -29 * time.Second, wake: maxNap},
		"the clock went ahead past expiry": {slots: map[string]slot{"a": fresh}, now: 90 * min, due: []string{"a"}, expired: []string{"a"}, wake: maxNap},
		"after one failure":                {slots: map[string]slot{"a": failed(1, 30*min)}, now: 30 * min, wake: time.Second},
		"after a third failure":            {slots: map[string]slot{"a": failed(3, 30*min)}, now: 30 * min, wake: 4 * time.Second},
		"after many failures":              {slots: map[string]slot{"a": failed(500, 30*min)}, now: 30*min + 45*time.Second, wake: 15 * time.Second},
		"failing, about to expire":         {slots: map[string]slot{"a": failed(500, 60*min-10*time.Second)}, now: 60*min - 5*time.Second, wake: 5 * time.Second},
		"expired and told":                 {slots: map[string]slot{"a": told}, now: 61 * min, due: []string{"a"}, wake: maxNap},
		"the root ends":                    {slots: map[string]slot{"a": short}, now: 600 * time.Millisecond, wake: 400 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			now := epoch.Add(c.now)
			due, expired, wake := plan(c.slots, now)
			if !slices.Equal(due, c.due) || !slices.Equal(expired, c.expired) || wake.Sub(now) != c.wake {
				t.Errorf("due %v, expired %v, wake in %v; want %v, %v, %v", due, expired, wake.Sub(now), c.due, c.expired, c.wake)
			}
		})
	}
}

// TestPlanNeverSpins: whatever the state, an Issuer that does what it can
// waits between rounds.
func TestPlanNeverSpins(t *testing.T) {
	for i := range 2000 {
		s := slot{Issued: epoch, NotBefore: epoch.Add(-time.Second), NotAfter: epoch.Add(time.Duration(i) * time.Second), Failures: 1 + i%70}
		now := epoch.Add(time.Duration(i*i%5000) * time.Second)
		s.Tried = now
		s.Told = !now.Before(s.NotAfter)
		if _, _, wake := plan(map[string]slot{"a": s}, now); wake.Sub(now) < retryMin && wake != s.NotAfter {
			t.Fatalf("%+v at %v wakes in %v", s, now, wake.Sub(now))
		}
	}
}
