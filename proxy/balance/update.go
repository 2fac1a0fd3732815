// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"maps"
	"net/netip"
	"slices"
	"sync/atomic"

	"github.com/cespare/xxhash/v2"

	"redoubt.dev/proxy/config"
)

// hostKey is what makes a host the same. The identity is part of it: a
// connection that was proven to one must not serve another.
type hostKey struct {
	addr                          netip.AddrPort
	pipe, host, identity, hashKey string
}

var lastID atomic.Uint64

// key gives an endpoint's key; ok is false while it has no address.
func key(ep *config.Endpoint) (k hostKey, ok bool) {
	k = hostKey{addr: ep.Addr, pipe: ep.Pipe, host: ep.Host, identity: ep.Identity, hashKey: ep.Metadata["hash_key"]}
	return k, ep.Addr.IsValid() || ep.Pipe != ""
}

// unresolved tells that an endpoint of e has no address yet.
func unresolved(e *config.Endpoints) bool {
	for _, l := range e.Localities {
		for _, ep := range l.Hosts {
			if _, ok := key(ep); !ok {
				return true
			}
		}
	}
	return false
}

func newHost(k hostKey, ep *config.Endpoint) *Host {
	h := &Host{ID: lastID.Add(1), Addr: k.addr, Name: k.pipe}
	if k.pipe == "" {
		h.Name = k.addr.String()
	}
	h.endpoint.Store(ep)
	h.cut.weight = max(1, ep.Weight)
	h.cut.key, h.cut.hashKey = k, k.hashKey
	if k.hashKey == "" {
		h.cut.hashKey = h.Name
	}
	d := xxhash.NewWithSeed(1)
	d.WriteString(h.cut.hashKey)
	h.cut.maglev = maglevSeed{xxhash.Sum64String(h.cut.hashKey), d.Sum64()}
	return h
}

// placeKey finds a place again.
type placeKey struct {
	Place
	prio uint32
}

// updateLocked makes the places of e.
func (s *Set) updateLocked(e *config.Endpoints, now int64) {
	sh := s.shared
	sh.gen += 2
	index := make(map[placeKey]int, len(e.Localities))
	prev := sh.places
	gone, quick := s.patchLocked(e, index, now)
	if !quick {
		clear(index)
		gone = sh.hosts
		s.replaceLocked(e, index, now)
	}
	s.removeLocked(gone, prev, index)
	if drop := share64(e.DropPerCent); drop != sh.drop {
		sh.drop, sh.dirty = drop, true
	}
}

// patchLocked makes the places of e when they are the ones that are, and only
// some endpoints are others: what is the same at both ends of a list is not even
// looked at, so that a change of one host among 10,000 costs the comparison of
// two arrays. It gives the hosts that may have gone; ok is false when the
// places differ.
func (s *Set) patchLocked(e *config.Endpoints, index map[placeKey]int, now int64) (gone []*Host, ok bool) {
	sh := s.shared
	if len(e.Localities) != len(sh.places) {
		return nil, false
	}
	for i, l := range e.Localities {
		p := sh.places[i]
		if !p.exact || p.weight != l.Weight || p.key() != keyOf(l) {
			return nil, false
		}
		index[p.key()] = i
	}
	type middle struct{ from, oldEnd, newEnd int }
	mids := make([]middle, len(sh.places))
	for i, l := range e.Localities {
		a, b := sh.places[i].eps, l.Hosts
		from := 0
		for from < len(a) && from < len(b) && a[from] == b[from] {
			from++
		}
		m := middle{from, len(a), len(b)}
		for m.oldEnd > from && m.newEnd > from && a[m.oldEnd-1] == b[m.newEnd-1] {
			m.oldEnd, m.newEnd = m.oldEnd-1, m.newEnd-1
		}
		mids[i] = m
		for _, h := range sh.places[i].hosts[from:m.oldEnd] {
			h.cut.seen = sh.gen - 1 // may be named again, here or at another place
			gone = append(gone, h)
		}
	}
	places := make([]*place, len(sh.places))
	for i, l := range e.Localities {
		p, m := *sh.places[i], mids[i]
		if m.from < m.oldEnd || m.from < m.newEnd {
			hosts := make([]*Host, m.from, len(l.Hosts))
			copy(hosts, p.hosts)
			for _, ep := range l.Hosts[m.from:m.newEnd] {
				if h := s.claimLocked(ep, now); h != nil {
					s.refreshLocked(h, ep, i)
					hosts = append(hosts, h)
				}
			}
			p.hosts = append(hosts, p.hosts[m.oldEnd:]...)
			p.exact = len(p.hosts) == len(l.Hosts)
			sh.dirty = true
		}
		p.eps = l.Hosts
		places[i] = &p
	}
	sh.places = places
	return gone, true
}

