// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"errors"
	"testing"

	"redoubt.dev/api/errs"
)

// moveOver exports o's connection and goes on with the import, as another
// process would: all that is told to the new one is the state and the owner's.
func moveOver(t testing.TB, o *owner, w Writer) {
	t.Helper()
	owners := map[uint32]*Stream{}
	for s := o.c.Oldest(); s != nil; s = s.Younger() {
		owners[s.ID()] = s
	}
	b := o.c.Export(nil)
	c, err := Import(b, Options{MaxIdle: o.c.o.MaxIdle}, o, w, func(s *Stream) {
		old := owners[s.ID()]
		e := old.Owner.(*exchange)
		e.s = s
		s.Owner, s.Req, s.Resp, s.Trailers = old.Owner, old.Req, old.Resp, old.Trailers
		delete(owners, s.ID())
	})
	if err != nil || len(owners) > 0 {
		t.Fatalf("import: %v; %d streams were not adopted", err, len(owners))
	}
	if again := c.Export(nil); !bytes.Equal(again, b) {
		t.Fatal("an import exports other state than it was made of")
	}
	o.c = c
}

// talk is a conversation with all that a connection holds: bodies larger than
// the windows, trailers, cookies, blocks in pieces, resets, a table that fills.
// moved is called before each piece of step bytes.
func talk(t testing.TB, step int, moved func(p *pair, piece int)) (clientLog, serverLog string) {
	p := newPair(Options{StreamWindow: 3000, TableSize: 300}, Options{StreamWindow: 2000, TableSize: 600, AllowConnect: true, MaxStreams: 5})
	all := []*exchange{p.client.get("GET", "/", 0, true)}
	post := func(path string, n int) *exchange {
		e := p.client.get("POST", path, int64(n), false)
		e.write(bytes.Repeat([]byte{'x', 'y', byte(n)}, n)[:n], false)
		return e
	}
	all = append(all, post("/echo", 7000), post("/echo?2", 5000), p.client.get("HEAD", "/h", 0, true))
	all[1].write(nil, true)
	long := p.client.get("GET", "/hold", 0, true)
	var s, c []byte
	pieces := 0
	run := func() {
		for {
			s = append(s, p.toServer.Next(step)...)
			c = append(c, p.toClient.Next(step)...)
			moved(p, pieces)
			pieces++
			n, err := p.server.c.Feed(s)
			if err != nil {
				t.Fatalf("server: %v", err)
			}
			s = s[n:]
			m, err := p.client.c.Feed(c)
			if err != nil {
				t.Fatalf("client: %v", err)
			}
			c = c[m:]
			if n+m == 0 && p.toServer.Len()+p.toClient.Len() == 0 {
				return
			}
		}
	}
	run()
	e := all[2]
	e.trail.Reset()
	e.trail.AddString("x-sum", "7")
	p.client.c.WriteTrailers(e.s, &e.trail)
	e = p.client.held1(p)
	e.resp.Reset()
	e.resp.Status, e.resp.Length = 200, -1
	for i := range 3 {
		e.resp.AddString("x-long", string(bytes.Repeat([]byte{byte('a' + i)}, 9000)))
	}
	p.server.c.WriteResponse(e.s, &e.resp, false)
	run()
	p.client.c.ResetStream(long.s, Cancel)
	p.server.c.Ping()
	p.client.get("GET", "/", 0, true)
	p.server.c.Shutdown()
	run()
	if a, b := p.client.c.Active(), p.server.c.Active(); a+b > 0 {
		t.Fatalf("streams left: %d and %d", a, b)
	}
	return p.client.log.String(), p.server.log.String()
}

func (o *owner) held1(p *pair) *exchange { return p.server.held[0] }

// TestHandOver: a conversation that is cut at every byte, both ends moving to
// another process each time, goes on identically.
func TestHandOver(t *testing.T) {
	for _, step := range []int{1, 7, 1000} {
		wantC, wantS := talk(t, step, func(*pair, int) {})
		if step == 1000 && (len(wantC) < 500 || len(wantS) < 500) {
			t.Fatalf("conversation is too poor:\n%s\n%s", wantC, wantS)
		}
		gotC, gotS := talk(t, step, func(p *pair, _ int) {
			moveOver(t, p.client, &p.toServer)
			moveOver(t, p.server, &p.toClient)
		})
		if gotC != wantC || gotS != wantS {
			t.Errorf("step %d: the conversation went otherwise:\n%s\nwant\n%s\nserver\n%s\nwant\n%s", step, gotC, wantC, gotS, wantS)
		}
		if testing.Short() {
			break
		}
	}
}

// exported gives states from the midst of the conversation.
func exported(t testing.TB, every int) (all [][]byte) {
	talk(t, 50, func(p *pair, piece int) {
		if piece%every == 0 {
			all = append(all, p.client.c.Export(nil), p.server.c.Export(nil))
		}
	})
	return all
}

func TestImportRefuses(t *testing.T) {
	for _, b := range exported(t, 40) {
		for i := range b {
			if _, err := Import(b[:i], Options{}, &owner{}, &out{}, func(*Stream) { t.Error("adopted") }); !errors.Is(err, errs.Invalid) {
				t.Fatalf("cut at %d of %d: %v", i, len(b), err)
			}
		}
		if _, err := Import(append(b[:len(b):len(b)], 0), Options{}, &owner{}, &out{}, func(*Stream) {}); err == nil {
			t.Fatal("more bytes than state were taken")
		}
	}
}

// FuzzImport: what is imported exports what imports again as the same (credit
// above our bounds is cut once), and does not break.
func FuzzImport(f *testing.F) {
	for _, b := range exported(f, 30) {
		f.Add(b, []byte{0, 0, 4, 8, 0, 0, 0, 0, 0, 0, 0, 1, 0})
	}
	f.Fuzz(func(t *testing.T, b, in []byte) {
		load := func(b []byte) (*Conn, error) {
			o := &owner{quiet: true}
			c, err := Import(b, Options{}, o, &out{}, func(s *Stream) {
				e := &exchange{h: o, s: s}
				s.Owner, s.Req, s.Resp, s.Trailers = e, &e.req, &e.resp, &e.trail
			})
			o.c = c
			return c, err
		}
		c, err := load(b)
		if err != nil {
			return
		}
		once := c.Export(nil)
		again, err := load(once)
		if err != nil || !bytes.Equal(again.Export(nil), once) {
			t.Fatalf("an import of an import is another: %v", err)
		}
		c.Feed(in)
		c.Writable(1 << 20)
		c.Close(Cancel)
	})
}
