// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
)

func h2c() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// TestRealClient: net/http's client meets our server.
func TestRealClient(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			nc, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveConn(nc, Options{}) })
		}
	})
	tr := &http.Transport{Protocols: h2c(), HTTP2: &http.HTTP2Config{}}
	cl := &http.Client{Transport: tr}
	url := "http://" + l.Addr().String()
	var calls sync.WaitGroup
	for i := range 40 {
		calls.Go(func() {
			big := bytes.Repeat([]byte{byte('a' + i%26)}, 1<<20+i)
			req, _ := http.NewRequest("POST", url+"/echo?x="+fmt.Sprint(i), io.MultiReader(bytes.NewReader(big)))
			req.Trailer = http.Header{"X-Sum": nil}
			req.Trailer.Set("X-Sum", "42")
			resp, err := cl.Do(req)
			if err != nil {
				t.Error(err)
				return
			}
			defer resp.Body.Close()
			got, err := io.ReadAll(resp.Body)
			if err != nil || !bytes.Equal(got, big) {
				t.Errorf("%d: %d bytes of %d, %v", i, len(got), len(big), err)
			}
		})
	}
	calls.Wait()
	for _, method := range []string{"GET", "HEAD", "POST"} {
		req, _ := http.NewRequest(method, url+"/", nil)
		req.Header.Set("Cookie", "a=b; c=d; e=f")
		resp, err := cl.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		if resp.ProtoMajor != 2 || resp.StatusCode != 200 || resp.ContentLength != 5 || (method != "HEAD") != (string(b) == "hello") {
			t.Errorf("%s: %v %q", method, resp, b)
		}
		resp.Body.Close()
	}
	tr.CloseIdleConnections()
	l.Close()
	wg.Wait()
}

// TestRealServer: our client meets net/http's server.
func TestRealServer(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: h2c(), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Trailer", "X-Sum")
		w.Header().Set("X-Seen", r.Method+" "+r.Host+" "+r.URL.String()+" ."+r.Header.Get("Cookie"))
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
		w.Header().Set("X-Sum", fmt.Sprint(len(b)))
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(l) })
	nc, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	var w out
	o := &owner{quiet: true}
	o.c = New(Client, Options{}, o, &w)
	o.c.Start()
	left := 0
	var all []*exchange
	open := func(i int) {
		left++
		e := o.get("POST", fmt.Sprintf("/p%d?q", i), -1, false)
		e.req.Reset()
		e.done = func(*exchange, Code) { left-- }
		e.write(bytes.Repeat([]byte{byte(i)}, 200_000+i), true)
		all = append(all, e)
	}
	buf := make([]byte, 0, 64<<10)
	for i := 0; left > 0 || i < 60; {
		for i < 60 && o.settled && o.c.CanOpen() {
			open(i)
			i++
		}
		nc.Write(w.Bytes())
		w.Reset()
		n, err := nc.Read(buf[len(buf):cap(buf)])
		if err != nil {
			t.Fatal(err)
		}
		buf = buf[:len(buf)+n]
		used, err := o.c.Feed(buf)
		if err != nil {
			t.Fatal(err)
		}
		buf = append(buf[:0], buf[used:]...)
	}
	for i, e := range all {
		if e.reset || e.resp.Status != 200 || !bytes.Equal(e.body, bytes.Repeat([]byte{byte(i)}, 200_000+i)) || show(&e.trail) != fmt.Sprintf(" x-sum=%d", 200_000+i) {
			t.Errorf("%d: reset=%v %v status %d, %d bytes, trailers %s", i, e.reset, e.err, e.resp.Status, len(e.body), show(&e.trail))
		}
		if v, _ := e.resp.Find("x-seen"); string(v) != fmt.Sprintf("POST example.com /p%d?q .", i) {
			t.Errorf("%d: %s", i, v)
		}
	}
	nc.Close()
	srv.Close()
	wg.Wait()
}

func TestRoundTripAllocatesNothing(t *testing.T) {
	f := roundTrip(t)
	for range 500 {
		f()
	}
	if n := testing.AllocsPerRun(1000, f); n != 0 {
		t.Errorf("%v allocations a request", n)
	}
}

