// SPDX-License-Identifier: Apache-2.0

package http2

import "redoubt.dev/proxy/message"

// Owner is whom a stream belongs to on our side.
type Owner interface {
	// Closed tells that s is over in both directions, or was reset by either
	// side. It is the last that is heard of s, comes exactly once, and s must
	// not be used any more: it becomes another stream.
	Closed(s *Stream)
}

// Stream is one request with its response. The connection owns it, from
// Handler.Open or Conn.NewStream until Owner.Closed.
type Stream struct {
	Owner Owner // set in Handler.Open, or before WriteRequest; may be nil

	// Req is what a request's head is decoded into: set by Handler.Open.
	// Resp is the same for responses: set before WriteRequest. It is Reset
	// before each head; interim responses and the final one use the same.
	Req  *message.Request
	Resp *message.Response
	// Trailers is what trailers are decoded into, if not nil. It is Reset
	// before.
	Trailers *message.Head

	// Urgency (0 first, 7 last) and Incremental are the peer's wishes (RFC
	// 9218, 4). Without a priority field: 3 and true, so that streams which
	// say nothing share the connection evenly.
	Urgency     uint8
	Incremental bool
	// Unprocessed tells in Handler.Reset that the peer has not acted on the
	// request: it may be sent again on another connection, whatever its method.
	Unprocessed bool

	c        *Conn // nil: not open
	id       uint32
	state    state
	sendWin  int64 // what the peer takes; negative after it lowered its initial window
	recvWin  int64 // what the peer may send
	credit   int64 // consumed, not yet told to the peer
	owed     int64 // delivered to the owner, not yet consumed
	want     int64 // bytes of body still to come by content-length; -1 unknown
	line     uint8 // 1 + urgency of the queue it waits in; 0 for none
	prev     *Stream
	next     *Stream // in the queue of those that wait to send
	older    *Stream // in the list of all, by age
	younger  *Stream
	nextFree *Stream
}

type state uint16

const (
	recvEnd   state = 1 << iota // the peer sent END_STREAM
	sendEnd                     // we did
	gotHead                     // a request or final response was decoded
	sentHead                    // a request or final response was written
	headOnly                    // the request's method is HEAD
	connects                    // the request's method is CONNECT
	wantsRoom                   // WriteData was short; Window is due
)

// ID is the stream's number on the wire.
func (s *Stream) ID() uint32 { return s.id }

// Conn is the connection of an open stream; nil before and after.
func (s *Stream) Conn() *Conn { return s.c }

// Received tells that the peer's side has ended.
func (s *Stream) Received() bool { return s.state&recvEnd != 0 }

// Sent tells that our side has ended.
func (s *Stream) Sent() bool { return s.state&sendEnd != 0 }

// Answered tells that a final response's head was written or decoded.
func (s *Stream) Answered() bool {
	if s.c != nil && s.c.role == Client {
		return s.state&gotHead != 0
	}
	return s.state&sentHead != 0
}

// Younger is the stream that was opened next; nil for none.
func (s *Stream) Younger() *Stream { return s.younger }

// Room is how many bytes WriteData would take now.
func (s *Stream) Room() int {
	if s.c == nil {
		return 0
	}
	return int(max(0, min(s.sendWin, s.c.sendWin, s.c.room)))
}

// Unread is how many bytes were delivered that Consumed was not told of.
func (s *Stream) Unread() int { return int(s.owed) }

// Pool keeps Streams that are not in use. The zero Pool is empty and ready.
// One belongs to one loop.
type Pool struct {
	free *Stream
	n    int
}

// maxPool bounds what a Pool keeps, 160 bytes each.
const maxPool = 4096

func (p *Pool) get() *Stream {
	s := p.free
	if s == nil {
		return new(Stream)
	}
	p.free, s.nextFree = s.nextFree, nil
	p.n--
	return s
}

func (p *Pool) put(s *Stream) {
	*s = Stream{}
	if p.n < maxPool {
		s.nextFree, p.free = p.free, s
		p.n++
	}
}
