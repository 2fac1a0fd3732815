// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"

	"redoubt.dev/api/errs"
)

// State is a live record layer taken apart, for another process to go on with
// it. Whoever exports must seal nothing more with the Conn once the other may
// have begun: two that seal under one key repeat nonces, which gives away
// plaintexts and the key of the authentication. Retire makes sure of it.
type State struct {
	Params
	Message []byte // start of a handshake message whose rest is still to come
	Empty   int    // how much of the bounds on silence is used
	Updates int
	Answer  bool // something waits to be said by Pending
}

// stateMagic begins an encoded State and names the form's version.
const stateMagic = "rcd1"

const (
	flagClient = 1 << iota
	flagAnswer
	flagKnown = flagClient | flagAnswer
)

// Export copies the state of c, which stays usable. The caller wipes the copy.
func (c *Conn) Export() State {
	return State{
		Params: Params{Version: c.version, Suite: c.id, Client: c.client,
			Read: append([]byte(nil), c.in.secret...), Write: append([]byte(nil), c.out.secret...),
			ReadSeq: c.in.seq, WriteSeq: c.out.seq},
		Message: append([]byte(nil), c.msg...),
		Empty:   c.empty, Updates: c.updates, Answer: c.answer,
	}
}

// Retire forgets the keys of c: opening fails from now on, sealing panics.
func (c *Conn) Retire() {
	c.in.retire()
	c.out.retire()
	clear(c.msg)
	c.msg, c.tickets = nil, nil
}

// Wipe clears the secrets. What Append made of them is the caller's to clear.
func (s *State) Wipe() {
	clear(s.Read)
	clear(s.Write)
	clear(s.Message)
	s.Read, s.Write, s.Message = nil, nil, nil
}

// Append appends s in its binary form: big endian; magic, version, suite,
// flags, two counters, for each direction a sequence number and a secret with
// a length byte, and the partial message with three length bytes.
func (s *State) Append(dst []byte) []byte {
	dst = append(dst, stateMagic...)
	dst = binary.BigEndian.AppendUint16(dst, s.Version)
	dst = binary.BigEndian.AppendUint16(dst, s.Suite)
	var f byte
	if s.Client {
		f |= flagClient
	}
	if s.Answer {
		f |= flagAnswer
	}
	dst = append(dst, f, byte(s.Empty), byte(s.Updates))
	dst = appendHalf(dst, s.ReadSeq, s.Read)
	dst = appendHalf(dst, s.WriteSeq, s.Write)
	n := len(s.Message)
	dst = append(dst, byte(n>>16), byte(n>>8), byte(n))
	return append(dst, s.Message...)
}

func appendHalf(dst []byte, seq uint64, secret []byte) []byte {
	dst = binary.BigEndian.AppendUint64(dst, seq)
	return append(append(dst, byte(len(secret))), secret...)
}

// Import reads what Append wrote, all of b, and makes it live. b is not kept.
// Errors tell no bytes of it.
func Import(b []byte) (*Conn, error) {
	s, err := parseState(b)
	if err != nil {
		return nil, err
	}
	return s.Conn()
}

func badState(field, want string) error {
	return &errs.Error{Kind: errs.Invalid, Subject: "state of a record layer", Field: field, Expected: want}
}

// parseState reads the form; Conn looks at what it says. The parts alias b.
func parseState(b []byte) (s State, err error) {
	const fixed = len(stateMagic) + 2 + 2 + 3
	if len(b) < fixed || string(b[:len(stateMagic)]) != stateMagic {
		return s, badState("magic", stateMagic)
	}
	b = b[len(stateMagic):]
	s.Version, s.Suite = binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:])
	f := b[4]
	if f&^flagKnown != 0 {
		return s, badState("flags", "known ones")
	}
	s.Client, s.Answer = f&flagClient != 0, f&flagAnswer != 0
	s.Empty, s.Updates = int(b[5]), int(b[6])
	b = b[7:]
	var ok bool
	if s.ReadSeq, s.Read, b, ok = cutHalf(b); !ok {
		return s, badState("read", "a sequence number and a secret")
	}
	if s.WriteSeq, s.Write, b, ok = cutHalf(b); !ok {
		return s, badState("write", "a sequence number and a secret")
	}
	if len(b) < 3 || len(b)-3 != int(b[0])<<16|int(b[1])<<8|int(b[2]) {
		return s, badState("message", "its length, and nothing behind it")
	}
	s.Message = b[3:]
	return s, nil
}

func cutHalf(b []byte) (seq uint64, secret, rest []byte, ok bool) {
	if len(b) < 9 || len(b) < 9+int(b[8]) {
		return 0, nil, nil, false
	}
	n := 9 + int(b[8])
	return binary.BigEndian.Uint64(b), b[9:n], b[n:], true
}

// Conn makes a record layer that goes on where s was exported. What it needs
// of s it copies.
func (s *State) Conn() (*Conn, error) {
	c, err := New(&s.Params)
	if err != nil {
		return nil, err
	}
	limit := 4 + maxMessage
	if s.Version == tls.VersionTLS12 {
		limit = 3
	}
	switch {
	case s.Empty < 0 || s.Empty > maxEmpty:
		return nil, badState("empty", fmt.Sprintf("at most %d", maxEmpty))
	case s.Updates < 0 || s.Updates > maxUpdates:
		return nil, badState("updates", fmt.Sprintf("at most %d", maxUpdates))
	case len(s.Message) > limit:
		return nil, badState("message", fmt.Sprintf("at most %d bytes", limit))
	case s.Version == tls.VersionTLS13 && s.WriteSeq > c.out.suite.limit:
		return nil, badState("write", "a key within its limit")
	case s.Answer && s.Version == tls.VersionTLS12 && !s.Client:
		return nil, badState("answer", "none from a TLS 1.2 server")
	}
	if m := s.Message; len(m) >= 4 {
		if n := int(m[1])<<16 | int(m[2])<<8 | int(m[3]); n > maxMessage || 4+n <= len(m) {
			return nil, badState("message", "a part of one")
		}
	}
	if len(s.Message) > 0 {
		c.msg = append([]byte(nil), s.Message...)
	}
	c.empty, c.updates, c.answer = s.Empty, s.Updates, s.Answer
	return c, nil
}
