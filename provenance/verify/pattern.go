// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"
	"strings"

	"redoubt.dev/api/errs"
)

const (
	maxPattern    = 512
	maxComponents = 64
)

// Match reports whether name matches a pattern of policy: components between
// slashes, "*" for any run of characters within one, "**" alone for any
// number of components. Names are compared whole and by case; a pattern that
// CheckPattern refuses matches nothing.
func Match(pattern, name string) bool {
	if CheckPattern(pattern) != nil || name == "" || len(name) > 2*maxPattern {
		return false
	}
	ps, ns := strings.Split(pattern, "/"), strings.Split(name, "/")
	// can[j] says whether the patterns so far match the first j components:
	// at most 64 × 1024 steps, whatever the stars.
	can := make([]bool, len(ns)+1)
	can[0] = true
	for _, p := range ps {
		next := make([]bool, len(ns)+1)
		if p == "**" {
			next[0] = can[0]
			for j := range ns {
				next[j+1] = can[j+1] || next[j]
			}
		} else {
			for j, n := range ns {
				next[j+1] = can[j] && matchComponent(p, n)
			}
		}
		can = next
	}
	return can[len(ns)]
}

// matchComponent matches one component, greedily from the left: with stars
// only, the leftmost place of each literal leaves the most room for the rest.
func matchComponent(p, s string) bool {
	parts := strings.Split(p, "*")
	if len(parts) == 1 {
		return p == s
	}
	if !strings.HasPrefix(s, parts[0]) {
		return false
	}
	s = s[len(parts[0]):]
	last := len(parts) - 1
	for _, lit := range parts[1:last] {
		i := strings.Index(s, lit)
		if i < 0 {
			return false
		}
		s = s[i+len(lit):]
	}
	return strings.HasSuffix(s, parts[last])
}

// CheckPattern says whether p may stand in a policy.
func CheckPattern(p string) error {
	bad := func(expected string) error {
		return &errs.Error{Kind: errs.Invalid, Field: "pattern", Expected: expected, Seen: fmt.Sprintf("%.128q", p)}
	}
	if p == "" || len(p) > maxPattern {
		return bad(fmt.Sprintf("1 to %d characters", maxPattern))
	}
	parts := strings.Split(p, "/")
	if len(parts) > maxComponents {
		return bad(fmt.Sprintf("at most %d components", maxComponents))
	}
	for _, c := range parts {
		if c != "**" && strings.Contains(c, "**") {
			return bad("\"**\" as a whole component")
		}
	}
	for _, r := range p {
		if r <= ' ' || r > '~' || strings.ContainsRune("\\?[]{}%#", r) {
			return bad("printable ASCII without \\ ? [ ] { } % #")
		}
	}
	return nil
}
