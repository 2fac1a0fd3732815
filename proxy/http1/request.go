// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"
	"strconv"

	"redoubt.dev/proxy/message"
)

// Request is a request head. It is reused from message to message.
type Request struct {
	Head
	Method   Span
	Target   Span // as sent; of an absolute form, the part from the path on
	Root     bool // an absolute form without a path: the target is "/"
	HostSpan Span // authority; empty only when HTTP/1.0 gave none
	Continue bool // the client waits for 100 before it sends the body
}

// Parse reads the request head at the start of b and gives its length; 0
// means that it is not whole yet. An error is a *Fault and ends the
// connection.
func (r *Request) Parse(b []byte) (int, error) {
	n, err := r.end(b)
	if n == 0 {
		return 0, err
	}
	r.reset()
	r.Continue, r.Root = false, false
	r.HostSpan = Span{}
	p, err := r.start(b[:n])
	if err != nil {
		return 0, err
	}
	if err := r.fields(b[:n], p); err != nil {
		return 0, err
	}
	return n, r.check(b[:n])
}

// start reads the request line and gives where the fields begin.
func (r *Request) start(b []byte) (int, error) {
	end, err := line(b, 0)
	if err != nil {
		return 0, err
	}
	l := b[:end]
	i := bytes.IndexByte(l, ' ')
	j := bytes.LastIndexByte(l, ' ')
	if i <= 0 || j <= i+1 {
		return 0, errStartLine
	}
	if i > maxMethod {
		return 0, errMethod
	}
	for _, c := range l[:i] {
		if !isToken[c] {
			return 0, errMethod
		}
	}
	r.Method = Span{From: 0, To: int32(i)}
	if r.Minor, err = version(l[j+1:]); err != nil {
		return 0, err
	}
	for _, c := range l[i+1 : j] {
		if !isTarget[c] {
			return 0, errTarget
		}
	}
	return end + 2, r.target(b, i+1, j)
}

// version reads "HTTP/1.0" or "HTTP/1.1".
func version(v []byte) (byte, error) {
	if len(v) == 8 && string(v[:7]) == "HTTP/1." && (v[7] == '0' || v[7] == '1') {
		return v[7] - '0', nil
	}
	if len(v) >= 5 && string(v[:5]) == "HTTP/" {
		return 0, errVersion
	}
	return 0, errStartLine
}

// target reads the forms of RFC 9112, 3.2.
func (r *Request) target(b []byte, from, to int) error {
	t := b[from:to]
	switch {
	case string(r.Method.In(b)) == "CONNECT":
		return errConnect
	case t[0] == '/':
		r.Target = Span{From: int32(from), To: int32(to)}
	case string(t) == "*" && string(r.Method.In(b)) == "OPTIONS":
		r.Target = Span{From: int32(from), To: int32(to)}
	case hasPrefixFold(t, "http://"):
		h := from + len("http://")
		i := bytes.IndexAny(b[h:to], "/?")
		if i < 0 {
			i = to - h
		}
		r.HostSpan = Span{From: int32(h), To: int32(h + i)}
		r.Target = Span{From: int32(h + i), To: int32(to)}
		r.Root = r.Target.Len() == 0 || b[h+i] == '?'
		return checkHost(r.HostSpan.In(b), false)
	default:
		return errTarget
	}
	return nil
}

// checkHost wants a host without user information, or, with empty, none.
func checkHost(h []byte, empty bool) error {
	if !message.ValidAuthority(h) && !(empty && len(h) == 0) {
		return errHost
	}
	return nil
}

