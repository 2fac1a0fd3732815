// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
)

// Bounds of a stream.
const (
	turnBytes    = 512 << 10 // per turn, so that bulk does not starve the others
	readAhead    = 256 << 10
	firstBytes   = 16 << 10 // read before there is anywhere to write to
	defaultQuiet = time.Hour
)

// stream is one TCP connection with the one to its host.
type stream struct {
	w        *worker
	a        *arrival
	ch       *chain
	cl       *exchange.Cluster
	down, up *engine.Conn
	t        engine.Timer
	c        filter.Context
	ask      balance.Ask
	tried    []*balance.Host
	dial     *exchange.Dial // under way; nil before and after
	host     *balance.Host
	last     int64 // when bytes passed last
	quiet    int64 // longest silence, ns; 0 for none
	most     int64 // deadline, whatever passes; 0 for none
	attempts int
	ended    bool
	toUp     way
	toDown   way

	prev, next *stream
}

// startTCP carries the arrival byte by byte.
func (w *worker) startTCP(a *arrival) {
	cfg := a.ch.cfg.TCP
	s := &stream{w: w, a: a, ch: a.ch, down: a.c, last: w.l.Now()}
	s.c.Conn, s.c.Began = a.info, w.l.Now()
	s.c.Rand = w.x.Rand
	s.link()
	a.c.SetHandler(s)
	a.ch.count[w.n].Streams++
	switch {
	case cfg.IdleTimeout == 0:
		s.quiet = int64(defaultQuiet)
	case cfg.IdleTimeout > 0:
		s.quiet = int64(cfg.IdleTimeout)
	}
	if cfg.MaxDuration > 0 {
		s.most = w.l.Now() + int64(cfg.MaxDuration)
	}
	s.c.Cluster = s.cluster(cfg)
	s.cl = (*w.s.clusters.Load())[s.c.Cluster]
	if s.cl == nil {
		s.c.Flags |= filter.FlagNoCluster
		s.abort("cluster_not_found")
		return
	}
	s.ask = balance.Ask{Dest: a.info.Local, Subset: a.ch.subset, Avoid: nil}
	if cfg.HashSourceIP {
		s.ask.Hash, s.ask.HasHash = exchange.HashAddr(a.info.Source.Addr()), true
	}
	s.arm()
	s.attempt()
}

func (s *stream) cluster(cfg *config.TCPProxy) string {
	if len(cfg.Weighted) == 0 {
		return cfg.Cluster
	}
	return s.ch.weights.choose(s.w.x.Rand())
}

func (s *stream) link() {
	h := &s.w.streams
	s.prev, s.next = h.prev, h
	h.prev.next, h.prev = s, s
}

// attempt connects to a host.
func (s *stream) attempt() {
	s.ask.Now = s.w.l.Now()
	h, why := s.w.x.Pick(s.cl, &s.ask)
	if why != balance.Found {
		s.c.Flags |= filter.FlagNoHealthy
		s.abort("no_healthy_upstream")
		return
	}
	s.tried = append(s.tried, h)
	s.host = h
	s.attempts++
	s.c.Host, s.c.HostName, s.c.Attempts = h.Addr, h.Name, s.attempts
	h.Begin()
	s.dial = s.w.x.Connect(s.cl, h, s.a.info, s.connected)
}

// connected goes on with the connection, or another host.
func (s *stream) connected(c *engine.Conn, tls *filter.TLSInfo, o balance.Outcome) {
	s.dial = nil
	if s.ended {
		return
	}
	if c == nil {
		s.host.End(o, 0, s.w.l.Now())
		s.host = nil
		s.c.Flags |= filter.FlagUpstreamConnect
		if n := max(1, int(s.ch.cfg.TCP.MaxConnectAttempts)); s.attempts < n {
			s.ask.Avoid, s.ask.Tries = s.tried, 3
			s.attempt()
			return
		}
		s.abort("upstream_connect_failed")
		return
	}
	s.c.Flags &^= filter.FlagUpstreamConnect
	s.host.Report(balance.Connected, time.Duration(s.w.l.Now()-s.last), s.w.l.Now())
	s.up = c
	s.c.UpstreamTLS = tls
	s.c.HeadSent = s.w.l.Now()
	c.SetHandler(s)
	s.pump()
}

// OnConn is told of either connection.
func (s *stream) OnConn(*engine.Conn) {
	switch {
	case s.ended:
	case s.up == nil:
		for s.down.Fill(firstBytes) && !s.down.Dead() {
		}
		if s.down.Err() != nil {
			s.c.Flags |= filter.FlagDownstreamGone
			s.abort("downstream_remote_disconnect")
		}
	default:
		s.pump()
	}
}

// OnClose is told that the loop ended.
func (s *stream) OnClose(*engine.Conn) { s.end() }

