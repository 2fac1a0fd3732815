// SPDX-License-Identifier: Apache-2.0

package websock

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
)

// The opcodes.
const (
	Continuation = 0x0
	Text         = 0x1
	Binary       = 0x2
	Close        = 0x8
	Ping         = 0x9
	Pong         = 0xa
)

// Frame is one frame.
type Frame struct {
	Fin     bool
	Op      byte
	Payload []byte // unmasked
}

// MaxPayload bounds what Read takes.
const MaxPayload = 64 << 20

// Conn is one end of a WebSocket. One goroutine may read while another
// writes.
type Conn struct {
	rw     io.ReadWriteCloser
	r      *bufio.Reader
	client bool
	mask   uint32
}

// Close ends the transport without a closing handshake.
func (c *Conn) Close() error { return c.rw.Close() }

// Write sends one frame, masked when this is the client's end.
func (c *Conn) Write(f Frame) error {
	b := make([]byte, 0, 14+len(f.Payload))
	first := f.Op
	if f.Fin {
		first |= 0x80
	}
	b = append(b, first)
	var masked byte
	if c.client {
		masked = 0x80
	}
	switch n := len(f.Payload); {
	case n < 126:
		b = append(b, masked|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, masked|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, masked|127), uint64(n))
	}
	if c.client {
		c.mask = c.mask*1664525 + 1013904223 // any changing value will do in a test
		key := binary.BigEndian.AppendUint32(nil, c.mask)
		b = append(b, key...)
		at := len(b)
		b = append(b, f.Payload...)
		xor(b[at:], key)
	} else {
		b = append(b, f.Payload...)
	}
	_, err := c.rw.Write(b)
	return err
}

func xor(b, key []byte) {
	for i := range b {
		b[i] ^= key[i&3]
	}
}

// Read gives the next frame.
func (c *Conn) Read() (f Frame, err error) {
	var h [8]byte
	if _, err := io.ReadFull(c.r, h[:2]); err != nil {
		return f, err
	}
	f.Fin, f.Op = h[0]&0x80 != 0, h[0]&0x0f
	masked := h[1]&0x80 != 0
	if masked == c.client {
		return f, fmt.Errorf("websock: masked is %v, the peer is a client: %v", masked, !c.client)
	}
	n := uint64(h[1] & 0x7f)
	switch n {
	case 126:
		if _, err := io.ReadFull(c.r, h[:2]); err != nil {
			return f, err
		}
		n = uint64(binary.BigEndian.Uint16(h[:2]))
	case 127:
		if _, err := io.ReadFull(c.r, h[:8]); err != nil {
			return f, err
		}
		n = binary.BigEndian.Uint64(h[:8])
	}
	if n > MaxPayload {
		return f, fmt.Errorf("websock: frame of %d bytes", n)
	}
	var key [4]byte
	if masked {
		if _, err := io.ReadFull(c.r, key[:]); err != nil {
			return f, err
		}
	}
	f.Payload = make([]byte, n)
	if _, err := io.ReadFull(c.r, f.Payload); err != nil {
		return f, err
	}
	if masked {
		xor(f.Payload, key[:])
	}
	return f, nil
}

// CloseFrame makes a closing frame's payload; code 0 leaves it empty.
func CloseFrame(code uint16, reason string) Frame {
	f := Frame{Fin: true, Op: Close}
	if code > 0 {
		f.Payload = append(binary.BigEndian.AppendUint16(nil, code), reason...)
	}
	return f
}
