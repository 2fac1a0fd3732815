// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"

	"redoubt.dev/proxy/engine"
)

const headerLen = engine.HeaderLen

// Content types and handshake messages that may follow the handshake.
const (
	typeAlert     = 21
	typeHandshake = 22
	typeData      = 23

	msgNewSessionTicket = 4
	msgKeyUpdate        = 24

	alertCloseNotify = 0
	alertUserCancel  = 90
)

// MaxOverhead is the most that a record is longer than its header and
// plaintext, with a KeyUpdate behind it: the room that who seals in place
// leaves behind the plaintext.
const MaxOverhead = over12 + rekeyLen

// Sizes beside the plaintext, of records behind their headers, and of a
// KeyUpdate.
const (
	over12   = 8 + 16
	over13   = 1 + 16
	rekeyLen = headerLen + 4 + 1 + over13
)

// Bounds on what a peer may make us do without saying anything.
const (
	maxEmpty   = 32       // empty records in a row
	maxUpdates = 64       // key updates without data between them
	maxMessage = 64 << 10 // one post-handshake message
	maxTickets = 4        // session tickets that are looked at
)

// Faults that end a connection. They say nothing about keys.
var (
	errAuth    = errors.New("record does not authenticate")
	errFormat  = errors.New("malformed record")
	errType    = errors.New("unexpected record type")
	errEmpty   = errors.New("too many empty records")
	errUpdates = errors.New("too many key updates")
	errMessage = errors.New("unexpected post-handshake message")

	errRenegotiation = errors.New("peer asks for renegotiation")
)

// Alert is a fatal alert of the peer.
type Alert byte

func (a Alert) Error() string { return fmt.Sprintf("peer sent alert %d", byte(a)) }

// Params are what a handshake, or an earlier process, left behind.
type Params struct {
	Version, Suite uint16 // as crypto/tls names them: TLS 1.2 or 1.3
	Client         bool   // this side is the client
	// Read and Write are the peer's and this side's secrets: in TLS 1.3 the
	// application traffic secrets, in TLS 1.2 what Keys12 gives.
	Read, Write []byte
	// ReadSeq and WriteSeq are how many records there were under these keys:
	// in TLS 1.2 one, Finished; in TLS 1.3 none, unless a server has sent
	// tickets.
	ReadSeq, WriteSeq uint64
}

// Conn is the record layer of one connection after its handshake. It
// implements all of engine.Records: Open, Seal, SealInPlace, Closing, Pending.
type Conn struct {
	in, out half
	version uint16
	id      uint16 // of the suite
	client  bool
	msg     []byte // start of a handshake message whose rest is in later records
	empty   int
	updates int
	answer  bool    // the peer asked for a key update in return, or for a renegotiation
	tickets Tickets // nil unless wanted, and after the first record of another kind
}

// Tickets is given the records of a TLS 1.3 server that carry session
// tickets, sealed as they came, while nothing else has come: a client can do
// without later ones, and crypto/tls, which alone can read them, counts
// records from the same start.
type Tickets interface {
	// Ticket must not keep rec. Done releases the receiver.
	Ticket(rec []byte)
	Done()
}

// New makes the record layer of a connection whose handshake is complete. The
// secrets are copied.
func New(p *Params) (*Conn, error) {
	s, err := find(p.Version, p.Suite)
	if err != nil {
		return nil, err
	}
	c := &Conn{version: p.Version, id: p.Suite, client: p.Client}
	if err := c.in.init(s, p.Read, p.ReadSeq); err != nil {
		return nil, err
	}
	if err := c.out.init(s, p.Write, p.WriteSeq); err != nil {
		return nil, err
	}
	return c, nil
}

// WatchTickets has t see the server's tickets. It is called before Open.
func (c *Conn) WatchTickets(t Tickets) { c.tickets = t }

// Worn tells that a TLS 1.2 key has sealed or opened as many records as it
// should, and cannot be replaced: the connection should be drained.
func (c *Conn) Worn() bool {
	return c.version == tls.VersionTLS12 && max(c.in.seq, c.out.seq) >= c.out.suite.limit
}

// Open opens one record, header included, and appends its plaintext to dst.
// rec must be whole; its bytes may be overwritten.
func (c *Conn) Open(dst, rec []byte) ([]byte, engine.Kind, error) {
	if c.version == tls.VersionTLS12 {
		return c.open12(dst, rec)
	}
	// RFC 8446, 5.2: the outer type is always application data. The legacy
	// version is ignored, but is authenticated as part of the header.
	if len(rec) < headerLen+1+c.in.aead.Overhead() || rec[0] != typeData {
		return dst, 0, errFormat
	}
	copy(c.in.ad[:headerLen], rec)
	out, err := c.in.aead.Open(dst, c.in.next(), rec[headerLen:], c.in.ad[:headerLen])
	if err != nil {
		return dst, 0, errAuth
	}
	end := len(out)
	for end > len(dst) && out[end-1] == 0 {
		end-- // padding
	}
	if end == len(dst) {
		return dst, 0, errFormat // RFC 8446, 5.4: no type is unexpected_message
	}
	end--
	if end-len(dst) > engine.MaxPlain {
		return dst, 0, errFormat
	}
	body := out[len(dst):end]
	kind := out[end]
	if len(c.msg) > 0 && kind != typeHandshake {
		return dst, 0, errType // RFC 8446, 5.1: messages are not interleaved
	}
	if c.tickets != nil {
		c.watch(kind, body, rec)
	}
	switch kind {
	case typeData:
		if len(body) > 0 {
			c.empty, c.updates = 0, 0
		} else if c.empty++; c.empty > maxEmpty {
			return dst, 0, errEmpty
		}
		return out[:end], engine.Data, nil
	case typeAlert:
		return c.alert(dst, body)
	case typeHandshake:
		return dst, engine.Control, c.handshake(body)
	}
	return dst, 0, errType
}

