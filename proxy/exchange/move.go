// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/engine"
)

// Bundle is connections that can only move to another process together: a
// client's, with those to hosts that its requests under way use, and with the
// clients that share those. It belongs to one loop, and moves in steps: Gather
// → Freeze → Export → Yield, or Thaw when it stays.
type Bundle struct {
	w  *Worker
	s1 []*h1server
	s2 []*h2server
	u1 []*h1client
	u2 []*h2client
	xs []*Stream

	index map[any]int             // of a connection among its kind
	due   map[*engine.Timer]int64 // timers that Freeze stopped
	why   string
}

// Gather finds what moves together with the connection whose handler is h, if
// that is one of this package's. b is nil when it cannot move now, and why
// says the reason; most bounds the connections.
func (w *Worker) Gather(h engine.Handler, most int) (b *Bundle, ours bool, why string) {
	b = &Bundle{w: w, index: map[any]int{}, due: map[*engine.Timer]int64{}}
	switch h := h.(type) {
	case *h1server:
		ours = true
		b.server1(h)
	case *h2server:
		ours = true
		b.server2(h)
	case *h1client:
		ours = true
		b.client1(h)
	case *h2client:
		ours = true
		b.client2(h)
	default:
		return nil, false, ""
	}
	if b.why == "" && b.Len() > most {
		b.why = "too many connections depend on each other"
	}
	if b.why != "" {
		return nil, ours, b.why
	}
	return b, ours, ""
}

// Len is the number of connections.
func (b *Bundle) Len() int { return len(b.s1) + len(b.s2) + len(b.u1) + len(b.u2) }

// Streams is the number of exchanges under way.
func (b *Bundle) Streams() int { return len(b.xs) }

// Conns gives the connections, in the order in which Export writes them.
func (b *Bundle) Conns() []*engine.Conn {
	out := make([]*engine.Conn, 0, b.Len())
	for _, h := range b.s1 {
		out = append(out, h.c)
	}
	for _, h := range b.s2 {
		out = append(out, h.c)
	}
	for _, u := range b.u1 {
		out = append(out, u.c)
	}
	for _, u := range b.u2 {
		out = append(out, u.c)
	}
	return out
}

func (b *Bundle) stays(why string) {
	if b.why == "" {
		b.why = why
	}
}

// known notes v, the n-th of its kind.
func (b *Bundle) known(v any, n int, c *engine.Conn) bool {
	if _, ok := b.index[v]; ok || b.why != "" {
		return true
	}
	b.index[v] = n
	if !c.Movable() {
		b.stays("connection has failed")
	}
	return false
}

func (b *Bundle) server1(h *h1server) {
	if b.known(h, len(b.s1), h.c) {
		return
	}
	b.s1 = append(b.s1, h)
	if h.ended || h.running || h.lead != nil {
		b.stays("connection ends, or is led")
		return
	}
	if h.x != nil {
		b.stream(h.x)
	}
}

func (b *Bundle) server2(h *h2server) {
	if b.known(h, len(b.s2), h.c) {
		return
	}
	b.s2 = append(b.s2, h)
	if h.ended || h.lead != nil || !h.h.Settled() {
		b.stays("connection begins or ends")
		return
	}
	n := 0
	for d := h.sides.next; d != &h.sides && b.why == ""; d = d.next {
		if d.s != nil {
			n++
		}
		b.stream(d.x)
	}
	if n != h.h.Active() {
		b.stays("a stream is nobody's")
	}
}

func (b *Bundle) client1(u *h1client) {
	if b.known(u, len(b.u1), u.c) {
		return
	}
	b.u1 = append(b.u1, u)
	switch {
	case u.gone:
		b.stays("connection ends")
	case u.x != nil:
		b.stream(u.x)
	case !u.resting:
		b.stays("connection changes hands")
	}
}

