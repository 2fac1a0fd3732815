// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"bytes"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/proxyproto"
	"redoubt.dev/proxy/secure"
)

// stage is what an arrival waits for.
type stage uint8

const (
	announcing stage = iota // a PROXY protocol header
	inspecting              // a TLS hello, or its absence
	securing                // the handshake
	detecting               // the first bytes of HTTP
	arrived
)

// arrival is a connection from accept until a protocol has taken it.
type arrival struct {
	w     *worker
	ln    *listener
	st    *listening
	ch    *chain // once chosen
	c     *engine.Conn
	info  *filter.ConnInfo
	t     engine.Timer
	stage stage
}

// accept begins an arrival.
func (w *worker) accept(ln *listener, fd int, from netip.AddrPort) {
	unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	st := ln.state.Load()
	w.conn++
	a := &arrival{w: w, ln: ln, st: st,
		info: &filter.ConnInfo{Listener: ln.name, Peer: from, Source: from, Local: localAddr(fd), ID: uint64(w.n)<<48 | w.conn}}
	if st.cfg.OriginalDst && !st.cfg.Transparent {
		a.info.Local = originalDst(fd, a.info.Local)
	}
	c, err := w.l.Add(fd, false, a)
	if err != nil {
		ln.count[w.n].Shed++
		return
	}
	a.c = c
	ln.conns.Add(1)
	ln.count[w.n].Conns++
	w.l.SetTimer(&a.t, st.wait, a)
	a.stage = announcing
	if st.cfg.ProxyProtocol == nil {
		a.announced()
	}
	a.OnConn(c)
}

// originalDst is where a redirected connection was meant to go (netfilter's
// SO_ORIGINAL_DST), or local when it was not redirected.
func originalDst(fd int, local netip.AddrPort) netip.AddrPort {
	const soOriginalDst = 80
	m, err := unix.GetsockoptIPv6Mreq(fd, unix.IPPROTO_IP, soOriginalDst) // a struct of the right size
	if err != nil {
		return local
	}
	b := m.Multiaddr
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), uint16(b[2])<<8|uint16(b[3]))
}

// OnConn is told of the connection.
func (a *arrival) OnConn(c *engine.Conn) {
	switch a.stage {
	case announcing:
		a.announce()
	case inspecting:
		a.inspect()
	case detecting:
		a.detect()
	}
}

// OnClose is told that another part closed the connection.
func (a *arrival) OnClose(*engine.Conn) {
	if a.stage == securing && a.ln != nil { // more handshakes than the chain may have
		a.ln.count[a.w.n].Unshaken++
	}
	a.over()
}

// over settles the accounts of a connection that has ended.
func (a *arrival) over() {
	if a.stage != arrived {
		a.stage = arrived
		a.w.l.StopTimer(&a.t)
	}
	if a.ln != nil {
		a.ln.conns.Add(-1)
		a.ln = nil
	}
	if a.ch != nil {
		a.ch.conns.Add(-1)
		a.ch = nil
	}
}

// refuse ends the connection without a word.
func (a *arrival) refuse() {
	a.ln.count[a.w.n].Refused++
	a.c.SetHandler(nobody{})
	a.over()
	a.c.Abort()
}

type nobody struct{}

func (nobody) OnConn(*engine.Conn) {}

// Expire is told that a stage took too long.
func (a *arrival) Expire(*engine.Timer) {
	switch {
	case a.stage == inspecting && len(a.c.Bytes()) == 0:
		a.inspected(false) // a client that waits for its server to speak
	case a.stage == detecting && len(a.c.Bytes()) == 0:
		a.c.SetHandler(nobody{})
		c := a.c
		a.over()
		c.Finish()
	default:
		a.refuse()
	}
}

// announce waits for the PROXY protocol's header.
func (a *arrival) announce() {
	for {
		b := a.c.Bytes()
		if len(b) > 0 {
			h, n, found := proxyproto.Parse(b)
			switch {
			case found == proxyproto.Complete && a.takesVersion(h.Version):
				if h.Source.IsValid() && !h.Local {
					a.info.Source = h.Source
					a.info.Local = h.Dest
				}
				a.c.Discard(n)
				a.announced()
				return
			case found == proxyproto.Absent && a.st.cfg.ProxyProtocol.Optional:
				a.announced()
				return
			case found != proxyproto.More:
				a.refuse()
				return
			}
		}
		if a.c.Dead() {
			a.refuse()
			return
		}
		if !a.c.Fill(proxyproto.MaxLen) {
			return
		}
	}
}

