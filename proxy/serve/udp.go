// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
)

// Bounds of a datagram listener.
const (
	maxDatagram     = 64 << 10
	datagramBatch   = 64 // per turn
	defaultSessions = 65536
	defaultUDPIdle  = time.Minute
)

// datagrams is a UDP listener on one loop. Each loop has the socket, and a
// client's datagrams may meet any of them; its session is one loop's, which its
// address chooses, and leaves from a socket of its own.
type datagrams struct {
	w        *worker
	ln       *listener
	watch    engine.Watch
	sessions map[netip.AddrPort]*session
	buf      []byte
}

// session is one client and its host.
type session struct {
	d      *datagrams
	client netip.AddrPort
	sa     unix.Sockaddr
	host   *balance.Host
	cl     *exchange.Cluster
	fd     int
	watch  engine.Watch
	t      engine.Timer
	last   int64
	c      filter.Context
	info   filter.ConnInfo
	logs   logs
}

func (w *worker) listenUDP(ln *listener) {
	d := &datagrams{w: w, ln: ln, sessions: map[netip.AddrPort]*session{}, buf: make([]byte, maxDatagram)}
	if err := d.listen(); err != nil {
		w.s.log.Error("cannot receive", "listener", ln.name, "err", err)
		return
	}
	w.udp[ln] = d
}

func (d *datagrams) listen() (err error) {
	d.watch, err = d.w.l.Watch(d.ln.fd, engine.Shared, d)
	return err
}

func (d *datagrams) stop() {
	d.w.l.Unwatch(d.watch)
	for _, s := range d.sessions {
		s.end()
	}
}

// Ready takes datagrams off the listener.
func (d *datagrams) Ready(uint32) {
	cfg := d.ln.state.Load().cfg.UDP
	for range datagramBatch {
		n, sa, err := unix.Recvfrom(d.ln.fd, d.buf, unix.MSG_DONTWAIT)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return
		}
		from := addrPort(sa)
		if o := d.owner(from); o != d.w && !cfg.PerPacket {
			d.pass(o, from, sa, d.buf[:n])
			continue
		}
		d.take(cfg, from, sa, d.buf[:n])
	}
}

// take sends a client's datagram to its host.
func (d *datagrams) take(cfg *config.UDPProxy, from netip.AddrPort, sa unix.Sockaddr, p []byte) {
	s := d.sessions[from]
	if s != nil && (cfg.PerPacket || s.host.Removed() || !s.host.Healthy()) {
		s.end()
		s = nil
	}
	if s == nil {
		if s = d.open(cfg, from, sa); s == nil {
			return
		}
	}
	s.last = d.w.l.Now()
	s.c.BytesIn += uint64(len(p))
	if _, err := unix.Write(s.fd, p); errors.Is(err, unix.ECONNREFUSED) {
		s.host.Report(balance.ConnectFailed, 0, d.w.l.Now())
	}
}

// owner is the loop that has the client's session.
func (d *datagrams) owner(from netip.AddrPort) *worker {
	ws := d.w.s.workers
	return ws[(exchange.HashAddr(from.Addr())+uint64(from.Port()))%uint64(len(ws))]
}

// maxPassed bounds the datagrams of a listener that are on their way from one
// loop to another.
const maxPassed = 4096

// pass hands a datagram to the loop that has its session. What is too much is
// dropped, as a socket's full buffer would.
func (d *datagrams) pass(o *worker, from netip.AddrPort, sa unix.Sockaddr, p []byte) {
	ln := d.ln
	if ln.passed.Add(1) > maxPassed {
		ln.passed.Add(-1)
		ln.count[d.w.n].Shed++
		return
	}
	p = append([]byte(nil), p...)
	posted := o.l.Post(func() {
		ln.passed.Add(-1)
		if t, cfg := o.udp[ln], ln.state.Load().cfg.UDP; t != nil && cfg != nil {
			t.take(cfg, from, sa, p)
		}
	})
	if !posted {
		ln.passed.Add(-1)
	}
}

