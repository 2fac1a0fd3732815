// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"iter"

	"redoubt.dev/proxy/engine"
)

// Bounds on a ClientHello that is looked at. With a post-quantum key share and
// ECH one takes about 3 KiB.
const (
	// MaxHello bounds the bytes on the wire, record headers included, before
	// a ClientHello is whole: what reads for it needs no larger buffer.
	MaxHello = 16 << 10

	maxExtensions = 64
	maxServerName = 255
	maxProtos     = 1 << 10
	maxVersions   = 32
)

// Found is what ParseHello made of the bytes.
type Found uint8

// The outcomes.
const (
	More   Found = iota // as far as it goes it is a ClientHello; more bytes are needed
	NotTLS              // it is not, or is malformed or beyond the bounds
	IsTLS               // Hello is filled
)

// Hello is what a client asked for in its ClientHello, before anything is
// negotiated or proven. It holds no part of what it was read from, and can be
// used again.
type Hello struct {
	sni       [maxServerName]byte
	sniLen    int
	alpn      [maxProtos]byte // names, each with a length byte
	alpnLen   int
	versions  [maxVersions]uint16
	versionsN int
	legacy    uint16
	exts      [maxExtensions]uint16
	extsN     int
}

// SNI is the server name, in lower case; empty when there is none. It is
// valid until h is used again.
func (h *Hello) SNI() []byte { return h.sni[:h.sniLen] }

// Offers tells whether the client offers an application protocol by ALPN.
func (h *Hello) Offers(proto string) bool {
	for p := range h.ALPN() {
		if string(p) == proto {
			return true
		}
	}
	return false
}

// ALPN gives the offered application protocols in the client's order.
func (h *Hello) ALPN() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for b := h.alpn[:h.alpnLen]; len(b) > 0; {
			n := 1 + int(b[0])
			if !yield(b[1:n]) {
				return
			}
			b = b[n:]
		}
	}
}

// Versions are the offered TLS versions, GREASE and unknown ones included.
func (h *Hello) Versions() []uint16 {
	if h.versionsN == 0 {
		h.versions[0] = h.legacy
		return h.versions[:1]
	}
	return h.versions[:h.versionsN]
}

// ParseHello reads the ClientHello at the start of b, in one record or in
// several (RFC 8446, 4.1.2 and 5.1; RFC 6066, 3; RFC 7301, 3.1). After IsTLS,
// h is filled; else its content says nothing. It allocates nothing.
//
// It is strict, because what is chosen by it must be what the one that
// terminates TLS will see: duplicate extensions, and anything that does not
// fill its length exactly, are malformed.
func ParseHello(b []byte, h *Hello) Found {
	*h = Hello{}
	c := cursor{b: b}
	switch c.frame() {
	case More:
		if len(b) >= MaxHello {
			return NotTLS
		}
		return More
	case NotTLS:
		return NotTLS
	}
	if !h.parse(&c) {
		return NotTLS
	}
	return IsTLS
}

// Record tells that b begins as a TLS handshake does, whatever follows: one
// that ParseHello does not take is TLS to somebody else.
func Record(b []byte) bool { return len(b) >= 2 && b[0] == typeHandshake && b[1] == 3 }

// cursor reads the bytes of a handshake message across its records.
type cursor struct {
	b    []byte
	off  int // of the next byte
	rec  int // bytes left in the record
	left int // bytes left in the vector that is being read
}

// frame checks that the message's records are there and well formed, and
// leaves c at the start of the message's body.
func (c *cursor) frame() Found {
	var head [4]byte
	have, need := 0, len(head)
	for off := 0; have < need; {
		r := c.b[off:]
		// RFC 8446, 5.1: type 22, legacy version 3.x. What contradicts that is
		// told by the first byte that does.
		if len(r) > 0 && r[0] != typeHandshake || len(r) > 1 && r[1] != 3 || off > MaxHello {
			return NotTLS
		}
		if len(r) < engine.HeaderLen {
			return More
		}
		n := int(r[3])<<8 | int(r[4])
		if n == 0 || n > engine.MaxPlain {
			return NotTLS
		}
		body := r[engine.HeaderLen:min(len(r), engine.HeaderLen+n)]
		if have < len(head) {
			copy(head[have:], body)
		}
		got := have + len(body)
		if got > 0 && head[0] != msgHello {
			return NotTLS
		}
		if got >= len(head) {
			if need = len(head) + int(head[1])<<16 + int(head[2])<<8 + int(head[3]); need > MaxHello {
				return NotTLS
			}
		}
		if len(body) < n {
			return More
		}
		have += n
		off += engine.HeaderLen + n
	}
	if have > need {
		return NotTLS // a second message before the server's answer
	}
	c.left = need
	c.skip(len(head))
	return IsTLS
}

