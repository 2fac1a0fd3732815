// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/authz"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Lead takes the place of filters and routes for the requests of one
// connection: it judges each, says where it goes, and is told of its end. It
// is called on the connection's loop and must not block.
type Lead interface {
	// Judge decides on the request as it begins, and may change its head. When
	// it gives nil, x.Permit must be valid; else the denial is the answer.
	Judge(x *Stream) *authz.Denied
	// Next gives the cluster, one of NewLedCluster's, for the next attempt; it
	// is asked again when the one before could not be reached, or had not
	// heard the request. It may replace x.Permit.
	Next(x *Stream) (*Cluster, *authz.Denied)
	// Done is told that the exchange is over, however it ended, once for each.
	// What was no request at all has not been judged.
	Done(x *Stream)
}

// Led is a client's connection whose requests follow a Lead.
type Led interface {
	// Each calls f for every request under way. f may cut it.
	Each(f func(*Stream))
	// Retire has the connection end as soon as nothing is under way.
	Retire()
}

// ServeLed takes over c, whose first bytes may have been read and which speaks
// HTTP/2 when proto says so. done is called once, when the connection has
// ended, perhaps at once. Of m the bounds count.
func (w *Worker) ServeLed(c *engine.Conn, m *Manager, info *filter.ConnInfo, proto message.Proto, lead Lead, done func()) Led {
	if proto == message.HTTP2 {
		return w.serve2(c, m, info, lead, done)
	}
	return w.serve1(c, m, info, lead, done)
}

// Each implements Led.
func (h *h1server) Each(f func(*Stream)) {
	if h.x != nil {
		f(h.x)
	}
}

// Retire implements Led.
func (h *h1server) Retire() { h.retire() }

// Each implements Led.
func (h *h2server) Each(f func(*Stream)) {
	for d := h.sides.next; d != &h.sides; {
		next := d.next
		if !d.x.unborn {
			f(d.x)
		}
		d = next
	}
}

// Retire implements Led.
func (h *h2server) Retire() { h.retire() }

// follow starts an exchange that has a Lead.
func (x *Stream) follow() {
	x.noFilters = true
	if no := x.lead.Judge(x); no != nil {
		x.denied(no)
		return
	}
	x.attempt()
}

func (x *Stream) denied(no *authz.Denied) {
	x.c.Flags |= filter.FlagDenied
	x.reply(no.Status, no.Reason)
}

// led asks where the next attempt goes. False means that the request was
// answered.
func (x *Stream) led() bool {
	cl, no := x.lead.Next(x)
	x.cluster = cl
	if no != nil {
		x.denied(no)
		return false
	}
	return true
}

// mustPermit holds the house's rule: who forwards has a permit in hand.
func (x *Stream) mustPermit() {
	if !x.Permit.Valid() {
		panic("exchange: request forwarded without a permit")
	}
}

// Context is what is known of the exchange.
func (x *Stream) Context() *filter.Context { return &x.c }

// Cluster is where the exchange leads now; nil for nowhere yet.
func (x *Stream) Cluster() *Cluster { return x.cluster }

// Tried appends the addresses that could not be reached for this request.
func (x *Stream) Tried(dst []netip.AddrPort) []netip.AddrPort {
	for _, h := range x.tried {
		dst = append(dst, h.Addr)
	}
	return dst
}

// Status is that of the response as far as one has begun; 0 for none.
func (x *Stream) Status() int {
	if !x.headDone {
		return 0
	}
	return x.resp.Status
}

// EndConn has the client's connection end with this exchange.
func (x *Stream) EndConn() { x.closeAfter, x.endConn = true, true }

// Cut ends the exchange at once, so that the client sees that it is not whole:
// an HTTP/1 connection is reset, an HTTP/2 stream.
func (x *Stream) Cut(why string) {
	x.c.Detail = why
	x.finish(false)
}

// capitals gives field names that HTTP/2 has carried between two proxies the
// form that they mostly had, and that some HTTP/1 applications take to be the
// only one.
func capitals(h *message.Head) {
	for i := range h.Fields {
		name := h.In(h.Fields[i].Name)
		up := true
		for j, c := range name {
			if up && 'a' <= c && c <= 'z' {
				name[j] = c - 'a' + 'A'
			}
			up = c == '-'
		}
	}
}

// NewLedCluster makes a cluster of one host, for one worker and a Lead. prev
// lends its counters and may be nil.
func NewLedCluster(to netip.AddrPort, up config.UpstreamProto, o config.HTTP2Options, prev *Cluster) *Cluster {
	const none = ^uint32(0)
	free := config.Breakers{MaxConns: none, MaxPending: none, MaxRequests: none, MaxRetries: none}
	cfg := &config.Cluster{Upstream: up, HTTP2: o, ConnectTimeout: ledConnectTime, Breakers: [2]config.Breakers{free, free},
		Endpoints: &config.Endpoints{Localities: []*config.Locality{{Hosts: []*config.Endpoint{{Addr: to}}}}}}
	set, err := balance.New(cfg, balance.Options{}, nil)
	if err != nil {
		panic("exchange: cluster of one host: " + err.Error())
	}
	cl := NewCluster(cfg, set, nil, 1, prev)
	cl.only = set.Members()[0]
	return cl
}

const ledConnectTime = 3 * time.Second

// Used tells that connections or requests of a led cluster are left.
func (cl *Cluster) Used() bool { return cl.only.Conns.Load() > 0 || cl.only.Active.Load() > 0 }

// Active is the number of requests of a led cluster under way.
func (cl *Cluster) Active() int { return int(cl.only.Active.Load()) }

// Abandon ends what is idle of a led cluster that takes no more requests, and
// lets the rest end with them.
func (w *Worker) Abandon(cl *Cluster) {
	if p := cl.pool; p != nil {
		p.retired = true
		p.retire()
	}
}

// Cull ends a led cluster's connections that bad matches: at once those
// without requests, and shared ones with all that is on them.
func (w *Worker) Cull(cl *Cluster, bad func(*filter.TLSInfo) bool) {
	if p := cl.pool; p != nil {
		for i := len(p.idle) - 1; i >= 0; i-- {
			if u := p.idle[i]; u.tls != nil && bad(u.tls) {
				u.close()
			}
		}
		for i := len(p.multi) - 1; i >= 0; i-- {
			if u := p.multi[i]; u.tls != nil && bad(u.tls) {
				u.fail()
			}
		}
	}
}
