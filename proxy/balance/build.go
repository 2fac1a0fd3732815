// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"slices"
	"sort"

	"redoubt.dev/proxy/config"
)

// snapshot is all that picks look at. It is immutable; what did not change is
// shared with the one before.
type snapshot struct {
	hosts    []*Host
	whole    *view
	subsets  map[uint64]*subsetView // nil: the cluster has none
	fallback *view                  // nil: none
	anyPanic bool                   // the whole cluster stands in for a subset without healthy hosts
	drop     uint64                 // share of 2^64 that is dropped
	dest     bool                   // hosts are made on demand
	places   []placeCount           // of priority 0
	tables   []*table
}

// placeCount is how many healthy hosts a locality has.
type placeCount struct {
	at Place
	n  int
}

// view is a set of hosts that are balanced over: all, or a subset.
type view struct {
	parts  [][]*Host // by place
	counts []level   // of parts
	built  uint64    // snapshot in which it was made
	none   Reason    // Found, or why there is never a host
	groups []*group
	choose [100]uint16 // group, by a hundredth of the hash
}

// class says which hosts of a priority a group has.
type class uint8

const (
	healthyOnly class = iota
	degradedOnly
	everyone // in a panic
)

func (c class) takes(state uint32) bool {
	switch c {
	case healthyOnly:
		return state&(unfit|worn) == 0
	case degradedOnly:
		return state&unfit == 0 && state&worn != 0
	}
	return state&removed == 0
}

// group is the hosts of one priority and class.
type group struct {
	prio   uint32
	class  class
	strict bool     // hosts must be fit when picked
	tables []*table // one, or one per locality
	upTo   []uint64 // cumulative shares of tables; nil for one
}

// table is hosts with what the policy needs to choose among them.
type table struct {
	id      int // dense among a snapshot's tables: where pickers keep what is their own
	policy  config.LBPolicy
	hosts   []*Host
	weights []float64 // nil: equal
	sums    []float64 // cumulative weights, for draws
	ring    *ring
	maglev  []uint32 // indices of order
	order   []*Host  // hosts by key
	at      Place
}

// rebuildLocked makes the next snapshot.
func (s *Set) rebuildLocked(now int64) {
	sh, old := s.shared, s.snap.Load()
	sh.built++
	sh.dirty = false
	sn := &snapshot{hosts: sh.hosts, drop: sh.drop, dest: s.c.Discovery == config.OrigDst}
	if old == nil {
		old = &snapshot{}
	}
	if s.o.Local != nil {
		s.localSeen = s.o.Local.snap.Load()
	}
	parts := make([][]*Host, len(sh.places))
	for i, p := range sh.places {
		parts[i] = p.hosts
	}
	b := &builder{s: s, sn: sn, now: now}
	sn.whole = b.view(parts, old.whole)
	for i, p := range sh.places {
		if p.prio == 0 {
			sn.places = append(sn.places, placeCount{p.at, sn.whole.counts[i].healthy})
		}
	}
	if s.c.Subsets != nil {
		b.subsets(old)
	}
	b.number()
	s.snap.Store(sn)
	sh.builtAt = s.o.Now()
	sh.pause = min(maxPause, pauseShare*(sh.builtAt-now))
}

// builder makes one snapshot.
type builder struct {
	s   *Set
	sn  *snapshot
	now int64
}

