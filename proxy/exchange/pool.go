// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/proxyproto"
	"redoubt.dev/proxy/secure"
)

// Bounds of a pool. The idle time is below what servers commonly allow (Node.js
// 5 s is below it: see Stream.upstreamDied; nginx 75 s), so that it is mostly
// this side that ends idle connections, without a race.
const (
	poolIdle = 4096 // idle connections per host and loop
	poolTime = 55 * time.Second
)

// pool is a loop's connections to one host, and the streams that wait for one.
type pool struct {
	w    *Worker
	cl   *Cluster
	host *balance.Host

	idle     []*h1client // last in, first out
	multi    []*h2client // those that take streams, the fullest that has room first
	head     *Stream     // queue
	tail     *Stream
	waiting  int
	dialing  int
	open     int  // connections, those being made included
	two      bool // HTTP/2 is spoken, as far as is known
	asked    bool // by ALPN: whether it is, is known
	retired  bool
	stealing bool // another loop is being asked
	name     string
}

// poolKey tells pools apart: two is set where the client's protocol decides
// and is HTTP/2, name where the host has proven what the request asked for.
type poolKey struct {
	host *balance.Host
	two  bool
	name string
}

func (p *pool) key() poolKey {
	return poolKey{p.host, p.two && p.cl.Cfg.Upstream == config.UpDownstream, p.name}
}

// proven is the name that the host of a connection for x has to prove, or was
// asked for: a request for another must not leave by it (auto_sni,
// auto_san_validation). Empty where it does not depend on the request.
func (cl *Cluster) proven(x *Stream) string {
	if t := cl.Cfg.TLS; t == nil || !t.AutoSNI && !t.AutoSAN {
		return ""
	}
	return "=" + strings.ToLower(hostOnly(string(x.req.In(x.req.Authority))))
}

// moved names a pool whose connections came from another process, where the
// name is not known: they serve what is under way on them, and nothing new.
const moved = "moved"

func (w *Worker) poolOf(cl *Cluster, h *balance.Host, proto message.Proto, name string) *pool {
	if cl.pool != nil {
		return cl.pool
	}
	key := poolKey{h, cl.Cfg.Upstream == config.UpDownstream && proto == message.HTTP2, name}
	p := w.pools[key]
	if p == nil {
		p = &pool{w: w, cl: cl, host: h, name: name, two: key.two || cl.Cfg.Upstream == config.UpHTTP2}
		w.pools[key] = p
	}
	if cl.only != nil {
		cl.pool = p
	}
	p.cl = cl // a changed configuration counts from the next connection on
	return p
}

// get gives x a connection, at once or later.
func (p *pool) get(x *Stream) {
	if c := p.shared(); c != nil {
		x.connected(c.open(x))
		return
	}
	// After a replay only what is new: the pool may hold more that died
	// together.
	if x.conns+x.replays == 0 || p.cl.TLS != nil && x.lead == nil {
		if c := p.take(x); c != nil {
			c.x = x
			x.connected(c)
			return
		}
	}
	if !p.cl.Set.Admit(balance.Pending, x.high()) {
		x.unconnected(balance.Cancelled)
		return
	}
	x.pool = p
	p.revive() // the end of the last that rested may have pruned it
	if p.tail == nil {
		p.head = x
	} else {
		p.tail.poolNext = x
	}
	p.tail = x
	p.waiting++
	if !p.two && !p.stealing && p.host.Idle.Load() > 0 && len(p.w.sh.Workers) > 1 && p.cl.Cfg.ProxyProtocol == 0 {
		p.steal()
		return
	}
	p.dialAsNeeded()
}

// shared gives an HTTP/2 connection that takes another stream.
func (p *pool) shared() *h2client {
	for _, c := range p.multi {
		if c.takes() {
			return c
		}
	}
	return nil
}

// take gives an idle connection that x's request may use.
func (p *pool) take(x *Stream) *h1client {
	for len(p.idle) > 0 {
		c := p.idle[len(p.idle)-1]
		p.idle[len(p.idle)-1] = nil
		p.idle = p.idle[:len(p.idle)-1]
		p.host.Idle.Add(-1)
		if c.c.Dead() || c.old() || c.worn(x) {
			c.close()
			continue
		}
		c.resting = false
		return c
	}
	return nil
}

// dialAsNeeded begins as many connections as streams wait for: one for all of
// them where streams can share it.
func (p *pool) dialAsNeeded() {
	want := p.waiting
	if p.two || p.cl.Cfg.Upstream == config.UpAuto && !p.asked {
		want = min(want, 1)
	}
	if p.stealing {
		want-- // one may come from another loop
	}
	for p.dialing < want && p.waiting > 0 {
		if !p.cl.Set.Admit(balance.Connections, p.head.high()) {
			if p.open > 0 {
				return // one that is in use will come free
			}
			// All are other hosts' or loops', and none of those will ever come
			// here: who has none may make one, as in Envoy. Where names part
			// connections, and clients choose names, one at rest goes for it.
			if p.name == "" || !p.w.evict(p) || !p.cl.Set.Admit(balance.Connections, p.head.high()) {
				p.cl.Set.Exceed(balance.Connections, p.head.high())
			}
		}
		p.dialing++
		p.dial(p.head)
	}
}

