// SPDX-License-Identifier: Apache-2.0

package message

import "bytes"

// Span is a range of an arena's bytes. The zero Span is empty.
type Span struct{ From, To int32 }

// Len is the number of bytes.
func (s Span) Len() int { return int(s.To - s.From) }

// In gives the bytes of s in b.
func (s Span) In(b []byte) []byte { return b[s.From:s.To] }

// Proto is the protocol that a message came by.
type Proto uint8

// The protocols.
const (
	HTTP10 Proto = iota
	HTTP11
	HTTP2
)

func (p Proto) String() string { return [...]string{"HTTP/1.0", "HTTP/1.1", "HTTP/2"}[p] }

// Lengths of a body that are not a number of bytes.
const (
	NoBody  = 0  // there is none, or an empty one
	Unknown = -1 // the body's end is marked as it arrives: chunks, END_STREAM, or the connection's end
)

// Field is one field line.
type Field struct {
	Name, Value Span
	Known       Known
	Never       bool // must not enter a compression table (RFC 7541, 7.1.3)
	Drop        bool // removed; codecs and lookups pass over it
}

// Head is what request and response heads share. The zero Head is empty and
// ready; it is reused from message to message after Reset.
type Head struct {
	Buf    []byte // arena
	Fields []Field
}

// Reset forgets the message and keeps the memory.
func (h *Head) Reset() {
	h.Buf, h.Fields = h.Buf[:0], h.Fields[:0]
}

// In gives the bytes of s.
func (h *Head) In(s Span) []byte { return h.Buf[s.From:s.To] }

// Put copies p into the arena.
func (h *Head) Put(p []byte) Span {
	from := len(h.Buf)
	h.Buf = append(h.Buf, p...)
	return Span{int32(from), int32(len(h.Buf))}
}

// PutString copies s into the arena.
func (h *Head) PutString(s string) Span {
	from := len(h.Buf)
	h.Buf = append(h.Buf, s...)
	return Span{int32(from), int32(len(h.Buf))}
}

// Add appends a field line. Name and value must be valid (ValidName,
// ValidValue); what comes from a peer or from configuration was checked there.
func (h *Head) Add(name, value []byte) {
	h.Fields = append(h.Fields, Field{Name: h.Put(name), Value: h.Put(value), Known: Lookup(name)})
}

// AddString appends a field line.
func (h *Head) AddString(name, value string) {
	n := h.PutString(name)
	h.Fields = append(h.Fields, Field{Name: n, Value: h.PutString(value), Known: Lookup(h.In(n))})
}

// Get gives the value of the first field of that kind.
func (h *Head) Get(k Known) (value []byte, ok bool) {
	for i := range h.Fields {
		if f := &h.Fields[i]; f.Known == k && !f.Drop {
			return h.In(f.Value), true
		}
	}
	return nil, false
}

// Find gives the value of the first field with that name, in lower case.
func (h *Head) Find(name string) (value []byte, ok bool) {
	if i := h.Index(name, 0); i >= 0 {
		return h.In(h.Fields[i].Value), true
	}
	return nil, false
}

// Index finds the next field with that name, in lower case, from the field at
// from on; -1 when there is none.
func (h *Head) Index(name string, from int) int {
	for i := from; i < len(h.Fields); i++ {
		if f := &h.Fields[i]; !f.Drop && f.Name.Len() == len(name) && EqualFold(h.In(f.Name), name) {
			return i
		}
	}
	return -1
}

// Remove drops all fields with that name, in lower case.
func (h *Head) Remove(name string) {
	for i := h.Index(name, 0); i >= 0; i = h.Index(name, i+1) {
		h.Fields[i].Drop = true
	}
}

// RemoveKnown drops all fields of that kind.
func (h *Head) RemoveKnown(k Known) {
	for i := range h.Fields {
		if h.Fields[i].Known == k {
			h.Fields[i].Drop = true
		}
	}
}

// Set replaces all fields with that name, in lower case, by one.
func (h *Head) Set(name string, value []byte) {
	h.Remove(name)
	n := h.PutString(name)
	h.Fields = append(h.Fields, Field{Name: n, Value: h.Put(value), Known: Lookup(h.In(n))})
}

// CopyFields makes h hold the fields and arena of o.
func (h *Head) CopyFields(o *Head) {
	h.Buf = append(h.Buf[:0], o.Buf...)
	h.Fields = append(h.Fields[:0], o.Fields...)
}

// Request is a request's head.
type Request struct {
	Head
	Proto     Proto
	Method    Span
	Scheme    Span // "http" or "https"; empty when the protocol did not say
	Authority Span // host with optional port; empty only from HTTP/1.0
	Path      Span // path and query in origin form, or "*"; empty for a plain CONNECT
	Upgrade   Span // protocol to switch to: the Upgrade field of HTTP/1.1, :protocol of an extended CONNECT (RFC 8441); empty for none
	Length    int64
	Continue  bool // the client waits for 100 before it sends the body
	Trailers  bool // the client takes trailers (TE: trailers)
}

// Reset forgets the request and keeps the memory.
func (r *Request) Reset() {
	h := r.Head
	h.Reset()
	*r = Request{Head: h}
}

// SetPath replaces path and query.
func (r *Request) SetPath(p []byte) { r.Path = r.Put(p) }

// SetAuthority replaces the host.
func (r *Request) SetAuthority(p []byte) { r.Authority = r.Put(p) }

// PathOnly is the path without its query.
func (r *Request) PathOnly() []byte {
	p := r.In(r.Path)
	if i := bytes.IndexByte(p, '?'); i >= 0 {
		return p[:i]
	}
	return p
}

// Query is what follows the first '?' of the path; nil for none.
func (r *Request) Query() []byte {
	p := r.In(r.Path)
	if i := bytes.IndexByte(p, '?'); i >= 0 {
		return p[i+1:]
	}
	return nil
}

// Response is a response's head, interim or final.
type Response struct {
	Head
	Proto  Proto
	Status int
	Reason Span // HTTP/1 only; empty where the protocol has none
	// Length is the body's length. For a response to HEAD, and for 304, it is
	// what Content-Length said of a body that does not follow; Unknown when it
	// said nothing.
	Length  int64
	Upgrade Span // 101 only: what was switched to
}

// Reset forgets the response and keeps the memory.
func (r *Response) Reset() {
	h := r.Head
	h.Reset()
	*r = Response{Head: h}
}

// Interim tells that another response follows for the same request.
func (r *Response) Interim() bool { return r.Status < 200 && r.Status != 101 }

// Bodiless tells that no body follows, whatever Length says (RFC 9110, 6.4.1).
func (r *Response) Bodiless(head bool) bool {
	return head || r.Status < 200 || r.Status == 204 || r.Status == 304
}