func (a *arrival) takesVersion(v int) bool {
	p := a.st.cfg.ProxyProtocol
	return !p.V1 && !p.V2 || v == 1 && p.V1 || v == 2 && p.V2
}

// announced goes on to the TLS hello.
func (a *arrival) announced() {
	if !a.st.inspect {
		a.inspected(false)
		return
	}
	a.stage = inspecting
	a.inspect()
}

// inspect looks at the TLS hello without taking it.
func (a *arrival) inspect() {
	for {
		if b := a.c.Bytes(); len(b) > 0 {
			switch secure.ParseHello(b, &a.w.hello) {
			case secure.IsTLS:
				a.inspected(true)
				return
			case secure.NotTLS:
				if secure.Record(b) {
					a.refuse() // no chain was chosen by what it says, and another may pass it on to who understands it
					return
				}
				a.inspected(false)
				return
			}
		}
		if a.c.Dead() {
			a.refuse()
			return
		}
		if !a.c.Fill(secure.MaxHello) {
			return
		}
	}
}

// inspected chooses the chain.
func (a *arrival) inspected(tls bool) {
	s := seen{local: a.info.Local, source: a.info.Source, peer: a.info.Peer, tls: tls}
	if tls {
		s.hello = &a.w.hello
	}
	ch := a.st.choose(&s)
	if ch == nil {
		a.ln.count[a.w.n].NoChain++
		c := filter.Context{Conn: a.info, Remote: a.info.Source.Addr(), Flags: filter.FlagNoRoute, Detail: "filter_chain_not_found", Began: a.w.l.Now(), Ended: a.w.l.Now(), Rand: a.w.x.Rand}
		a.st.logs.write(a.w, &c)
		a.refuse()
		return
	}
	if !ch.admit(a.w) {
		a.refuse()
		return
	}
	a.ch = ch
	ch.conns.Add(1)
	a.info.Chain = ch.cfg.Name
	a.w.l.StopTimer(&a.t)
	if ch.tls == nil {
		a.secured()
		return
	}
	a.stage = securing
	ch.tls.Start(a.w.s.handshakes, a.c, secure.Options{Share: ch.share, Deadline: ch.cfg.TLSTimeout}, func(info *filter.TLSInfo, err error) {
		if a.ln == nil {
			return
		}
		if err != nil {
			a.w.s.tlsFailed(a, err)
			a.over()
			return
		}
		a.info.TLS = info
		a.c.SetHandler(a)
		a.secured()
	})
}

// secured hands the connection to its protocol, once that is known.
func (a *arrival) secured() {
	if !a.ch.authorise(a.w, a.info) {
		a.refuse()
		return
	}
	switch m := a.ch.http; {
	case m == nil:
		a.take()
		a.w.startTCP(a)
	case m.Config().Codec == config.CodecHTTP1:
		a.http(false)
	case m.Config().Codec == config.CodecHTTP2:
		a.http(true)
	case a.info.TLS != nil && a.info.TLS.ALPN != "":
		a.http(a.info.TLS.ALPN == "h2")
	default:
		a.stage = detecting
		a.w.l.SetTimer(&a.t, detectTime, a)
		a.detect()
	}
}

// detectTime bounds the wait for the first bytes of a request, which tell the
// version.
const detectTime = time.Minute

var preface = []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

func (a *arrival) detect() {
	for {
		b := a.c.Bytes()
		n := min(len(b), len(preface))
		if !bytes.Equal(b[:n], preface[:n]) {
			a.http(false)
			return
		}
		if n == len(preface) {
			a.http(true)
			return
		}
		if a.c.Dead() {
			a.c.SetHandler(nobody{})
			c := a.c
			a.over()
			c.Finish()
			return
		}
		if !a.c.Fill(4 << 10) {
			return
		}
	}
}

func (a *arrival) http(two bool) {
	a.take()
	if two {
		a.w.x.ServeHTTP2(a.c, a.ch.http, a.info, a.over)
		return
	}
	a.w.x.ServeHTTP1(a.c, a.ch.http, a.info, a.over)
}

// take ends the arrival; the accounts stay open until over.
func (a *arrival) take() {
	a.stage = arrived
	a.w.l.StopTimer(&a.t)
}
