// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"context"
	"io"
	"net/netip"
	"strconv"
	"sync/atomic"
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/message"
)

// Sizes of the access log's batches, and how many may wait for the disk. On
// overflow the newest batch is dropped and its lines counted: the access log
// serves operation; decisions are in the audit log, which drops nothing.
const (
	logBatch = 32 << 10
	logWait  = 64
	logDelay = 200 * time.Millisecond
)

// AccessLog carries lines from the loops to a writer.
type AccessLog struct {
	full    chan []byte
	empty   chan []byte
	Dropped atomic.Uint64 // lines
}

// NewAccessLog makes an AccessLog; Run must run. A nil *AccessLog logs
// nothing.
func NewAccessLog() *AccessLog {
	return &AccessLog{full: make(chan []byte, logWait), empty: make(chan []byte, logWait)}
}

// Run writes lines to w until ctx ends, and then what is left.
func (a *AccessLog) Run(ctx context.Context, w io.Writer) error {
	for {
		select {
		case b := <-a.full:
			a.write(w, b)
		case <-ctx.Done():
			for len(a.full) > 0 {
				a.write(w, <-a.full)
			}
			return nil
		}
	}
}

func (a *AccessLog) write(w io.Writer, b []byte) {
	if _, err := w.Write(b); err != nil {
		a.drop(b)
	}
	select {
	case a.empty <- b[:0]:
	default:
	}
}

func (a *AccessLog) drop(b []byte) {
	n := uint64(0)
	for _, c := range b {
		if c == '\n' {
			n++
		}
	}
	a.Dropped.Add(n)
}

// logBuf is a worker's batch under way.
type logBuf struct {
	w      *Worker
	b      []byte
	t      engine.Timer
	second int64 // of date
	date   []byte
}

// Expire sends a batch that has waited long enough.
func (l *logBuf) Expire(*engine.Timer) { l.flush() }

func (l *logBuf) flush() {
	a := l.w.sh.Access
	if a == nil || len(l.b) == 0 {
		return
	}
	select {
	case a.full <- l.b:
		select {
		case l.b = <-a.empty:
		default:
			l.b = make([]byte, 0, logBatch+4<<10)
		}
	default:
		a.drop(l.b)
		l.b = l.b[:0]
	}
}

// stamp appends a time; its date is made once a second.
func (l *logBuf) stamp(b []byte, t time.Time) []byte {
	if s := t.Unix(); s != l.second || len(l.date) == 0 {
		l.second, l.date = s, t.UTC().AppendFormat(l.date[:0], "2006-01-02T15:04:05.")
	}
	b = append(b, l.date...)
	us := t.Nanosecond() / 1000
	for d := 100_000; d > 0; d /= 10 {
		b = append(b, byte('0'+us/d%10))
	}
	return append(b, 'Z')
}

// whose is what a line says of the connection, which is made once.
func (e *session) whose() []byte {
	if len(e.line) > 0 && e.lineOf == e.target {
		return e.line
	}
	b := append(e.line[:0], `","side":"`...)
	b = append(b, e.kind.String()...)
	b = append(b, `","from":"`...)
	b = e.from.AppendTo(b)
	b = append(b, `","dst":"`...)
	b = e.dst.AppendTo(b)
	b = append(b, '"')
	if e.peer.ID != "" {
		b = appendJSON(append(b, `,"peer":`...), e.peer.ID)
	}
	if e.self != nil {
		b = appendJSON(append(b, `,"self":`...), e.self.ID)
	}
	if e.target != nil {
		b = appendJSON(append(b, `,"target":`...), e.target.Name)
	}
	e.line, e.lineOf = b, e.target
	return b
}

// logLine is one line of the access log; the longest is about 3 KiB.
func (e *session) logLine(begun int64, status int, in, out uint64, to netip.AddrPort, why string, x *exchange.Stream) {
	l := &e.w.log
	if e.w.sh.Access == nil {
		return
	}
	if len(l.b) == 0 {
		e.w.l.SetTimer(&l.t, logDelay, l)
	}
	now := engine.Mono()
	b := append(l.b, `{"time":"`...)
	b = l.stamp(b, engine.Wall(begun))
	b = append(b, e.whose()...)
	if to.IsValid() {
		b = append(to.AppendTo(append(b, `,"upstream":"`...)), '"')
	}
	if x != nil {
		c := x.Context()
		r := c.Req
		b = appendJSON(append(b, `,"method":`...), r.In(r.Method))
		b = appendJSON(append(b, `,"host":`...), cut(r.In(r.Authority), 255))
		b = appendJSON(append(b, `,"path":`...), cut(r.PathOnly(), 512)) // queries hold tokens and account numbers
		if r.Proto == message.HTTP2 {
			b = append(b, `,"http":2`...)
		}
		b = strconv.AppendInt(append(b, `,"status":`...), int64(status), 10)
		if x.Permit.Valid() {
			b = appendJSON(append(b, `,"rule":`...), x.Permit.Rule())
		}
		if c.Attempts > 1 {
			b = strconv.AppendInt(append(b, `,"tries":`...), int64(c.Attempts), 10)
		}
	} else {
		b = appendJSON(append(b, `,"rule":`...), e.permit.Rule())
	}
	b = strconv.AppendUint(append(b, `,"in":`...), in, 10)
	b = strconv.AppendUint(append(b, `,"out":`...), out, 10)
	b = strconv.AppendInt(append(b, `,"us":`...), (now-begun)/1000, 10)
	if why != "" {
		b = appendJSON(append(b, `,"why":`...), why)
	}
	l.b = append(b, "}\n"...)
	if len(l.b) >= logBatch {
		l.flush()
	}
}

func (e *session) upAddr() (a netip.AddrPort) {
	if e.up != nil {
		return e.up.backend.Addr
	}
	return a
}

// logRequest logs an exchange at its end.
func (e *session) logRequest(x *exchange.Stream) {
	c := x.Context()
	e.logLine(c.Began, x.Status(), c.BytesIn, c.BytesOut, c.Host, c.Detail, x)
}

// logStream logs a stream at its end.
func (e *session) logStream(why string) {
	e.w.Count.Streams++
	e.logLine(e.began, 0, e.in, e.out, e.upAddr(), why, nil)
}

// appendJSON appends s as a JSON string. Bytes beyond ASCII are escaped one by
// one: what a peer sends need not be UTF-8, and a log must stay readable.
func appendJSON[T string | []byte](b []byte, s T) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		if c == '"' || c == '\\' {
			b = append(b, '\\', c)
			continue
		}
		b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
	}
	return append(append(b, s[from:]...), '"')
}

const hexDigits = "0123456789abcdef"
