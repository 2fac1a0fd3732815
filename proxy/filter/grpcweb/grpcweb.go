// SPDX-License-Identifier: Apache-2.0

package grpcweb

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"strconv"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Filter is the filter.
type Filter struct{ slot int }

// New makes the filter for a slot of the chain.
func New(slot int) *Filter { return &Filter{slot} }

// The kinds of response that a client wants.
var binaryMark, textMark any = new(byte), new(int8)

const (
	web     = "application/grpc-web"
	webText = "application/grpc-web-text"
)

// kind tells a gRPC-Web content type, and what follows its name: "+proto".
func kind(v []byte) (text bool, suffix []byte, ok bool) {
	if i := bytes.IndexByte(v, ';'); i >= 0 {
		v = bytes.TrimSpace(v[:i])
	}
	for _, n := range [...]string{webText, web} {
		if len(v) >= len(n) && message.EqualFold(v[:len(n)], n) && (len(v) == len(n) || v[len(n)] == '+') {
			return n == webText, v[len(n):], true
		}
	}
	return false, nil, false
}

// Request makes a gRPC request of a gRPC-Web one.
func (f *Filter) Request(c *filter.Context) filter.Verdict {
	q := c.Req
	v, _ := q.Get(message.ContentType)
	text, suffix, ok := kind(v)
	if !ok || string(q.In(q.Method)) != "POST" {
		return filter.Next
	}
	c.Slots[f.slot] = binaryMark
	accept, _ := q.Find("accept")
	if t, _, is := kind(accept); is && t || !is && text {
		c.Slots[f.slot] = textMark
	}
	setType(&q.Head, "application/grpc", suffix)
	q.Trailers = true
	q.Set("grpc-accept-encoding", []byte("identity,deflate,gzip"))
	if text {
		q.Remove("content-length")
		if q.Length != message.NoBody {
			q.Length = message.Unknown
		}
		c.RequestBody = filter.Then(c.RequestBody, &unbase{})
	}
	return filter.Next
}

func setType(h *message.Head, t string, suffix []byte) {
	from := len(h.Buf)
	h.Buf = append(append(h.Buf, t...), suffix...)
	v := message.Span{From: int32(from), To: int32(len(h.Buf))}
	h.RemoveKnown(message.ContentType)
	h.Fields = append(h.Fields, message.Field{Name: h.PutString("content-type"), Value: v, Known: message.ContentType})
}

// Response makes a gRPC-Web response of a gRPC one.
func (f *Filter) Response(c *filter.Context) {
	mark := c.Slots[f.slot]
	if mark == nil {
		return
	}
	resp := c.Resp
	name := web
	if mark == textMark {
		name = webText
	}
	if !filter.IsGRPC(&resp.Head) {
		foreign(c, name)
		return
	}
	v, _ := resp.Get(message.ContentType)
	suffix := []byte("+proto")
	if i := bytes.IndexByte(v, '+'); i >= 0 {
		suffix = v[i:]
	}
	setType(&resp.Head, name, suffix)
	if _, only := resp.Find("grpc-status"); only && resp.Length == message.NoBody {
		return // of trailers only: the head says all
	}
	resp.Remove("content-length")
	resp.Length = message.Unknown
	c.ResponseBody = filter.Then(c.ResponseBody, &frames{text: mark == textMark})
}

// foreign answers in gRPC's terms when the upstream, or the proxy, spoke plain
// HTTP; the body that came is not for this client.
func foreign(c *filter.Context, name string) {
	h := &c.Resp.Head
	setType(h, name, []byte("+proto"))
	h.Remove("content-length")
	h.Remove("content-encoding")
	if _, said := h.Find("grpc-status"); !said {
		h.AddString("grpc-status", strconv.Itoa(statusOf(c.Resp.Status)))
		h.AddString("grpc-message", "HTTP status "+strconv.Itoa(c.Resp.Status))
	}
	c.Resp.Status = 200
	if c.Resp.Length != message.NoBody {
		c.Resp.Length = message.Unknown
		c.ResponseBody = filter.Then(c.ResponseBody, nothing{})
	}
}

// statusOf maps an HTTP status as gRPC's http-grpc-status-mapping.md does.
func statusOf(status int) int {
	switch status {
	case 400:
		return 13
	case 401:
		return 16
	case 403:
		return 7
	case 404:
		return 12
	case 429, 502, 503, 504:
		return 14
	}
	return 2
}