// open begins a session; nil drops the datagram.
func (d *datagrams) open(cfg *config.UDPProxy, from netip.AddrPort, sa unix.Sockaddr) *session {
	most := cfg.MaxSessions
	if most <= 0 {
		most = defaultSessions
	}
	n := d.ln.count[d.w.n]
	cl := (*d.w.s.clusters.Load())[cfg.Cluster]
	if cl == nil || len(d.sessions) >= most || !d.w.affords() {
		n.Shed++
		return nil
	}
	ask := balance.Ask{Now: d.w.l.Now()}
	if cfg.HashSourceIP {
		ask.Hash, ask.HasHash = exchange.HashAddr(from.Addr()), true
	}
	h, why := d.w.x.Pick(cl, &ask)
	if why != balance.Found {
		n.Shed++
		return nil
	}
	family := unix.AF_INET
	if h.Addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := sys.Socket(family, unix.SOCK_DGRAM)
	if err != nil {
		n.Shed++
		return nil
	}
	if unix.Connect(fd, sockaddr(h.Addr)) != nil {
		unix.Close(fd)
		n.Shed++
		return nil
	}
	s := &session{d: d, client: from, sa: sa, host: h, cl: cl, fd: fd, info: filter.ConnInfo{Listener: d.ln.name, Peer: from, Source: from, Local: d.ln.addr}}
	if s.watch, err = d.w.l.Watch(fd, engine.Readable, s); err != nil {
		unix.Close(fd)
		n.Shed++
		return nil
	}
	s.c.Conn, s.c.Began, s.c.Cluster, s.c.Host, s.c.HostName = &s.info, d.w.l.Now(), cfg.Cluster, h.Addr, h.Name
	s.logs = d.ln.state.Load().logs
	h.Begin()
	n.Conns++
	d.sessions[from] = s
	d.w.sessions.Add(1)
	s.last = d.w.l.Now()
	d.w.l.SetTimer(&s.t, s.idle(), s)
	return s
}

// affords tells that there is a descriptor for another session. Who sends
// datagrams can give any address as his own, so that sessions have at most half
// of them: the other half is for connections, of whatever listener.
func (w *worker) affords() bool {
	n := w.sessions.Load()
	return n < w.s.maxConns/2 && n+w.l.Load() < w.s.maxConns
}

func (s *session) idle() time.Duration {
	if cfg := s.d.ln.state.Load().cfg.UDP; cfg != nil && cfg.IdleTimeout > 0 {
		return cfg.IdleTimeout
	}
	return defaultUDPIdle
}

// Ready takes answers of the host to the client, from the address that the
// client knows.
func (s *session) Ready(uint32) {
	for range datagramBatch {
		n, err := unix.Read(s.fd, s.d.buf)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case errors.Is(err, unix.ECONNREFUSED): // the host has no such port
			s.host.Report(balance.ConnectFailed, 0, s.d.w.l.Now())
			s.end()
			return
		case err != nil:
			return
		}
		s.last = s.d.w.l.Now()
		s.c.BytesOut += uint64(n)
		unix.Sendto(s.d.ln.fd, s.d.buf[:n], unix.MSG_DONTWAIT, s.sa) // a full buffer drops it, as any datagram
	}
}

// Expire ends a session that was silent.
func (s *session) Expire(*engine.Timer) {
	left := s.last + int64(s.idle()) - s.d.w.l.Now()
	if left > 0 {
		s.d.w.l.SetTimer(&s.t, time.Duration(left), s)
		return
	}
	s.end()
}

func (s *session) end() {
	w := s.d.w
	w.l.StopTimer(&s.t)
	w.l.Unwatch(s.watch)
	unix.Close(s.fd)
	delete(s.d.sessions, s.client)
	w.sessions.Add(-1)
	s.host.End(balance.Connected, time.Duration(w.l.Now()-s.c.Began), w.l.Now())
	s.c.Ended = engine.Mono()
	s.logs.write(w, &s.c)
}
