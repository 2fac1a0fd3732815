// SPDX-License-Identifier: Apache-2.0

package extauthz

import "testing"

// Whatever a service answers, it is an answer that allows or denies, or none.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x02, 0x08, 0x07, 0x12, 0x00})
	f.Add([]byte{0x1a, 0x04, 0x2a, 0x02, 'x', 'y'})
	f.Fuzz(func(t *testing.T, m []byte) {
		a, err := parseAnswer(m)
		if err == nil && a.allow == (a.denied != nil) {
			t.Fatalf("%x: %+v", m, a)
		}
	})
}
