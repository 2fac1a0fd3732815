// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
)

func TestShutdown(t *testing.T) {
	r := newRaw(t, Server, Options{})
	r.headers(1, true, request("/hold")...)
	r.ok()
	r.o.c.Shutdown()
	r.headers(3, true, request("/hold")...)
	r.ok()
	if a := r.answers(); a != "goaway 2147483647 NO_ERROR;PING 0 ack=false;" {
		t.Fatal(a)
	}
	r.fr.WritePing(true, shutdownPing)
	r.headers(5, true, request("/hold")...)
	r.ok()
	if a := r.answers(); a != "goaway 3 NO_ERROR;" || len(r.o.held) != 2 || !r.o.c.Closing() {
		t.Fatal(a, len(r.o.held))
	}
	for _, e := range r.o.held {
		e.respond(200, 0, true)
	}
	r.answers()
	r.o.c.GoAway(InternalError)
	r.ends(t, "goaway 3 INTERNAL_ERROR;")
	if r.o.c.Active() != 0 || r.o.closed != 2 {
		t.Error("not done")
	}
}

func TestClientLimits(t *testing.T) {
	r := newRaw(t, Client, Options{})
	r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingMaxConcurrentStreams, Val: 2})
	r.ok()
	a := r.o.get("GET", "/", 0, true)
	r.o.get("GET", "/", 0, true)
	if r.o.c.CanOpen() || !r.o.get("GET", "/", 0, true).reset {
		t.Error("opened a third")
	}
	r.o.c.ResetStream(a.s, Cancel)
	if !r.o.c.CanOpen() || r.o.closed != 1 {
		t.Error("no room after a reset")
	}
	r.fr.WriteGoAway(3, 0, nil)
	r.ok()
	if r.o.c.CanOpen() || r.o.c.Active() != 1 {
		t.Error("open after GOAWAY")
	}
	r.o.c.Close(Cancel)
	if r.o.closed != 2 || r.o.c.Active() != 0 {
		t.Error("Close left a stream")
	}
}

// TestTurns: streams that wait share what window there is; the urgent go
// first, and one that is not incremental is finished before the next.
func TestTurns(t *testing.T) {
	open := func(prio ...string) *raw {
		r := newRaw(t, Server, Options{})
		for i, p := range prio {
			kv := request("/hold")
			if p != "" {
				kv = append(kv, "priority", p)
			}
			r.headers(uint32(2*i+1), true, kv...)
			r.fr.WriteWindowUpdate(uint32(2*i+1), 1<<20)
		}
		r.ok()
		r.o.c.Writable(0)
		for _, e := range r.o.held {
			e.respond(200, -1, false)
			e.write(make([]byte, 40_000), true)
		}
		r.answers()
		return r
	}
	order := func(r *raw) string {
		var ids []string
		r.fr.WriteWindowUpdate(0, 1<<20)
		r.ok()
		r.o.c.Writable(1 << 20)
		for _, a := range strings.Split(r.answers(), ";") {
			if f := strings.Fields(a); len(f) > 1 && f[0] == "data" {
				ids = append(ids, f[1])
			}
		}
		return strings.Join(ids, " ")
	}
	if o := order(open("", "", "")); o != "1 3 5 1 3 5 1 3 5" {
		t.Error("even:", o)
	}
	if o := order(open("u=5", "u=1", "u=5")); o != "3 3 3 1 1 1 5 5 5" {
		t.Error("urgent first:", o)
	}
	if o := order(open("u=5,i", "u=1", "u=5,i")); o != "3 3 3 1 5 1 5 1 5" {
		t.Error("incremental:", o)
	}
}

func TestWritable(t *testing.T) {
	r := newRaw(t, Server, Options{})
	r.headers(1, true, request("/hold")...)
	r.ok()
	e := r.o.held[0]
	e.respond(200, -1, false)
	r.o.c.Writable(100)
	e.write(make([]byte, 300), true)
	r.ends(t, "data 1 100 end=false;")
	r.o.c.Writable(150)
	r.ends(t, "data 1 150 end=false;")
	r.o.c.Writable(150)
	r.ends(t, "data 1 50 end=true;")
}

