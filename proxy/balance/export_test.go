// SPDX-License-Identifier: Apache-2.0

package balance

// What the tests of formulas look at from inside.
var (
	ZoneShares     = zoneShares
	LocalityShares = localityShares
	Warm           = warm
	Murmur64       = murmur64
)

// Level and Share are the words of Shares.
type (
	Level = level
	Share = share
)

// Shares spreads over priorities whose hosts are given in per cent: healthy,
// degraded, and the rest failed.
func Shares(threshold float64, healthyDegraded ...[2]int) (load [][2]int, panicked []bool) {
	var ls []level
	for _, hd := range healthyDegraded {
		ls = append(ls, level{total: 100, healthy: hd[0], degraded: hd[1]})
	}
	for _, s := range shares(ls, 140, threshold) {
		load = append(load, [2]int{s.healthy, s.degraded})
		panicked = append(panicked, s.panic)
	}
	return
}

// RawShares is shares.
func RawShares(ls []Level, over uint32, threshold float64) []Share {
	return shares(ls, over, threshold)
}

// MakeLevel makes a Level.
func MakeLevel(total, healthy, degraded, excluded int) Level {
	return level{total, healthy, degraded, excluded}
}

// Parts gives a Share's fields.
func (s Share) Parts() (healthy, degraded int, panicked bool) { return s.healthy, s.degraded, s.panic }

// Tables gives the weights of the first table.
func (s *Set) Weights() []float64 { return s.snap.Load().whole.groups[0].tables[0].weights }

// RingSame tells whether the ring in force is what would be made from nothing.
func (s *Set) RingSame() (same bool, points int) {
	t := s.snap.Load().whole.groups[0].tables[0]
	fresh := makeRing(t.ring.members, nil, t.ring.murmur)
	if len(fresh.at) != len(t.ring.at) {
		return false, len(t.ring.at)
	}
	for i := range fresh.at {
		if fresh.at[i] != t.ring.at[i] || fresh.who[i] != t.ring.who[i] {
			return false, i
		}
	}
	return true, len(fresh.at)
}

// Snapshots counts the snapshots made.
func (s *Set) Snapshots() uint64 {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	return s.shared.built
}

// ForceHealthy skips the first check.
func (h *Host) ForceHealthy() { h.setFlags(0, pending) }

// ForceFailed is a failed check that no snapshot knows of yet.
func (h *Host) ForceFailed() { h.setFlags(failedActive, 0) }
