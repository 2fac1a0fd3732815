// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"slices"
	"time"
)

const (
	// maxNap bounds how long the renewal loop sleeps: timers follow the
	// monotonic clock, so a wall clock set forward is noticed only on waking.
	maxNap = 30 * time.Second
	// Retries after a failed renewal start at retryMin and double to retryMax.
	retryMin = time.Second
	retryMax = time.Minute
)

// slot is what renewal must know of one live SVID.
type slot struct {
	NotBefore time.Time
	Issued    time.Time
	NotAfter  time.Time
	Failures  int       // renewals that failed since Issued
	Tried     time.Time // of the last failure
	Told      bool      // that it expired was made known
}

// plan is the whole decision of renewal: which slots are due at now and which
// have just expired, in order of uid, and when to look again. It is pure.
//
// A slot is due at half of its life. It is also due when it is not valid yet:
// the clock was set back, and a peer with the right time would refuse it.
func plan(slots map[string]slot, now time.Time) (due, expired []string, wake time.Time) {
	wake = now.Add(maxNap)
	for uid, s := range slots {
		if !now.Before(s.NotAfter) {
			if !s.Told {
				expired = append(expired, uid)
			}
		} else if s.Failures > 0 {
			wake = earlier(wake, s.NotAfter)
		}
		if at := s.next(); !at.After(now) || now.Before(s.NotBefore) {
			due = append(due, uid)
		} else {
			wake = earlier(wake, at)
		}
	}
	slices.Sort(due)
	slices.Sort(expired)
	return due, expired, wake
}

// next is when s must be renewed. Near the end of the root, lives get short
// and their halves shorter without end: retryMin bounds that.
func (s slot) next() time.Time {
	at := later(s.Issued.Add(s.NotAfter.Sub(s.Issued)/2), s.Issued.Add(retryMin))
	if s.Failures > 0 {
		at = later(at, s.Tried.Add(backoff(s.Failures)))
	}
	return at
}

func backoff(failures int) time.Duration {
	d := retryMin
	for range failures - 1 {
		if d *= 2; d >= retryMax {
			return retryMax
		}
	}
	return d
}
