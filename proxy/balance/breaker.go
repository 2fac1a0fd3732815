// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"sync/atomic"

	"redoubt.dev/proxy/config"
)

// Resource is what a circuit breaker counts.
type Resource uint8

// The resources.
const (
	Connections Resource = iota
	Pending              // requests that wait for a connection
	Requests
	Retries
	resources
)

// counters are what is in use of one priority's resources. Each stands on a
// cache line of its own: every loop writes them.
type counters [resources]struct {
	n       atomic.Int64
	refused atomic.Uint64
	_       [48]byte
}

// limits bound one priority's resources.
type limits struct {
	max    [resources]int64
	budget float64 // share of requests that may be retries; 0: max counts
	min    int64   // retries that a budget always allows
}

func limitsOf(c *config.Breakers) (l limits) {
	for i, v := range [...]struct{ set, std uint32 }{{c.MaxConns, 1024}, {c.MaxPending, 1024}, {c.MaxRequests, 1024}, {c.MaxRetries, 3}} {
		switch v.set {
		case 0:
			l.max[i] = int64(v.std)
		case math.MaxUint32:
			l.max[i] = math.MaxInt64
		default:
			l.max[i] = int64(v.set)
		}
	}
	if c.Budget != nil {
		l.budget, l.min = c.Budget.PerCent/100, int64(c.Budget.Min)
		if l.budget == 0 {
			l.budget = 0.2
		}
		if l.min == 0 {
			l.min = 3
		}
	}
	return l
}

// of is how many of r may be in use now.
func (l *limits) of(r Resource, in *counters) int64 {
	if r == Retries && l.budget > 0 {
		return max(l.min, int64(l.budget*float64(in[Requests].n.Load()+in[Pending].n.Load())))
	}
	return l.max[r]
}

// Admit takes one of r, or refuses when the circuit breaker of the priority
// is open. What was admitted is released once; a Set that followed this one
// counts it too.
func (s *Set) Admit(r Resource, high bool) bool {
	i := index(high)
	in := &s.shared.inUse[i]
	if in[r].n.Add(1) > s.limits[i].of(r, in) {
		in[r].n.Add(-1)
		in[r].refused.Add(1)
		return false
	}
	return true
}

// Exceed takes one of r whatever the limit says; it is released like others.
func (s *Set) Exceed(r Resource, high bool) { s.shared.inUse[index(high)][r].n.Add(1) }

// Release gives one of r back.
func (s *Set) Release(r Resource, high bool) { s.shared.inUse[index(high)][r].n.Add(-1) }

// Used tells how many of r are in use, how many may be, and how often one was
// refused.
func (s *Set) Used(r Resource, high bool) (n, limit int64, refused uint64) {
	i := index(high)
	in := &s.shared.inUse[i]
	return in[r].n.Load(), s.limits[i].of(r, in), in[r].refused.Load()
}

func index(high bool) int {
	if high {
		return 1
	}
	return 0
}
