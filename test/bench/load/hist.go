// SPDX-License-Identifier: Apache-2.0

package load

import (
	"math/bits"
	"time"
)

// Hist counts durations in buckets that are under 1 % wide. The zero value is
// empty. It is not for concurrent use.
type Hist struct {
	counts [58 * 128]uint32
	n      int64
}

// Add counts d; what is below 1 ns counts as that.
func (h *Hist) Add(d time.Duration) {
	h.counts[bucket(uint64(max(d, 1)))]++
	h.n++
}

// Merge adds what o counted.
func (h *Hist) Merge(o *Hist) {
	for i, c := range o.counts {
		h.counts[i] += c
	}
	h.n += o.n
}

// Quantile is the upper edge of the bucket that holds the q-th part, 0 when
// nothing was counted.
func (h *Hist) Quantile(q float64) time.Duration {
	want := int64(q*float64(h.n-1)) + 1
	for i, c := range h.counts {
		if want -= int64(c); want <= 0 && h.n > 0 {
			return time.Duration(edge(i))
		}
	}
	return 0
}

// bucket keeps the eight highest bits: values below 256 have their own, and
// each octave above has 128.
func bucket(v uint64) int {
	shift := bits.Len64(v) - 8
	if shift <= 0 {
		return int(v)
	}
	return shift*128 + int(v>>shift)
}

// edge is the largest value of a bucket.
func edge(i int) uint64 {
	if i < 256 {
		return uint64(i)
	}
	shift := i/128 - 1
	return (uint64(i-shift*128)+1)<<shift - 1
}
