// SPDX-License-Identifier: Apache-2.0

package edge

import (
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/route"
)

// Where the node's rules steer to.
var (
	Outbound = netip.MustParseAddrPort("127.0.0.1:15001")
	Inbound  = netip.MustParseAddrPort("127.0.0.1:15006")
	DNS      = netip.MustParseAddrPort("169.254.1.1:53")
)

// backlog bounds connections that wait to be accepted, per listener.
const backlog = 4096

// Netns opens edges in pods' network namespaces. It needs CAP_SYS_ADMIN for
// setns and CAP_NET_ADMIN, for transparent sockets, in the namespace.
type Netns struct{ home int }

// NewNetns remembers the namespace that the process is in.
func NewNetns() (*Netns, error) {
	fd, err := unix.Open("/proc/self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open own network namespace: %w", err)
	}
	return &Netns{home: fd}, nil
}

// Close releases the namespace's descriptor, after all edges.
func (n *Netns) Close() error { return unix.Close(n.home) }

// Open opens the edge of pod p.
func (n *Netns) Open(p *route.Pod) (flow.Edge, error) {
	fd, err := unix.Open(p.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "pod " + p.Namespace + "/" + p.Name, Field: "netns", Expected: "a network namespace", Seen: p.NetNS, Err: err}
	}
	e := &pod{home: n.home, ns: fd}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = e.enter(func() error { return e.listen() })
	if err != nil {
		e.Close()
		return nil, fmt.Errorf("open edge of pod %s/%s: %w", p.Namespace, p.Name, err)
	}
	return e, nil
}

// pod is the edge of one pod.
type pod struct {
	home, ns  int
	listeners []flow.Listener
	closed    atomic.Bool
}

// enter runs f with the calling thread, which must be locked, in the pod's
// namespace.
func (e *pod) enter(f func() error) error {
	if err := unix.Setns(e.ns, unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter network namespace: %w", err)
	}
	err := f()
	if back := unix.Setns(e.home, unix.CLONE_NEWNET); back != nil {
		panic("edge: cannot leave a pod's network namespace: " + back.Error())
	}
	return err
}

func (e *pod) listen() error {
	for _, l := range []struct {
		kind flow.Kind
		at   netip.AddrPort
	}{{flow.Outbound, Outbound}, {flow.Inbound, Inbound}} {
		fd, err := ListenTCP(l.at, true)
		if err != nil {
			return err
		}
		e.listeners = append(e.listeners, flow.Listener{Kind: l.kind, FD: fd})
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("make DNS socket: %w", err)
	}
	e.listeners = append(e.listeners, flow.Listener{Kind: flow.DNS, FD: fd})
	if err := unix.Bind(fd, sockaddr(DNS)); err != nil {
		return fmt.Errorf("bind DNS socket to %s: %w", DNS, err)
	}
	return nil
}

// Listeners are the pod's listening sockets; they belong to the edge.
func (e *pod) Listeners() []flow.Listener { return e.listeners }

// Dial begins a connection from an address, which need not be local, to to.
// An invalid from leaves the choice to the kernel. The calling thread must be
// locked.
func (e *pod) Dial(from netip.Addr, to netip.AddrPort) (fd int, connecting bool, err error) {
	if e.closed.Load() {
		return -1, false, unix.ENETDOWN
	}
	err = e.enter(func() (err error) {
		fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return -1, false, fmt.Errorf("make socket: %w", err)
	}
	if from.IsValid() {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}
	return connect(fd, err, from, to)
}

// StopListening closes the listeners.
func (e *pod) StopListening() {
	for _, l := range e.listeners {
		unix.Close(l.FD)
	}
	e.listeners = nil
}

// Close releases the listeners and the namespace.
func (e *pod) Close() error {
	if e.closed.Swap(true) {
		return nil
	}
	e.StopListening()
	unix.Close(e.ns)
	return nil
}

// ListenTCP opens a listening socket whose accepted connections need no
// further options: Linux hands them down.
func ListenTCP(at netip.AddrPort, transparent bool) (int, error) {
	family := unix.AF_INET
	if at.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("make listener: %w", err)
	}
	err = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	if transparent && err == nil {
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_TRANSPARENT, 1)
	}
	if err == nil {
		err = tune(fd)
	}
	if err == nil {
		err = unix.Bind(fd, sockaddr(at))
	}
	if err == nil {
		err = unix.Listen(fd, backlog)
	}
	if err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("listen on %s: %w", at, err)
	}
	return fd, nil
}

// tune sets what every connection has: no delay for small writes, and a
// silent peer is given up after about two minutes (a firewall that drops
// state, a machine that lost power).
func tune(fd int) error {
	for _, o := range [...][3]int{
		{unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
		{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
		{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 60},
		{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 15},
		{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
		{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 120_000},
	} {
		if err := unix.SetsockoptInt(fd, o[0], o[1], o[2]); err != nil {
			return err
		}
	}
	return nil
}

func connect(fd int, err error, from netip.Addr, to netip.AddrPort) (int, bool, error) {
	if err == nil {
		err = tune(fd)
	}
	if from.IsValid() && err == nil {
		// Without it the port would be chosen before the peer is known, and
		// 28,000 connections from one address would exhaust them all.
		err = unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1)
		if err == nil {
			err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0)))
		}
	}
	if err == nil {
		if err = unix.Connect(fd, sockaddr(to)); err == unix.EINPROGRESS {
			return fd, true, nil
		}
	}
	if err != nil {
		unix.Close(fd)
		return -1, false, fmt.Errorf("connect to %s: %w", to, err)
	}
	return fd, false, nil
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