func (r *raw) ends(t *testing.T, want string) {
	t.Helper()
	if a := r.answers(); !strings.HasSuffix(a, want) {
		t.Errorf("%s, want %s", a, want)
	}
}

// TestWindowIsGivenBack: after Consumed, and by the end of a stream whose
// owner consumed nothing.
func TestWindowIsGivenBack(t *testing.T) {
	r := newRaw(t, Server, Options{StreamWindow: 70_000, ConnWindow: 100_000})
	r.o.holding = true
	r.headers(1, false, request("/hold")...)
	for range 4 {
		r.fr.WriteData(1, false, make([]byte, 15_000))
	}
	r.ok()
	e := r.o.held[0]
	if a := r.answers(); a != "" || e.s.Unread() != 60_000 {
		t.Fatal(a, e.s.Unread())
	}
	r.o.c.Consumed(e.s, 40_000)
	r.ends(t, "window 1 40000;")
	s := e.s
	r.o.c.ResetStream(s, Cancel)
	r.ends(t, "reset 1 CANCEL;window 0 60000;")
	r.o.c.Consumed(s, 20_000)
	r.ends(t, "")
	r.conserved()
}

// keeper keeps a first run, and passes it on together with the next, as it
// comes.
type keeper struct {
	*owner
	kept int
}

func (k *keeper) Body(s *Stream, p []byte, _ bool) int {
	if k.kept += len(p); k.kept > len(p) {
		k.c.Consumed(s, k.kept)
		k.kept = 0
	}
	return 0
}

// TestConsumedWithinBody: what an owner passes on while it is told of it is
// given back too.
func TestConsumedWithinBody(t *testing.T) {
	r := newRaw(t, Server, Options{StreamWindow: 70_000})
	r.o.holding = true
	r.o.c.h = &keeper{owner: r.o}
	r.headers(1, false, request("/hold")...)
	r.fr.WriteData(1, false, make([]byte, 15_000))
	r.fr.WriteData(1, false, make([]byte, 15_000))
	r.ok()
	if n := r.o.held[0].s.Unread(); n != 0 {
		t.Errorf("%d bytes of window are lost", n)
	}
	r.conserved()
}

// TestOwnerEndsInside: the owner may end a stream in any callback.
func TestOwnerEndsInside(t *testing.T) {
	for _, at := range []string{"open", "head", "body", "trailers"} {
		r := newRaw(t, Server, Options{})
		h := &ender{owner: r.o, at: at}
		r.o.c.h = h
		r.headers(1, false, request("/hold")...)
		r.fr.WriteData(1, false, []byte("body"))
		r.headers(1, true, "x", "y")
		r.ok()
		if r.o.c.Active() != 0 || r.o.opened != r.o.closed {
			t.Errorf("%s: %d active, %d opened, %d closed", at, r.o.c.Active(), r.o.opened, r.o.closed)
		}
		r.o.c.h = r.o
		r.alive(3)
	}
}

// TestResetIsNotAnswered: an owner that resets a stream whose reset it is told
// of says nothing to the peer, and what follows is still the peer's mistake.
func TestResetIsNotAnswered(t *testing.T) {
	r := newRaw(t, Server, Options{})
	r.o.c.h = &ender{owner: r.o, at: "reset"}
	r.headers(1, false, request("/hold")...)
	r.fr.WriteRSTStream(1, xhttp2.ErrCodeCancel)
	r.headers(3, false, request("/hold")...)
	r.fr.WriteWindowUpdate(3, 0)
	r.ok()
	if a := r.answers(); a != "reset 3 PROTOCOL_ERROR;" {
		t.Error(a)
	}
	if r.o.opened != 2 || r.o.closed != 2 {
		t.Error("not closed once")
	}
	r.fr.WriteData(1, false, []byte("x"))
	r.ok()
	if a := r.answers(); a != "reset 1 STREAM_CLOSED;" {
		t.Error(a)
	}
}

type ender struct {
	*owner
	at string
}

