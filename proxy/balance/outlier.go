// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"sync/atomic"
	"time"

	"redoubt.dev/proxy/config"
)

// tally is what outlier detection counts of a host on the loops. The counts
// only rise; the sweep looks at differences.
type tally struct {
	row5xx, rowGateway, rowLocal atomic.Int32 // failures in a row
	total, ok                    atomic.Uint64
	totalLocal, okLocal          atomic.Uint64 // local origin, when told apart
}

// ejection is the control path's part, guarded by shared.mu.
type ejection struct {
	at     int64 // of the last one
	jitter int64
	times  int64 // by which the base time is multiplied; sinks with each sweep in health
	// Counts at the last sweep.
	total, ok, totalLocal, okLocal uint64
}

// outlier is an OutlierDetection with its defaults filled in. It is immutable.
type outlier struct {
	c                        config.Outlier
	enforce                  [FailurePercentageLocal + 1]int
	interval, base, most     int64
	jitter                   int64
	row5xx, rowGateway, rowL int32 // 0: off
}

// or gives v, or std when v is unset; a negative v is 0.
func or[T int | time.Duration](v, std T) T {
	if v == 0 {
		return std
	}
	return max(0, v)
}

func newOutlier(c *config.Outlier) *outlier {
	if c == nil {
		return nil
	}
	o := &outlier{c: *c}
	o.row5xx, o.rowGateway, o.rowL = int32(or(c.Consecutive5xx, 5)), int32(or(c.ConsecutiveGateway, 5)), int32(or(c.ConsecutiveLocal, 5))
	o.interval = int64(max(time.Millisecond, or(c.Interval, 10*time.Second)))
	o.base = int64(or(c.BaseEjection, 30*time.Second))
	o.most = max(o.base, int64(or(c.MaxEjection, 300*time.Second)))
	o.jitter = int64(max(0, c.Jitter))
	o.c.MaxPercent = min(100, or(c.MaxPercent, 10))
	o.enforce = [...]int{
		Consecutive5xx:         or(c.Enforcing5xx, 100),
		ConsecutiveGateway:     max(0, c.EnforcingGateway),
		ConsecutiveLocal:       or(c.EnforcingLocal, 100),
		SuccessRate:            or(c.EnforcingSuccess, 100),
		SuccessRateLocal:       or(c.EnforcingSuccess, 100),
		FailurePercentage:      max(0, c.EnforcingFailure),
		FailurePercentageLocal: max(0, c.EnforcingFailure),
	}
	o.c.SuccessMinHosts, o.c.SuccessVolume = or(c.SuccessMinHosts, 5), or(c.SuccessVolume, 100)
	o.c.SuccessStdevFactor = or(c.SuccessStdevFactor, 1900)
	o.c.FailureThreshold = or(c.FailureThreshold, 85)
	o.c.FailureMinHosts, o.c.FailureVolume = or(c.FailureMinHosts, 5), or(c.FailureVolume, 50)
	return o
}

// report takes an outcome in, on a loop.
func (o *outlier) report(s *Set, h *Host, out Outcome, now int64) {
	t := &h.seen
	if o.c.SplitLocal {
		t.totalLocal.Add(1)
		if out.Local() {
			if inRow(&t.rowLocal, o.rowL) {
				s.suspect(h, ConsecutiveLocal, now)
			}
			return
		}
		t.okLocal.Add(1)
		reset(&t.rowLocal)
		if out == Connected {
			return
		}
	}
	status := out.status()
	t.total.Add(1)
	if status < 500 {
		t.ok.Add(1)
		reset(&t.row5xx)
		reset(&t.rowGateway)
		return
	}
	if status >= 502 && status <= 504 {
		if inRow(&t.rowGateway, o.rowGateway) {
			s.suspect(h, ConsecutiveGateway, now)
		}
	} else {
		reset(&t.rowGateway)
	}
	if inRow(&t.row5xx, o.row5xx) {
		s.suspect(h, Consecutive5xx, now)
	}
}

// inRow counts a failure and tells when it is the one too many; the count then
// begins again.
func inRow(n *atomic.Int32, limit int32) bool {
	if limit == 0 || n.Add(1) != limit {
		return false
	}
	n.Store(0)
	return true
}

// reset writes only when it must: the line is shared by all loops.
func reset(n *atomic.Int32) {
	if n.Load() != 0 {
		n.Store(0)
	}
}

// finding is an outlier that a loop noticed, for the next sweep to book.
type finding struct {
	h        *Host
	why      Cause
	enforced bool
	now      int64
}

// maxFindings bounds what is queued for the next sweep; findings that were not
// enforced and do not fit go unreported. Enforced ones fit always, since each
// host is ejected once between two sweeps.
const maxFindings = 1024

// suspect ejects h unless policy or chance says otherwise. The flag works at
// once, on every loop; the rest is the sweep's.
func (s *Set) suspect(h *Host, why Cause, now int64) {
	if h.state.Load()&(ejected|removed) != 0 {
		return
	}
	enforced := s.eject(h, why)
	s.shared.queueMu.Lock()
	if enforced || len(s.shared.queue) < maxFindings {
		s.shared.queue = append(s.shared.queue, finding{h, why, enforced, now})
	}
	s.shared.queueMu.Unlock()
	s.wake()
}

