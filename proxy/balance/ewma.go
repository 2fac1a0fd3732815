// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"sync/atomic"
	"time"
)

// decay is the time after which a latency counts e times less, as Finagle has
// it.
const decay = 10 * time.Second

// ewma is a moving average of latency that follows rises at once and falls
// slowly (Finagle's peak EWMA). It is one word, so that loops exchange it whole:
// nanoseconds as a float32, and the time in units of 65,536 ns, which wraps
// after 78 hours; what is older than half of that looks new, and harmless.
type ewma struct{ word atomic.Uint64 }

const stampShift = 16

func packEWMA(ns float64, now int64) uint64 {
	return uint64(math.Float32bits(float32(ns)))<<32 | uint64(uint32(now>>stampShift))
}

// at gives the average, decayed to now.
func (e *ewma) at(now int64) float64 {
	w := e.word.Load()
	ns := float64(math.Float32frombits(uint32(w >> 32)))
	if ns == 0 || now == 0 {
		return ns
	}
	return ns * keep(uint32(w), now)
}

// keep is the share of an old value that counts still.
func keep(stamp uint32, now int64) float64 {
	age := int32(uint32(now>>stampShift) - stamp)
	if age <= 0 {
		return 1 // another loop's clock is ahead
	}
	return math.Exp(-float64(int64(age)<<stampShift) / float64(decay))
}

// observe takes a latency in. One of a failure may only raise the average: a
// host that fails fast would else draw all traffic.
func (e *ewma) observe(d time.Duration, now int64, failed bool) {
	for {
		w := e.word.Load()
		old, v := float64(math.Float32frombits(uint32(w>>32))), float64(d)
		switch {
		case v >= old:
		case failed:
			return
		default:
			k := keep(uint32(w), now)
			v = old*k + v*(1-k)
		}
		if e.word.CompareAndSwap(w, packEWMA(v, now)) {
			return
		}
	}
}

// cost is what choosing h costs by peak EWMA: the latency times the requests
// that would be under way. A host that is busy but has answered nothing yet
// costs as if it took a second, else a burst would bury it.
func (h *Host) cost(now int64) float64 {
	ns, active := h.ewma.at(now), float64(max(0, h.Active.Load()))
	if ns == 0 && active > 0 {
		ns = float64(time.Second)
	}
	return ns * (active + 1)
}
