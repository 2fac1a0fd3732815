// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// Bounds of one turn and of what is read ahead of a slow side.
const (
	turnBytes = 512 << 10
	readAhead = 128 << 10
	maxTries  = 3 // backends per connection or request
)

var errNoBackend = &errs.Error{Kind: errs.Unavailable, Subject: "backend", Expected: "one that is ready, allowed and not tried yet"}

// startStream carries the connection byte by byte, if policy permits it.
func (e *session) startStream() {
	if e.kind == Inbound && e.no == nil && !e.authorise(false) {
		e.abort()
		return
	}
	if e.no != nil || !e.permit.Valid() {
		e.abort()
		return
	}
	e.phase = waiting
	e.tried = e.tried[:0]
	e.connect()
	if e.phase == waiting {
		e.pumpWaiting()
	}
}

// connect makes a connection to where the session leads; upReady or upFailed
// follows, perhaps at once.
func (e *session) connect() {
	if e.kind == Inbound {
		// Under the client's own address: the application sees who speaks.
		e.dial(e.from.Addr(), route.Backend{Addr: e.dst}, "")
		return
	}
	b, ok := e.pick()
	if !ok {
		e.upFailed(b, errNoBackend)
		return
	}
	var from netip.Addr
	if pod := e.site.pod.Load(); pod != nil {
		if b.Addr.Addr() == pod.Addr {
			e.hairpin(pod, b)
			return
		}
		from = pod.Addr
	}
	e.dial(from, b, mtls.ProtoOpaque)
}

// pumpWaiting reads ahead while the upstream is being made, and learns that
// the client has gone.
func (e *session) pumpWaiting() {
	if e.open && e.late() {
		return
	}
	for e.down.Fill(classic) {
		if e.down.Err() != nil {
			e.abort()
			return
		}
		if e.down.EOF() {
			return
		}
	}
}

const classic = 16 << 10 // read ahead before there is anywhere to write to

// upReady goes on with a connected upstream.
func (e *session) upReady() {
	if e.phase == waiting {
		e.phase = streaming
		if u := e.up; e.kind != Inbound && u.self != nil {
			e.expiry.arm(e, earlier(u.peer.NotAfter, u.self.NotAfter))
		}
	}
	e.pump()
}

// upFailed tries another backend, or gives up.
func (e *session) upFailed(b route.Backend, err error) {
	if e.kind != Inbound && err != errNoBackend {
		if e.tried = append(e.tried, b.Addr); len(e.tried) < maxTries {
			e.connect()
			return
		}
	}
	if e.open {
		e.sniffAgain()
		return
	}
	e.w.Count.Unreachable++
	e.logStream("unreachable")
	e.abort()
}

// pumpStream copies both ways until both sides have ended.
func (e *session) pumpStream() {
	if e.open && e.late() {
		return
	}
	a, b := e.down, e.up.c
	spent := 0
	for spent < turnBytes {
		n := copyTo(b, a)
		m := copyTo(a, b)
		e.in += uint64(n)
		e.out += uint64(m)
		if n+m == 0 {
			break
		}
		spent += n + m
	}
	switch {
	case lost(a) || lost(b):
		e.logStream("reset")
		e.abort() // the other side is reset too: nobody takes a part for the whole
	case ended(a) && ended(b):
		e.logStream("")
		u := e.up
		e.up = nil
		u.finish()
		e.close()
	case spent >= turnBytes:
		a.Again()
	}
}

// copyTo moves what src has to dst, and src's end.
func copyTo(dst, src *engine.Conn) (n int) {
	for n < turnBytes/2 {
		if b := src.Bytes(); len(b) > 0 {
			k := dst.Send(b)
			src.Discard(k)
			n += k
			if k < len(b) {
				return n
			}
		}
		if !src.Fill(readAhead) {
			break
		}
	}
	if ended(src) {
		dst.CloseWrite()
	}
	return n
}

func ended(c *engine.Conn) bool { return c.EOF() && len(c.Bytes()) == 0 }

// lost tells that c failed and what it sent before is passed on. A failed
// write shows here too, after what the peer still had to say.
func lost(c *engine.Conn) bool { return c.Err() != nil && len(c.Bytes()) == 0 }