// eject sets the flag if a host more may be ejected and why is enforced.
func (s *Set) eject(h *Host, why Cause) bool {
	o, n := s.outlier, &s.shared.ejected
	after := n.Add(1)
	room := 100*after <= int64(o.c.MaxPercent)*s.shared.total.Load() || o.c.AlwaysOne && after == 1
	if room && int(s.o.Rand()%100) < o.enforce[why] {
		for {
			was := h.state.Load()
			if was&(ejected|removed) != 0 {
				break
			}
			if h.state.CompareAndSwap(was, was|ejected) {
				return true
			}
		}
	}
	n.Add(-1)
	return false
}

// book records an ejection.
func (s *Set) bookLocked(h *Host, now int64) {
	e, o := &h.cut.eject, s.outlier
	e.at, e.jitter = now, 0
	if o == nil {
		return
	}
	if o.jitter > 0 {
		e.jitter = int64(s.o.Rand() % uint64(o.jitter+1))
	}
	if e.times*o.base < o.most+o.base {
		e.times++
	}
	s.changedLocked(h)
}

// restoreLocked ends an ejection.
func (s *Set) restoreLocked(h *Host) {
	if h.setFlags(0, ejected)&ejected == 0 {
		return
	}
	s.shared.ejected.Add(-1)
	// A counter that stands just below its threshold must not eject again at once.
	h.seen.row5xx.Store(0)
	h.seen.rowGateway.Store(0)
	h.seen.rowLocal.Store(0)
	s.changedLocked(h)
	s.shared.say(func(e Events) { e.Returned(h) })
}

// sweepOutliersLocked is what happens once per interval.
func (s *Set) sweepOutliersLocked(now int64) {
	o := s.outlier
	all := s.shared.hosts
	rates := make([]rate, 0, len(all))
	local := make([]rate, 0)
	for _, h := range all {
		e := &h.cut.eject
		if h.state.Load()&ejected == 0 {
			e.times = max(0, e.times-1)
		} else if now-e.at >= min(o.base*e.times, o.most)+e.jitter {
			s.restoreLocked(h)
		}
		total, ok := h.seen.total.Load(), h.seen.ok.Load()
		rates = append(rates, rate{h, total - e.total, ok - e.ok})
		e.total, e.ok = total, ok
		if o.c.SplitLocal {
			total, ok = h.seen.totalLocal.Load(), h.seen.okLocal.Load()
			local = append(local, rate{h, total - e.totalLocal, ok - e.okLocal})
			e.totalLocal, e.okLocal = total, ok
		}
	}
	for _, f := range o.outliers(rates, SuccessRate, FailurePercentage) {
		s.convictLocked(f.h, f.why, now)
	}
	for _, f := range o.outliers(local, SuccessRateLocal, FailurePercentageLocal) {
		s.convictLocked(f.h, f.why, now)
	}
}

func (s *Set) convictLocked(h *Host, why Cause, now int64) {
	if h.state.Load()&(ejected|removed) != 0 {
		return
	}
	enforced := s.eject(h, why)
	if enforced {
		s.bookLocked(h, now)
	}
	s.shared.say(func(e Events) { e.Ejected(h, why, enforced) })
}

// rate is what a host did in one interval.
type rate struct {
	h         *Host
	total, ok uint64
}

func (r rate) success() float64 { return 100 * float64(r.ok) / float64(r.total) }

// outliers finds hosts whose success rate is below the mean by some standard
// deviations, and those that fail more than a fixed share.
func (o *outlier) outliers(rates []rate, bySuccess, byFailure Cause) (out []finding) {
	var n, sum, squares float64
	busy := 0
	for _, r := range rates {
		if r.total >= uint64(o.c.SuccessVolume) && r.total > 0 {
			n++
			sum += r.success()
		}
		if r.total >= uint64(o.c.FailureVolume) && r.total > 0 {
			busy++
		}
	}
	if n > 0 && n >= float64(o.c.SuccessMinHosts) {
		mean := sum / n
		for _, r := range rates {
			if r.total >= uint64(o.c.SuccessVolume) && r.total > 0 {
				squares += (r.success() - mean) * (r.success() - mean)
			}
		}
		least := mean - math.Sqrt(squares/n)*float64(o.c.SuccessStdevFactor)/1000
		for _, r := range rates {
			if r.total >= uint64(o.c.SuccessVolume) && r.total > 0 && r.success() < least {
				out = append(out, finding{h: r.h, why: bySuccess})
			}
		}
	}
	if busy > 0 && busy >= o.c.FailureMinHosts {
		for _, r := range rates {
			if r.total >= uint64(o.c.FailureVolume) && r.total > 0 && 100-r.success() >= float64(o.c.FailureThreshold) {
				out = append(out, finding{h: r.h, why: byFailure})
			}
		}
	}
	return out
}
