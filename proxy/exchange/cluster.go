// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"fmt"
	"net/netip"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/secure"
)

// TLS makes a connection to a host secure. *secure.Client is one.
type TLS interface {
	Start(h *secure.Handshaker, c *engine.Conn, t secure.Target, o secure.Options, done func(*filter.TLSInfo, error))
}

// Cluster is a set of hosts in service, shared by all loops. Its exported
// fields are set before it is used.
type Cluster struct {
	Cfg *config.Cluster
	Set *balance.Set
	TLS TLS // nil: in clear

	// Connect opens a socket to a host; nil is one of this process's own.
	Connect func(h *balance.Host) (fd int, connecting bool, err error)
	// Rest is for how long an idle connection takes a request that must not be
	// sent twice: its host may end it at any moment, and when that crosses with
	// the request nobody can tell whether it was read. 0: always.
	Rest time.Duration
	// Margin is how long before its certificates' end a connection takes no
	// new request.
	Margin time.Duration
	// Graceful says that a host ends its stream properly only between
	// requests, so that a request which meets that end was not read.
	Graceful bool
	Owner    any // whose cluster it is; for a Lead

	only        *balance.Host // of a led cluster
	pool        *pool         // of a led cluster
	endpoints   atomic.Pointer[config.Endpoints]
	connectTime time.Duration
	idle        time.Duration
	ahead       int             // bytes of a body read ahead
	counts      []*ClusterCount // by worker
}

// NewCluster makes a cluster of what it consists of. prev, which may be nil,
// lends its counters.
func NewCluster(cfg *config.Cluster, set *balance.Set, tls TLS, workers int, prev *Cluster) *Cluster {
	cl := &Cluster{Cfg: cfg, Set: set, TLS: tls, connectTime: cfg.ConnectTimeout, idle: cfg.IdleTimeout, ahead: ahead(cfg.ReadLimit)}
	cl.endpoints.Store(cfg.Endpoints)
	if cl.connectTime <= 0 {
		cl.connectTime = 5 * time.Second
	}
	if cl.idle <= 0 {
		cl.idle = poolTime
	}
	if prev != nil {
		cl.counts = prev.counts
		return cl
	}
	for range workers {
		cl.counts = append(cl.counts, new(ClusterCount))
	}
	return cl
}

func (cl *Cluster) count(w *Worker) *ClusterCount { return cl.counts[w.n] }

func (cl *Cluster) http2(pool *http2.Pool) http2.Options {
	o := options2(&cl.Cfg.HTTP2)
	o.Pool = pool
	if o.ConnWindow == 0 {
		// What each stream may have sent ahead, together: clients that do not
		// read must not use up the connection's window for the others.
		stream, streams := uint64(o.StreamWindow), uint64(o.MaxStreams)
		if stream == 0 {
			stream = 256 << 10
		}
		if streams == 0 {
			streams = 100
		}
		o.ConnWindow = uint32(min(stream*streams, 1<<31-1))
	}
	return o
}

// options2 gives the codec's words for a configuration's.
func options2(c *config.HTTP2Options) http2.Options {
	return http2.Options{MaxStreams: c.MaxStreams, StreamWindow: c.StreamWindow, ConnWindow: c.ConnWindow, MaxFrame: c.MaxFrame,
		TableSize: c.TableSize, AllowConnect: c.AllowConnect}
}

// target says whom a handshake for x's request must find.
func (cl *Cluster) target(x *Stream, h *balance.Host) secure.Target {
	t := secure.Target{Host: h.Name, Identity: h.Endpoint().Identity}
	if c := cl.Cfg.TLS; c != nil && (c.AutoSNI || c.AutoSAN) {
		t.Authority = hostOnly(string(x.req.In(x.req.Authority)))
	}
	switch cl.Cfg.Upstream {
	case config.UpHTTP2:
		t.ALPN = alpn2
	case config.UpHTTP1:
		t.ALPN = alpn1
	case config.UpAuto:
		t.ALPN = alpnBoth
	case config.UpDownstream:
		t.ALPN = alpn1
		if x.req.Proto == message.HTTP2 {
			t.ALPN = alpn2
		}
	}
	if c := cl.Cfg.TLS; c != nil && c.Common.ALPN != nil {
		t.ALPN = nil
	}
	return t
}

var alpn1, alpn2, alpnBoth = []string{"http/1.1"}, []string{"h2"}, []string{"h2", "http/1.1"}

// hostOnly takes the port off an authority.
func hostOnly(a string) string {
	if ap, err := netip.ParseAddrPort(a); err == nil {
		return ap.Addr().String()
	}
	for i := len(a) - 1; i >= 0; i-- {
		switch c := a[i]; {
		case c == ':':
			return a[:i]
		case c < '0' || c > '9':
			return a
		}
	}
	return a
}

// connect begins a connection to h.
func (cl *Cluster) connect(h *balance.Host) (fd int, connecting bool, err error) {
	if cl.Connect != nil {
		return cl.Connect(h)
	}
	return connect(h, cl.Cfg)
}

// connect is a socket of this process's own.
func connect(h *balance.Host, cfg *config.Cluster) (fd int, connecting bool, err error) {
	var sa unix.Sockaddr
	family := unix.AF_INET
	switch a := h.Addr.Addr(); {
	case h.Endpoint().Pipe != "":
		family, sa = unix.AF_UNIX, &unix.SockaddrUnix{Name: h.Endpoint().Pipe}
	case a.Is4() || a.Is4In6():
		sa = &unix.SockaddrInet4{Addr: a.Unmap().As4(), Port: int(h.Addr.Port())}
	case a.Is6():
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Addr: a.As16(), Port: int(h.Addr.Port())}
	default:
		return -1, false, errNoAddr
	}
	fd, err = sys.Socket(family, unix.SOCK_STREAM)
	if err != nil {
		return -1, false, fmt.Errorf("make socket: %w", err)
	}
	if family != unix.AF_UNIX {
		unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	}
	if a := cfg.SourceAddr; a.IsValid() {
		sys.LatePort(fd)
		if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(a, 0))); err != nil {
			unix.Close(fd)
			return -1, false, fmt.Errorf("bind source address: %w", err)
		}
	}
	switch err = unix.Connect(fd, sa); err {
	case nil:
		return fd, false, nil
	case unix.EINPROGRESS, unix.EAGAIN:
		return fd, true, nil
	}
	unix.Close(fd)
	return -1, false, fmt.Errorf("connect: %w", err)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}

var errNoAddr = fmt.Errorf("host has no address")

// Endpoints is what the cluster's hosts were made of last.
func (cl *Cluster) Endpoints() *config.Endpoints { return cl.endpoints.Load() }

// Update puts new endpoints in force.
func (cl *Cluster) Update(e *config.Endpoints) error {
	if err := cl.Set.Update(e); err != nil {
		return err
	}
	cl.endpoints.Store(e)
	return nil
}
