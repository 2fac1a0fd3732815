// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"bytes"

	"redoubt.dev/proxy/http2/hpack"
	"redoubt.dev/proxy/message"
)

// reading is a field block that is being decoded.
type reading struct {
	limit  int // bytes of the list that are left
	fields int // lines that are left
	pseudo uint16
	values [hpack.Strange]message.Span // of pseudo-headers

	bad     bool // malformed (RFC 9113, 8.1.1)
	over    bool // beyond a bound; nothing was kept since
	regular bool // a field that is no pseudo-header has come
	trailer bool
	te      bool
	expects bool
	hosted  bool
	sized   bool

	priority    bool
	incremental bool
	urgency     uint8

	seen    uint16
	cookies int
	host    message.Span
	length  int64 // content-length; -1 none
}

func kinds(k ...hpack.Kind) (set uint16) {
	for _, k := range k {
		set |= 1 << k
	}
	return set
}

func (r *reading) has(k hpack.Kind) bool { return r.seen&(1<<k) != 0 }

// decode reads a block into h.
func (c *Conn) decode(r *reading, h *message.Head, b []byte) *Fault {
	n, err := c.dec.Begin(b)
	if err != nil {
		return errCompression
	}
	for b = b[n:]; len(b) > 0; b = b[n:] {
		var f hpack.Field
		from := len(h.Buf)
		n, h.Buf, err = c.dec.Next(&f, b, h.Buf, r.limit)
		if err != nil {
			return errCompression
		}
		if f.Skipped {
			r.over, r.limit = true, 0
			continue
		}
		r.limit -= f.Size()
		r.field(h, &f, from)
		if r.bad || r.over {
			r.limit = 0
		}
	}
	return nil
}

func (r *reading) field(h *message.Head, f *hpack.Field, from int) {
	name := message.Span{From: int32(from), To: int32(from + f.Name)}
	value := message.Span{From: name.To, To: name.To + int32(f.Value)}
	if f.BadName || f.BadValue {
		r.bad = true
		return
	}
	if f.Kind != hpack.Regular {
		bit := uint16(1) << f.Kind
		if r.regular || r.pseudo&bit == 0 || r.seen&bit != 0 {
			r.bad = true
			return
		}
		r.seen |= bit
		r.values[f.Kind] = value
		return
	}
	r.regular = true
	if f.Known != message.Other && !r.known(f.Known, h.In(value), value) {
		return
	}
	if r.trailer && !f.Known.TrailerAllowed() {
		return
	}
	if f.Known != message.Cookie {
		if r.fields == 0 {
			r.over = true
			return
		}
		r.fields--
		if f.Name == len("priority") && string(h.In(name)) == "priority" {
			r.urgency, r.incremental = parsePriority(h.In(value))
			r.priority = true
		}
	}
	h.Fields = append(h.Fields, message.Field{Name: name, Value: value, Known: f.Known, Never: f.Never})
}

// known meets the fields that frame, route or speak of the connection; it
// tells which of them stay fields.
func (r *reading) known(k message.Known, v []byte, at message.Span) bool {
	switch k {
	case message.Connection, message.KeepAlive, message.ProxyConnection, message.TransferEncoding, message.Upgrade,
		message.HTTP2Settings: // RFC 9113, 8.2.2
		r.bad = true
		return false
	case message.TE:
		r.te = message.EqualFold(v, "trailers")
		r.bad = r.bad || !r.te
		return false
	case message.Host:
		r.bad = r.bad || r.hosted
		r.hosted, r.host = true, at
		return false
	case message.ContentLength:
		n, ok := decimal(v)
		r.bad = r.bad || !ok || r.sized
		r.sized, r.length = true, n
		return false
	case message.Expect:
		r.expects = message.EqualFold(v, "100-continue")
		return !r.expects // Continue says it
	case message.Cookie:
		r.cookies++
	}
	return true
}

