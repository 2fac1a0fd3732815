// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"errors"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/http1"
	"redoubt.dev/proxy/message"
)

// Faults of a message on its way. Values: a flood must not make garbage.
var (
	errCutShort = errors.New("message cut short")
	errInterims = errors.New("too many interim responses")
	errSwitch   = errors.New("protocol switched without being asked to")
	errGone     = errors.New("connection ended")
)

func isMalformed(err error) bool {
	var f *http1.Fault
	return errors.As(err, &f) || err == errInterims || err == errSwitch
}

// h1source reads a body off an HTTP/1 connection.
type h1source struct {
	body http1.Body
	data int  // bytes of it at the start of c's unread ones
	raw  bool // a tunnel: whatever comes, until the connection's end
}

func (b *h1source) begin(body http1.Body) { *b = h1source{body: body} }

// peek is source.peek; trailers go into t. At most ahead bytes are read ahead.
func (b *h1source) peek(c *engine.Conn, t *message.Head, ahead int) (p []byte, last bool, err error) {
	for {
		if b.data > 0 {
			return c.Bytes()[:b.data], b.body.Done() && b.body.Kind() == http1.Sized, nil
		}
		if b.body.Done() {
			return nil, true, nil
		}
		in := c.Bytes()
		if b.raw {
			if len(in) > 0 {
				b.data = len(in)
				continue
			}
		} else if len(in) > 0 {
			data, used, trailers, err := b.body.Next(in)
			if err != nil {
				return nil, false, err
			}
			if len(trailers) > 0 && t != nil {
				http1.DecodeTrailers(trailers, t)
			}
			if used > 0 {
				c.Discard(used - len(data))
				b.data = len(data)
				continue
			}
		}
		if c.Dead() {
			if (b.raw || b.body.Kind() == http1.UntilClose) && c.EOF() {
				b.body.End()
				return nil, true, nil
			}
			if err := c.Err(); err != nil {
				return nil, false, errGone
			}
			return nil, false, errCutShort
		}
		if !c.Fill(ahead) {
			return nil, false, nil
		}
	}
}

func (b *h1source) consume(c *engine.Conn, n int) {
	b.data -= n
	c.Discard(n)
}

// done tells that nothing of the body is left on the connection.
func (b *h1source) done() bool { return b.body.Done() && b.data == 0 }

// h1sink writes a body to an HTTP/1 connection.
type h1sink struct {
	chunked bool
	closes  bool // the body ends with the connection's stream
}

const chunkOverhead = 16 + 2 + 2

func (s *h1sink) send(c *engine.Conn, p []byte, last bool) int {
	if !s.chunked {
		n := c.Send(p)
		if last && n == len(p) {
			s.finish(c, nil)
		}
		return n
	}
	n := min(len(p), c.Room()-chunkOverhead)
	if n <= 0 {
		return 0
	}
	var h [chunkOverhead]byte
	c.Append(http1.AppendChunkSize(h[:0], n))
	c.Append(p[:n])
	c.Append(crlf)
	if last && n == len(p) {
		s.finish(c, nil)
	}
	return n
}

var crlf = []byte("\r\n")

func (s *h1sink) finish(c *engine.Conn, t *message.Head) {
	switch {
	case s.closes:
		c.CloseWrite()
	case s.chunked && t == nil:
		c.Append(lastChunk)
	case s.chunked:
		c.Append(http1.AppendTrailers(nil, t)) // rare
	}
}

var lastChunk = []byte("0\r\n\r\n")
