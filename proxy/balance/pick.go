// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"math"
	"math/bits"
	"net/netip"
	"slices"

	"redoubt.dev/proxy/config"
)

// Ask is what a request wants of its host. It is not kept.
type Ask struct {
	Hash    uint64
	HasHash bool           // else hash policies choose at random
	Subset  *Subset        // nil: none asked for, so the cluster's fallback counts
	Avoid   []*Host        // tried before (previous_hosts); avoided while another can be found
	Tries   int            // how often to look for one that is not avoided (host_selection_retry_max_attempts); 0: 3
	Dest    netip.AddrPort // original destination clusters
	Now     int64          // monotonic nanoseconds; 0: latencies are taken undecayed
}

// Reason is why a pick gave no host. It is an error that costs no allocation.
type Reason uint8

// The reasons.
const (
	Found     Reason = iota // there is a host
	NoHost                  // the cluster has no endpoints
	NoHealthy               // it has, but none may be used
	NoSubset                // no host matches, and there is no fallback
	DropLoad                // the control plane wants a share dropped (drop_overload)
	NoDest                  // an original destination cluster without a destination
	TooMany                 // the bound on on-demand hosts is met
)

var reasons = [...]string{"found", "no endpoints", "no healthy upstream", "no host in the subset", "drop overload",
	"no original destination", "too many original destinations"}

func (r Reason) String() string { return reasons[r] }

// Error makes a Reason other than Found an error.
func (r Reason) Error() string { return reasons[r] }

// probes bounds how many hosts that have just become unfit a pick passes over
// before the next snapshot leaves them out.
const probes = 16

// Picker picks hosts on one loop. It is not safe for concurrent use.
type Picker struct {
	s     *Set
	rng   uint64
	turn  uint64 // of spreads
	own   []*edf // by table id
	cache []*Host
}

// Picker makes a picker for one loop. Pickers with different seeds begin at
// different hosts.
func (s *Set) Picker(seed uint64) *Picker {
	p := &Picker{s: s, rng: seed}
	p.turn = p.rand()
	return p
}

// rand is wyrand: fast, and good enough for choosing; no secret rests on it.
func (p *Picker) rand() uint64 {
	p.rng += 0xa0761d6478bd642f
	hi, lo := bits.Mul64(p.rng, p.rng^0xe7037ed1a0b428db)
	return hi ^ lo
}

// below gives a number in [0, n).
func (p *Picker) below(n int) int {
	hi, _ := bits.Mul64(p.rand(), uint64(n))
	return int(hi)
}

// float gives a number in [0, 1).
func (p *Picker) float() float64 { return float64(p.rand()>>11) / (1 << 53) }

// Pick chooses the host for a request. The host is nil unless the reason is
// Found.
func (p *Picker) Pick(a *Ask) (*Host, Reason) {
	sn := p.s.snap.Load()
	if sn.drop != 0 && p.rand() < sn.drop {
		return nil, DropLoad
	}
	if sn.dest {
		return p.dest(a)
	}
	v := sn.whole
	if sn.subsets != nil {
		if v = sn.subset(a.Subset); v == nil {
			return nil, NoSubset
		}
	}
	if v.none != Found {
		return nil, v.none
	}
	hash := a.Hash
	if !a.HasHash {
		hash = p.rand()
	}
	g := v.groups[v.choose[priorityOf(hash)]]
	t := g.tables[0]
	if len(g.tables) > 1 {
		t = g.tables[p.spread(g)]
	}
	tries := a.Tries
	if len(a.Avoid) == 0 {
		tries = 0
	} else if tries <= 0 {
		tries = 3
	}
	var last *Host
	for i, unfits := 0, 0; ; i++ {
		h := p.from(t, hash, i, a.Now)
		if g.strict && h.state.Load()&unfit != 0 {
			// It failed since the snapshot was made.
			if unfits++; unfits < probes {
				continue
			}
			if last != nil {
				return last, Found
			}
			return p.anyFit(t)
		}
		if i-unfits >= tries || !slices.Contains(a.Avoid, h) {
			return h, Found
		}
		last = h
	}
}

// anyFit looks for a fit host at random, when the policy met only hosts that
// have failed since the snapshot: a rack's worth of neighbours, say. When there
// is hardly any left, it does what the next snapshot will: panic, or give up.
func (p *Picker) anyFit(t *table) (*Host, Reason) {
	h := t.hosts[p.below(len(t.hosts))]
	for range 4 * probes {
		if h.state.Load()&unfit == 0 {
			return h, Found
		}
		h = t.hosts[p.below(len(t.hosts))]
	}
	if p.s.c.PanicThreshold < 0 || h.state.Load()&removed != 0 {
		return nil, NoHealthy
	}
	return h, Found
}

