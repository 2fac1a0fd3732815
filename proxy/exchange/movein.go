// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/handover/wire"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// Place is where a client's connection belongs here. Enter counts it, Over is
// called once it has ended or moved on.
type Place struct {
	Manager *Manager
	Enter   func()
	Over    func()
}

// Settle finds the place of a connection; ok is false when nothing here takes
// it.
type Settle func(info *filter.ConnInfo, c *engine.Conn) (p Place, ok bool)

// arrivals are what Adopt makes of an exported bundle.
type arrivals struct {
	b      *Bundle
	w      *Worker
	r      *wire.Reader
	dir    Directory
	settle Settle
	conns  []*engine.Conn
	places []Place
	codec  [2][][]byte // of HTTP/2 connections: servers, clients
	ids    [2][]map[uint32]*Stream
}

// Adopt makes a frozen bundle of what Export wrote and its descriptors, which
// it takes over, also when it fails. Nothing is read or written yet: Thaw
// begins, Yield drops it.
func (w *Worker) Adopt(r *wire.Reader, fds []int, dir Directory, settle Settle) (*Bundle, error) {
	a := &arrivals{b: &Bundle{w: w, index: map[any]int{}, due: map[*engine.Timer]int64{}}, w: w, r: r, dir: dir, settle: settle}
	a.connections(fds)
	if r.Done() == nil {
		a.codecs()
	}
	if r.Err() == nil {
		a.enroll()
	}
	if err := r.Err(); err != nil {
		a.drop()
		return nil, err
	}
	return a.b, nil
}

// drop forgets what was made. Nothing was counted.
func (a *arrivals) drop() {
	for _, c := range a.conns {
		c.Yield()
	}
	for _, x := range a.b.xs {
		x.h2d.unlink()
		x.h2u.unlink()
		x.phase = ended
		a.w.recycle(x)
	}
}

// connections reads everything.
func (a *arrivals) connections(fds []int) {
	r, b := a.r, a.b
	var n [5]int
	for i := range n {
		n[i] = r.Count(1)
	}
	if r.Err() == nil && n[0]+n[1]+n[2]+n[3] != len(fds) {
		r.Bad("descriptors")
	}
	for _, fd := range fds { // also after a fault: each must be closed
		a.conns = append(a.conns, a.w.l.Adopt(fd, r, Open))
	}
	if r.Err() != nil {
		return
	}
	conns := a.conns
	next := func() (c *engine.Conn) { c, conns = conns[0], conns[1:]; return c }
	for range n[0] {
		b.s1 = append(b.s1, &h1server{w: a.w, c: next()})
	}
	for range n[1] {
		h := &h2server{w: a.w, c: next()}
		h.sides.next, h.sides.prev = &h.sides, &h.sides
		b.s2 = append(b.s2, h)
	}
	for range n[2] {
		b.u1 = append(b.u1, &h1client{c: next()})
	}
	for range n[3] {
		u := &h2client{c: next()}
		u.calls.next, u.calls.prev = &u.calls, &u.calls
		b.u2 = append(b.u2, u)
	}
	for _, u := range b.u1 {
		a.client1(u)
	}
	for _, u := range b.u2 {
		a.client2(u)
	}
	for _, h := range b.s1 {
		a.server1(h)
	}
	for _, h := range b.s2 {
		a.server2(h)
	}
	for range n[4] {
		if r.Err() != nil {
			return
		}
		a.stream()
	}
}

// unknown says that the configuration here has no place for something.
func (a *arrivals) unknown(what string) {
	a.r.Bad(what + " that this configuration has")
}

func (a *arrivals) host(cl *Cluster, at netip.AddrPort, name string) *balance.Host {
	for _, h := range cl.Set.Hosts() {
		if h.Addr == at && h.Name == name {
			return h
		}
	}
	return nil
}

