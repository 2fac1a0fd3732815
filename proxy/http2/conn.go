// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"time"

	"redoubt.dev/proxy/message"
)

// Role is which end of the connection we are.
type Role uint8

// The roles.
const (
	Server Role = iota
	Client
)

// Writer is where frames go. It takes all of p at once and does not keep it.
type Writer interface{ Append(p []byte) }

// Handler is the owner of the connection and is told what the peer does. Its
// methods are called from inside Feed, and Reset also from inside Writable
// and Elapse. They must not keep p.
type Handler interface {
	// Open begins a request (server role); it must set s.Req.
	Open(s *Stream)
	// Head tells that s.Req or s.Resp (final or interim) has been decoded.
	Head(s *Stream, end bool)
	// Refuse tells that a request's head is beyond our bounds (server role):
	// s.Req is not usable, the request should be answered with status (431),
	// or reset. Its body is still delivered.
	Refuse(s *Stream, status int, end bool)
	// Body delivers body bytes and returns how many were consumed; the rest
	// must be copied by the handler, who tells Consumed later. What can be
	// outstanding is bounded by Options.StreamWindow.
	Body(s *Stream, p []byte, end bool) int
	// Trailers ends the peer's side of the stream with trailers, decoded into
	// s.Trailers if that was set.
	Trailers(s *Stream)
	// Reset tells that the peer reset the stream, or broke its rules so that
	// we did. Owner.Closed follows.
	Reset(s *Stream, code Code)
	// Window tells that a stream which WriteData left short may send again.
	Window(s *Stream)
	// GoAway tells that the peer will take no new streams. Those above last
	// were not processed: Reset follows for each, with Unprocessed.
	GoAway(last uint32, code Code)
	// Settled tells that the peer's SETTINGS arrived: CanOpen may have changed.
	Settled()
}

// New makes a connection. Nothing is written before Start.
func New(role Role, o Options, h Handler, w Writer) *Conn {
	c := new(Conn)
	c.Reset(role, o, h, w)
	return c
}

// Conn is one HTTP/2 connection. It belongs to one loop.
type Conn struct {
	role Role
	o    Options
	h    Handler
	w    Writer

	sendWin int64
	room    int
}

// Reset makes c a new connection and keeps its memory. Streams that were open
// are forgotten without a word.
func (c *Conn) Reset(role Role, o Options, h Handler, w Writer) {}

// Start writes our preface: SETTINGS, and WINDOW_UPDATE when ConnWindow is
// wider than what the protocol begins with.
func (c *Conn) Start() {}

// Feed reads what is whole in b and returns how many bytes that was; DATA is
// read in pieces as it comes. The rest of b, and more, must be given again:
// at most MaxFrame and 9 bytes. An error is a *Fault and ends the connection:
// GOAWAY was written, and Feed reads nothing more.
func (c *Conn) Feed(b []byte) (n int, err error) { return }

// NewStream gives a stream for WriteRequest.
func (c *Conn) NewStream() *Stream { return c.o.Pool.get() }

// WriteRequest opens a stream (client role). s is from NewStream. When it
// returns an error, nothing was written and s is gone, without Owner.Closed.
func (c *Conn) WriteRequest(m *message.Request, s *Stream, end bool) error { return nil }

// WriteResponse writes a response's head, interim or final.
func (c *Conn) WriteResponse(s *Stream, m *message.Response, end bool) {}

// WriteData writes as much of p as windows, room and a fair share allow; when
// that is all of it and end is set, our side of the stream ends. When it is
// less, Handler.Window follows.
func (c *Conn) WriteData(s *Stream, p []byte, end bool) (n int) { return }

// WriteTrailers ends our side of the stream with trailers. All data must have
// been written.
func (c *Conn) WriteTrailers(s *Stream, t *message.Head) {}

// Consumed gives window back for n bytes that Body delivered and did not
// report as consumed. For a stream that is over it does nothing.
func (c *Conn) Consumed(s *Stream, n int) {}

// ResetStream ends a stream at once. Handler.Reset is not called, Owner.Closed
// is. Nothing happens when s is over already.
func (c *Conn) ResetStream(s *Stream, code Code) {}

// GoAway writes GOAWAY with the last stream that we took, and takes no more.
// With a code other than NoError the owner should close the connection after
// what was written has left.
func (c *Conn) GoAway(code Code) {}

// Shutdown begins a graceful end: GOAWAY that refuses nothing yet, and a PING.
// When its answer comes, or the owner calls Finish, a second GOAWAY names the
// last stream. The owner closes when Active is 0.
func (c *Conn) Shutdown() {}

// Finish ends the first part of Shutdown.
func (c *Conn) Finish() {}

// Ping writes a PING. Unanswered tells whether it came back.
func (c *Conn) Ping() {}

// Unanswered is how many PINGs have not come back.
func (c *Conn) Unanswered() int { return 0 }

// CanOpen tells whether WriteRequest can open another stream now.
func (c *Conn) CanOpen() bool { return false }

// Active is how many streams are open.
func (c *Conn) Active() int { return 0 }

// Closing tells that no new streams come to be: GOAWAY was sent or received,
// or the connection failed.
func (c *Conn) Closing() bool { return false }

// PeerConnect tells that the peer takes extended CONNECT (RFC 8441).
func (c *Conn) PeerConnect() bool { return false }

// Writable bounds WriteData to room bytes, over all streams, until it is
// called again, and lets those that wait go on. Without any call there is no
// bound; an owner calls it whenever its transport has drained.
func (c *Conn) Writable(room int) {}

// Elapse tells that time has passed: credit against floods comes back, 20
// frames and 5 resets a second. Coarse calls will do, such as before a Feed.
func (c *Conn) Elapse(d time.Duration) {}

// Export appends all of the connection's state to dst, so that Import can go
// on with it in another process. The connection must not be used after.
func (c *Conn) Export(dst []byte) []byte { return dst }

// Import makes a connection of what Export wrote. adopt is called for each
// open stream, by age, and must set what Handler.Open or the caller of
// WriteRequest would. Options may differ only in bounds that were not
// announced to the peer.
func Import(b []byte, o Options, h Handler, w Writer, adopt func(s *Stream)) (*Conn, error) {
	return nil, nil
}