// pump copies both ways until both sides have ended.
func (s *stream) pump() {
	a, b := s.down, s.up
	spent := 0
	for spent < turnBytes {
		n := s.move(b, a, &s.toUp, s.ch.cfg.ReadLimit)
		m := s.move(a, b, &s.toDown, s.cl.Cfg.ReadLimit)
		s.c.BytesIn += uint64(n)
		s.c.BytesOut += uint64(m)
		if n+m == 0 {
			break
		}
		spent += n + m
	}
	if spent > 0 {
		s.last = s.w.l.Now()
	}
	switch {
	case lost(a) && s.toUp.pipe == nil || lost(b) && s.toDown.pipe == nil:
		if lost(b) {
			s.c.Flags |= filter.FlagUpstreamGone
		}
		s.abort("connection_termination") // the other side is reset too: nobody takes a part for the whole
	case finished(a) && finished(b) && s.toUp.pipe == nil && s.toDown.pipe == nil:
		s.close()
	case spent >= turnBytes:
		a.Again()
	}
}

// bulk is from how many bytes on a direction is moved inside the kernel: a
// pipe costs six system calls to make, and pays only for many bytes.
const bulk = 256 << 10

// pipeTurn bounds what one direction moves by its pipe in a turn: a pipe
// full.
const pipeTurn = 1 << 20

// way is one direction of a stream.
type way struct {
	moved uint64
	pipe  *engine.Pipe
}

// move takes what src has to dst, and src's end.
func (s *stream) move(dst, src *engine.Conn, y *way, limit int) (n int) {
	if y.pipe != nil || y.moved >= bulk && engine.Spliceable(dst, src) {
		if n, ok := s.splice(dst, src, y); ok {
			return n
		}
	}
	if limit <= 0 || limit > readAhead {
		limit = readAhead
	}
	for n < turnBytes/2 {
		if b := src.Bytes(); len(b) > 0 {
			k := dst.Send(b)
			src.Discard(k)
			n += k
			if k < len(b) {
				break
			}
		}
		if !src.Fill(limit) {
			break
		}
	}
	y.moved += uint64(n)
	if finished(src) {
		dst.CloseWrite()
	}
	return n
}

// splice moves by a pipe, which is kept while it holds bytes only. ok is false
// when there is no pipe.
func (s *stream) splice(dst, src *engine.Conn, y *way) (n int, ok bool) {
	if y.pipe == nil {
		if y.pipe = s.w.l.Pipe(); y.pipe == nil {
			y.moved = 0
			return 0, false
		}
	}
	n, out := y.pipe.Move(dst, src, pipeTurn)
	if y.pipe.Held() == 0 {
		y.pipe.Release()
		y.pipe = nil
		if finished(src) {
			dst.CloseWrite()
		}
	}
	return max(n, out), true
}

func finished(c *engine.Conn) bool { return c.EOF() && len(c.Bytes()) == 0 }

// lost tells that c failed and what it sent before is passed on.
func lost(c *engine.Conn) bool { return c.Err() != nil && len(c.Bytes()) == 0 }

func (s *stream) arm() {
	at := s.most
	if s.quiet > 0 && (at == 0 || s.last+s.quiet < at) {
		at = s.last + s.quiet
	}
	if at > 0 {
		s.w.l.SetTimer(&s.t, time.Duration(at-s.w.l.Now()), s)
	}
}

// Expire ends a stream that is silent, or too old.
func (s *stream) Expire(*engine.Timer) {
	now := s.w.l.Now()
	switch {
	case s.ended:
	case s.most > 0 && now >= s.most:
		s.c.Flags |= filter.FlagMaxDuration
		s.abort("max_duration_timeout")
	case s.quiet > 0 && now >= s.last+s.quiet:
		s.c.Flags |= filter.FlagIdleTimeout
		s.abort("idle_timeout")
	default:
		s.arm()
	}
}

// end settles the accounts.
func (s *stream) end() {
	if s.ended {
		return
	}
	s.ended = true
	s.w.l.StopTimer(&s.t)
	s.prev.next, s.next.prev = s.next, s.prev
	if s.dial != nil {
		s.dial.Cancel()
		s.dial = nil
	}
	if s.host != nil {
		s.host.End(balance.Cancelled, 0, s.w.l.Now())
		if s.up != nil {
			s.w.x.Disconnected(s.cl, s.host)
		}
	}
	for _, y := range [...]*way{&s.toUp, &s.toDown} {
		if y.pipe != nil {
			y.pipe.Release()
			y.pipe = nil
		}
	}
	s.c.Ended = engine.Mono()
	n := s.ch.count[s.w.n]
	n.BytesIn += s.c.BytesIn
	n.BytesOut += s.c.BytesOut
	s.ch.logs.write(s.w, &s.c)
	s.a.over()
}

// close ends both connections behind what was sent.
func (s *stream) close() {
	s.end()
	s.down.Finish()
	s.up.Finish()
}

// abort resets both.
func (s *stream) abort(detail string) {
	s.c.Detail = detail
	s.end()
	s.down.SetHandler(nobody{})
	s.down.Abort()
	if s.up != nil {
		s.up.SetHandler(nobody{})
		s.up.Abort()
	}
}