// nothing swallows a body.
type nothing struct{}

func (nothing) Append(dst, _ []byte, _ bool, _ *message.Head) ([]byte, error) { return dst, nil }
func (nothing) Close()                                                        {}

var errBase64 = &errs.Error{Kind: errs.Invalid, Subject: "gRPC-Web body", Expected: "base64"}

// unbase decodes base64 that may be padded in its midst.
type unbase struct {
	held [4]byte
	n    int
}

func (u *unbase) Append(dst, p []byte, end bool, _ *message.Head) ([]byte, error) {
	for len(p) > 0 {
		if u.n == 0 && len(p) >= 4 {
			whole := len(p) &^ 3
			if i := bytes.IndexByte(p[:whole], '='); i >= 0 {
				whole = i&^3 + 4 // up to the padded group
			}
			var err error
			if dst, err = base64.StdEncoding.AppendDecode(dst, p[:whole]); err != nil {
				return dst, errBase64
			}
			p = p[whole:]
			continue
		}
		n := copy(u.held[u.n:], p)
		u.n += n
		p = p[n:]
		if u.n == 4 {
			u.n = 0
			var err error
			if dst, err = base64.StdEncoding.AppendDecode(dst, u.held[:]); err != nil {
				return dst, errBase64
			}
		}
	}
	if end && u.n != 0 {
		return dst, errBase64
	}
	return dst, nil
}

func (u *unbase) Close() {}

// frames passes gRPC's frames, in base64 if text, and adds the trailers as a
// frame of their own.
type frames struct {
	text bool
	held [3]byte // not yet encoded
	n    int
	head [5]byte // of the frame that is passing
	got  int
	left uint32 // of its message
	buf  []byte // the trailers' frame
}

func (f *frames) Append(dst, p []byte, end bool, trailers *message.Head) ([]byte, error) {
	if f.text {
		dst = f.encode(dst, p)
	} else {
		dst = append(dst, p...)
	}
	if !end {
		return dst, nil
	}
	if trailers != nil {
		f.buf = appendTrailers(f.buf[:0], trailers)
		if f.text {
			dst = f.put(f.pad(dst), f.buf)
		} else {
			dst = append(dst, f.buf...)
		}
	}
	return f.pad(dst), nil
}

// encode appends p in base64, padded at the end of each frame.
func (f *frames) encode(dst, p []byte) []byte {
	for len(p) > 0 {
		if f.got < len(f.head) {
			n := copy(f.head[f.got:], p)
			f.got += n
			dst = f.put(dst, p[:n])
			p = p[n:]
			if f.got == len(f.head) {
				f.left = binary.BigEndian.Uint32(f.head[1:])
			}
		} else {
			n := min(int(f.left), len(p))
			dst = f.put(dst, p[:n])
			f.left -= uint32(n)
			p = p[n:]
		}
		if f.got == len(f.head) && f.left == 0 {
			f.got = 0
			dst = f.pad(dst)
		}
	}
	return dst
}

// put encodes whole groups and holds the rest.
func (f *frames) put(dst, p []byte) []byte {
	for f.n > 0 && len(p) > 0 {
		f.held[f.n] = p[0]
		f.n++
		p = p[1:]
		if f.n == 3 {
			dst = base64.StdEncoding.AppendEncode(dst, f.held[:])
			f.n = 0
		}
	}
	whole := len(p) - len(p)%3
	dst = base64.StdEncoding.AppendEncode(dst, p[:whole])
	f.n += copy(f.held[f.n:], p[whole:])
	return dst
}

func (f *frames) pad(dst []byte) []byte {
	dst = base64.StdEncoding.AppendEncode(dst, f.held[:f.n])
	f.n = 0
	return dst
}

func (f *frames) Close() {}

// appendTrailers moves trailers into a frame, as the lines of HTTP/1.
func appendTrailers(dst []byte, t *message.Head) []byte {
	from := len(dst)
	dst = append(dst, 0x80, 0, 0, 0, 0)
	for i := range t.Fields {
		fl := &t.Fields[i]
		if fl.Drop {
			continue
		}
		for _, b := range t.In(fl.Name) {
			dst = append(dst, message.Lower(b))
		}
		dst = append(append(append(dst, ": "...), t.In(fl.Value)...), "\r\n"...)
		fl.Drop = true
	}
	binary.BigEndian.PutUint32(dst[from+1:], uint32(len(dst)-from-5))
	return dst
}
