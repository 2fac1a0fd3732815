// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"

	"github.com/cespare/xxhash/v2"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// Pick chooses a host of a cluster, for what is no HTTP.
func (w *Worker) Pick(cl *Cluster, a *balance.Ask) (*balance.Host, balance.Reason) {
	return w.picker(cl.Set).Pick(a)
}

// HashAddr is an address's hash for consistent hashing.
func HashAddr(a netip.Addr) uint64 {
	b := a.As16()
	return xxhash.Sum64(b[:])
}

// Dial is a connection being made for one who does not share it.
type Dial struct {
	w    *Worker
	cl   *Cluster
	h    *balance.Host
	c    *engine.Conn
	t    engine.Timer
	info *filter.ConnInfo
	done func(*engine.Conn, *filter.TLSInfo, balance.Outcome)
}

// Connect begins a connection to h. done is called once, never from within
// Connect, with a connection, whose handler it must set, or with why there is
// none. The connection counts until Disconnected.
func (w *Worker) Connect(cl *Cluster, h *balance.Host, info *filter.ConnInfo, done func(*engine.Conn, *filter.TLSInfo, balance.Outcome)) *Dial {
	d := &Dial{w: w, cl: cl, h: h, info: info, done: done}
	if !cl.Set.Admit(balance.Connections, false) {
		cl.count(w).Overflow++
		w.l.Post(func() { d.tell(nil, nil, balance.Cancelled) })
		return d
	}
	h.Conns.Add(1)
	cl.count(w).Dials++
	fd, connecting, err := cl.connect(h)
	if err == nil {
		d.c, err = w.l.Add(fd, connecting, d)
	}
	if err != nil {
		d.c = nil
		w.l.Post(func() { d.fail(balance.ConnectFailed) })
		return d
	}
	w.l.SetTimer(&d.t, cl.connectTime, d)
	if !connecting {
		d.c.Again()
	}
	return d
}

// Disconnected says that a connection which Connect gave has ended.
func (w *Worker) Disconnected(cl *Cluster, h *balance.Host) {
	h.Conns.Add(-1)
	cl.Set.Release(balance.Connections, false)
}

// Cancel gives up; done is not called any more.
func (d *Dial) Cancel() {
	if d.done != nil {
		d.done = nil
		d.drop()
	}
}

func (d *Dial) drop() {
	d.w.l.StopTimer(&d.t)
	if c := d.c; c != nil {
		d.c = nil
		c.SetHandler(deaf{})
		c.Close()
	}
	d.w.Disconnected(d.cl, d.h)
}

func (d *Dial) tell(c *engine.Conn, info *filter.TLSInfo, o balance.Outcome) {
	if done := d.done; done != nil {
		d.done = nil
		done(c, info, o)
	}
}

func (d *Dial) fail(o balance.Outcome) {
	if d.done == nil {
		return
	}
	d.cl.count(d.w).DialFailed++
	d.drop()
	d.tell(nil, nil, o)
}

// OnConn is told of the connection while it is being made.
func (d *Dial) OnConn(c *engine.Conn) {
	if c.Err() != nil {
		d.fail(balance.ConnectFailed)
		return
	}
	if c.Connecting() || d.done == nil {
		return
	}
	d.w.l.StopTimer(&d.t)
	if v := d.cl.Cfg.ProxyProtocol; v > 0 {
		c.Append(proxyHeader(v, d.info))
	}
	if d.cl.TLS == nil {
		d.c = nil
		d.tell(c, nil, balance.Connected)
		return
	}
	t := secure.Target{Host: d.h.Name, Identity: d.h.Endpoint().Identity}
	d.cl.TLS.Start(d.w.sh.Handshakes, c, t, secure.Options{}, func(info *filter.TLSInfo, err error) {
		d.c = nil // the handshake has closed it, if it failed
		if err != nil {
			d.fail(balance.ConnectFailed)
			return
		}
		d.tell(c, info, balance.Connected)
	})
}

// Expire gives up on a host that does not answer.
func (d *Dial) Expire(*engine.Timer) { d.fail(balance.ConnectTimeout) }
