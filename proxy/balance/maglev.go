// SPDX-License-Identifier: Apache-2.0

package balance

// maglevSize is the table's size unless the cluster says another: the small
// one of Eisenbud et al., "Maglev" (NSDI 2016), section 5.3.
const maglevSize = 65537

// maxMaglev bounds the table, as Envoy does.
const maxMaglev = 5000011

// maglevTable fills a table of size with indices of keys, by section 3.4: each
// host in turn takes the next free entry of its own permutation, which two
// hashes of its key give. Hosts of less weight sit out turns. weights are the
// shares of the heaviest: in (0, 1].
func maglevTable(seeds []maglevSeed, weights []float64, size uint64) []uint32 {
	table := make([]uint32, size)
	if len(seeds) == 0 {
		return nil
	}
	type walk struct {
		at, skip uint64
		target   float64
	}
	walks := make([]walk, len(seeds))
	for i, s := range seeds {
		walks[i] = walk{at: s.offset % size, skip: s.skip%(size-1) + 1}
	}
	left := size
	for turn := 1.0; ; turn++ {
		for i := range walks {
			w := &walks[i]
			if weights != nil {
				// 1e-9: shares are quotients, and a whole turn must not be missed by rounding.
				if turn*weights[i] < w.target-1e-9 {
					continue
				}
				w.target++
			}
			for table[w.at] != 0 {
				if w.at += w.skip; w.at >= size {
					w.at -= size
				}
			}
			table[w.at] = uint32(i) + 1
			if left--; left == 0 {
				for i := range table {
					table[i]--
				}
				return table
			}
		}
	}
}

// maglevSeed is what a key's permutation comes from.
type maglevSeed struct{ offset, skip uint64 }

// isPrime tells by trial division; tables are bounded by maxMaglev.
func isPrime(n uint64) bool {
	if n < 2 || n%2 == 0 {
		return n == 2
	}
	for d := uint64(3); d*d <= n; d += 2 {
		if n%d == 0 {
			return false
		}
	}
	return true
}