// watch shows a record to who waits for tickets, before the message in it is
// looked at.
func (c *Conn) watch(kind byte, body, rec []byte) {
	if kind == typeHandshake && len(body) > 0 && (len(c.msg) > 0 || body[0] == msgNewSessionTicket) && c.empty < maxTickets {
		c.tickets.Ticket(rec)
		return
	}
	c.tickets.Done()
	c.tickets = nil
}

func (c *Conn) alert(dst, body []byte) ([]byte, engine.Kind, error) {
	if len(body) != 2 {
		return dst, 0, errFormat
	}
	switch body[1] {
	case alertCloseNotify:
		return dst, engine.Closed, nil
	case alertUserCancel: // precedes a close_notify
		if c.empty++; c.empty > maxEmpty {
			return dst, 0, errEmpty
		}
		return dst, engine.Data, nil
	}
	return dst, 0, Alert(body[1])
}

// handshake takes post-handshake messages, also in pieces.
func (c *Conn) handshake(body []byte) error {
	if len(body) == 0 {
		return errFormat // RFC 8446, 5.1: no empty handshake fragments
	}
	c.msg = append(c.msg, body...)
	for len(c.msg) >= 4 {
		n := int(c.msg[1])<<16 | int(c.msg[2])<<8 | int(c.msg[3])
		if n > maxMessage {
			return errMessage
		}
		if len(c.msg) < 4+n {
			return nil
		}
		kind, m := c.msg[0], c.msg[4:4+n]
		rest := c.msg[4+n:]
		switch kind {
		case msgNewSessionTicket:
			if !c.client {
				return errMessage
			}
			if c.empty++; c.empty > maxEmpty {
				return errEmpty
			}
		case msgKeyUpdate:
			// RFC 8446, 5.1: the record that changes keys ends with the message.
			if len(m) != 1 || m[0] > 1 || len(rest) > 0 {
				return errMessage
			}
			if c.updates++; c.updates > maxUpdates {
				return errUpdates
			}
			if err := c.in.update(); err != nil {
				return err
			}
			c.answer = c.answer || m[0] == 1
		default:
			return errMessage
		}
		c.msg = append(c.msg[:0], rest...)
	}
	if len(c.msg) == 0 {
		c.msg = nil // rare: an idle connection holds no buffer
	}
	return nil
}

// Pending appends the key update that the peer asked for, or the refusal of
// a renegotiation.
func (c *Conn) Pending(dst []byte) []byte {
	if !c.answer {
		return dst
	}
	c.answer = false
	if c.version == tls.VersionTLS12 {
		start := len(dst)
		dst = append(dst, 0, 0, 0, 0, 0, levelWarning, alertNoRenegotiation)
		return c.seal12(dst, start, typeAlert)
	}
	return c.rekey(dst)
}

// Seal appends one record of application data with plaintext p.
func (c *Conn) Seal(dst, p []byte) []byte {
	dst = c.limit(dst, headerLen+len(p)+over13)
	if c.cramped(dst, headerLen+len(p), engine.MaxPlain) {
		return c.giveUp(dst)
	}
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0)
	dst = append(dst, p...)
	return c.seal(dst, start, typeData)
}

// SealInPlace makes a record of b[start:], whose first HeaderLen bytes are a
// gap for the header. With MaxOverhead bytes of room behind it, b does not
// grow. With room for a TLS 1.3 record only, one of TLS 1.2 that is longer
// becomes the end of the stream (cramped).
func (c *Conn) SealInPlace(b []byte, start int) []byte {
	if c.cramped(b, 0, over13) {
		return c.giveUp(b[:start])
	}
	return c.limit(c.seal(b, start, typeData), 0)
}

// Closing appends the close_notify alert.
func (c *Conn) Closing(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, levelWarning, alertCloseNotify)
	return c.seal(dst, start, typeAlert)
}

// limit replaces a key that has sealed enough, if the message that says so
// and what follows it fit into dst; else a little later, for who calls may
// not be able to let dst grow.
func (c *Conn) limit(dst []byte, follows int) []byte {
	h := &c.out
	if c.version != tls.VersionTLS13 || h.seq < h.suite.limit {
		return dst
	}
	if cap(dst)-len(dst) < rekeyLen+follows && h.seq < h.suite.limit+h.suite.limit/4 {
		return dst
	}
	return c.rekey(dst)
}

// rekey appends a KeyUpdate under the old key and moves to the next one.
func (c *Conn) rekey(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, 0, 0, 0, 0, 0, msgKeyUpdate, 0, 0, 1, 0)
	dst = c.seal(dst, start, typeHandshake)
	if err := c.out.update(); err != nil {
		panic("record: " + err.Error()) // HKDF of a fixed length cannot fail
	}
	return dst
}

func (c *Conn) seal(b []byte, start int, kind byte) []byte {
	if c.version == tls.VersionTLS12 {
		return c.seal12(b, start, kind)
	}
	b = append(b, kind)
	h := &c.out
	h.ad[0], h.ad[1], h.ad[2] = typeData, 3, 3
	binary.BigEndian.PutUint16(h.ad[3:], uint16(len(b)-start-headerLen+h.aead.Overhead()))
	ad := h.ad[:headerLen]
	copy(b[start:], ad)
	plain := b[start+headerLen:]
	return h.aead.Seal(b[:start+headerLen], h.next(), plain, ad)
}