func (b *Bundle) client2(u *h2client) {
	if b.known(u, len(b.u2), u.c) {
		return
	}
	b.u2 = append(b.u2, u)
	if u.gone || !u.h.Settled() {
		b.stays("connection begins or ends")
		return
	}
	n := 0
	for k := u.calls.next; k != &u.calls && b.why == ""; k = k.next {
		if k.s != nil {
			n++
		}
		b.stream(k.x)
	}
	if n != u.h.Active() {
		b.stays("a stream is nobody's")
	}
}

// stream notes x, and who takes part in it.
func (b *Bundle) stream(x *Stream) {
	if _, ok := b.index[x]; ok || b.why != "" {
		return
	}
	b.index[x] = len(b.xs)
	b.xs = append(b.xs, x)
	if why := x.stays(); why != "" {
		b.stays(why)
		return
	}
	switch d := x.down.(type) {
	case *h1server:
		b.server1(d)
	case *h2side:
		b.server2(d.h)
	default:
		b.stays("request is a mirror's")
	}
	switch u := x.up.(type) {
	case *h1client:
		b.client1(u)
	case *h2call:
		b.client2(u.u)
	default:
		b.stays("upstream of another kind")
	}
}

// stays tells why x cannot move now; "" when it can.
func (x *Stream) stays() string {
	switch {
	case x.lead != nil:
		return "a mesh governs the request"
	case x.unborn:
		return "head is not whole"
	case x.phase != forwarding || x.up == nil || x.host == nil || x.cluster == nil:
		return "request looks for a host, or is answered here"
	case x.holding:
		return "a filter holds the request"
	case x.shadow || len(x.mirrors) > 0:
		return "request is mirrored"
	case x.c.RequestBody != nil || x.c.ResponseBody != nil:
		return "body is transformed"
	case x.c.Local != nil:
		return "response is the proxy's own"
	case x.sticky.Cookie != nil && !x.headDone:
		return "response will set a cookie"
	case x.routes == nil || x.c.Route == nil || x.fwd == nil || x.fwd != x.c.Route.To:
		return "request has no route"
	case len(x.tried) > maxTried:
		return "too many hosts were tried"
	}
	for _, s := range x.c.Slots {
		if s != nil {
			return "a filter keeps state for the request"
		}
	}
	return ""
}

const maxTried = 32

// Freeze takes all connections off the loop; false, and nothing has changed,
// when one has failed meanwhile.
func (b *Bundle) Freeze() bool {
	conns := b.Conns()
	for _, x := range b.xs {
		if !x.spill() {
			return false
		}
	}
	for i, c := range conns {
		if !c.Freeze() {
			for _, done := range conns[:i] {
				done.Thaw(done.Handler())
			}
			return false
		}
	}
	for _, h := range b.s1 {
		b.stop(&h.t)
	}
	for _, h := range b.s2 {
		b.stop(&h.t)
		h.keep.stop() // it begins again with the timer
	}
	for _, u := range b.u1 {
		b.stop(&u.t)
		if u.resting {
			u.p.forget(u)
		}
	}
	for _, u := range b.u2 {
		b.stop(&u.t)
		u.keep.stop()
		u.hide()
	}
	for _, x := range b.xs {
		b.stop(&x.t)
	}
	b.w.later = b.kept(b.w.later)
	b.w.ready = b.kept(b.w.ready)
	return true
}

// spill empties the pipes that large bodies go through.
func (x *Stream) spill() bool {
	if u, ok := x.up.(bulkSink); ok && x.toUp.pipe != nil {
		if !x.toUp.pipe.Spill(u.plain()) {
			return false
		}
		x.toUp.pipe = nil
	}
	if d, ok := x.down.(bulkSink); ok && x.toDown.pipe != nil {
		if !x.toDown.pipe.Spill(d.plain()) {
			return false
		}
		x.toDown.pipe = nil
	}
	return true
}

func (b *Bundle) stop(t *engine.Timer) {
	if at := t.At(); at != 0 {
		b.due[t] = at
		b.w.l.StopTimer(t)
	}
}

