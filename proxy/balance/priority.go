// SPDX-License-Identifier: Apache-2.0

package balance

// level counts the hosts of one priority. Excluded hosts, which await their
// first check, are in total only and count for nothing in shares.
type level struct{ total, healthy, degraded, excluded int }

// share is what a priority gets of the traffic, in per cent, and whether it is
// in a panic, where health is disregarded.
type share struct {
	healthy, degraded int
	panic             bool
}

// shares spreads the traffic over priorities. over is the overprovisioning
// factor and threshold the panic threshold, both in per cent; a threshold of
// 0 means never.
//
// health(P) = min(100, over × healthy(P) / eligible(P)); a priority takes its
// health's share of what is left by those before it, and degraded hosts take
// what all healthy ones leave. When all health together is below 100 it is
// stretched to 100, with rounding by largest remainder, which gives the tables
// in Envoy's documentation.
func shares(levels []level, over uint32, threshold float64) []share {
	out := make([]share, len(levels))
	health := make([]int, 2*len(levels)) // healthy of all priorities, then degraded of all
	sum := 0
	for i, l := range levels {
		if n := l.total - l.excluded; n > 0 {
			health[i] = min(100, int(over)*l.healthy/n)
			health[len(levels)+i] = min(100, int(over)*l.degraded/n)
			sum += health[i] + health[len(levels)+i]
		}
	}
	for i, v := range spill(health, sum) {
		if i < len(levels) {
			out[i].healthy = v
		} else {
			out[i-len(levels)].degraded = v
		}
	}
	if sum >= 100 {
		return out
	}
	all := true
	for i, l := range levels {
		fit := 0.0
		if n := l.total - l.excluded; n > 0 {
			fit = 100 * float64(l.healthy+l.degraded) / float64(n)
		}
		out[i].panic = fit < threshold
		all = all && out[i].panic
	}
	if all {
		spreadPanic(levels, out)
	}
	return out
}

// spill hands out 100 in order, each taking its health, stretched when all of
// it is less than 100.
func spill(health []int, sum int) []int {
	out := make([]int, len(health))
	if sum == 0 {
		return out
	}
	left := 100
	if sum >= 100 {
		for i, h := range health {
			out[i] = min(left, h)
			left -= out[i]
		}
		return out
	}
	rest := make([]int, len(health))
	for i, h := range health {
		out[i], rest[i] = h*100/sum, h*100%sum
		left -= out[i]
	}
	for ; left > 0; left-- {
		best := 0
		for i := range rest {
			if rest[i] > rest[best] {
				best = i
			}
		}
		out[best]++
		rest[best] = -1
	}
	return out
}

// spreadPanic spreads by the number of hosts, when no priority has enough that
// work.
func spreadPanic(levels []level, out []share) {
	total, first := 0, -1
	for i, l := range levels {
		total += l.total
		if l.total > 0 && first < 0 {
			first = i
		}
	}
	if total == 0 {
		return
	}
	left := 100
	for i, l := range levels {
		out[i].healthy, out[i].degraded = 100*l.total/total, 0
		left -= out[i].healthy
	}
	out[first].healthy += left
}