func decimal(b []byte) (n int64, ok bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

// joinCookies makes one field of the crumbs (RFC 9113, 8.2.3).
func (r *reading) joinCookies(h *message.Head) {
	if r.cookies < 2 || r.bad || r.over {
		return
	}
	var whole message.Span
	first := -1
	kept := h.Fields[:0]
	whole.From = int32(len(h.Buf))
	for _, f := range h.Fields {
		if f.Known != message.Cookie {
			kept = append(kept, f)
			continue
		}
		if first < 0 {
			first = len(kept)
			kept = append(kept, f)
		} else {
			h.Buf = append(h.Buf, "; "...)
			kept[first].Never = kept[first].Never || f.Never
		}
		h.Buf = append(h.Buf, h.In(f.Value)...)
	}
	whole.To = int32(len(h.Buf))
	h.Fields = kept
	h.Fields[first].Value = whole
}

const maxMethod = 32

// finishRequest checks the whole (RFC 9113, 8.3.1 and 8.5; RFC 8441, 4).
func (r *reading) finishRequest(m *message.Request, end, extended bool) bool {
	m.Method, m.Scheme = r.values[hpack.Method], r.values[hpack.Scheme]
	m.Authority, m.Path = r.values[hpack.Authority], r.values[hpack.Path]
	m.Trailers, m.Continue = r.te, r.expects && !end
	method := m.In(m.Method)
	if len(method) > maxMethod || !message.ValidName(method) {
		return false
	}
	connect := string(method) == "CONNECT"
	tunnel := connect && !r.has(hpack.Protocol)
	switch {
	case tunnel:
		if r.has(hpack.Scheme) || r.has(hpack.Path) || !r.has(hpack.Authority) || !hasPort(m.In(m.Authority)) {
			return false
		}
	case connect:
		m.Upgrade = r.values[hpack.Protocol]
		if !extended || !message.ValidName(m.In(m.Upgrade)) {
			return false
		}
		fallthrough
	default:
		if !connect && r.has(hpack.Protocol) {
			return false
		}
		if s := m.In(m.Scheme); string(s) != "http" && string(s) != "https" {
			return false
		}
		if !validPath(m.In(m.Path), method) {
			return false
		}
	}
	return r.authority(m) && r.framing(m, end)
}

// authority holds :authority and host together: what routes must not differ
// from what a hop behind us would read.
func (r *reading) authority(m *message.Request) bool {
	if r.hosted {
		if !r.has(hpack.Authority) {
			m.Authority = r.host
		} else if !bytes.EqualFold(m.In(r.host), m.In(m.Authority)) {
			return false
		}
	}
	return message.ValidAuthority(m.In(m.Authority))
}

// hasPort tells that an authority ends with a port, without which a tunnel has
// no destination (RFC 9110, 9.3.6).
func hasPort(a []byte) bool {
	i := len(a)
	for i > 0 && '0' <= a[i-1] && a[i-1] <= '9' {
		i--
	}
	return i > 1 && i < len(a) && a[i-1] == ':'
}

func (r *reading) framing(m *message.Request, end bool) bool {
	if end {
		if r.length > 0 {
			return false
		}
		m.Length = message.NoBody
		return true
	}
	m.Length = r.length // or Unknown
	return true
}

// validPath takes what HTTP/1 takes: nothing that could end the target, and a
// leading slash, or the asterisk of OPTIONS.
func validPath(p, method []byte) bool {
	if len(p) == 0 || p[0] != '/' {
		return len(p) == 1 && p[0] == '*' && string(method) == "OPTIONS"
	}
	for _, c := range p {
		if !message.IsTarget(c) {
			return false
		}
	}
	return true
}

// finishResponse checks the whole (RFC 9113, 8.3.2).
func (r *reading) finishResponse(m *message.Response, st state, end bool) bool {
	v := m.In(r.values[hpack.Status])
	n, ok := decimal(v)
	if !ok || len(v) != 3 || n < 100 || n == 101 || n < 200 && end {
		return false
	}
	m.Status = int(n)
	m.Length = r.length
	tunnel := st&connects != 0 && n < 300
	switch {
	case n < 200 || n == 204 || tunnel:
		// RFC 9110, 8.6: a length has no meaning here, and must not be sent.
		m.Length = message.Unknown
		if n == 204 {
			m.Length = message.NoBody
			r.length = 0
		} else {
			r.length = -1
		}
	case st&headOnly != 0 || n == 304:
		r.length = 0 // of what follows
	case end:
		if r.length > 0 {
			return false
		}
		m.Length = message.NoBody
	}
	return true
}