func (a *arrivals) pool() *pool {
	r := a.r
	cl := a.dir[r.String()]
	at, name, two, asked := r.Addr(), r.String(), r.Bool(), r.Bool()
	if r.Err() != nil {
		return nil
	}
	if cl == nil {
		a.unknown("cluster")
		return nil
	}
	h := a.host(cl, at, name)
	if h == nil {
		a.unknown("host")
		return nil
	}
	proto := message.HTTP11
	if two {
		proto = message.HTTP2
	}
	parted := ""
	if t := cl.Cfg.TLS; t != nil && (t.AutoSNI || t.AutoSAN) {
		parted = moved
	}
	p := a.w.poolOf(cl, h, proto, parted)
	if asked && !p.asked {
		p.two, p.asked = two, true
	}
	return p
}

// due reads when a timer runs out.
func (a *arrivals) due(t *engine.Timer) {
	if at := a.r.I64(); at != 0 {
		a.b.due[t] = at
	}
}

func (a *arrivals) client1(u *h1client) {
	r := a.r
	u.p = a.pool()
	u.tls = importTLS(r)
	a.due(&u.t)
	u.made, u.mark, u.count = r.I64(), r.U64(), r.U32()
	for _, f := range [...]*bool{&u.high, &u.reused, &u.resting, &u.persist, &u.headed} {
		*f = r.Bool()
	}
	u.src, u.dst = importSource(r, len(u.c.Bytes())), importSink(r)
	if u.p != nil {
		u.until, u.rested = u.p.until(u.tls), a.w.l.Now()
	}
}

func (a *arrivals) client2(u *h2client) {
	r := a.r
	u.p = a.pool()
	u.tls = importTLS(r)
	a.due(&u.t)
	u.made, u.turn, u.since, u.count = r.I64(), r.I64(), r.I64(), r.U32()
	for _, f := range [...]*bool{&u.high, &u.settled, &u.leaving} {
		*f = r.Bool()
	}
	if u.p != nil {
		u.until = u.p.until(u.tls)
	}
	a.codec[1] = append(a.codec[1], r.Bytes())
	a.ids[1] = append(a.ids[1], map[uint32]*Stream{})
}

// server settles a client's connection.
func (a *arrivals) server(s *server, who departing, c *engine.Conn) (info *filter.ConnInfo, over func()) {
	info = ImportInfo(a.r)
	if a.r.Err() != nil {
		return info, nil
	}
	p, ok := a.settle(info, c)
	if !ok {
		a.unknown("listener and filter chain")
		return info, nil
	}
	s.who, s.m = who, p.Manager
	a.places = append(a.places, p)
	return info, p.Over
}

func (a *arrivals) server1(h *h1server) {
	r := a.r
	h.info, h.done = a.server(&h.server, h, h.c)
	a.due(&h.t)
	h.began, h.since, h.count = r.I64(), r.I64(), r.U32()
	for _, f := range [...]*bool{&h.partial, &h.persist, &h.modern, &h.last} {
		*f = r.Bool()
	}
	h.told = h.last
	h.src, h.dst = importSource(r, len(h.c.Bytes())), importSink(r)
	h.peer = a.w.peer(h.info)
}

func (a *arrivals) server2(h *h2server) {
	r := a.r
	h.info, h.done = a.server(&h.server, h, h.c)
	a.due(&h.t)
	h.began, h.since, h.turn, h.count, h.last, h.halfway = r.I64(), r.I64(), r.I64(), r.U32(), r.Bool(), r.Bool()
	h.peer = a.w.peer(h.info)
	a.codec[0] = append(a.codec[0], r.Bytes())
	a.ids[0] = append(a.ids[0], map[uint32]*Stream{})
}

