// SPDX-License-Identifier: Apache-2.0

package proxytest

import (
	"fmt"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/edge"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/route"
)

var nets atomic.Uint32

// Net gives a /24 of 127.0.0.0/8 for one test. On Linux all of it is local,
// so that pods and services can have addresses of their own.
func Net() func(host byte) netip.Addr {
	n := nets.Add(1)
	a, b := byte(16+os.Getpid()%200), byte(n)
	return func(host byte) netip.Addr { return netip.AddrFrom4([4]byte{127, a, b, host}) }
}

// Loopback opens edges on loopback addresses. Instead of steering packets, it
// listens on the very addresses that they are for.
type Loopback struct {
	mu  sync.Mutex
	at  map[string][]listen
	app map[netip.AddrPort]netip.AddrPort
}

type listen struct {
	kind flow.Kind
	at   netip.AddrPort
}

// NewLoopback makes an opener without edges.
func NewLoopback() *Loopback {
	return &Loopback{at: map[string][]listen{}, app: map[netip.AddrPort]netip.AddrPort{}}
}

// Leaving has the pod's connections to dst leave through the proxy.
func (l *Loopback) Leaving(uid string, dst ...netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, d := range dst {
		l.at[uid] = append(l.at[uid], listen{flow.Outbound, d})
	}
}

// Coming has connections to dst, an address of the pod's, come in through
// the proxy, which finds the application at app.
func (l *Loopback) Coming(uid string, dst, app netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[uid] = append(l.at[uid], listen{flow.Inbound, dst})
	l.app[dst] = app
}

// Names serves the pod's name queries on an address.
func (l *Loopback) Names(uid string, at netip.AddrPort) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at[uid] = append(l.at[uid], listen{flow.DNS, at})
}

// Open opens a pod's edge.
func (l *Loopback) Open(p *route.Pod) (flow.Edge, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := &loop{l: l, self: p.Addr}
	for _, x := range l.at[p.UID] {
		var fd int
		var err error
		if x.kind == flow.DNS {
			fd, err = listenUDP(x.at)
		} else {
			fd, err = edge.ListenTCP(x.at, false)
		}
		if err != nil {
			e.Close()
			return nil, err
		}
		e.ls = append(e.ls, flow.Listener{Kind: x.kind, FD: fd})
	}
	return e, nil
}

func listenUDP(at netip.AddrPort) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())})
	}
	return fd, err
}

// OpenGateway opens a gateway's edge.
func (l *Loopback) OpenGateway(at netip.AddrPort) (flow.Edge, error) { return edge.OpenHost(at) }

type loop struct {
	l    *Loopback
	self netip.Addr
	ls   []flow.Listener
}

func (e *loop) Listeners() []flow.Listener { return e.ls }

// Dial connects to the application behind one of the pod's own addresses, or
// to another pod's edge.
func (e *loop) Dial(from netip.Addr, to netip.AddrPort) (int, bool, error) {
	e.l.mu.Lock()
	if app, ok := e.l.app[to]; ok && to.Addr() == e.self {
		to = app
	}
	e.l.mu.Unlock()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, false, err
	}
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if from.IsValid() {
		unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: from.As4()})
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())})
	}
	if err == unix.EINPROGRESS {
		return fd, true, nil
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, false, nil
}

func (e *loop) StopListening() {
	for _, l := range e.ls {
		unix.Close(l.FD)
	}
	e.ls = nil
}

func (e *loop) Close() error {
	e.StopListening()
	return nil
}