// priorityOf gives the hundredth that a hash falls into. It is mixed first:
// tables use the hash's own top bits, and a priority must not get only one arc
// of the ring.
func priorityOf(hash uint64) int {
	hi, _ := bits.Mul64((hash^hash>>32)*0x9e3779b97f4a7c15, 100)
	return int(hi)
}

// spread chooses a locality by weight, in a sequence of low discrepancy
// (multiples of the golden ratio), so that shares hold over short runs too.
func (p *Picker) spread(g *group) int {
	p.turn += 0x9e3779b97f4a7c15
	x, _ := bits.Mul64(p.turn, g.upTo[len(g.upTo)-1])
	for i, top := range g.upTo {
		if x < top {
			return i
		}
	}
	return len(g.upTo) - 1
}

// from gives a host of t by the cluster's policy; try counts from 0, and a
// further one gives another host where the policy would repeat itself.
func (p *Picker) from(t *table, hash uint64, try int, now int64) *Host {
	switch t.policy {
	case config.RingHash:
		// Distinct points may be the same host's: step by as much as it takes.
		i := t.ring.find(hash)
		h := t.ring.who[i]
		for n := len(t.ring.who); try > 0; try-- {
			prev := h
			for k := 0; k < n && h == prev; k++ {
				if i++; i == n {
					i = 0
				}
				h = t.ring.who[i]
			}
		}
		return h
	case config.Maglev:
		if try > 0 {
			hash ^= ^uint64(0) - uint64(try) + 1
			hash *= 0x9e3779b97f4a7c15
		}
		return t.order[t.maglev[hash%uint64(len(t.maglev))]]
	case config.Random:
		return t.hosts[p.random(t)]
	case config.LeastRequest:
		return p.leastRequest(t)
	case config.PeakEWMA:
		return p.peakEWMA(t, now)
	}
	return p.roundRobin(t)
}

// schedule gives the picker's own state for t.
func (p *Picker) schedule(t *table) *edf {
	for t.id >= len(p.own) {
		p.own = append(p.own, nil)
	}
	e := p.own[t.id]
	if e == nil {
		e = &edf{turn: p.rand()}
		p.own[t.id] = e
	}
	if e.t != t {
		e.follow(t, p)
	}
	return e
}

func (p *Picker) roundRobin(t *table) *Host {
	e := p.schedule(t)
	if t.weights == nil {
		e.turn++
		return t.hosts[e.turn%uint64(len(t.hosts))]
	}
	i := e.first()
	e.move(t.weights[i])
	return t.hosts[i]
}

// leastRequest is the better of some choices when weights are equal, and a
// weighted round robin with the weights w ÷ (active+1)^bias otherwise.
func (p *Picker) leastRequest(t *table) *Host {
	if t.weights != nil {
		e := p.schedule(t)
		i := e.first()
		h := t.hosts[i]
		e.move(t.weights[i] / power(float64(max(0, h.Active.Load())+1), p.s.bias))
		return h
	}
	best := t.hosts[p.below(len(t.hosts))]
	if len(t.hosts) == 1 {
		return best
	}
	least := best.Active.Load()
	for range p.s.choices - 1 {
		h := t.hosts[p.below(len(t.hosts))]
		if n := h.Active.Load(); n < least {
			best, least = h, n
		}
	}
	return best
}

func power(x, y float64) float64 {
	if y == 1 {
		return x
	}
	return math.Pow(x, y)
}

// peakEWMA is the better of two different hosts.
func (p *Picker) peakEWMA(t *table, now int64) *Host {
	n := len(t.hosts)
	if n == 1 {
		return t.hosts[0]
	}
	i := p.random(t)
	j := i
	if t.weights != nil {
		for k := 0; i == j && k < 4; k++ {
			j = p.random(t)
		}
	}
	if i == j {
		if j = p.below(n - 1); j >= i {
			j++
		}
	}
	a, b := t.hosts[i], t.hosts[j]
	if b.cost(now) < a.cost(now) {
		return b
	}
	return a
}

// random draws an index, by weight.
func (p *Picker) random(t *table) int {
	if t.weights == nil {
		return p.below(len(t.hosts))
	}
	x := p.float() * t.sums[len(t.sums)-1]
	i, _ := slices.BinarySearch(t.sums, x)
	for i < len(t.sums)-1 && t.sums[i] <= x {
		i++
	}
	return min(i, len(t.sums)-1)
}
