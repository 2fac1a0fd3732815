// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"math"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// bucket is a token bucket that all loops share: one word holds the number of
// the interval that was filled last and the tokens that are left.
type bucket struct {
	max, fill uint32
	every     time.Duration
	state     atomic.Uint64 // interval<<32 | tokens
	shadow    bool
}

// minInterval is Envoy's.
const minInterval = 50 * time.Millisecond

func newBucket(r config.RateLimit) (*bucket, error) {
	b := &bucket{max: r.Max, fill: max(r.PerFill, 1), every: r.Interval}
	switch {
	case r.Max == 0:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "token_bucket.max_tokens", Expected: "at least 1"}
	case r.Interval < minInterval:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "token_bucket.fill_interval", Expected: "at least 50 ms", Seen: r.Interval.String()}
	}
	b.state.Store(uint64(r.Max))
	return b, nil
}

// take takes a token at now, a monotonic time in nanoseconds since the process
// began. left is what remains.
func (b *bucket) take(now int64) (left uint32, ok bool) {
	interval := uint32(min(uint64(now)/uint64(b.every), math.MaxUint32))
	for {
		old := b.state.Load()
		last, tokens := uint32(old>>32), uint32(old)
		if interval > last {
			tokens = uint32(min(uint64(tokens)+uint64(interval-last)*uint64(b.fill), uint64(b.max)))
			last = interval
		}
		ok = tokens > 0
		if ok {
			tokens--
		}
		if b.state.CompareAndSwap(old, uint64(last)<<32|uint64(tokens)) {
			return tokens, ok
		}
	}
}

// rate is tokens per second.
func (b *bucket) rate() float64 { return float64(b.fill) / b.every.Seconds() }

// reset gives whole seconds until the next fill.
func (b *bucket) reset(now int64) int64 {
	wait := int64(b.every) - now%int64(b.every)
	return (wait + int64(time.Second) - 1) / int64(time.Second)
}

// Bucket limits connections, as the HTTP filter limits requests. All loops
// share it.
type Bucket struct{ b *bucket }

// NewBucket makes a full bucket.
func NewBucket(r config.RateLimit) (*Bucket, error) {
	b, err := newBucket(r)
	if err != nil {
		return nil, err
	}
	return &Bucket{b}, nil
}

// Take takes a token at now, monotonic nanoseconds.
func (b *Bucket) Take(now int64) bool {
	_, ok := b.b.take(now)
	return ok
}