// take gives up to n bytes that lie together; the caller has checked that
// there are n.
func (c *cursor) take(n int) []byte {
	if c.rec == 0 {
		c.rec = int(c.b[c.off+3])<<8 | int(c.b[c.off+4])
		c.off += engine.HeaderLen
	}
	n = min(n, c.rec)
	p := c.b[c.off : c.off+n]
	c.off, c.rec, c.left = c.off+n, c.rec-n, c.left-n
	return p
}

func (c *cursor) skip(n int) bool {
	if n > c.left {
		return false
	}
	for n > 0 {
		n -= len(c.take(n))
	}
	return true
}

func (c *cursor) read(dst []byte) bool {
	if len(dst) > c.left {
		return false
	}
	for len(dst) > 0 {
		dst = dst[copy(dst, c.take(len(dst))):]
	}
	return true
}

// uint reads a number of n bytes; -1 when there are not so many.
func (c *cursor) uint(n int) int {
	if n > c.left {
		return -1
	}
	v := 0
	for range n {
		v = v<<8 | int(c.take(1)[0])
	}
	return v
}

// vector enters a vector whose length takes n bytes: what is left is the
// vector, and leave goes on behind it.
func (c *cursor) vector(n, least int) (behind int, ok bool) {
	v := c.uint(n)
	if v < least || v > c.left {
		return 0, false
	}
	behind = c.left - v
	c.left = v
	return behind, true
}

// leave ends a vector, which must be used up.
func (c *cursor) leave(behind int) bool {
	if c.left != 0 {
		return false
	}
	c.left = behind
	return true
}

// Extensions that are looked at.
const (
	extServerName = 0
	extALPN       = 16
	extVersions   = 43
)

// parse reads the body of a ClientHello.
func (h *Hello) parse(c *cursor) bool {
	v := c.uint(2)
	if v < 0x0300 || !c.skip(randomLen) {
		return false
	}
	h.legacy = uint16(v)
	if n := c.uint(1); n < 0 || n > 32 || !c.skip(n) { // legacy_session_id
		return false
	}
	if n := c.uint(2); n < 2 || n%2 != 0 || !c.skip(n) { // cipher_suites
		return false
	}
	if n := c.uint(1); n < 1 || !c.skip(n) { // legacy_compression_methods
		return false
	}
	if c.left == 0 {
		return true // RFC 5246, 7.4.1.2: no extensions at all
	}
	behind, ok := c.vector(2, 0)
	if !ok || behind != 0 {
		return false
	}
	for c.left > 0 {
		if !h.extension(c) {
			return false
		}
	}
	return true
}

func (h *Hello) extension(c *cursor) bool {
	id := c.uint(2)
	if id < 0 || h.extsN == len(h.exts) {
		return false
	}
	for _, e := range h.exts[:h.extsN] {
		if int(e) == id {
			return false // RFC 8446, 4.2: no two of one kind
		}
	}
	h.exts[h.extsN] = uint16(id)
	h.extsN++
	behind, ok := c.vector(2, 0)
	if !ok {
		return false
	}
	switch id {
	case extServerName:
		ok = h.serverName(c)
	case extALPN:
		ok = h.protos(c)
	case extVersions:
		ok = h.supported(c)
	default:
		ok = c.skip(c.left)
	}
	return ok && c.leave(behind)
}

// serverName takes the list of one host_name that RFC 6066 leaves possible.
func (h *Hello) serverName(c *cursor) bool {
	behind, ok := c.vector(2, 1)
	if !ok || behind != 0 || c.uint(1) != 0 {
		return false
	}
	if behind, ok = c.vector(2, 1); !ok || behind != 0 || c.left > len(h.sni) {
		return false
	}
	h.sniLen = c.left
	if !c.read(h.sni[:h.sniLen]) {
		return false
	}
	// Bytes of names as they are in use (underscores are), and no trailing dot
	// (RFC 6066, 3).
	for i, b := range h.sni[:h.sniLen] {
		switch {
		case 'A' <= b && b <= 'Z':
			h.sni[i] = b | 0x20
		case 'a' <= b && b <= 'z', '0' <= b && b <= '9', b == '-', b == '_':
		case b == '.' && i > 0 && i < h.sniLen-1 && h.sni[i-1] != '.':
		default:
			return false
		}
	}
	return true
}

func (h *Hello) protos(c *cursor) bool {
	behind, ok := c.vector(2, 2)
	if !ok || behind != 0 || c.left > len(h.alpn) {
		return false
	}
	h.alpnLen = c.left
	if !c.read(h.alpn[:h.alpnLen]) {
		return false
	}
	for b := h.alpn[:h.alpnLen]; len(b) > 0; {
		n := 1 + int(b[0])
		if n == 1 || n > len(b) {
			return false
		}
		b = b[n:]
	}
	return true
}

func (h *Hello) supported(c *cursor) bool {
	behind, ok := c.vector(1, 2)
	if !ok || behind != 0 || c.left%2 != 0 || c.left/2 > len(h.versions) {
		return false
	}
	for c.left > 0 {
		h.versions[h.versionsN] = uint16(c.uint(2))
		h.versionsN++
	}
	return true
}