func (e *ender) end(s *Stream, at string) {
	if e.at == at {
		e.c.ResetStream(s, Cancel)
	}
}
func (e *ender) Open(s *Stream)           { e.owner.Open(s); e.end(s, "open") }
func (e *ender) Head(s *Stream, end bool) { e.owner.Head(s, end); e.end(s, "head") }
func (e *ender) Trailers(s *Stream)       { e.end(s, "trailers") }
func (e *ender) Reset(s *Stream, c Code)  { e.owner.Reset(s, c); e.end(s, "reset") }
func (e *ender) Body(s *Stream, p []byte, end bool) int {
	n := e.owner.Body(s, p, end)
	e.end(s, "body")
	return n
}

// seeds are conversations, each with its role in the first byte.
func seeds(f *testing.F) {
	add := func(role Role, do func(r *raw)) {
		r := newRaw(f, role, Options{})
		do(r)
		f.Add(append([]byte{byte(role)}, r.in.Bytes()...), uint16(3))
	}
	add(Server, func(r *raw) {
		r.headers(1, false, request("/echo", "cookie", "a", "cookie", "b", "content-length", "4")...)
		r.fr.WriteDataPadded(1, true, []byte("four"), make([]byte, 3))
		r.headers(3, true, request("/hold")...)
		r.fr.WriteWindowUpdate(3, 100)
		r.fr.WriteRSTStream(3, 8)
		r.fr.WriteSettings(xhttp2.Setting{ID: xhttp2.SettingInitialWindowSize, Val: 3}, xhttp2.Setting{ID: 1, Val: 0})
		r.headers(5, false, request("/echo")...)
		r.fr.WriteData(5, false, []byte("hello"))
		r.headers(5, true, "x", "y")
	})
	add(Server, func(r *raw) {
		r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: 1, BlockFragment: r.encode(plainGet...)[:5], EndStream: true})
		r.fr.WriteContinuation(1, true, r.encode(plainGet...))
		r.fr.WritePing(false, [8]byte{})
		r.fr.WritePriority(1, xhttp2.PriorityParam{StreamDep: 3})
		r.fr.WriteRawFrame(framePriorityUpdate, 0, 0, []byte("\x00\x00\x00\x01u=1"))
		r.fr.WriteGoAway(0, 0, nil)
	})
	add(Client, func(r *raw) {
		r.headers(1, false, ":status", "100")
		r.headers(1, false, ":status", "200", "content-length", "3")
		r.fr.WriteData(1, true, []byte("abc"))
		r.headers(3, false, ":status", "200")
		r.headers(3, true, "grpc-status", "0")
		r.fr.WriteRSTStream(5, 7)
		r.fr.WriteGoAway(5, 0, nil)
	})
}

// FuzzFeed: whatever comes, in whatever pieces, nothing breaks, no window is
// lost, every stream is closed once, another implementation reads all that we
// write, and pieces do not change what is understood.
func FuzzFeed(f *testing.F) {
	seeds(f)
	f.Fuzz(func(t *testing.T, b []byte, step uint16) {
		if len(b) == 0 {
			return
		}
		run := func(step int) (heads string, f *Fault) {
			r := newRaw(t, Role(b[0]&1), Options{StreamWindow: 2000, MaxStreams: 8, MaxList: 2000, MaxFields: 20, AllowConnect: true, TableSize: 4096})
			if b[0]&1 == 1 {
				for range 4 {
					r.o.get("POST", "/", -1, false).write(make([]byte, 50), true)
				}
			}
			for rest := b[1:]; len(rest) > 0 && f == nil; {
				n := min(step, len(rest))
				r.in.Write(rest[:n])
				rest = rest[n:]
				f = r.feed()
			}
			r.answers()
			r.o.c.Close(Cancel)
			if b[0]&1 == 0 && r.o.opened != r.o.closed || r.o.c.Active() != 0 || r.o.c.first() != nil {
				t.Fatalf("%d opened, %d closed, %d active", r.o.opened, r.o.closed, r.o.c.Active())
			}
			for _, l := range strings.Split(r.o.log.String(), "\n") {
				if !strings.Contains(l, " body ") {
					heads += l + "\n"
				}
			}
			return heads, f
		}
		whole, f1 := run(len(b))
		parts, f2 := run(int(step)%50 + 1)
		if whole != parts || f1 != f2 {
			t.Fatalf("in pieces:\n%s%v\nwhole:\n%s%v", parts, f2, whole, f1)
		}
	})
}
