// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/secure"
)

// how is how requests travel to a dest.
type how uint8

const (
	one    how = iota // HTTP/1, one at a time on a connection
	two               // HTTP/2 from end to end
	shared            // as streams of HTTP/2 between the proxies, where the other one knows how
	hows
)

// destKey tells apart what must not share connections: an identity's requests
// from another's, and those of one client's address from another's.
type destKey struct {
	site  *Site
	from  netip.Addr     // source of the connections; invalid for any
	to    netip.AddrPort // the backend, or the application
	id    string         // that the backend must prove, or that the client has proved
	how   how
	clear bool // no mTLS: to the application
}

// dest is one place that this loop sends requests to, and the pool of
// connections there.
type dest struct {
	destKey
	cl   *exchange.Cluster
	load *load
	uses int  // inbound: sessions that hold it
	gone bool // a new one must be made
}

// Bounds of a pool. The idle time is the exchange's, below what servers
// commonly allow, so that it is this side that ends idle connections.
const (
	// margin is how long before its certificate's end a connection takes no
	// new request: the other side ends it at the end.
	margin = 10 * time.Second
	// restSafe is for how long an idle connection to an application takes a
	// request that must not be sent twice. Servers' idle times are seconds
	// (Node.js 5, nginx 75); a connection younger than this is not about to be
	// ended for idleness, and a new one costs little within the machine.
	restSafe = time.Second
)

// destOf finds or makes a dest.
func (w *Worker) destOf(k destKey) *dest {
	if d := w.dests[k]; d != nil {
		return d
	}
	d := &dest{destKey: k, load: w.loadOf(k.to)}
	up := [hows]config.UpstreamProto{one: config.UpHTTP1, two: config.UpHTTP2, shared: config.UpAuto}[k.how]
	if k.clear && k.how == shared { // within the pod there is nothing to share
		up = config.UpHTTP1
	}
	d.cl = exchange.NewLedCluster(k.to, up, bounds, w.total)
	if w.total == nil {
		w.total = d.cl // its counters are lent to all
	}
	d.cl.Owner = d
	d.cl.Connect = d.connect
	if k.clear {
		d.cl.Rest = restSafe
	} else {
		d.cl.TLS, d.cl.Graceful, d.cl.Margin = &naming{w: w, d: d}, true, margin
	}
	w.dests[k] = d
	d.load.dests++
	return d
}

// peerTimeout is how long bytes may wait for the other machine's kernel on a
// connection that requests share, so that a machine without power does not hold
// all of them up. One to one it would cut a client that does not read.
const peerTimeout = 20 * time.Second

func (d *dest) connect(*balance.Host) (fd int, connecting bool, err error) {
	fd, connecting, err = d.site.edge.Dial(d.from, d.to)
	if err == nil && d.how != one && !d.clear {
		err = sys.UserTimeout(fd, peerTimeout)
		if err != nil {
			unix.Close(fd)
		}
	}
	return fd, connecting, err
}

// hold has the session remember d, and keep an application's connections as
// long as there is a client for them.
func (e *session) hold(d *dest) {
	e.release(d.how)
	e.dest[d.how] = d
	d.uses++
}

func (e *session) release(h how) {
	d := e.dest[h]
	if d == nil {
		return
	}
	e.dest[h] = nil
	if d.uses--; d.uses == 0 && e.kind == Inbound {
		e.w.drop(d)
	}
}

// drop forgets d; requests under way end on their connections.
func (w *Worker) drop(d *dest) {
	if d.gone {
		return
	}
	d.gone = true
	d.load.dests--
	delete(w.dests, d.destKey)
	w.x.Abandon(d.cl)
}

// naming is the mTLS of connections to a dest: the site's own identity at the
// time, and the backend's, who must prove it.
type naming struct {
	w *Worker
	d *dest
}

// What is offered, best first. A proxy of an older release takes the second:
// HTTP/1 one to one, or HTTP/2 as bytes that it does not look into.
var offers = [hows][]string{
	one:    {mtls.ProtoStream},
	two:    {mtls.ProtoHTTP2, mtls.ProtoOpaque},
	shared: {mtls.ProtoShared, mtls.ProtoStream},
}

// Start implements exchange.TLS.
func (n *naming) Start(_ *secure.Handshaker, c *engine.Conn, _ secure.Target, _ secure.Options, done func(*filter.TLSInfo, error)) {
	site, w := n.d.site, n.w
	refuse := func(err error) {
		c.SetHandler(deaf{})
		c.Close()
		done(nil, err)
	}
	if site.shakes.Load() >= w.sh.SiteShakes {
		w.Count.Shed++
		refuse(mtls.ErrBusy)
		return
	}
	site.shakes.Add(1)
	self, t := site.self()
	w.sh.Handshakes.Client(c, self, t.Trust, n.d.id, offers[n.d.how], func(p mtls.Peer, err error) {
		site.shakes.Add(-1)
		if err != nil {
			w.Count.HandshakeFailed++
			done(nil, err)
			return
		}
		w.Count.Handshakes++
		if _, t := site.self(); t.Revoked(p.Serial) || t.Revoked(self.Serial) {
			refuse(revoked(n.d.to))
			return
		}
		info := &filter.TLSInfo{ALPN: "http/1.1", PeerPresented: true, PeerValidated: true, PeerURIs: []string{p.ID}, PeerSerial: p.Serial,
			LocalSerial: self.Serial, NotAfter: earlier(p.NotAfter, self.NotAfter)}
		if n.d.how == two || p.Proto == mtls.ProtoShared {
			info.ALPN = "h2"
		}
		done(info, nil)
	})
}

func revoked(at netip.AddrPort) error {
	return &errs.Error{Kind: errs.Unproven, Subject: "backend " + at.String(), Field: "certificate", Expected: "not revoked"}
}

// deaf is the handler of a connection that is being closed.
type deaf struct{}

func (deaf) OnConn(*engine.Conn) {}