func (a *arrivals) stream() {
	r, w := a.r, a.w
	x := w.newStream(nil, nil)
	x.gen++
	a.b.index[x] = len(a.b.xs)
	a.b.xs = append(a.b.xs, x)
	a.downstream(x)
	a.upstream(x)
	if r.Err() != nil {
		return
	}
	importRequest(r, &x.req)
	importResponse(r, &x.resp)
	importHead(r, &x.reqT)
	importHead(r, &x.respT)
	ImportContext(r, &x.c)
	if n := r.Count(0); n != x.m.chain.Len() {
		a.unknown("filters")
		return
	}
	for _, f := range x.flags() {
		*f = r.Bool()
	}
	x.parent.Valid = r.Bool()
	for i := range x.parent.Span {
		x.parent.Span[i] = r.U8()
	}
	a.route(x)
	x.kept = append(x.kept[:0], r.Bytes()...)
	for _, v := range x.ints() {
		*v = r.Span("count", 1<<20)
	}
	a.due(&x.t)
	for _, v := range x.times() {
		*v = r.I64()
	}
	if len(x.kept) > mostKept || x.replayAt > len(x.kept) {
		r.Bad("body that was kept")
	}
	x.phase = forwarding
	x.c.Req = &x.req
	if x.headDone {
		x.c.Resp = &x.resp
	}
	x.c.Slots = make([]any, x.m.chain.Len())
}

// mostKept bounds a body that is held to be sent again: what a filter may have
// asked to see whole.
const mostKept = 16 << 20

func (a *arrivals) downstream(x *Stream) {
	r, b := a.r, a.b
	switch kind, i := r.U8(), int(r.U32()); {
	case kind == overHTTP1 && i < len(b.s1) && b.s1[i].x == nil:
		h := b.s1[i]
		h.x = x
		x.h1, x.down, x.m, x.c.Conn, x.peer = h, h, h.m, h.info, h.peer
	case kind == overHTTP2 && i < len(b.s2):
		h := b.s2[i]
		x.m, x.c.Conn, x.peer = h.m, h.info, h.peer
		d := &x.h2d
		id := r.U32()
		*d = h2side{x: x, h: h, in: importBody2(r), reset: r.Bool()}
		a.note(0, i, id, x)
		ring := &h.sides
		d.prev, d.next = ring.prev, ring
		ring.prev.next, ring.prev = d, d
		x.down = d
	default:
		r.Bad("downstream")
	}
}

func (a *arrivals) upstream(x *Stream) {
	r, b := a.r, a.b
	switch kind, i := r.U8(), int(r.U32()); {
	case kind == overHTTP1 && i < len(b.u1) && b.u1[i].x == nil:
		u := b.u1[i]
		u.x = x
		x.up, x.c.UpstreamTLS = u, u.tls
	case kind == overHTTP2 && i < len(b.u2):
		u := b.u2[i]
		k := &x.h2u
		id := r.U32()
		*k = h2call{x: x, u: u, in: importBody2(r), code: http2.Code(r.U32())}
		for _, f := range [...]*bool{&k.got, &k.end, &k.headed, &k.reset, &k.unprocessed} {
			*f = r.Bool()
		}
		a.note(1, i, id, x)
		ring := &u.calls
		k.prev, k.next = ring.prev, ring
		ring.prev.next, ring.prev = k, k
		x.up, x.c.UpstreamTLS = k, u.tls
	default:
		r.Bad("upstream")
	}
}

// note remembers whose an HTTP/2 stream is; 0 is one that is over.
func (a *arrivals) note(side, i int, id uint32, x *Stream) {
	if id == 0 {
		return
	}
	if a.ids[side][i][id] != nil {
		a.r.Bad("stream")
	}
	a.ids[side][i][id] = x
}

// route finds again what x was routed by.
func (a *arrivals) route(x *Stream) {
	r := a.r
	index, vhost, name := r.Int(), r.String(), r.String()
	weighted, on, most := r.Int(), r.U32(), r.U32()
	total, perTry := r.I64(), r.I64()
	cluster, at, host, hash, dest := r.String(), r.Addr(), r.String(), r.U64(), r.Addr()
	routes, rt := x.m.routing.Load(), (*config.Route)(nil)
	if r.Err() == nil && routes != nil {
		rt = routes.find(index, vhost, name)
	}
	if rt == nil || rt.To == nil || weighted >= len(rt.To.Weighted) {
		a.unknown("route")
		return
	}
	x.routes, x.fwd = routes, rt.To
	x.c.Routes, x.c.Overrides, x.c.Route = routes.Table, routes.Overrides, rt
	if weighted >= 0 {
		x.c.Weighted = &rt.To.Weighted[weighted]
	}
	if x.cluster = a.dir[cluster]; x.cluster == nil {
		a.unknown("cluster")
		return
	}
	if x.host = a.host(x.cluster, at, host); x.host == nil {
		a.unknown("host")
		return
	}
	for range r.Count(8) {
		if h := a.host(x.cluster, r.Addr(), r.String()); h != nil {
			x.tried = append(x.tried, h)
		}
	}
	x.c.Req = &x.req
	x.retry = routes.Table.Retry(&x.c)
	x.retry.On, x.retry.Max = config.RetryOn(on), most
	x.limits = router.Timeouts{Total: time.Duration(total), PerTry: time.Duration(perTry)}
	x.ask = balance.Ask{Hash: hash, HasHash: x.ask.HasHash, Dest: dest, Subset: x.subset(x.fwd)}
}

