// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"
	"net/netip"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// upstream is a stream's connection to a backend.
type upstream struct {
	w       *Worker
	site    *Site
	c       *engine.Conn
	backend route.Backend
	self    *mtls.Identity // nil in clear
	peer    mtls.Peer
	owner   *session
	state   upState
	load    *load
	timer   engine.Timer
}

type upState uint8

const (
	dialing upState = iota
	handshaking
	ready
	gone
)

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// dial begins a connection to b for e. proto is the mesh protocol to name;
// "" connects in clear.
func (e *session) dial(from netip.Addr, b route.Backend, proto string) {
	w := e.w
	u := &upstream{w: w, site: e.site, backend: b, owner: e, load: w.loadOf(b.Addr)}
	e.up = u
	u.load.active++
	w.Count.Dials++
	fd, connecting, err := e.site.edge.Dial(from, b.Addr)
	if err == nil {
		u.c, err = w.l.Add(fd, connecting, u)
	}
	if err != nil {
		u.failed(err)
		return
	}
	if proto != "" {
		u.self, _ = e.site.self()
		u.c.SetHandler(&dialer{u, proto})
	}
	w.l.SetTimer(&u.timer, connectTime, u)
	if !connecting {
		u.c.Again() // connected at once; go on from the loop, not from within the caller
	}
}

// dialer is the handler of an upstream until the handshake takes over.
type dialer struct {
	u     *upstream
	proto string
}

func (d *dialer) OnConn(c *engine.Conn) {
	u := d.u
	if c.Err() != nil {
		u.failed(c.Err())
		return
	}
	if c.Connecting() {
		return
	}
	u.w.l.StopTimer(&u.timer)
	if u.site.shakes.Load() >= u.w.sh.SiteShakes {
		u.w.Count.Shed++
		u.failed(mtls.ErrBusy)
		return
	}
	u.site.shakes.Add(1)
	u.state = handshaking
	_, t := u.site.self()
	u.w.sh.Handshakes.Client(c, u.self, t.Trust, u.backend.ID, []string{d.proto}, u.named)
}

// named goes on when the handshake with the backend has ended.
func (u *upstream) named(p mtls.Peer, err error) {
	if u.state == gone {
		return
	}
	u.site.shakes.Add(-1)
	u.state = dialing // counted no more
	if err != nil {
		u.w.Count.HandshakeFailed++
		u.c = nil // the handshake has closed it, behind its alert
		u.failed(fmt.Errorf("handshake with %s: %w", u.backend.Addr, err))
		return
	}
	u.w.Count.Handshakes++
	u.peer = p
	u.c.SetHandler(u)
	if _, t := u.site.self(); t.Revoked(p.Serial) {
		u.failed(revoked(u.backend.Addr))
		return
	}
	u.connected()
}

func (u *upstream) connected() {
	u.state = ready
	u.load.failures = 0
	u.w.l.StopTimer(&u.timer)
	u.owner.upReady()
}

// OnConn is told of the upstream connection.
func (u *upstream) OnConn(c *engine.Conn) {
	switch u.state {
	case dialing:
		if c.Err() != nil {
			u.failed(c.Err())
		} else if !c.Connecting() {
			u.connected()
		}
	case ready:
		u.owner.pump()
	}
}

// Expire is told that connecting took too long.
func (u *upstream) Expire(*engine.Timer) {
	if u.state == dialing {
		u.failed(&errs.Error{Kind: errs.Unavailable, Subject: "connect to " + u.backend.Addr.String(), Expected: fmt.Sprintf("an answer within %s", connectTime)})
	}
}

// failed tells the owner that there will be no connection.
func (u *upstream) failed(err error) {
	e := u.owner
	u.load.fail(u.w.l.Now())
	u.w.Count.DialFailed++
	u.close()
	e.up = nil
	e.upFailed(u.backend, err)
}

// leave takes u out of all accounts; its connection is to be closed next.
func (u *upstream) leave() {
	switch u.state {
	case gone:
		return
	case handshaking:
		u.site.shakes.Add(-1)
		u.load.active--
	default:
		u.load.active--
	}
	u.state = gone
	u.owner = nil
	u.w.l.StopTimer(&u.timer)
}

// finish ends the connection properly: nothing of a request was lost.
func (u *upstream) finish() {
	u.leave()
	if u.c != nil {
		u.c.Finish()
	}
}

// close ends the connection at once.
func (u *upstream) close() {
	u.leave()
	if u.c != nil {
		u.c.Close()
	}
}

// abandon resets the connection, so that the backend stops working for a
// client that is gone.
func (u *upstream) abandon() {
	u.leave()
	if u.c != nil {
		u.c.Abort()
	}
}