// claimLocked gives the host of ep: one that may have gone, or a new one. It is
// nil when ep has no address, or names a host that is there already.
func (s *Set) claimLocked(ep *config.Endpoint, now int64) *Host {
	k, ok := key(ep)
	if !ok {
		return nil
	}
	h := s.shared.byKey[k]
	if h == nil {
		return s.admitLocked(k, ep, now)
	}
	if h.cut.seen != s.shared.gen-1 {
		return nil
	}
	return h
}

func keyOf(l *config.Locality) placeKey {
	return placeKey{Place{l.Region, l.Zone, l.SubZone}, l.Priority}
}

func (p *place) key() placeKey { return placeKey{p.at, p.prio} }

// replaceLocked makes the places of e anew. It walks the old hosts beside the
// new endpoints, so that what did not move need not be looked up.
func (s *Set) replaceLocked(e *config.Endpoints, index map[placeKey]int, now int64) {
	sh := s.shared
	old := make(map[placeKey]*place, len(sh.places))
	for _, p := range sh.places {
		old[p.key()] = p
	}
	var places []*place
	moved := false // a place came, went, or weighs something else
	for _, l := range e.Localities {
		k := keyOf(l)
		i, twice := index[k]
		if !twice {
			i = len(places)
			index[k] = i
			places = append(places, &place{at: k.Place, prio: k.prio, weight: l.Weight})
		}
		var was []*Host
		if p := old[k]; p != nil && !twice {
			was = p.hosts
			moved = moved || p.weight != l.Weight
		} else {
			moved = true
		}
		hosts := s.matchLocked(l.Hosts, was, i, now)
		p := places[i]
		p.eps, p.exact = l.Hosts, !twice && len(hosts) == len(l.Hosts)
		if twice {
			hosts = slices.Concat(p.hosts, hosts)
		}
		p.hosts = hosts
	}
	if moved || len(places) != len(sh.places) {
		sh.placesAt, sh.dirty = sh.built+1, true
	}
	sh.places = places
}

// share64 is per cent of 2^64.
func share64(perCent float64) uint64 {
	switch {
	case !(perCent > 0):
		return 0
	case perCent >= 100:
		return ^uint64(0)
	}
	return uint64(perCent / 100 * (1 << 63) * 2)
}

// matchLocked gives the hosts of eps, which are at place i now; was are those
// that were there.
func (s *Set) matchLocked(eps []*config.Endpoint, was []*Host, i int, now int64) []*Host {
	var out []*Host // nil while equal to was so far
	n, at := 0, 0   // hosts given; where was is compared
	for _, ep := range eps {
		var h *Host
		switch {
		case at < len(was) && was[at].endpoint.Load() == ep:
			h = was[at]
			at++
		case at+1 < len(was) && was[at+1].endpoint.Load() == ep:
			h = was[at+1]
			at += 2
		default:
			k, ok := key(ep)
			if !ok {
				continue
			}
			if at < len(was) && was[at].cut.key == k {
				h = was[at]
				at++
			} else if h = s.shared.byKey[k]; h == nil {
				h = s.admitLocked(k, ep, now)
			}
		}
		if h.cut.seen == s.shared.gen {
			continue // named twice
		}
		s.refreshLocked(h, ep, i)
		if out == nil && (n >= len(was) || was[n] != h) {
			out = make([]*Host, n, len(eps))
			copy(out, was[:n])
		}
		if out != nil {
			out = append(out, h)
		}
		n++
	}
	if out == nil {
		if n < len(was) {
			s.shared.dirty = true
		}
		return was[:n:n]
	}
	s.shared.dirty = true
	return out
}