// find gives the route at index, if it is still the same one by its names.
func (r *Routing) find(index int, vhost, name string) *config.Route {
	for _, h := range r.Table.Config().Hosts {
		if h.Name != vhost {
			continue
		}
		for _, rt := range h.Routes {
			if rt.Index == index && rt.Name == name {
				return rt
			}
		}
	}
	return nil
}

// codecs makes the HTTP/2 connections live.
func (a *arrivals) codecs() {
	for i, h := range a.b.s2 {
		ids := a.ids[0][i]
		var err error
		h.h, err = http2.Import(a.codec[0][i], h.m.http2(&a.w.h2), h, h.c, func(s *http2.Stream) {
			if x := ids[s.ID()]; x != nil {
				x.h2d.s = s
				s.Owner, s.Req, s.Trailers = &x.h2d, &x.req, &x.reqT
				delete(ids, s.ID())
			} else {
				a.r.Bad("stream")
			}
		})
		if err != nil || len(ids) > 0 {
			a.r.Bad("HTTP/2")
		}
	}
	for i, u := range a.b.u2 {
		ids := a.ids[1][i]
		var err error
		u.h, err = http2.Import(a.codec[1][i], u.p.cl.http2(&a.w.h2), u, u.c, func(s *http2.Stream) {
			if x := ids[s.ID()]; x != nil {
				x.h2u.s = s
				s.Owner, s.Resp, s.Trailers = &x.h2u, &x.resp, &x.respT
				delete(ids, s.ID())
			} else {
				a.r.Bad("stream")
			}
		})
		if err != nil || len(ids) > 0 {
			a.r.Bad("HTTP/2")
		}
	}
}

// enroll counts everything, or nothing when a circuit breaker says no.
func (a *arrivals) enroll() {
	b := a.b
	var undo []func()
	admit := func(s *balance.Set, what balance.Resource, high bool) bool {
		if !s.Admit(what, high) {
			a.r.Bad("circuit breaker with room")
			return false
		}
		undo = append(undo, func() { s.Release(what, high) })
		return true
	}
	ok := true
	for _, u := range b.u1 {
		ok = ok && admit(u.p.cl.Set, balance.Connections, u.high)
	}
	for _, u := range b.u2 {
		ok = ok && admit(u.p.cl.Set, balance.Connections, u.high)
	}
	for _, x := range b.xs {
		ok = ok && (!x.admitted || admit(x.cluster.Set, balance.Requests, x.high()))
		ok = ok && (!x.retrying || admit(x.cluster.Set, balance.Retries, x.high()))
	}
	if !ok {
		for _, f := range undo {
			f()
		}
		return
	}
	for _, u := range b.u1 {
		u.p.open++
		u.p.host.Conns.Add(1)
	}
	for _, u := range b.u2 {
		u.p.open++
		u.p.host.Conns.Add(1)
	}
	for _, x := range b.xs {
		x.host.Active.Add(1)
		x.m.count(a.w).Active++
	}
	for _, h := range b.s1 {
		a.w.link(&h.server)
	}
	for _, h := range b.s2 {
		a.w.link(&h.server)
	}
	for _, p := range a.places {
		p.Enter()
	}
}
