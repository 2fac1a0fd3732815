// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/handover/wire"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/record"
)

// The parts that moving connections are written in. Each export has its
// import beside it.

// mostHead bounds an imported head's arena.
const mostHead = 1 << 20

// Seal writes a connection's record layer.
func Seal(rec engine.Records, w *wire.Writer) {
	if c, ok := rec.(*record.Conn); ok {
		s := c.Export()
		w.B = s.Append(w.B)
		s.Wipe()
	}
}

// Open reads it.
func Open(b []byte) (engine.Records, error) {
	c, err := record.Import(b)
	if err != nil {
		return nil, err
	}
	return c, nil
}

// ExportInfo writes what is known of a client's connection.
func ExportInfo(w *wire.Writer, i *filter.ConnInfo) {
	w.String(i.Listener)
	w.String(i.Chain)
	w.Addr(i.Peer)
	w.Addr(i.Source)
	w.Addr(i.Local)
	w.U8(uint8(i.Transport))
	w.U64(i.ID)
	exportTLS(w, i.TLS)
}

// ImportInfo reads it.
func ImportInfo(r *wire.Reader) *filter.ConnInfo {
	return &filter.ConnInfo{Listener: r.String(), Chain: r.String(), Peer: r.Addr(), Source: r.Addr(), Local: r.Addr(),
		Transport: importProto(r), ID: r.U64(), TLS: importTLS(r)}
}

func importProto(r *wire.Reader) message.Proto {
	p := message.Proto(r.U8())
	if p > message.HTTP2 {
		r.Bad("protocol")
		return 0
	}
	return p
}

func exportTLS(w *wire.Writer, t *filter.TLSInfo) {
	w.Bool(t != nil)
	if t == nil {
		return
	}
	w.U32(uint32(t.Version)<<16 | uint32(t.Suite))
	w.String(t.SNI)
	w.String(t.ALPN)
	w.Bool(t.Resumed)
	w.Bool(t.PeerPresented)
	w.Bool(t.PeerValidated)
	w.Strings(t.PeerURIs)
	w.Strings(t.PeerDNS)
	w.String(t.PeerSubject)
	w.String(t.PeerIssuer)
	w.String(t.PeerSerial)
	w.String(t.PeerHash)
	w.String(t.PeerPEM)
	w.Strings(t.LocalURIs)
	w.String(t.LocalSerial)
	w.String(t.LocalSubject)
	w.Wall(t.NotAfter)
}

func importTLS(r *wire.Reader) *filter.TLSInfo {
	if !r.Bool() {
		return nil
	}
	v := r.U32()
	return &filter.TLSInfo{Version: uint16(v >> 16), Suite: uint16(v), SNI: r.String(), ALPN: r.String(),
		Resumed: r.Bool(), PeerPresented: r.Bool(), PeerValidated: r.Bool(), PeerURIs: r.Strings(), PeerDNS: r.Strings(),
		PeerSubject: r.String(), PeerIssuer: r.String(), PeerSerial: r.String(), PeerHash: r.String(), PeerPEM: r.String(),
		LocalURIs: r.Strings(), LocalSerial: r.String(), LocalSubject: r.String(), NotAfter: r.Wall()}
}

func exportSpan(w *wire.Writer, s message.Span) {
	w.U32(uint32(s.From))
	w.U32(uint32(s.To))
}

func importSpan(r *wire.Reader, arena int) message.Span {
	s := message.Span{From: int32(r.U32()), To: int32(r.U32())}
	if s.From < 0 || s.From > s.To || int(s.To) > arena {
		r.Bad("span")
		return message.Span{}
	}
	return s
}

func exportHead(w *wire.Writer, h *message.Head) {
	w.Bytes(h.Buf)
	w.U32(uint32(len(h.Fields)))
	for i := range h.Fields {
		f := &h.Fields[i]
		exportSpan(w, f.Name)
		exportSpan(w, f.Value)
		w.U8(uint8(f.Known))
		w.Bool(f.Never)
		w.Bool(f.Drop)
	}
}

func importHead(r *wire.Reader, h *message.Head) {
	b := r.Bytes()
	if len(b) > mostHead {
		r.Bad("head")
		return
	}
	h.Buf = append(h.Buf[:0], b...)
	h.Fields = h.Fields[:0]
	for range r.Count(19) {
		f := message.Field{Name: importSpan(r, len(b)), Value: importSpan(r, len(b)), Known: message.Known(r.U8()), Never: r.Bool(), Drop: r.Bool()}
		if f.Known > message.HTTP2Settings {
			r.Bad("field")
		}
		h.Fields = append(h.Fields, f)
	}
}

