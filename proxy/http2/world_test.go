// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"fmt"
	"net"
	"strings"
	"testing"

	"redoubt.dev/proxy/message"
)

// out is a Writer that keeps what was written.
type out struct{ bytes.Buffer }

func (o *out) Append(p []byte) { o.Write(p) }

// exchange is one stream's side of the test's owner.
type exchange struct {
	h     *owner
	s     *Stream
	req   message.Request
	resp  message.Response
	trail message.Head
	body  []byte // received
	send  []byte // waits for window
	echo  bool
	ended bool // sending side
	done  func(e *exchange, code Code)
	err   Code
	reset bool
}

func (e *exchange) Closed(s *Stream) {
	if s != e.s {
		panic("closed another")
	}
	e.h.closed++
	e.s = nil
	if e.done != nil {
		e.done(e, e.err)
	}
}

// owner is a small server or client over a Conn: as server it answers
// /echo with the request's body as it comes, all else with 200 and "hello";
// requests to /hold are held until the test answers.
type owner struct {
	c       *Conn
	opened  int
	closed  int
	resets  []Code
	refused int
	log     strings.Builder // what happened, for transcripts
	quiet   bool
	holding bool // nothing is consumed by Body until consume
	held    []*exchange
	away    bool
	settled bool
	reuse   *exchange
}

func (o *owner) say(format string, a ...any) {
	if !o.quiet {
		fmt.Fprintf(&o.log, format+"\n", a...)
	}
}

func (o *owner) Open(s *Stream) {
	o.opened++
	e := o.reuse
	if e == nil {
		e = &exchange{h: o}
	}
	e.s = s
	s.Owner, s.Req, s.Trailers = e, &e.req, &e.trail
}

func show(h *message.Head) string {
	var b strings.Builder
	for _, f := range h.Fields {
		fmt.Fprintf(&b, " %s=%s", h.In(f.Name), h.In(f.Value))
	}
	return b.String()
}

func (o *owner) Head(s *Stream, end bool) {
	e := s.Owner.(*exchange)
	if o.c.role == Client {
		if !o.quiet {
			o.say("%d response %d length %d%s end=%v", s.ID(), e.resp.Status, e.resp.Length, show(&e.resp.Head), end)
		}
		return
	}
	m := &e.req
	if !o.quiet {
		o.say("%d %s %s://%s %s up=%s length %d%s end=%v", s.ID(), m.In(m.Method), m.In(m.Scheme), m.In(m.Authority), m.In(m.Path), m.In(m.Upgrade), m.Length, show(&m.Head), end)
	}
	e.echo = string(m.PathOnly()) == "/echo"
	if string(m.PathOnly()) == "/hold" {
		o.held = append(o.held, e)
		return
	}
	if e.echo {
		e.respond(200, -1, end)
	} else if end {
		e.hello()
	}
}

var helloText, helloType, helloName = []byte("hello"), []byte("text/plain"), []byte("Content-Type")

func (e *exchange) respond(status int, length int64, end bool) {
	e.resp.Reset()
	e.resp.Status, e.resp.Length = status, length
	e.resp.Add(helloName, helloType)
	e.h.c.WriteResponse(e.s, &e.resp, end)
}

func (e *exchange) hello() {
	if string(e.req.In(e.req.Method)) == "HEAD" {
		e.respond(200, 5, true)
		return
	}
	e.respond(200, 5, false)
	e.write(helloText, true)
}

func (e *exchange) write(p []byte, end bool) {
	if e.s == nil {
		return
	}
	e.ended = e.ended || end
	if len(e.send) > 0 {
		e.send = append(e.send, p...)
		return
	}
	if n := e.h.c.WriteData(e.s, p, e.ended); n < len(p) {
		e.send = append(e.send, p[n:]...)
	}
}

func (o *owner) Refuse(s *Stream, status int, end bool) {
	o.refused++
	o.say("%d refuse %d end=%v", s.ID(), status, end)
	s.Owner.(*exchange).respond(status, 0, true)
	if s.Conn() != nil {
		o.c.ResetStream(s, NoError)
	}
}

func (o *owner) Body(s *Stream, p []byte, end bool) int {
	e := s.Owner.(*exchange)
	if !o.quiet {
		o.say("%d body %d %x end=%v", s.ID(), len(p), sum(p), end)
	}
	if o.c.role == Client {
		e.body = append(e.body, p...)
	} else if e.echo {
		e.write(p, end)
	} else if end && string(e.req.PathOnly()) != "/hold" {
		e.hello()
	}
	if o.holding {
		return 0
	}
	return len(p)
}

