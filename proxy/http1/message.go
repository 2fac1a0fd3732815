// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"net/http"
	"strconv"

	"redoubt.dev/proxy/message"
)

// Seen and Resume let one parser serve many connections: what was scanned of
// a head that is not whole yet is the connection's to keep.
func (h *Head) Seen() int { return h.seen }

// Resume has the next Parse go on after n bytes without an end of head.
func (h *Head) Resume(n int) { h.seen = n }

// Decode moves what Parse understood of b into m, which outlives b.
func (r *Request) Decode(b []byte, m *message.Request) {
	m.Reset()
	m.Buf = append(m.Buf, b...)
	m.Proto = message.HTTP10 + message.Proto(r.Minor)
	m.Method, m.Authority = r.Method, r.HostSpan
	m.Path = r.Target
	if r.Root {
		from := len(m.Buf)
		m.Buf = append(append(m.Buf, '/'), r.Target.In(b)...)
		m.Path = Span{From: int32(from), To: int32(len(m.Buf))}
	}
	m.Continue = r.Continue
	m.Length = max(r.Length, 0)
	if r.Chunked {
		m.Length = message.Unknown
	}
	for i := range r.Fields {
		f := r.Fields[i]
		switch {
		case f.Drop, f.Known == Expect && r.Continue:
			continue
		case f.Known == TE:
			m.Trailers = m.Trailers || trailers(f.Value.In(b))
			continue
		case f.Known == Upgrade && r.Upgrade:
			m.Upgrade = f.Value
			continue
		case f.Known.Hop():
			continue
		}
		m.Fields = append(m.Fields, f)
	}
}

// Decode moves what Parse understood of b into m, which outlives b.
func (r *Response) Decode(b []byte, m *message.Response) {
	m.Reset()
	m.Buf = append(m.Buf, b...)
	m.Proto = message.HTTP10 + message.Proto(r.Minor)
	m.Status, m.Reason = r.Status, r.Reason
	m.Length = r.Length
	if r.Chunked {
		m.Length = message.Unknown
	}
	for i := range r.Fields {
		f := r.Fields[i]
		switch {
		case f.Drop:
			continue
		case f.Known == Upgrade && (r.Status == 101 && r.Upgrade || r.Status == 426):
			if r.Status == 101 {
				m.Upgrade = f.Value
				continue
			}
		case f.Known.Hop():
			continue
		}
		m.Fields = append(m.Fields, f)
	}
}

// AppendRequest writes m's head for an HTTP/1.1 connection. A body of Unknown
// length is chunked by the caller. An empty authority stays empty.
func AppendRequest(dst []byte, m *message.Request) []byte {
	dst = append(dst, m.In(m.Method)...)
	dst = append(dst, ' ')
	dst = append(dst, m.In(m.Path)...)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, m.In(m.Authority)...)
	dst = append(dst, "\r\n"...)
	dst = appendFields(dst, &m.Head)
	if m.Continue {
		dst = append(dst, "Expect: 100-continue\r\n"...)
	}
	switch {
	case m.Length < 0:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case m.Length > 0 || wantsLength(m.In(m.Method)):
		dst = appendLength(dst, m.Length)
	}
	dst = appendConnection(dst, m.In(m.Upgrade), m.Trailers)
	return append(dst, "\r\n"...)
}

// wantsLength tells that a request of this method without a body says so
// (RFC 9110, 8.6): its meaning anticipates one.
func wantsLength(method []byte) bool {
	switch string(method) {
	case "POST", "PUT", "PATCH":
		return true
	}
	return false
}

// appendConnection writes what speaks of this connection: both options share
// one field, since some servers read the first only.
func appendConnection(dst, upgrade []byte, trailers bool) []byte {
	switch {
	case len(upgrade) > 0:
		dst = append(dst, "Connection: Upgrade\r\nUpgrade: "...)
		dst = append(append(dst, upgrade...), "\r\n"...)
	case trailers:
		dst = append(dst, "Connection: TE\r\nTE: trailers\r\n"...)
	}
	return dst
}

// AppendResponse writes m's head for an HTTP/1 connection. fr says how it is
// framed; body tells that m.Length is the length of a body, or of one that a
// HEAD or a condition left out.
func AppendResponse(dst []byte, m *message.Response, fr Frame) []byte {
	dst = append(dst, "HTTP/1.1 "...)
	dst = append(dst, byte('0'+m.Status/100), byte('0'+m.Status/10%10), byte('0'+m.Status%10), ' ')
	if m.Reason.Len() > 0 {
		dst = append(dst, m.In(m.Reason)...)
	} else {
		dst = append(dst, Reason(m.Status)...)
	}
	dst = append(dst, "\r\n"...)
	dst = appendFields(dst, &m.Head)
	switch {
	case fr.Chunked:
		dst = append(dst, "Transfer-Encoding: chunked\r\n"...)
	case m.Length >= 0 && m.Status >= 200 && m.Status != 204: // RFC 9110, 8.6: not allowed there
		dst = appendLength(dst, m.Length)
	}
	switch {
	case m.Status == 101:
		dst = appendConnection(dst, m.In(m.Upgrade), false)
	case fr.Close:
		dst = append(dst, "Connection: close\r\n"...)
	case fr.Keep:
		dst = append(dst, "Connection: keep-alive\r\n"...)
	}
	return append(dst, "\r\n"...)
}

func appendLength(dst []byte, n int64) []byte {
	dst = append(dst, "Content-Length: "...)
	dst = strconv.AppendInt(dst, n, 10)
	return append(dst, "\r\n"...)
}

// appendFields writes the fields; the colon and space are the writer's own.
func appendFields(dst []byte, h *message.Head) []byte {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Drop || f.Known.Hop() && f.Known != Upgrade {
			continue
		}
		dst = append(dst, h.In(f.Name)...)
		dst = append(dst, ": "...)
		dst = append(dst, h.In(f.Value)...)
		dst = append(dst, "\r\n"...)
	}
	return dst
}

// AppendTrailers writes a last chunk and the trailers behind it; t may be nil.
func AppendTrailers(dst []byte, t *message.Head) []byte {
	dst = append(dst, "0\r\n"...)
	if t != nil {
		dst = appendFields(dst, t)
	}
	return append(dst, "\r\n"...)
}

// DecodeTrailers adds the field lines that Body.Next gave, checked there, to h.
func DecodeTrailers(b []byte, h *message.Head) {
	for p := 0; p < len(b); {
		end, err := line(b, p)
		if err != nil {
			return
		}
		f, err := field(b, p, end)
		if err != nil {
			return
		}
		h.Add(f.Name.In(b), f.Value.In(b))
		p = end + 2
	}
}

// Reason gives the phrase of a status code (RFC 9110, 15), or "Unknown".
func Reason(status int) string {
	if status >= 100 && status < 600 && reasons[status-100] != "" {
		return reasons[status-100]
	}
	return "Unknown"
}

var reasons = func() (r [500]string) {
	for code := 100; code < 600; code++ {
		r[code-100] = http.StatusText(code)
	}
	return
}()

// Skip says that n bytes of a sized body have passed without Next; n is at
// most Left.
func (b *Body) Skip(n int64) {
	b.left -= n
	b.done = b.left == 0
}