// evict ends a connection at rest of the same cluster that p cannot use.
func (w *Worker) evict(p *pool) bool {
	for _, o := range w.pools {
		if o == p || o.cl.Set != p.cl.Set {
			continue
		}
		if len(o.idle) > 0 {
			o.idle[0].close()
			return true
		}
		for _, u := range o.multi {
			if u.settled && u.h.Active() == 0 {
				u.drain()
				return true
			}
		}
	}
	return false
}

// pop takes the first that waits.
func (p *pool) pop() *Stream {
	x := p.head
	if x == nil {
		return nil
	}
	p.head = x.poolNext
	if p.head == nil {
		p.tail = nil
	}
	x.poolNext, x.pool = nil, nil
	p.waiting--
	p.cl.Set.Release(balance.Pending, x.high())
	return x
}

// leave takes x out of the queue.
func (p *pool) leave(x *Stream) {
	var before *Stream
	for y := p.head; y != nil; before, y = y, y.poolNext {
		if y != x {
			continue
		}
		if before == nil {
			p.head = x.poolNext
		} else {
			before.poolNext = x.poolNext
		}
		if p.tail == x {
			p.tail = before
		}
		x.poolNext, x.pool = nil, nil
		p.waiting--
		p.cl.Set.Release(balance.Pending, x.high())
		return
	}
}

// fail tells those that wait that there is no connection: the first, or all
// when none can come.
func (p *pool) fail(o balance.Outcome) {
	for n := p.waiting; n > 0; n-- { // those that come back meanwhile wait for another
		x := p.pop()
		if x == nil {
			return
		}
		gen := x.gen
		x.unconnected(o)
		if x.gen == gen && x.phase == forwarding {
			x.pump() // it has found a connection at once
		}
		if !p.two {
			return
		}
	}
}

// ready1 has a new or freed HTTP/1 connection serve the next that waits, or
// rest.
func (p *pool) ready1(c *h1client) {
	if c.count > 0 && c.old() { // a new one serves whom it was made for
		c.close()
		p.dialAsNeeded()
		return
	}
	if x := p.pop(); x != nil {
		c.x, c.resting = x, false
		x.connected(c)
		x.pump()
		return
	}
	if len(p.idle) >= poolIdle || p.retired || p.w.draining || c.old() {
		c.close()
		return
	}
	c.resting = true
	p.idle = append(p.idle, c)
	p.host.Idle.Add(1)
	c.rest()
}

// ready2 has an HTTP/2 connection serve those that wait.
func (p *pool) ready2(c *h2client) {
	for p.head != nil && c.takes() {
		x := p.pop()
		x.connected(c.open(x))
		x.pump()
	}
	p.dialAsNeeded()
}

// forget takes an idle connection out.
func (p *pool) forget(c *h1client) {
	for i := len(p.idle) - 1; i >= 0; i-- {
		if p.idle[i] == c {
			p.idle = append(p.idle[:i], p.idle[i+1:]...)
			p.host.Idle.Add(-1)
			return
		}
	}
}

// retire ends what is idle and lets the rest end with its streams.
func (p *pool) retire() {
	p.retired = p.retired || p.host.Removed()
	for len(p.idle) > 0 {
		p.idle[len(p.idle)-1].close()
	}
	for i := len(p.multi) - 1; i >= 0; i-- {
		p.multi[i].drain()
	}
	p.prune()
}

// prune drops a pool that nobody needs.
func (p *pool) prune() {
	if p.name != "" && p.open > 0 || p.name == "" && !p.retired {
		return // clients choose names: what they leave behind must go
	}
	if !p.stealing && p.waiting+p.dialing+len(p.idle)+len(p.multi) == 0 {
		if p.cl.pool == p {
			p.cl.pool = nil
		}
		if key := p.key(); p.w.pools[key] == p {
			delete(p.w.pools, key)
		}
	}
}

// dialing is one connection being made.
type dialer struct {
	p      *pool
	c      *engine.Conn
	t      engine.Timer
	target secure.Target
	head   []byte  // PROXY protocol
	x      *Stream // whom a connection with such a head is for
	gen    uint32
	high   bool
	began  int64
	local  netip.AddrPort
	over   bool
}

