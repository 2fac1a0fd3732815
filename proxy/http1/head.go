// SPDX-License-Identifier: Apache-2.0

package http1

import (
	"bytes"

	"redoubt.dev/proxy/message"
)

// Bounds of a head.
const (
	MaxHead   = 64 << 10
	MaxFields = 128
	maxMethod = 32

	// maxOptions bounds the connection options that name fields: each is
	// looked up among all fields, so that many times many would be work that
	// costs its sender little.
	maxOptions = 16
)

// Fault says why a message is refused. Status is what its sender is told.
type Fault struct {
	Status int
	Reason string
}

func (f *Fault) Error() string { return f.Reason }

func fault(status int, reason string) *Fault { return &Fault{status, reason} }

// The faults. Each is made once: a flood of bad requests must not make
// garbage.
var (
	errBareLF      = fault(400, "line ends without carriage return")
	errCR          = fault(400, "carriage return inside a line")
	errHeadSize    = fault(431, "head too large")
	errFieldCount  = fault(431, "too many fields")
	errStartLine   = fault(400, "malformed start line")
	errMethod      = fault(400, "malformed method")
	errTarget      = fault(400, "malformed request target")
	errVersion     = fault(505, "HTTP version not supported")
	errFieldName   = fault(400, "malformed field name")
	errLookalike   = fault(400, "field name that reads like another")
	errFieldValue  = fault(400, "control character in field value")
	errFold        = fault(400, "folded field line")
	errLength      = fault(400, "malformed content length")
	errLengthTwice = fault(400, "content length given twice")
	errBoth        = fault(400, "content length and transfer coding together")
	errCoding      = fault(501, "transfer coding not supported")
	errCodingOld   = fault(400, "transfer coding in HTTP/1.0")
	errBodyOld     = fault(400, "body of an HTTP/1.0 request whose method has none")
	errHost        = fault(400, "host missing, given twice, or malformed")
	errConnection  = fault(400, "connection option is malformed or names a field that must pass")
	errOptions     = fault(400, "too many connection options")
	errBothOptions = fault(400, "connection options close and keep-alive together")
	errConnect     = fault(501, "CONNECT not supported")
	errStatus      = fault(502, "malformed status line")
	errExpect      = fault(417, "expectation not supported")
)

// Words shared with the other codecs.
type (
	Span  = message.Span
	Field = message.Field
	Known = message.Known
)

// The known fields that this package acts on.
const (
	Other            = message.Other
	Host             = message.Host
	ContentLength    = message.ContentLength
	TransferEncoding = message.TransferEncoding
	Connection       = message.Connection
	KeepAlive        = message.KeepAlive
	ProxyConnection  = message.ProxyConnection
	TE               = message.TE
	Trailer          = message.Trailer
	Upgrade          = message.Upgrade
	Expect           = message.Expect
	ClientCert       = message.ClientCert
	ForwardedFor     = message.ForwardedFor
)

// Head is what request and response heads share. Its spans count from the
// first byte of the message; it is reused from message to message.
type Head struct {
	Fields  []Field
	Minor   byte  // HTTP/1.Minor, 0 or 1
	Length  int64 // content length; -1 none
	Chunked bool
	Close   bool // the sender wants the connection to end
	Keep    bool // "keep-alive" was named
	Upgrade bool // an upgrade field, named by a connection option

	named int // connection options that name fields
	seen  int // bytes without an end of head; scanning goes on from there
}

func (h *Head) reset() {
	h.Fields = h.Fields[:0]
	h.Minor, h.Length, h.named = 0, -1, 0
	h.Chunked, h.Close, h.Keep, h.Upgrade = false, false, false, false
}

// Reset forgets a partly scanned head.
func (h *Head) Reset() { h.reset(); h.seen = 0 }

// end finds the length of the head in b; 0 when it is not whole yet.
func (h *Head) end(b []byte) (int, error) {
	from := max(0, h.seen-3)
	i := bytes.Index(b[from:], crlf2)
	if i >= 0 {
		n := from + i + 4
		h.seen = 0
		if n > MaxHead {
			return 0, errHeadSize
		}
		return n, nil
	}
	// A bare line feed would keep us waiting for an end that a lenient peer
	// has seen already.
	for p := h.seen; ; p++ {
		j := bytes.IndexByte(b[p:], '\n')
		if j < 0 {
			break
		}
		p += j
		if p == 0 || b[p-1] != '\r' {
			return 0, errBareLF
		}
	}
	h.seen = len(b)
	if len(b) >= MaxHead {
		return 0, errHeadSize
	}
	return 0, nil
}

var crlf2 = []byte("\r\n\r\n")

// line cuts the line at the start of b[p:]; the head is known to be whole, so
// there is one.
func line(b []byte, p int) (end int, err error) {
	i := bytes.IndexByte(b[p:], '\n')
	if i == 0 || b[p+i-1] != '\r' {
		return 0, errBareLF
	}
	return p + i - 1, nil
}

// fields reads the field lines b[p:], which end with an empty line.
func (h *Head) fields(b []byte, p int) error {
	for {
		end, err := line(b, p)
		if err != nil {
			return err
		}
		if end == p {
			return h.framing(b)
		}
		if len(h.Fields) >= MaxFields {
			return errFieldCount
		}
		f, err := field(b, p, end)
		if err != nil {
			return err
		}
		h.Fields = append(h.Fields, f)
		p = end + 2
	}
}

