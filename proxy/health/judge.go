// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"redoubt.dev/proxy/config"
)

// verdict is what one check found.
type verdict uint8

const (
	good verdict = iota
	lost         // no answer, a broken one, or a status that may be tried again
	bad          // the host itself says that it is not well
)

// judge weighs the answers of one host to one check. It does no I/O and reads
// no clock. The zero judge has seen nothing.
type judge struct {
	healthy bool
	seen    bool   // a first answer has come
	row     uint32 // answers in a row that speak against healthy
}

// trusting is the judge of a host of which something is known from before: it
// takes the usual number of answers to change that.
func trusting(known, healthy bool) judge { return judge{seen: known, healthy: known && healthy} }

// weigh takes an answer in, and tells whether the host's state is another now.
func (j *judge) weigh(v verdict, c *config.HealthCheck) (changed bool) {
	first := !j.seen
	j.seen = true
	if first {
		// One answer decides at first: a start would be slow otherwise.
		j.healthy = v == good
		return true
	}
	if (v == good) == j.healthy {
		j.row = 0
		return false
	}
	j.row++
	after := c.HealthyAfter
	if j.healthy {
		after = c.UnhealthyAfter
	}
	// A host that says it is unwell is believed at once.
	if j.row < max(1, after) && v != bad {
		return false
	}
	j.healthy, j.row = !j.healthy, 0
	return true
}

// Defaults where the configuration is silent.
const (
	stdInterval  = 10 * time.Second
	stdTimeout   = 5 * time.Second
	stdNoTraffic = 60 * time.Second
	leastWait    = time.Millisecond
)

func or(v, std time.Duration) time.Duration {
	if v <= 0 {
		return std
	}
	return v
}

// wait is the time to the next check, after one that changed the state or not.
// traffic tells that the cluster has had requests; random is any number.
func (j *judge) wait(c *config.HealthCheck, changed, traffic bool, random uint64) time.Duration {
	usual := or(c.Interval, stdInterval)
	d := usual
	switch {
	case !traffic:
		d = or(c.NoTraffic, stdNoTraffic)
	case j.healthy && changed:
		d = or(c.HealthyEdge, usual)
	case !j.healthy && changed:
		d = or(c.UnhealthyEdge, or(c.UnhealthyInterval, usual))
	case !j.healthy:
		d = or(c.UnhealthyInterval, usual)
	}
	return max(leastWait, d+upTo(c.Jitter, random)+upTo(d/100*time.Duration(c.JitterPerCent), random>>32))
}

// upTo is between 0 and d, by a random number.
func upTo(d time.Duration, random uint64) time.Duration {
	if d <= 0 {
		return 0
	}
	return time.Duration(random % uint64(d+1))
}
