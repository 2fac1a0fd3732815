// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"slices"
	"strconv"

	"github.com/cespare/xxhash/v2"

	"redoubt.dev/proxy/config"
)

// Bounds of a hash ring unless the cluster says others; Envoy's.
const (
	ringMin = 1024
	ringMax = 8 << 20
)

// ringBounds gives the bounds in force.
func ringBounds(c *config.Cluster) (least, most uint64) {
	least, most = c.Ring.Min, c.Ring.Max
	if least == 0 {
		least = min(ringMin, max(1, most))
		if most == 0 {
			least = ringMin
		}
	}
	if most == 0 {
		most = ringMax
	}
	return
}

// point is a place on the ring.
type point struct {
	at uint64
	h  *Host
}

// ring is a circle of points; a hash belongs to the next point clockwise
// (ketama).
type ring struct {
	at    []uint64 // sorted
	who   []*Host  // of at
	guide []uint32 // by the top bits of a hash: where to begin
	shift uint

	members []member // from which it was made
	murmur  bool
}

// member is a host with the number of its points.
type member struct {
	h *Host
	n int
}

// ringMembers gives each host points by its weight: the lightest a whole
// number of them, so that together they come to at least least, or as near as
// most allows.
func ringMembers(hosts []*Host, weights []float64, least, most uint64) []member {
	total, lightest := 0.0, math.Inf(1)
	weight := func(i int) float64 {
		if weights == nil {
			return 1
		}
		return weights[i]
	}
	for i := range hosts {
		total += weight(i)
		lightest = min(lightest, weight(i))
	}
	share := lightest / total
	scale := min(math.Ceil(share*float64(least))/share, float64(most))
	out := make([]member, len(hosts))
	sum, given := 0.0, 0
	for i, h := range hosts {
		w := weight(i) / total * scale
		n := int(w + 1e-6)
		if scale == float64(most) {
			// Clipped: fractions add up along the list, so that the ring's size holds.
			sum += w
			n = int(sum+1e-6) - given
			given += n
		}
		out[i] = member{h, n}
	}
	return out
}

// points appends the points of m. The i-th is the hash of "key_i".
func (m member) points(dst []point, murmur bool) []point {
	var buf [256]byte
	key := append(append(buf[:0], m.h.cut.hashKey...), '_')
	for i := range m.n {
		b := strconv.AppendUint(key, uint64(i), 10)
		at := uint64(0)
		if murmur {
			at = murmur64(b, murmurSeed)
		} else {
			at = xxhash.Sum64(b)
		}
		dst = append(dst, point{at, m.h})
	}
	return dst
}

func (p point) compare(q point) int {
	// Equal hashes of two hosts are ordered by the host, so that all proxies agree.
	if c := cmp.Compare(p.at, q.at); c != 0 {
		return c
	}
	return cmp.Compare(p.h.cut.hashKey, q.h.cut.hashKey)
}

// makeRing makes the ring of members from old, which may be nil: what old has
// and members have too is not hashed and sorted again.
func makeRing(members []member, old *ring, murmur bool) *ring {
	r := &ring{members: members, murmur: murmur}
	var gone, fresh []member
	if old != nil && old.murmur == murmur {
		a, b := old.members, members
		for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
			a, b = a[1:], b[1:]
		}
		for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
			a, b = a[:len(a)-1], b[:len(b)-1]
		}
		gone, fresh = a, b
	} else {
		old, fresh = &ring{}, members
	}
	less, more := sorted(gone, murmur), sorted(fresh, murmur)
	n := len(old.at) - len(less) + len(more)
	r.at, r.who = make([]uint64, 0, n), make([]*Host, 0, n)
	for i, at := range old.at {
		p := point{at, old.who[i]}
		if len(less) > 0 && less[0] == p {
			less = less[1:]
			continue
		}
		for len(more) > 0 && more[0].compare(p) < 0 {
			r.at, r.who = append(r.at, more[0].at), append(r.who, more[0].h)
			more = more[1:]
		}
		r.at, r.who = append(r.at, at), append(r.who, p.h)
	}
	for _, p := range more {
		r.at, r.who = append(r.at, p.at), append(r.who, p.h)
	}
	r.index()
	return r
}

func sorted(ms []member, murmur bool) []point {
	var out []point
	for _, m := range ms {
		out = m.points(out, murmur)
	}
	slices.SortFunc(out, point.compare)
	return out
}

// index makes the guide: one entry for about each point, so that a lookup
// looks at one or two.
func (r *ring) index() {
	if len(r.at) == 0 {
		return
	}
	width := uint(bits.Len(uint(len(r.at) - 1)))
	r.shift = 64 - width
	r.guide = make([]uint32, 1<<width)
	i := 0
	for g := range r.guide {
		for i < len(r.at) && r.at[i]>>r.shift < uint64(g) {
			i++
		}
		r.guide[g] = uint32(i)
	}
}

// find gives the index of the first point at or after hash; 0 after the last.
func (r *ring) find(hash uint64) int {
	i := int(r.guide[hash>>r.shift])
	for i < len(r.at) && r.at[i] < hash {
		i++
	}
	if i == len(r.at) {
		return 0
	}
	return i
}

// murmurSeed is that of libstdc++'s std::hash, which Envoy's MURMUR_HASH_2 is
// compatible with.
const murmurSeed = 0xc70f6907

// murmur64 is MurmurHash64A.
func murmur64(b []byte, seed uint64) uint64 {
	const m, shift = 0xc6a4a7935bd1e995, 47
	h := seed ^ uint64(len(b))*m
	for ; len(b) >= 8; b = b[8:] {
		k := binary.LittleEndian.Uint64(b) * m
		k ^= k >> shift
		h = (h ^ k*m) * m
	}
	if len(b) > 0 {
		var tail [8]byte
		copy(tail[:], b)
		h = (h ^ binary.LittleEndian.Uint64(tail[:])) * m
	}
	h = (h ^ h>>shift) * m
	return h ^ h>>shift
}
