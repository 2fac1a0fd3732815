// SPDX-License-Identifier: Apache-2.0

package record

import (
	"encoding/binary"

	"redoubt.dev/proxy/engine"
)

// TLS 1.2 (RFC 5246, with RFC 5288 and RFC 7905): the record's type is on the
// outside, and is authenticated with the sequence number.

const (
	levelWarning = 1
	levelFatal   = 2

	msgHelloRequest = 0

	alertInternal        = 80
	alertNoRenegotiation = 100
)

func (h *half) ad12(kind byte, n int) []byte {
	binary.BigEndian.PutUint64(h.ad[:], h.seq)
	h.ad[8], h.ad[9], h.ad[10] = kind, 3, 3
	binary.BigEndian.PutUint16(h.ad[11:], uint16(n))
	return h.ad[:]
}

func (c *Conn) open12(dst, rec []byte) ([]byte, engine.Kind, error) {
	h := &c.in
	over := h.suite.explicit + h.aead.Overhead()
	if len(rec) < headerLen+over || rec[1] != 3 || rec[2] != 3 {
		return dst, 0, errFormat
	}
	kind, n := rec[0], len(rec)-headerLen-over
	if n > engine.MaxPlain {
		return dst, 0, errFormat
	}
	ad := h.ad12(kind, n)
	nonce := h.next()
	if h.suite.explicit > 0 {
		copy(nonce[4:], rec[headerLen:]) // the peer's choice; RFC 5288 does not say that it counts
	}
	out, err := h.aead.Open(dst, nonce, rec[headerLen+h.suite.explicit:], ad)
	if err != nil {
		return dst, 0, errAuth
	}
	body := out[len(dst):]
	if len(c.msg) > 0 && kind != typeHandshake {
		return dst, 0, errType
	}
	switch kind {
	case typeData:
		if len(body) > 0 {
			c.empty, c.updates = 0, 0
		} else if c.empty++; c.empty > maxEmpty {
			return dst, 0, errEmpty
		}
		return out, engine.Data, nil
	case typeAlert:
		return c.alert12(dst, body)
	case typeHandshake:
		return dst, engine.Control, c.handshake12(body)
	}
	return dst, 0, errType
}

// alert12 ignores warnings, no_renegotiation among them, but not many.
func (c *Conn) alert12(dst, body []byte) ([]byte, engine.Kind, error) {
	if len(body) != 2 {
		return dst, 0, errFormat
	}
	if body[1] == alertCloseNotify {
		return dst, engine.Closed, nil
	}
	if body[0] != levelWarning {
		return dst, 0, Alert(body[1])
	}
	if c.empty++; c.empty > maxEmpty {
		return dst, 0, errEmpty
	}
	return dst, engine.Data, nil
}

// handshake12 refuses renegotiation, which nobody needs and which costs the
// server most: a client's attempt ends the connection, a server's is answered
// with a warning (RFC 5246, 7.2.2).
func (c *Conn) handshake12(body []byte) error {
	if len(body) == 0 {
		return errFormat
	}
	if !c.client {
		return errRenegotiation
	}
	for _, b := range body {
		if b != msgHelloRequest { // type 0, length 0: all zero
			return errRenegotiation
		}
		if c.msg = append(c.msg, b); len(c.msg) < 4 {
			continue
		}
		c.msg = nil
		if c.updates++; c.updates > maxUpdates {
			return errUpdates
		}
		c.answer = true
	}
	return nil
}

// cramped tells that b has room for a record of TLS 1.3, but not for one of
// TLS 1.2, which may be seven bytes longer. Whoever left just that room keeps
// its own slice, as the engine does, and must not be given a longer one.
func (c *Conn) cramped(b []byte, n, least int) bool {
	room := cap(b) - len(b)
	return c.out.suite.explicit > 0 && room >= least && room < n+over12
}

// giveUp ends the stream by a fatal alert instead of a record that does not
// fit. The peer sees that it is not whole.
func (c *Conn) giveUp(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, levelFatal, alertInternal)
	return c.seal12(dst, start, typeAlert)
}

// seal12 makes a record of b[start:], a gap for the header and plaintext. The
// part of the nonce that goes with the record moves the plaintext.
func (c *Conn) seal12(b []byte, start int, kind byte) []byte {
	h := &c.out
	if e := h.suite.explicit; e > 0 {
		var gap [8]byte
		b = append(b, gap[:e]...)
		copy(b[start+headerLen+e:], b[start+headerLen:len(b)-e])
		binary.BigEndian.PutUint64(b[start+headerLen:], h.seq)
	}
	from := start + headerLen + h.suite.explicit
	n := len(b) - from
	b[start], b[start+1], b[start+2] = kind, 3, 3
	binary.BigEndian.PutUint16(b[start+3:], uint16(h.suite.explicit+n+h.aead.Overhead()))
	ad := h.ad12(kind, n)
	return h.aead.Seal(b[:from], h.next(), b[from:], ad)
}