func (r *Request) check(b []byte) error {
	var host Span
	hosts := 0
	for i := range r.Fields {
		f := &r.Fields[i]
		switch f.Known {
		case Host:
			host = f.Value
			hosts++
		case Expect:
			if !equalFold(f.Value.In(b), "100-continue") {
				return errExpect
			}
			r.Continue = r.Minor == 1
		}
	}
	// To RFC 9112, 9.6 close wins, to others the last word: one would see a
	// request where the connection has ended for the other.
	if r.Close && r.Keep {
		return errBothOptions
	}
	// A server of HTTP/1.0 need not look for a body where the method has none,
	// and would take it for the next request.
	if r.Minor == 0 && r.Length > 0 && bodiless(r.Method.In(b)) {
		return errBodyOld
	}
	if hosts > 1 || hosts == 0 && r.Minor == 1 {
		return errHost
	}
	// An http URI has a host (RFC 9110, 4.2.1), and an empty one is filled
	// in differently by each who needs it. HTTP/1.0 did not know the field.
	if err := checkHost(host.In(b), r.Minor == 0); err != nil {
		return err
	}
	if r.HostSpan.Len() > 0 { // absolute form
		// RFC 9112, 3.2.2 lets the target win; two different names would
		// still be seen by whoever looks at the field only.
		if hosts == 1 && !bytes.EqualFold(host.In(b), r.HostSpan.In(b)) {
			return errHost
		}
		return nil
	}
	r.HostSpan = host
	return nil
}

func bodiless(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "DELETE":
		return true
	}
	return false
}

// Persistent tells whether the client can send another request.
func (r *Request) Persistent() bool {
	if r.Close {
		return false
	}
	return r.Minor == 1 || r.Keep
}

// Body gives the framing of the request's body.
func (r *Request) Body() Body {
	switch {
	case r.Chunked:
		return Body{kind: Chunked}
	case r.Length > 0:
		return Body{kind: Sized, left: r.Length}
	}
	return Body{kind: None, done: true}
}

// Idempotent tells that doing the request twice is as doing it once
// (RFC 9110, 9.2.2).
func Idempotent(method []byte) bool {
	switch string(method) {
	case "GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE":
		return true
	}
	return false
}

// Rewrite says what changes on a request's way out.
type Rewrite struct {
	Target     []byte // instead of the one sent; nil keeps it
	Host       []byte // for a request without one
	ClientCert []byte // value of X-Forwarded-Client-Cert; nil for none. What the sender wrote is always dropped
	For        []byte // value of X-Forwarded-For; nil keeps the sender's
}

// Append writes the head anew for the next hop. b is what Parse read.
func (r *Request) Append(dst, b []byte, w *Rewrite) []byte {
	dst = append(dst, r.Method.In(b)...)
	dst = append(dst, ' ')
	if w.Target != nil {
		dst = append(dst, w.Target...)
	} else {
		if r.Root {
			dst = append(dst, '/')
		}
		dst = append(dst, r.Target.In(b)...)
	}
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	if r.HostSpan.Len() > 0 {
		dst = append(dst, r.HostSpan.In(b)...)
	} else {
		dst = append(dst, w.Host...)
	}
	dst = append(dst, "\r\n"...)
	for i := range r.Fields {
		f := &r.Fields[i]
		switch {
		case f.Known == Host, f.Known == ClientCert, hop(f) && !(f.Known == TE && trailers(f.Value.In(b))):
			continue
		case f.Known == ForwardedFor && w.For != nil, f.Known == Expect && !r.Continue:
			continue
		}
		dst = appendField(dst, b, f)
	}
	if w.For != nil {
		dst = append(append(append(dst, "X-Forwarded-For: "...), w.For...), "\r\n"...)
	}
	if w.ClientCert != nil {
		dst = append(append(append(dst, "X-Forwarded-Client-Cert: "...), w.ClientCert...), "\r\n"...)
	}
	dst = r.appendFraming(dst, b, r.Length)
	return append(dst, "\r\n"...)
}

func trailers(v []byte) bool { return equalFold(v, "trailers") }

func appendField(dst, b []byte, f *Field) []byte {
	dst = append(dst, f.Name.In(b)...)
	dst = append(dst, ": "...)
	dst = append(dst, f.Value.In(b)...)
	return append(dst, "\r\n"...)
}

// appendFraming writes length, coding and, for an upgrade, the two fields
// that carry it.
func (h *Head) appendFraming(dst, b []byte, length int64) []byte {
	switch {
	case h.Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case length >= 0:
		dst = append(dst, "Content-Length: "...)
		dst = strconv.AppendInt(dst, length, 10)
		dst = append(dst, "\r\n"...)
	}
	if h.Upgrade {
		dst = append(dst, "Connection: Upgrade\r\n"...)
		for i := range h.Fields {
			if h.Fields[i].Known == Upgrade {
				dst = appendField(dst, b, &h.Fields[i])
			}
		}
	}
	return dst
}
