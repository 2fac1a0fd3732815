// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"maps"
	"slices"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// Subset is a compiled metadata match of a route. It holds for any cluster and
// is immutable.
type Subset struct {
	hash uint64
	text string // canonical, so that equal hashes are told apart
}

// Match compiles the metadata that hosts must have, when the configuration is
// put in force. It gives nil for an empty map.
func Match(m map[string]string) *Subset {
	if len(m) == 0 {
		return nil
	}
	return subsetOf(slices.Sorted(maps.Keys(m)), m)
}

// subsetOf makes the subset of m's values for keys, which are sorted and all
// in m.
func subsetOf(keys []string, m map[string]string) *Subset {
	var b strings.Builder
	for _, k := range keys {
		for _, s := range [2]string{k, m[k]} {
			// A length before each string: no value can look like another key.
			n := len(s)
			b.Write([]byte{byte(n), byte(n >> 8), byte(n >> 16), byte(n >> 24)})
			b.WriteString(s)
		}
	}
	return &Subset{xxhash.Sum64String(b.String()), b.String()}
}

// subsetView is the hosts of one subset.
type subsetView struct {
	text  string
	view  *view
	next  *subsetView // with the same hash
	parts [][]*Host
}

// subset finds the view that a request is balanced over; nil for none.
func (sn *snapshot) subset(want *Subset) *view {
	v := sn.fallback
	if want != nil {
		for sv := sn.subsets[want.hash]; sv != nil; sv = sv.next {
			if sv.text == want.text {
				v = sv.view
				break
			}
		}
	}
	if sn.anyPanic && v != nil && v.none != Found {
		return sn.whole
	}
	return v
}

// subsets makes the views of all subsets that have hosts. Those whose hosts
// are as before are kept.
func (b *builder) subsets(old *snapshot) {
	c := b.s.c.Subsets
	b.sn.subsets = make(map[uint64]*subsetView, len(old.subsets))
	b.sn.anyPanic = c.PanicAny
	places := b.s.shared.places
	var all []*subsetView
	fallback := make([][]*Host, len(places))
	for i, p := range places {
		for _, h := range p.hosts {
			for _, sub := range b.subsetsOf(h) {
				sv := b.sn.subsets[sub.hash]
				for sv != nil && sv.text != sub.text {
					sv = sv.next
				}
				if sv == nil {
					sv = &subsetView{text: sub.text, next: b.sn.subsets[sub.hash], parts: make([][]*Host, len(places))}
					b.sn.subsets[sub.hash] = sv
					all = append(all, sv)
				}
				sv.parts[i] = append(sv.parts[i], h)
			}
			if c.Fallback == "DEFAULT_SUBSET" && has(h.endpoint.Load().Metadata, c.Default) {
				fallback[i] = append(fallback[i], h)
			}
		}
	}
	for _, sv := range all {
		hash := xxhash.Sum64String(sv.text)
		was := old.subsets[hash]
		for was != nil && was.text != sv.text {
			was = was.next
		}
		if was == nil {
			was = &subsetView{}
		}
		sv.view = b.view(sv.parts, was.view)
		sv.parts = nil
	}
	switch c.Fallback {
	case "ANY_ENDPOINT":
		b.sn.fallback = b.sn.whole
	case "DEFAULT_SUBSET":
		b.sn.fallback = b.view(fallback, old.fallback)
	}
}

// subsetsOf gives the subsets that h is in, one per selector whose keys it
// has.
func (b *builder) subsetsOf(h *Host) []*Subset {
	if h.cut.subsets == nil {
		m := h.endpoint.Load().Metadata
		h.cut.subsets = make([]*Subset, 0, len(b.s.c.Subsets.Keys))
		for _, keys := range b.s.c.Subsets.Keys {
			if len(keys) > 0 && !slices.ContainsFunc(keys, func(k string) bool { _, ok := m[k]; return !ok }) {
				h.cut.subsets = append(h.cut.subsets, subsetOf(slices.Sorted(slices.Values(keys)), m))
			}
		}
	}
	return h.cut.subsets
}

func has(m, want map[string]string) bool {
	for k, v := range want {
		if got, ok := m[k]; !ok || got != v {
			return false
		}
	}
	return true
}
