// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	xhttp2 "golang.org/x/net/http2"
	xhpack "golang.org/x/net/http2/hpack"
)

// raw is a peer that writes what frames it likes, by another implementation's
// framer, and reads ours by it.
type raw struct {
	t     testing.TB
	o     *owner
	w     out
	in    bytes.Buffer
	fr    *xhttp2.Framer
	back  *xhttp2.Framer
	block bytes.Buffer
	enc   *xhpack.Encoder
	dec   *xhpack.Decoder
	sent  []byte // not consumed yet
}

func newRaw(t testing.TB, role Role, opt Options) *raw {
	r := &raw{t: t, o: &owner{}}
	r.fr = xhttp2.NewFramer(&r.in, nil)
	r.fr.AllowIllegalWrites = true
	r.back = xhttp2.NewFramer(nil, &r.w)
	r.back.SetMaxReadFrameSize(1<<24 - 1)
	r.enc = xhpack.NewEncoder(&r.block)
	r.dec = xhpack.NewDecoder(4096, nil)
	r.o.c = New(role, opt, r.o, &r.w)
	r.o.c.Start()
	if role == Server {
		r.in.WriteString(xhttp2.ClientPreface)
	}
	if role == Client {
		r.w.Next(len(preface))
	}
	r.fr.WriteSettings()
	r.fr.WriteSettingsAck()
	r.ok()
	r.answers()
	return r
}

// feed hands over what was written and gives the fault, if any.
func (r *raw) feed() *Fault {
	r.sent = append(r.sent, r.in.Bytes()...)
	r.in.Reset()
	n, err := r.o.c.Feed(r.sent)
	r.sent = r.sent[n:]
	var f *Fault
	if err != nil && !errors.As(err, &f) {
		r.t.Fatalf("not a fault: %v", err)
	}
	r.conserved()
	return f
}

// conserved: no byte of the connection's window is lost or given twice.
func (r *raw) conserved() {
	c := r.o.c
	if c.fault != nil {
		return
	}
	sum := c.recvWin + c.credit
	for s := c.oldest; s != nil; s = s.younger {
		sum += s.owed
	}
	if c.data.on {
		sum += int64(c.data.left)
	}
	if sum != int64(c.o.ConnWindow) {
		r.t.Fatalf("window of %d has become %d", c.o.ConnWindow, sum)
	}
}

func (r *raw) ok() {
	r.t.Helper()
	if f := r.feed(); f != nil {
		r.t.Fatal(f)
	}
	if len(r.sent) > 0 {
		r.t.Fatalf("%d bytes not consumed", len(r.sent))
	}
}

func (r *raw) encode(kv ...string) []byte {
	r.block.Reset()
	for i := 0; i < len(kv); i += 2 {
		r.enc.WriteField(xhpack.HeaderField{Name: kv[i], Value: kv[i+1]})
	}
	return r.block.Bytes()
}

func (r *raw) headers(id uint32, end bool, kv ...string) {
	r.fr.WriteHeaders(xhttp2.HeadersFrameParam{StreamID: id, BlockFragment: r.encode(kv...), EndStream: end, EndHeaders: true})
}

var plainGet = []string{":method", "GET", ":scheme", "http", ":authority", "a.b", ":path", "/"}

func request(path string, more ...string) []string {
	return append([]string{":method", "POST", ":scheme", "http", ":authority", "a.b", ":path", path}, more...)
}

// answers tells the frames that we wrote.
func (r *raw) answers() string {
	var b strings.Builder
	for r.w.Len() > 0 {
		f, err := r.back.ReadFrame()
		if err != nil {
			r.t.Fatalf("another implementation cannot read our frame: %v", err)
		}
		h := f.Header()
		switch f := f.(type) {
		case *xhttp2.RSTStreamFrame:
			fmt.Fprintf(&b, "reset %d %v;", h.StreamID, f.ErrCode)
		case *xhttp2.GoAwayFrame:
			fmt.Fprintf(&b, "goaway %d %v;", f.LastStreamID, f.ErrCode)
		case *xhttp2.WindowUpdateFrame:
			fmt.Fprintf(&b, "window %d %d;", h.StreamID, f.Increment)
		case *xhttp2.DataFrame:
			fmt.Fprintf(&b, "data %d %d end=%v;", h.StreamID, len(f.Data()), f.StreamEnded())
		case *xhttp2.HeadersFrame:
			fs, err := r.dec.DecodeFull(f.HeaderBlockFragment())
			if err != nil {
				r.t.Fatal(err)
			}
			fmt.Fprintf(&b, "headers %d", h.StreamID)
			for _, f := range fs {
				fmt.Fprintf(&b, " %s=%s", f.Name, f.Value)
				if f.Sensitive {
					b.WriteString("!")
				}
			}
			fmt.Fprintf(&b, " end=%v;", f.StreamEnded())
		default:
			fmt.Fprintf(&b, "%v %d ack=%v;", h.Type, h.StreamID, h.Flags&1 == 1)
		}
	}
	return b.String()
}

// alive proves that the connection still serves.
func (r *raw) alive(id uint32) {
	r.t.Helper()
	r.answers()
	r.headers(id, true, plainGet...)
	r.ok()
	if a := r.answers(); !strings.Contains(a, fmt.Sprintf("headers %d :status=200", id)) {
		r.t.Fatalf("stream %d after it: %s", id, a)
	}
}

// dies proves that the connection has ended with code, and says so.
func (r *raw) dies(f *Fault, code Code) {
	r.t.Helper()
	if f == nil || f.Code != code {
		r.t.Fatalf("fault %v, want %v", f, code)
	}
	if a := r.answers(); !strings.Contains(a, "goaway") || !strings.Contains(a, code.String()) {
		r.t.Fatalf("answers %s", a)
	}
	if n, err := r.o.c.Feed([]byte("more")); n != 4 || err != error(f) {
		r.t.Fatalf("fed after its end: %d %v", n, err)
	}
	r.o.c.Close(code)
	if r.o.opened != r.o.closed && r.o.c.role == Server {
		r.t.Fatalf("%d streams opened, %d closed", r.o.opened, r.o.closed)
	}
}

func (r *raw) until(limit int, step func(i int)) (*Fault, int) {
	for i := range limit {
		step(i)
		if f := r.feed(); f != nil {
			return f, i
		}
		r.w.Next(max(0, r.w.Len()-17)) // keep the last frame, which may be GOAWAY
		if r.w.Len() == 17 && r.w.Bytes()[3] == frameGoAway {
			continue
		}
		r.w.Reset()
	}
	return nil, limit
}