// roundTrip gives a function that does one request with its response.
func roundTrip(t testing.TB) func() {
	p := newPair(Options{}, Options{})
	p.client.quiet, p.server.quiet = true, true
	p.move(t, 1<<20)
	ce, se := &exchange{h: p.client}, &exchange{h: p.server}
	p.server.reuse = se
	name, value := []byte("User-Agent"), []byte("test/1.0")
	idName, id := []byte("X-Request-Id"), []byte("0123456789abcdef")
	return func() {
		m := &ce.req
		m.Reset()
		ce.body = ce.body[:0]
		m.Method, m.Scheme, m.Authority, m.Path = m.PutString("GET"), m.PutString("http"), m.PutString("example.com"), m.PutString("/some/path?with=query")
		m.Add(name, value)
		for i := range id {
			id[i] = '0' + (id[i]+byte(i))%10
		}
		m.Add(idName, id)
		s := p.client.c.NewStream()
		ce.s = s
		s.Owner, s.Resp = ce, &ce.resp
		if err := p.client.c.WriteRequest(m, s, true); err != nil {
			t.Fatal(err)
		}
		feed(t, p.server.c, &p.toServer)
		feed(t, p.client.c, &p.toClient)
		if ce.s != nil || ce.resp.Status != 200 || len(ce.body) != 5 {
			t.Fatal("no answer")
		}
	}
}

func feed(t testing.TB, c *Conn, w *out) {
	if n, err := c.Feed(w.Bytes()); err != nil || n != w.Len() {
		t.Fatal(n, err)
	}
	w.Reset()
}

func BenchmarkRoundTrip(b *testing.B) {
	f := roundTrip(b)
	b.ReportAllocs()
	for b.Loop() {
		f()
	}
}

// BenchmarkBody moves bodies of 1 MB from server to client.
func BenchmarkBody(b *testing.B) {
	p := newPair(Options{}, Options{})
	p.client.quiet, p.server.quiet = true, true
	p.move(b, 1<<20)
	big := make([]byte, 1<<20)
	b.SetBytes(1 << 20)
	b.ReportAllocs()
	e := &exchange{h: p.client, body: make([]byte, 0, 1<<20)}
	p.server.reuse = &exchange{h: p.server, send: make([]byte, 0, 1<<20)}
	m := &e.req
	m.Method, m.Scheme, m.Authority, m.Path = m.PutString("GET"), m.PutString("http"), m.PutString("a"), m.PutString("/hold")
	for b.Loop() {
		s := p.client.c.NewStream()
		e.s, e.body = s, e.body[:0]
		s.Owner, s.Resp = e, &e.resp
		if err := p.client.c.WriteRequest(m, s, true); err != nil {
			b.Fatal(err)
		}
		feed(b, p.server.c, &p.toServer)
		x := p.server.held[0]
		p.server.held = p.server.held[:0]
		x.ended, x.send = false, x.send[:0]
		x.respond(200, 1<<20, false)
		x.write(big, true)
		for e.s != nil {
			feed(b, p.client.c, &p.toClient)
			feed(b, p.server.c, &p.toServer)
		}
	}
}

// TestResetConn: a connection that is used again begins anew.
func TestResetConn(t *testing.T) {
	p := newPair(Options{}, Options{})
	for range 3 {
		p.client.get("GET", "/hold", 0, true)
	}
	p.move(t, 1<<20)
	first, _ := talk(t, 1000, func(*pair, int) {})
	p.client.c.Reset(Client, Options{}, p.client, &p.toServer)
	p.server.c.Reset(Server, Options{}, p.server, &p.toClient)
	if p.client.c.Active()+p.server.c.Active() != 0 {
		t.Fatal("streams left")
	}
	p.client.c.Start()
	p.server.c.Start()
	e := p.client.get("GET", "/", 0, true)
	p.move(t, 3)
	if e.resp.Status != 200 || string(e.body) != "hello" || len(first) == 0 {
		t.Error(e.resp.Status)
	}
}