// view makes the view of parts, which are hosts by place, or gives old when it
// is still right.
func (b *builder) view(parts [][]*Host, old *view) *view {
	sh := b.s.shared
	if old != nil && b.same(parts, old) {
		b.keep(old)
		return old
	}
	v := &view{parts: parts, counts: make([]level, len(parts)), built: sh.built}
	levels := b.count(v)
	total := 0
	for _, l := range levels {
		total += l.total
	}
	if total == 0 {
		v.none = NoHost
		return v
	}
	threshold := b.s.c.PanicThreshold
	switch {
	case threshold == 0:
		threshold = 50
	case threshold < 0:
		threshold = 0
	}
	over := b.s.c.Overprovision
	if over == 0 {
		over = 140
	}
	at := 0
	out := shares(levels, over, min(100, threshold))
	for i, sh := range out {
		c := healthyOnly
		if sh.panic {
			c = everyone
		}
		at = b.fill(v, old, at, sh.healthy, uint32(i), c, over)
	}
	for i, sh := range out {
		c := degradedOnly
		if sh.panic {
			c = everyone
		}
		at = b.fill(v, old, at, sh.degraded, uint32(i), c, over)
	}
	if at == 0 {
		v.none = NoHealthy
		return v
	}
	for ; at < 100; at++ {
		v.choose[at] = v.choose[at-1] // a host failed between two looks at it
	}
	return v
}

// same tells that old was made of the same hosts in the same state.
func (b *builder) same(parts [][]*Host, old *view) bool {
	if len(parts) != len(old.parts) || b.s.c.ZoneAware {
		return false
	}
	for i, p := range parts {
		if !equalHosts(p, old.parts[i]) {
			return false
		}
		for _, h := range p {
			if h.cut.changed > old.built {
				return false
			}
		}
	}
	return b.s.shared.placesAt <= old.built
}

// equalHosts compares, and first whether there is anything to compare.
func equalHosts(a, b []*Host) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || slices.Equal(a, b))
}

// keep takes v over into the snapshot.
func (b *builder) keep(v *view) {
	for _, g := range v.groups {
		b.sn.tables = append(b.sn.tables, g.tables...)
	}
}

// count counts v's hosts by place, and gives the sums by priority.
func (b *builder) count(v *view) []level {
	var out []level
	for i, hosts := range v.parts {
		n := &v.counts[i]
		n.total = len(hosts)
		for _, h := range hosts {
			switch state := h.state.Load(); {
			case healthyOnly.takes(state):
				n.healthy++
			case degradedOnly.takes(state):
				n.degraded++
			case state&pending != 0:
				n.excluded++
			}
		}
		prio := int(b.s.shared.places[i].prio)
		for len(out) <= prio {
			out = append(out, level{})
		}
		l := &out[prio]
		*l = level{l.total + n.total, l.healthy + n.healthy, l.degraded + n.degraded, l.excluded + n.excluded}
	}
	return out
}

// fill gives n hundredths to a group, which is made or found, and gives where
// the next begin.
func (b *builder) fill(v, old *view, at, n int, prio uint32, c class, over uint32) int {
	if n == 0 {
		return at
	}
	i := slices.IndexFunc(v.groups, func(g *group) bool { return g.prio == prio && g.class == c })
	if i < 0 {
		var was *group
		if old != nil {
			if j := slices.IndexFunc(old.groups, func(g *group) bool { return g.prio == prio && g.class == c }); j >= 0 {
				was = old.groups[j]
			}
		}
		g := b.group(v, was, prio, c, over)
		if g == nil {
			return at
		}
		i = len(v.groups)
		v.groups = append(v.groups, g)
	}
	for end := min(100, at+n); at < end; at++ {
		v.choose[at] = uint16(i)
	}
	return at
}

// part is one locality's hosts of a group.
type part struct {
	at     Place
	weight uint32
	hosts  []*Host
	total  int // hosts that count, whatever their health
}

