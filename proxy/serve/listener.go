// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
)

// listener is one listening socket in service. What is made of connections is
// swapped with each configuration; the socket stays.
type listener struct {
	name  string
	fd    int
	addr  netip.AddrPort // as bound
	state atomic.Pointer[listening]
	conns atomic.Int64
	gone  atomic.Bool
	// passed counts datagrams on their way between loops.
	passed atomic.Int64
	count  []*listenerCount // by worker
}

// listening is a listener's configuration, compiled. It is immutable.
type listening struct {
	cfg     *config.Listener
	chains  []*chain
	def     *chain
	inspect bool // the TLS hello must be seen before a chain can be chosen
	logs    logs
	wait    time.Duration
}

// listenerCount is one worker's.
type listenerCount struct {
	Conns, Shed, NoChain, Refused uint64
	Unshaken                      uint64 // TLS handshakes that failed, or were given up
	_                             [24]byte
}

// bind opens a listening socket.
func bind(c *config.Listener) (fd int, at netip.AddrPort, err error) {
	bad := func(act string, err error) (int, netip.AddrPort, error) {
		if fd >= 0 {
			unix.Close(fd)
		}
		return -1, at, &errs.Error{Kind: errs.Unavailable, Subject: "listener " + c.Name, Field: "address", Seen: c.Addr.String(), Expected: "an address that can be listened on", Err: fmt.Errorf("%s: %w", act, err)}
	}
	family, kind := unix.AF_INET, unix.SOCK_STREAM
	if c.Addr.Addr().Is6() {
		family = unix.AF_INET6
	}
	if c.UDP != nil {
		kind = unix.SOCK_DGRAM
	}
	fd = -1
	if fd, err = sys.Socket(family, kind); err != nil {
		return bad("make socket", err)
	}
	unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if c.Transparent {
		if err := sys.Transparent(fd); err != nil {
			return bad("make it transparent", err)
		}
	}
	if c.UDP != nil {
		unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
	}
	if err := unix.Bind(fd, sockaddr(c.Addr)); err != nil {
		return bad("bind", err)
	}
	if c.UDP == nil {
		backlog := c.Backlog
		if backlog <= 0 {
			backlog = 4096
		}
		if err := unix.Listen(fd, backlog); err != nil {
			return bad("listen", err)
		}
	}
	return fd, localAddr(fd), nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port))
	}
	return netip.AddrPort{}
}

func localAddr(fd int) netip.AddrPort {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}
	}
	return addrPort(sa)
}

// acceptor is one listener on one loop.
type acceptor struct {
	w     *worker
	ln    *listener
	watch engine.Watch // zero while it rests
	rest  engine.Timer
}

const (
	// acceptRest is how long a listener is left alone when there are no
	// descriptors left.
	acceptRest  = 100 * time.Millisecond
	acceptBatch = 32 // per turn, so that a flood of connections does not starve those that are there
)

// listen begins, or goes on, to accept. Exclusive: one connection wakes one
// loop, not all. Level-triggered, so that a turn may leave connections for the
// next.
func (a *acceptor) listen() (err error) {
	a.watch, err = a.w.l.Watch(a.ln.fd, engine.Shared, a)
	return err
}

func (a *acceptor) stop() {
	a.w.l.Unwatch(a.watch)
	a.watch = engine.Watch{}
	a.w.l.StopTimer(&a.rest)
}

// Expire goes on to accept after a rest.
func (a *acceptor) Expire(t *engine.Timer) {
	if a.listen() != nil {
		a.w.l.SetTimer(t, acceptRest, a)
	}
}

// Ready accepts what waits.
func (a *acceptor) Ready(uint32) {
	for range acceptBatch {
		fd, sa, err := sys.Accept(a.ln.fd)
		switch err {
		case nil:
		case unix.EINTR, unix.ECONNABORTED:
			continue
		case unix.EMFILE, unix.ENFILE, unix.ENOBUFS, unix.ENOMEM:
			// Asking again at once would find the same, at full speed.
			a.ln.count[a.w.n].Shed++
			a.stop()
			a.w.l.SetTimer(&a.rest, acceptRest, a)
			return
		default:
			return
		}
		a.w.place(a.ln, fd, addrPort(sa))
	}
}

// imbalance is how many connections a loop may have more than another before
// it gives new ones away. Whoever wakes first accepts; without this a quiet
// machine would load one core only.
const imbalance = 4

func (w *worker) place(ln *listener, fd int, from netip.AddrPort) {
	to := w
	for _, o := range w.s.workers {
		if o.l.Load()+imbalance < to.l.Load() {
			to = o
		}
	}
	st := ln.state.Load()
	if to.l.Load()+to.sessions.Load() >= w.s.maxConns || st.cfg.MaxConns > 0 && ln.conns.Load() >= st.cfg.MaxConns {
		ln.count[w.n].Shed++
		reset(fd)
		return
	}
	if to == w {
		w.accept(ln, fd, from)
		return
	}
	if !to.l.Post(func() { to.accept(ln, fd, from) }) {
		unix.Close(fd)
	}
}

// reset closes without a word, and without TIME_WAIT.
func reset(fd int) {
	unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	unix.Close(fd)
}

// Addr is where a listener listens; zero for one that is not in force.
func (s *Server) Addr(name string) netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ln := s.listeners[name]; ln != nil {
		return ln.addr
	}
	return netip.AddrPort{}
}
