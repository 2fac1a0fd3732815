// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"math/bits"
	"time"
)

// Expirer is told that its timer ran out.
type Expirer interface{ Expire(*Timer) }

// Timer is one deadline, embedded in what it guards. It runs out no earlier
// than asked and at most about two ticks later. The zero Timer is unset.
type Timer struct {
	next, prev *Timer
	slot       int32
	set        bool
	at         int64 // monotonic ns; may be later than the slot says (lazy push-back)
	who        Expirer
}

const (
	tick  = 10 * time.Millisecond // coarse: a deadline guards against stalls, it does not pace
	slots = 1024                  // a power of two, multiple of 64
)

// wheel is a hashed timer wheel. Pushing a deadline back costs one store: the
// timer moves when its old slot comes up.
type wheel struct {
	head [slots]Timer // ring heads
	used [slots / 64]uint64
	pos  int64 // ticks handled so far
	n    int
}

func (w *wheel) init(now int64) {
	w.pos = now / int64(tick)
	for i := range w.head {
		w.head[i].next, w.head[i].prev = &w.head[i], &w.head[i]
	}
}

func (w *wheel) link(t *Timer) {
	s := max(t.at/int64(tick)+1, w.pos+1)
	t.slot = int32(s & (slots - 1))
	h := &w.head[t.slot]
	t.prev, t.next = h.prev, h
	h.prev.next, h.prev = t, t
	w.used[t.slot/64] |= 1 << (t.slot % 64)
	t.set = true
	w.n++
}

func (w *wheel) unlink(t *Timer) {
	t.prev.next, t.next.prev = t.next, t.prev
	t.next, t.prev, t.set = nil, nil, false
	if h := &w.head[t.slot]; h.next == h {
		w.used[t.slot/64] &^= 1 << (t.slot % 64)
	}
	w.n--
}

// expire runs every timer due at now.
func (w *wheel) expire(now int64) {
	end := now / int64(tick)
	if end-w.pos > slots {
		w.pos = end - slots // slept longer than a round: each slot once is enough
	}
	for w.pos < end {
		w.pos++
		h := &w.head[w.pos&(slots-1)]
		if h.next == h {
			continue
		}
		// Detach the ring first: an expiry may set timers, also in this slot.
		first, last := h.next, h.prev
		h.next, h.prev = h, h
		w.used[(w.pos&(slots-1))/64] &^= 1 << ((w.pos & (slots - 1)) % 64)
		var due Timer
		due.next, due.prev = first, last
		first.prev, last.next = &due, &due
		for due.next != &due {
			t := due.next
			t.prev.next, t.next.prev = t.next, t.prev
			t.next, t.prev, t.set = nil, nil, false
			w.n--
			if t.at > now {
				w.link(t)
				continue
			}
			t.who.Expire(t)
		}
	}
}

// wait gives how long the loop may sleep, in milliseconds; -1 when no timer
// is set.
func (w *wheel) wait(now int64) int {
	if w.n == 0 {
		return -1
	}
	start := w.pos + 1
	for d := int64(0); d < slots; {
		i := (start + d) & (slots - 1)
		word := w.used[i/64] >> (i % 64)
		if word == 0 {
			d += 64 - i%64
			continue
		}
		d += int64(bits.TrailingZeros64(word))
		ns := (start+d)*int64(tick) - now
		return int(max(0, (ns+int64(time.Millisecond)-1)/int64(time.Millisecond)))
	}
	return int(tick / time.Millisecond)
}