// dial begins a connection; for names the request that asked first.
func (p *pool) dial(x *Stream) {
	d := &dialer{p: p, high: x.high(), began: p.w.l.Now()}
	if p.cl.TLS != nil {
		d.target = p.cl.target(x, p.host)
	}
	if p.cl.Cfg.ProxyProtocol > 0 {
		d.x, d.gen = x, x.gen
		d.head = proxyHeader(p.cl.Cfg.ProxyProtocol, x.c.Conn)
	}
	p.open++
	p.host.Conns.Add(1)
	p.cl.count(p.w).Dials++
	fd, connecting, err := p.cl.connect(p.host)
	if err == nil {
		d.local = localAddr(fd)
		d.c, err = p.w.l.Add(fd, connecting, d)
	}
	if err != nil {
		d.c = nil
		p.w.l.Post(func() { d.failed(balance.ConnectFailed) }) // not from within the caller
		return
	}
	p.w.l.SetTimer(&d.t, p.cl.connectTime, d)
	if !connecting {
		d.c.Again()
	}
}

// OnConn is told of the connection while it is being made.
func (d *dialer) OnConn(c *engine.Conn) {
	if c.Err() != nil {
		d.failed(balance.ConnectFailed)
		return
	}
	if c.Connecting() || d.over {
		return
	}
	if len(d.head) > 0 {
		c.Append(d.head)
		d.head = nil
	}
	t := d.p.cl.TLS
	if t == nil {
		d.ready("", nil)
		return
	}
	d.over = true // the handshake has its own deadline
	d.p.w.l.StopTimer(&d.t)
	t.Start(d.p.w.sh.Handshakes, c, d.target, secure.Options{}, func(info *filter.TLSInfo, err error) {
		d.over = false
		if err != nil {
			d.c = nil
			d.failed(balance.ConnectFailed)
			return
		}
		d.ready(info.ALPN, info)
	})
}

// OnClose is told that the loop ended.
func (d *dialer) OnClose(*engine.Conn) {
	d.p.w.l.StopTimer(&d.t)
}

// Expire gives up.
func (d *dialer) Expire(*engine.Timer) {
	if d.c == nil {
		d.failed(balance.ConnectFailed)
		return
	}
	d.failed(balance.ConnectTimeout)
}

func (d *dialer) failed(o balance.Outcome) {
	p := d.p
	p.w.l.StopTimer(&d.t)
	d.over = true
	if d.c != nil {
		d.c.SetHandler(deaf{})
		d.c.Close()
	}
	p.dialing--
	p.closed(d.high)
	p.cl.count(p.w).DialFailed++
	p.fail(o)
	p.dialAsNeeded()
	p.prune()
}

// closed settles the accounts of a connection that is gone.
func (p *pool) closed(high bool) {
	p.open--
	p.host.Conns.Add(-1)
	p.cl.Set.Release(balance.Connections, high)
}

func (d *dialer) ready(alpn string, info *filter.TLSInfo) {
	p := d.p
	p.w.l.StopTimer(&d.t)
	p.dialing--
	d.over = true
	two := p.two
	switch {
	case p.cl.Cfg.Upstream == config.UpAuto:
		two = alpn == "h2"
		p.two, p.asked = two, true
		defer p.dialAsNeeded() // those that wait may need one each
	case alpn == "http/1.1":
		two = false // the server insists
	}
	if two {
		newH2Client(p, d.c, d.high, info, d.local)
		return
	}
	if x := d.x; x != nil && (x.gen != d.gen || x.pool != p) {
		d.c.SetHandler(deaf{})
		d.c.Close() // it names a client that does not wait any more
		p.closed(d.high)
		p.dialAsNeeded()
		return
	}
	c := &h1client{p: p, c: d.c, high: d.high, made: p.w.l.Now(), tls: info, until: p.until(info), local: d.local}
	d.c.SetHandler(c)
	if d.x != nil {
		p.leave(d.x)
		c.x = d.x
		c.x.connected(c)
		c.x.pump()
		return
	}
	p.ready1(c)
}

// localAddr is this side's address; zero for a unix socket.
func localAddr(fd int) netip.AddrPort {
	switch a, _ := unix.Getsockname(fd); a := a.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

// until is when a connection takes no new request, by Mono; 0 for never.
func (p *pool) until(info *filter.TLSInfo) int64 {
	if p.cl.Margin <= 0 || info == nil || info.NotAfter.IsZero() {
		return 0
	}
	return p.w.l.Now() + int64(time.Until(info.NotAfter)-p.cl.Margin)
}

// deaf is the handler of a connection that is being closed.
type deaf struct{}

func (deaf) OnConn(*engine.Conn) {}

// proxyHeader announces the client of info.
func proxyHeader(version int, info *filter.ConnInfo) []byte {
	return proxyproto.Append(nil, &proxyproto.Header{Version: version, Stream: true, Source: info.Source, Dest: info.Local})
}