func sum(p []byte) (n uint32) {
	for _, c := range p {
		n = n*31 + uint32(c)
	}
	return n
}

func (o *owner) Trailers(s *Stream) {
	e := s.Owner.(*exchange)
	o.say("%d trailers%s", s.ID(), show(&e.trail))
	if o.c.role == Client {
		return
	}
	if e.echo {
		if len(e.send) == 0 {
			o.c.WriteTrailers(s, &e.trail)
		} else {
			e.write(nil, true)
		}
	} else {
		e.hello()
	}
}

func (o *owner) Reset(s *Stream, code Code) {
	o.say("%d reset %v unprocessed=%v", s.ID(), code, s.Unprocessed)
	o.resets = append(o.resets, code)
	if e, ok := s.Owner.(*exchange); ok {
		e.err, e.reset = code, true
	}
}

func (o *owner) Window(s *Stream) {
	e := s.Owner.(*exchange)
	n := o.c.WriteData(s, e.send, e.ended)
	e.send = append(e.send[:0], e.send[n:]...)
}

func (o *owner) GoAway(last uint32, code Code) { o.away = true; o.say("goaway %d %v", last, code) }
func (o *owner) Settled()                      { o.settled = true; o.say("settled") }

// get opens a request.
func (o *owner) get(method, path string, length int64, end bool) *exchange {
	e := &exchange{h: o}
	e.req.Proto = message.HTTP2
	e.req.Method, e.req.Scheme = e.req.PutString(method), e.req.PutString("http")
	e.req.Authority, e.req.Path = e.req.PutString("example.com"), e.req.PutString(path)
	e.req.AddString("User-Agent", "test")
	e.req.Length = length
	s := o.c.NewStream()
	e.s = s
	s.Owner, s.Resp, s.Trailers = e, &e.resp, &e.trail
	if err := o.c.WriteRequest(&e.req, s, end); err != nil {
		e.s, e.reset = nil, true
	}
	return e
}

// pair is a client and a server that talk in memory.
type pair struct {
	client, server       *owner
	toServer, toClient   out
	clientOpt, serverOpt Options
	heldS, heldC         []byte // came and was not consumed
}

func newPair(co, so Options) *pair {
	p := &pair{client: &owner{}, server: &owner{}, clientOpt: co, serverOpt: so}
	p.client.c = New(Client, co, p.client, &p.toServer)
	p.server.c = New(Server, so, p.server, &p.toClient)
	p.client.c.Start()
	p.server.c.Start()
	return p
}

// move carries bytes until both are silent; step bounds a piece.
func (p *pair) move(t testing.TB, step int) {
	t.Helper()
	s, c := p.heldS, p.heldC
	p.heldS, p.heldC = nil, nil
	for {
		s = append(s, p.toServer.Next(step)...)
		n, err := p.server.c.Feed(s)
		if err != nil {
			t.Fatalf("server: %v", err)
		}
		s = s[n:]
		c = append(c, p.toClient.Next(step)...)
		m, err := p.client.c.Feed(c)
		if err != nil {
			t.Fatalf("client: %v", err)
		}
		c = c[m:]
		if n+m == 0 && p.toServer.Len()+p.toClient.Len() == 0 {
			if len(s)+len(c) > 0 {
				t.Fatalf("left over: %d and %d bytes", len(s), len(c))
			}
			return
		}
	}
}

// serveConn serves one connection with a small adapter: read, Feed, write.
func serveConn(nc net.Conn, o Options) {
	defer nc.Close()
	var w out
	h := &owner{quiet: true}
	h.c = New(Server, o, h, &w)
	h.c.Start()
	buf := make([]byte, 0, 64<<10)
	for {
		if w.Len() > 0 {
			if _, err := nc.Write(w.Bytes()); err != nil {
				return
			}
			w.Reset()
		}
		n, err := nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			h.c.Close(Cancel)
			return
		}
		buf = buf[:len(buf)+n]
		used, err := h.c.Feed(buf)
		buf = append(buf[:0], buf[used:]...)
		if err != nil {
			nc.Write(w.Bytes())
			h.c.Close(Cancel)
			return
		}
	}
}