func field(b []byte, p, end int) (f Field, err error) {
	i := p
	for i < end && isToken[b[i]] {
		i++
	}
	if i == p || i == end || b[i] != ':' {
		if b[p] == ' ' || b[p] == '\t' {
			return f, errFold
		}
		return f, errFieldName
	}
	f.Name = Span{From: int32(p), To: int32(i)}
	i++
	for i < end && (b[i] == ' ' || b[i] == '\t') {
		i++
	}
	for end > i && (b[end-1] == ' ' || b[end-1] == '\t') {
		end--
	}
	for _, c := range b[i:end] {
		if !isValue[c] {
			if c == '\r' {
				return f, errCR
			}
			return f, errFieldValue
		}
	}
	f.Value = Span{From: int32(i), To: int32(end)}
	f.Known = message.Lookup(f.Name.In(b))
	if f.Known == Other && message.Lookalike(f.Name.In(b)) {
		return f, errLookalike
	}
	return f, nil
}

// framing reads the fields that say where the message ends and what becomes
// of the connection.
func (h *Head) framing(b []byte) error {
	upgrade, named := false, false
	for i := range h.Fields {
		f := &h.Fields[i]
		v := f.Value.In(b)
		switch f.Known {
		case ContentLength:
			n, ok := decimal(v)
			if !ok {
				return errLength
			}
			if h.Length >= 0 {
				return errLengthTwice
			}
			h.Length = n
		case TransferEncoding:
			// Only "chunked", once: RFC 9112, 6.1 allows more, but no two
			// implementations agree on it.
			if h.Chunked || !equalFold(v, "chunked") {
				return errCoding
			}
			h.Chunked = true
		case Connection:
			up, err := h.options(b, v)
			if err != nil {
				return err
			}
			named = named || up
		case Upgrade:
			upgrade = true
		}
	}
	if h.Chunked && h.Length >= 0 {
		return errBoth
	}
	if h.Chunked && h.Minor == 0 {
		return errCodingOld
	}
	h.Upgrade = upgrade && named && h.Minor == 1
	return nil
}

// options reads a Connection field's value.
func (h *Head) options(b, v []byte) (upgrade bool, err error) {
	for len(v) > 0 {
		o := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			o, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		o = trim(o)
		switch {
		case len(o) == 0:
		case equalFold(o, "close"):
			h.Close = true
		case equalFold(o, "keep-alive"):
			h.Keep = true
		case equalFold(o, "upgrade"):
			upgrade = true
		default:
			if err := h.drop(b, o); err != nil {
				return false, err
			}
		}
	}
	return upgrade, nil
}

// drop marks the fields named by a connection option. An option must not
// strip what the next hop frames, routes or authorises by (the trick behind
// several published bypasses).
func (h *Head) drop(b, name []byte) error {
	switch message.Lookup(name) {
	case Host, ContentLength, TransferEncoding, ClientCert, ForwardedFor, Expect, message.Authorization, message.Cookie:
		return errConnection
	}
	if hasPrefixFold(name, "x-forwarded-") {
		return errConnection
	}
	if tokenLen(name) != len(name) {
		return errConnection
	}
	if h.named++; h.named > maxOptions {
		return errOptions
	}
	for i := range h.Fields {
		if bytes.EqualFold(h.Fields[i].Name.In(b), name) {
			h.Fields[i].Drop = true
		}
	}
	return nil
}

// hop tells that a field speaks of this connection only and is not passed on.
func hop(f *Field) bool {
	return f.Drop || f.Known.Hop() && f.Known != Host
}

func decimal(b []byte) (int64, bool) {
	if len(b) == 0 || len(b) > 18 {
		return 0, false
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + int64(c-'0')
	}
	return n, true
}

func trim(b []byte) []byte {
	for len(b) > 0 && (b[0] == ' ' || b[0] == '\t') {
		b = b[1:]
	}
	for len(b) > 0 && (b[len(b)-1] == ' ' || b[len(b)-1] == '\t') {
		b = b[:len(b)-1]
	}
	return b
}

func lower(c byte) byte { return message.Lower(c) }

// equalFold compares b with the lower case s.
func equalFold(b []byte, s string) bool { return len(b) == len(s) && hasPrefixFold(b, s) }

func hasPrefixFold(b []byte, s string) bool {
	if len(b) < len(s) {
		return false
	}
	for i := range len(s) {
		if lower(b[i]) != s[i] {
			return false
		}
	}
	return true
}

var isToken, isValue, isTarget = tables()

// tables: token and field-value (RFC 9110, 5.6.2 and 5.5), and what a target
// may hold.
func tables() (token, value, target [256]bool) {
	for c := range 256 {
		alnum := '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		token[c] = alnum || c < 128 && bytes.IndexByte([]byte("!#$%&'*+-.^_`|~"), byte(c)) >= 0
		value[c] = c == '\t' || c >= ' ' && c != 0x7f
		target[c] = message.IsTarget(byte(c))
	}
	return
}