func exportRequest(w *wire.Writer, m *message.Request) {
	exportHead(w, &m.Head)
	w.U8(uint8(m.Proto))
	for _, s := range [...]message.Span{m.Method, m.Scheme, m.Authority, m.Path, m.Upgrade} {
		exportSpan(w, s)
	}
	w.I64(m.Length)
	w.Bool(m.Continue)
	w.Bool(m.Trailers)
}

func importRequest(r *wire.Reader, m *message.Request) {
	importHead(r, &m.Head)
	m.Proto = importProto(r)
	for _, s := range [...]*message.Span{&m.Method, &m.Scheme, &m.Authority, &m.Path, &m.Upgrade} {
		*s = importSpan(r, len(m.Buf))
	}
	m.Length = importLength(r)
	m.Continue, m.Trailers = r.Bool(), r.Bool()
}

func importLength(r *wire.Reader) int64 {
	n := r.I64()
	if n < message.Unknown {
		r.Bad("length")
		return 0
	}
	return n
}

func exportResponse(w *wire.Writer, m *message.Response) {
	exportHead(w, &m.Head)
	w.U8(uint8(m.Proto))
	w.Int(m.Status)
	exportSpan(w, m.Reason)
	exportSpan(w, m.Upgrade)
	w.I64(m.Length)
}

func importResponse(r *wire.Reader, m *message.Response) {
	importHead(r, &m.Head)
	m.Proto = importProto(r)
	m.Status = r.Span("status", 999)
	m.Reason, m.Upgrade = importSpan(r, len(m.Buf)), importSpan(r, len(m.Buf))
	m.Length = importLength(r)
}

// ExportContext writes what c has gathered; its connection, heads and route
// are written by who calls.
func ExportContext(w *wire.Writer, c *filter.Context) {
	w.String(c.Cluster)
	w.U32(uint32(c.Flags))
	w.String(c.Detail)
	w.IP(c.Remote)
	w.Bool(c.Internal)
	w.Bytes(c.RequestID)
	w.Bool(c.HealthCheck)
	w.Bool(c.Sampled)
	w.B = append(w.B, c.TraceParent[:]...)
	for _, t := range [...]int64{c.Began, c.HeadSent, c.RequestWhole, c.RequestSent, c.UpstreamHead} {
		w.I64(t)
	}
	w.U64(c.BytesIn)
	w.U64(c.BytesOut)
	w.Int(c.Attempts)
	w.Addr(c.Host)
	w.String(c.HostName)
	w.Addr(c.UpstreamLocal)
	w.U64(c.RequestRate)
	w.U64(c.ResponseRate)
	w.U64(c.Entered())
}

// ImportContext reads it.
func ImportContext(r *wire.Reader, c *filter.Context) {
	c.Cluster = r.String()
	c.Flags = filter.Flags(r.U32())
	c.Detail = r.String()
	c.Remote = r.IP()
	c.Internal = r.Bool()
	c.RequestID = append(c.RequestID[:0], r.Bytes()...)
	c.HealthCheck, c.Sampled = r.Bool(), r.Bool()
	for i := range c.TraceParent {
		c.TraceParent[i] = r.U8()
	}
	for _, t := range [...]*int64{&c.Began, &c.HeadSent, &c.RequestWhole, &c.RequestSent, &c.UpstreamHead} {
		*t = r.I64()
	}
	c.BytesIn, c.BytesOut = r.U64(), r.U64()
	c.Attempts = r.Int()
	c.Host, c.HostName, c.UpstreamLocal = r.Addr(), r.String(), r.Addr()
	c.RequestRate, c.ResponseRate = r.U64(), r.U64()
	c.Enter(r.U64())
}

func (b *h1source) export(w *wire.Writer) {
	b.body.Export(w)
	w.Int(b.data)
	w.Bool(b.raw)
}

// importSource reads a source whose connection holds unread bytes.
func importSource(r *wire.Reader, unread int) h1source {
	return h1source{body: http1.ImportBody(r), data: r.Span("body", unread), raw: r.Bool()}
}

func (s *h1sink) export(w *wire.Writer) {
	w.Bool(s.chunked)
	w.Bool(s.closes)
}

func importSink(r *wire.Reader) h1sink { return h1sink{chunked: r.Bool(), closes: r.Bool()} }

func (d *h2body) export(w *wire.Writer) {
	w.Bytes(d.b[d.off:])
	w.Bool(d.last)
}

func importBody2(r *wire.Reader) h2body {
	return h2body{b: append([]byte(nil), r.Bytes()...), last: r.Bool()}
}