func (s *Set) admitLocked(k hostKey, ep *config.Endpoint, now int64) *Host {
	h := newHost(k, ep)
	h.set.Store(s)
	if len(s.c.Health) > 0 {
		h.state.Store(pending)
	}
	s.shared.byKey[k] = h
	s.shared.members = true
	s.flagLocked(h, ep)
	s.beginSlowLocked(h, now)
	s.changedLocked(h)
	return h
}

// refreshLocked takes over what discovery says of h now.
func (s *Set) refreshLocked(h *Host, ep *config.Endpoint, place int) {
	h.cut.seen = s.shared.gen
	if int(h.cut.place) != place {
		h.cut.place = int32(place)
		s.changedLocked(h)
	}
	if h.state.Load()&stale != 0 {
		h.setFlags(0, stale)
	}
	was := h.endpoint.Load()
	if was == ep {
		return
	}
	h.endpoint.Store(ep)
	if !maps.Equal(was.Metadata, ep.Metadata) {
		h.cut.subsets = nil
		s.changedLocked(h)
	}
	if w := max(1, ep.Weight); w != h.cut.weight {
		h.cut.weight = w
		s.changedLocked(h)
	}
	s.flagLocked(h, ep)
}

// flagLocked sets the flags by what discovery says of health.
func (s *Set) flagLocked(h *Host, ep *config.Endpoint) {
	var set uint32
	switch ep.Health {
	case config.Unhealthy, config.Draining, config.Timeout:
		set = discoveredBad
	case config.Degraded:
		set = discoveredWorn
	}
	const both = discoveredBad | discoveredWorn
	if h.setFlags(set, both&^set)&both != set {
		s.changedLocked(h)
	}
}

// removeLocked takes out those of hosts that the last update did not name, and
// lists those that are in.
func (s *Set) removeLocked(hosts []*Host, prev []*place, index map[placeKey]int) {
	sh := s.shared
	keep := len(s.c.Health) > 0 && !s.c.IgnoreHealthOnRemoval
	gone := false
	for _, h := range hosts {
		if h.cut.seen == sh.gen {
			continue
		}
		if keep && h.state.Load()&(failedActive|pending|discoveredBad) == 0 && int(h.cut.place) < len(prev) {
			// Discovery may be wrong; the host itself says that it is well. It stays
			// until a check fails.
			h.setFlags(stale, 0)
			h.cut.seen = sh.gen
			p := prev[h.cut.place]
			k := placeKey{p.at, p.prio}
			i, ok := index[k]
			if !ok {
				i = len(sh.places)
				index[k] = i
				sh.places = append(sh.places, &place{at: p.at, prio: p.prio, weight: p.weight})
			}
			h.cut.place = int32(i)
			sh.places[i].hosts = append(slices.Clip(sh.places[i].hosts), h)
			sh.places[i].exact = false
			sh.dirty = true
			continue
		}
		gone = true
		s.leaveLocked(h)
	}
	if !sh.dirty && !gone && !sh.members {
		return
	}
	if len(sh.places) == 1 {
		sh.hosts = sh.places[0].hosts
	} else {
		sh.hosts = make([]*Host, 0, len(sh.byKey))
		for _, p := range sh.places {
			sh.hosts = append(sh.hosts, p.hosts...)
		}
	}
	sh.total.Store(int64(len(sh.hosts)))
}

// leaveLocked marks h as gone for all who hold it.
func (s *Set) leaveLocked(h *Host) {
	if h.setFlags(removed, ejected)&ejected != 0 {
		s.shared.ejected.Add(-1)
	}
	delete(s.shared.byKey, h.cut.key)
	s.shared.members, s.shared.dirty = true, true
}

// dropLocked takes one host out of its place.
func (s *Set) dropLocked(h *Host) {
	sh := s.shared
	without := func(hs []*Host) []*Host {
		return slices.DeleteFunc(slices.Clone(hs), func(o *Host) bool { return o == h })
	}
	if int(h.cut.place) < len(sh.places) {
		p := *sh.places[h.cut.place]
		p.hosts, p.exact = without(p.hosts), false
		sh.places = slices.Clone(sh.places)
		sh.places[h.cut.place] = &p
	}
	sh.hosts = without(sh.hosts)
	sh.total.Store(int64(len(sh.hosts)))
	s.leaveLocked(h)
}
