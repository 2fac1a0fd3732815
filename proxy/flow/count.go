// SPDX-License-Identifier: Apache-2.0

package flow

// Counters are one worker's, plain numbers: only its loop touches them, and
// who wants them asks the loop for a copy.
type Counters struct {
	Conns           [4]uint64 // accepted, by Kind
	Shed            uint64    // refused for want of room
	Requests        [6]uint64 // by hundreds of the status; 0 for none
	Latency         [len(Buckets) + 1]uint64
	LatencySum      uint64 // ns
	Streams         uint64
	Denied          uint64
	Cut             uint64
	Malformed       uint64
	Handshakes      uint64
	HandshakeFailed uint64
	Dials           uint64
	DialFailed      uint64
	Unreachable     uint64
	Retries         uint64
	Queries         uint64
	QueriesRefused  uint64
}

// Buckets are the upper bounds of the request duration histogram, in
// nanoseconds: 100 µs to about 26 s in steps of 4, finer below 10 ms.
var Buckets = [...]int64{100e3, 200e3, 400e3, 800e3, 1600e3, 3200e3, 6400e3, 12800e3, 51200e3, 204800e3, 819200e3, 3276800e3, 13107200e3}

func (c *Counters) request(status int, ns int64) {
	c.Requests[min(max(status/100, 0), 5)]++
	i := 0
	for i < len(Buckets) && ns > Buckets[i] {
		i++
	}
	c.Latency[i]++
	c.LatencySum += uint64(ns)
}

// Counters copies the worker's counters, with what its exchanges have counted.
func (w *Worker) Counters() Counters {
	c := w.Count
	c.Malformed += w.m.Counts(w.x).Malformed
	if w.total != nil {
		x := w.total.Counts(w.x)
		c.Dials += x.Dials
		c.DialFailed += x.DialFailed
		c.Retries += x.Retries + x.Replays
	}
	return c
}

// Add adds o to c.
func (c *Counters) Add(o *Counters) {
	for i := range o.Conns {
		c.Conns[i] += o.Conns[i]
	}
	for i := range o.Requests {
		c.Requests[i] += o.Requests[i]
	}
	for i := range o.Latency {
		c.Latency[i] += o.Latency[i]
	}
	for _, p := range [...][2]*uint64{
		{&c.Shed, &o.Shed}, {&c.LatencySum, &o.LatencySum}, {&c.Streams, &o.Streams}, {&c.Denied, &o.Denied}, {&c.Cut, &o.Cut},
		{&c.Malformed, &o.Malformed}, {&c.Handshakes, &o.Handshakes}, {&c.HandshakeFailed, &o.HandshakeFailed},
		{&c.Dials, &o.Dials}, {&c.DialFailed, &o.DialFailed}, {&c.Unreachable, &o.Unreachable}, {&c.Retries, &o.Retries},
		{&c.Queries, &o.Queries}, {&c.QueriesRefused, &o.QueriesRefused},
	} {
		*p[0] += *p[1]
	}
}