// group makes the group of a priority and class; nil when it has no hosts.
func (b *builder) group(v *view, old *group, prio uint32, c class, over uint32) *group {
	g := &group{prio: prio, class: c, strict: c != everyone}
	var ps []part
	n := 0
	for i, hosts := range v.parts {
		pl, count := b.s.shared.places[i], v.counts[i]
		if pl.prio != prio || len(hosts) == 0 {
			continue
		}
		p := part{at: pl.at, weight: pl.weight, hosts: hosts, total: count.total - count.excluded}
		if c != healthyOnly || count.healthy < count.total {
			p.hosts = taken(hosts, c)
		}
		if len(p.hosts) == 0 && !b.s.c.ZoneAware {
			continue
		}
		n += len(p.hosts)
		ps = append(ps, p)
	}
	if n == 0 {
		return nil
	}
	weighted := b.s.c.LocalityWeighted && c != everyone && len(ps) > 0
	var split []uint64
	switch {
	case weighted:
		split = b.byWeight(ps, over)
	case b.s.c.ZoneAware && prio == 0 && c == healthyOnly && !hashes(b.s.c.LB):
		split = b.byZone(ps, n)
	}
	if split == nil || hashes(b.s.c.LB) {
		g.tables = []*table{b.table(ps, split, old)}
		return g
	}
	var sum uint64
	for i, w := range split {
		if w == 0 || len(ps[i].hosts) == 0 {
			continue
		}
		sum += w
		g.tables = append(g.tables, b.table(ps[i:i+1], nil, old))
		g.upTo = append(g.upTo, sum)
	}
	return g
}

// taken gives the hosts that a class takes; the same slice when it takes all.
func taken(hosts []*Host, c class) []*Host {
	for i, h := range hosts {
		if c.takes(h.state.Load()) {
			continue
		}
		out := append(make([]*Host, 0, len(hosts)-1), hosts[:i]...)
		for _, h := range hosts[i+1:] {
			if c.takes(h.state.Load()) {
				out = append(out, h)
			}
		}
		return out
	}
	return hosts
}

func hashes(p config.LBPolicy) bool { return p == config.RingHash || p == config.Maglev }

// byWeight gives the shares of localities by weight; nil when none has one.
func (b *builder) byWeight(ps []part, over uint32) []uint64 {
	weights, fit, total := make([]uint32, len(ps)), make([]int, len(ps)), make([]int, len(ps))
	some := false
	for i, p := range ps {
		weights[i], fit[i], total[i] = p.weight, len(p.hosts), p.total
		some = some || p.weight > 0
	}
	if !some {
		return nil
	}
	out := localityShares(weights, fit, total, over)
	if s := b.s.c.Subsets; s != nil && s.ScaleLocality {
		// Of a subset, a locality counts by the part of its hosts that is in it.
		for i, p := range ps {
			whole := 0
			for _, pl := range b.s.shared.places {
				if pl.at == p.at && len(pl.hosts) > 0 {
					whole = max(whole, len(pl.hosts))
				}
			}
			if whole > 0 {
				out[i] = out[i] * uint64(p.total) / uint64(whole)
			}
		}
	}
	for _, w := range out {
		if w > 0 {
			return out
		}
	}
	return nil
}

// byZone gives the shares of localities when requests should stay in the
// proxy's own; nil when a condition of zone aware routing is not met. The proxy's
// own locality is moved to the front of ps.
func (b *builder) byZone(ps []part, n int) []uint64 {
	least := b.s.c.MinZoneAware
	if least == 0 {
		least = 6
	}
	if b.s.localSeen == nil || len(ps) < 2 || uint64(n) < least {
		return nil
	}
	own := slices.IndexFunc(ps, func(p part) bool { return p.at == b.s.o.Here })
	if own < 0 || len(ps[own].hosts) == 0 {
		return nil
	}
	ps[0], ps[own] = ps[own], ps[0]
	local, upstream := make([]int, len(ps)), make([]int, len(ps))
	for _, c := range b.s.localSeen.places {
		i := slices.IndexFunc(ps, func(p part) bool { return p.at == c.at })
		if i < 0 {
			if c.n > 0 {
				return nil // the clusters are not in the same localities
			}
			continue
		}
		local[i] += c.n
	}
	if local[0] == 0 {
		return nil
	}
	for i, p := range ps {
		upstream[i] = len(p.hosts)
	}
	return zoneShares(local, upstream)
}

