// SPDX-License-Identifier: Apache-2.0

package balance

// edf is a picker's own schedule of a table's hosts, earliest deadline first:
// each pick moves the host's deadline by the inverse of its weight, so that a
// host of weight 5 comes five times as often as one of weight 1, and evenly.
type edf struct {
	t    *table // whose schedule this is
	turn uint64 // of plain round robin
	heap []due  // binary min-heap by at
}

type due struct {
	at float64
	i  int32 // in t.hosts
}

// start makes the schedule of t. Deadlines begin at random, so that loops and
// proxies do not march in step and a new snapshot favours nobody.
func (e *edf) start(t *table, p *Picker) {
	e.t = t
	e.heap = e.heap[:0]
	if cap(e.heap) < len(t.weights) {
		e.heap = make([]due, 0, len(t.weights)+len(t.weights)/4)
	}
	for i, w := range t.weights {
		e.heap = append(e.heap, due{p.float() / w, int32(i)})
	}
	e.order()
}

func (e *edf) order() {
	for i := len(e.heap)/2 - 1; i >= 0; i-- {
		e.down(i)
	}
}

// follow takes the schedule over to the table that came after: hosts that stay
// keep their deadlines, so that shares hold while hosts come and go, and a
// change of one host among thousands costs no new heap.
func (e *edf) follow(t *table, p *Picker) {
	old := e.t
	if old == nil || old.weights == nil || t.weights == nil {
		e.start(t, p)
		return
	}
	a, b := old.hosts, t.hosts
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	from := int32(len(t.hosts) - len(b))
	for len(a) > 0 && len(b) > 0 && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	if len(a)+len(b) > len(t.hosts)/4 {
		e.start(t, p)
		return
	}
	e.t = t
	if len(a) == len(b) {
		return // one for one: who came takes over the deadline of who went
	}
	end, shift, now := from+int32(len(a)), int32(len(b)-len(a)), e.heap[0].at
	kept := e.heap[:0]
	for _, d := range e.heap {
		if d.i >= end {
			d.i += shift
		} else if d.i >= from {
			continue
		}
		kept = append(kept, d)
	}
	for i := range b {
		j := from + int32(i)
		kept = append(kept, due{now + p.float()/t.weights[j], j})
	}
	e.heap = kept
	e.order()
}

// first gives the host that is due.
func (e *edf) first() int32 { return e.heap[0].i }

// move puts off the host that is due by 1/w.
func (e *edf) move(w float64) {
	e.heap[0].at += 1 / w
	e.down(0)
}

func (e *edf) down(i int) {
	h := e.heap
	v := h[i]
	for {
		c := 2*i + 1
		if c >= len(h) {
			break
		}
		if c+1 < len(h) && h[c+1].at < h[c].at {
			c++
		}
		if v.at <= h[c].at {
			break
		}
		h[i] = h[c]
		i = c
	}
	h[i] = v
}
