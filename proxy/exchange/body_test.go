// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"bytes"
	"testing"
)

// TestLaggingReader has a reader that is always a little behind: what is kept
// for it stays as long as what it has not read, and is in order.
func TestLaggingReader(t *testing.T) {
	var d h2body
	const run, behind = 1000, 3000
	in, out := byte(0), byte(0)
	for range 10_000 {
		p := bytes.Repeat([]byte{in}, run)
		in++
		d.b = after(d.b, &d.off, p)
		for len(d.b)-d.off > behind {
			p, _ := d.peek(false)
			if p[0] != out || p[run-1] != out {
				t.Fatalf("%d, not %d", p[0], out)
			}
			d.consume(run)
			out++
		}
	}
	if cap(d.b) > 4*behind {
		t.Errorf("%d bytes for %d unread ones", cap(d.b), len(d.b)-d.off)
	}
}