// table makes the table of ps, weighed among each other by split if there is
// one.
func (b *builder) table(ps []part, split []uint64, old *group) *table {
	t := &table{id: -1, policy: b.s.c.LB, at: ps[0].at}
	if len(ps) == 1 {
		t.hosts = ps[0].hosts
	} else {
		for i, p := range ps {
			if split == nil || split[i] > 0 {
				t.hosts = append(t.hosts, p.hosts...)
			}
		}
	}
	b.weigh(t, ps, split)
	was := twin(t, old)
	if was != nil && was.policy == t.policy && equalHosts(was.hosts, t.hosts) && slices.Equal(was.weights, t.weights) {
		b.sn.tables = append(b.sn.tables, was)
		return was
	}
	switch t.policy {
	case config.RingHash:
		least, most := ringBounds(b.s.c)
		var r *ring
		if was != nil {
			r = was.ring
		}
		t.ring = makeRing(ringMembers(t.hosts, t.weights, least, most), r, b.s.c.Ring.Murmur)
	case config.Maglev:
		t.maglev = b.maglev(t)
	case config.Random, config.PeakEWMA:
		sum := 0.0
		for _, w := range t.weights {
			sum += w
			t.sums = append(t.sums, sum)
		}
	}
	b.sn.tables = append(b.sn.tables, t)
	return t
}

// twin finds what t was in the group before.
func twin(t *table, old *group) *table {
	if old == nil {
		return nil
	}
	for _, o := range old.tables {
		if len(old.tables) == 1 || o.at == t.at {
			return o
		}
	}
	return nil
}

// weigh sets t's weights; nil when they are equal.
func (b *builder) weigh(t *table, ps []part, split []uint64) {
	slow := b.s.shared.slowEnd != 0 && !hashes(t.policy)
	if split == nil && !slow {
		equal := true
		for _, h := range t.hosts {
			if equal = h.cut.weight == t.hosts[0].cut.weight; !equal {
				break
			}
		}
		if equal {
			return
		}
	}
	weights := make([]float64, 0, len(t.hosts))
	for i, p := range ps {
		if split != nil && split[i] == 0 {
			continue
		}
		from, sum := len(weights), 0.0
		for _, h := range p.hosts {
			w := float64(h.cut.weight)
			if slow {
				w = b.s.weight(h, b.now)
			}
			weights = append(weights, w)
			sum += w
		}
		if split != nil {
			for j := from; j < len(weights); j++ {
				weights[j] *= float64(split[i]) / sum
			}
		}
	}
	for _, w := range weights {
		if w != weights[0] {
			t.weights = weights
			return
		}
	}
}

func (b *builder) maglev(t *table) []uint32 {
	size := b.s.c.Maglev
	if size == 0 {
		size = maglevSize
	}
	seeds := make([]maglevSeed, len(t.hosts))
	// By key, so that all proxies make the same table whatever order discovery
	// tells them.
	order := make([]int, len(t.hosts))
	for i := range order {
		order[i] = i
	}
	sort.Slice(order, func(i, j int) bool { return t.hosts[order[i]].cut.hashKey < t.hosts[order[j]].cut.hashKey })
	hosts := make([]*Host, len(t.hosts))
	var weights []float64
	if t.weights != nil {
		weights = make([]float64, len(t.hosts))
	}
	heaviest := 0.0
	for _, w := range t.weights {
		heaviest = max(heaviest, w)
	}
	for i, j := range order {
		hosts[i] = t.hosts[j]
		seeds[i] = hosts[i].cut.maglev
		if weights != nil {
			weights[i] = t.weights[j] / heaviest
		}
	}
	t.order = hosts
	return maglevTable(seeds, weights, size)
}

// number gives each table that has none an id that no other has.
func (b *builder) number() {
	used := make([]bool, len(b.sn.tables))
	for _, t := range b.sn.tables {
		if t.id >= 0 {
			for t.id >= len(used) {
				used = append(used, false)
			}
			used[t.id] = true
		}
	}
	next := 0
	for _, t := range b.sn.tables {
		if t.id < 0 {
			for next < len(used) && used[next] {
				next++
			}
			t.id = next
			next++
		}
	}
}
