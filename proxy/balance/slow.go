// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"time"
)

// slowSteps is into how many steps of weight a slow start is cut, unless they
// would be shorter than slowStep.
const (
	slowSteps = 100
	slowStep  = int64(50 * time.Millisecond)
)

// warm is the factor of a host's weight that began age ago: max(least,
// (age ÷ window)^(1 ÷ aggression)), with age at least a second.
func warm(age, window int64, aggression, least float64) float64 {
	if age >= window {
		return 1
	}
	t := float64(max(age, int64(time.Second))) / float64(window)
	if aggression != 1 {
		t = math.Pow(t, 1/aggression)
	}
	return min(1, max(least, t))
}

// beginSlowLocked begins h's slow start.
func (s *Set) beginSlowLocked(h *Host, now int64) {
	h.cut.since = now
	if c := s.c.SlowStart; c != nil && c.Window > 0 {
		h.cut.slow = true
		s.shared.slowEnd = max(s.shared.slowEnd, now+int64(c.Window))
	}
}

// weight is h's weight at now, with slow start.
func (s *Set) weight(h *Host, now int64) float64 {
	w := float64(h.cut.weight)
	c := s.c.SlowStart
	if !h.cut.slow || c == nil {
		return w
	}
	aggression, least := c.Aggression, c.MinWeight/100
	if aggression <= 0 {
		aggression = 1
	}
	if least == 0 {
		least = 0.1
	}
	return w * warm(now-h.cut.since, int64(c.Window), aggression, least)
}

// sweepSlowLocked has weights computed again while hosts warm up, and gives the
// time of the next step.
func (s *Set) sweepSlowLocked(now int64) int64 {
	sh, c := s.shared, s.c.SlowStart
	if sh.slowEnd == 0 {
		return math.MaxInt64
	}
	if c == nil {
		for _, h := range sh.hosts {
			h.cut.slow = false
		}
		sh.slowEnd = 0
		return math.MaxInt64
	}
	step := max(slowStep, int64(c.Window)/slowSteps)
	if now < sh.slowAt+step {
		return sh.slowAt + step
	}
	for _, h := range sh.hosts {
		if h.cut.slow {
			s.changedLocked(h)
			h.cut.slow = now-h.cut.since < int64(c.Window)
		}
	}
	sh.slowAt = now
	if now >= sh.slowEnd {
		sh.slowEnd = 0
		return math.MaxInt64
	}
	return now + step
}
