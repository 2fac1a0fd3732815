// SPDX-License-Identifier: Apache-2.0

package shape

import "strings"

// Nearest gives the one of known that word was probably meant to be, "" when
// none is near. A word of unreasonable length is near to none.
func Nearest(word string, known []string) string {
	if len(word) > 64 {
		return ""
	}
	w := strings.ToLower(word)
	best, least := "", len(w)/3+1
	for _, k := range known {
		if d := distance(w, strings.ToLower(k)); d < least || d == 0 {
			best, least = k, d
		}
	}
	return best
}

// distance counts the letters to insert, remove, change or swap with their
// neighbour to make b of a (optimal string alignment).
func distance(a, b string) int {
	before, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := range len(a) {
		cur[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			cur[j+1] = min(cur[j]+1, prev[j+1]+1, prev[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				cur[j+1] = min(cur[j+1], before[j-1]+1)
			}
		}
		before, prev, cur = prev, cur, before
	}
	return prev[len(b)]
}