// kept leaves b's streams out of l: until they are thawed nobody may pump
// them.
func (b *Bundle) kept(l []later) []later {
	out := l[:0]
	for _, e := range l {
		if _, ok := b.index[e.x]; !ok {
			out = append(out, e)
		}
	}
	return out
}

// hide keeps new streams from u.
func (u *h2client) hide() {
	for i, o := range u.p.multi {
		if o == u {
			u.p.multi = append(u.p.multi[:i], u.p.multi[i+1:]...)
			return
		}
	}
}

// Thaw goes on with everything, as if nothing had happened.
func (b *Bundle) Thaw() {
	w := b.w
	for _, u := range b.u1 {
		if u.resting {
			u.p.revive()
			u.p.idle = append(u.p.idle, u)
			u.p.host.Idle.Add(1)
		}
		w.l.RestoreTimer(&u.t, b.due[&u.t], u)
	}
	for _, u := range b.u2 {
		if !u.leaving {
			u.p.revive()
			u.p.multi = append(u.p.multi, u)
		}
		w.l.RestoreTimer(&u.t, b.due[&u.t], u)
	}
	for _, h := range b.s1 {
		w.l.RestoreTimer(&h.t, b.due[&h.t], h)
	}
	for _, h := range b.s2 {
		w.l.RestoreTimer(&h.t, b.due[&h.t], h)
	}
	for _, x := range b.xs {
		w.l.RestoreTimer(&x.t, b.due[&x.t], x)
	}
	b.wake()
}

// wake thaws the connections and has every stream looked at once.
func (b *Bundle) wake() {
	for _, x := range b.xs {
		b.w.later = append(b.w.later, later{x, x.gen})
	}
	for _, h := range b.s1 {
		h.c.Thaw(h)
	}
	for _, h := range b.s2 {
		h.c.Thaw(h)
	}
	for _, u := range b.u1 {
		u.c.Thaw(u)
	}
	for _, u := range b.u2 {
		u.c.Thaw(u)
	}
}

// revive puts a pool back that was dropped as nobody needed it.
func (p *pool) revive() {
	if key := p.key(); p.w.pools[key] == nil {
		p.w.pools[key] = p
	}
}

// Yield forgets everything: it lives on in another process.
func (b *Bundle) Yield() {
	for _, c := range b.Conns() {
		c.Yield()
	}
	for _, x := range b.xs {
		x.yield()
	}
	for _, h := range b.s1 {
		h.x, h.ended = nil, true
		h.server.unlink()
		h.done()
		h.done = nil
	}
	for _, h := range b.s2 {
		h.ended = true
		h.server.unlink()
		h.done()
		h.done = nil
	}
	for _, u := range b.u1 {
		u.gone, u.resting, u.x = true, false, nil
		u.p.closed(u.high)
		u.p.prune()
	}
	for _, u := range b.u2 {
		u.gone, u.leaving = true, true
		u.p.closed(u.high)
		u.p.prune()
	}
}

// yield takes x off the accounts of what is under way. What was counted of it
// stays counted; the rest is counted where it goes on.
func (x *Stream) yield() {
	x.m.count(x.w).Active--
	x.host.Active.Add(-1)
	if x.admitted {
		x.cluster.Set.Release(balance.Requests, x.high())
	}
	if x.retrying {
		x.cluster.Set.Release(balance.Retries, x.high())
	}
	x.host = nil
	x.h2d.unlink()
	x.h2u.unlink()
	x.phase = ended
	x.w.recycle(x)
}

// Quiet tells that nothing is under way on the connection whose handler is h:
// such move first.
func Quiet(h engine.Handler) bool {
	switch h := h.(type) {
	case *h1server:
		return h.x == nil
	case *h2server:
		return h.h.Active() == 0
	case *h1client:
		return h.x == nil
	case *h2client:
		return h.h.Active() == 0
	}
	return false
}
