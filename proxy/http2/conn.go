// SPDX-License-Identifier: Apache-2.0

package http2

import (
	"encoding/binary"

	"redoubt.dev/proxy/http2/hpack"
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
// methods are called from inside Feed; Window also from inside Writable, and
// Reset from inside Close. They must not keep p.
type Handler interface {
	// Open begins a request (server role); it must set s.Req, or reset s.
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

	dec  hpack.Decoder
	enc  hpack.Encoder
	buf  []byte          // frames that we write are put together here
	tiny [frameHead]byte // … and heads of frames whose payload is elsewhere
	void message.Head    // what is decoded for nobody

	streams          table
	oldest, youngest *Stream
	waiting          [8]line // by urgency
	gone             []gone  // reset not long ago, a ring
	goneAt           int
	ended            [8]uint32 // ended well not long ago, a ring
	endedAt          int

	phase  phase
	fault  *Fault
	data   dataFrame
	block  fieldBlock
	budget budget

	lastPeer uint32 // highest stream that the peer opened
	nextID   uint32 // that we open; 0 in the server role
	recvWin  int64  // what the peer may send on all streams
	credit   int64  // consumed, not yet told
	sendWin  int64
	room     int64 // what Writable left; or unbounded
	resuming bool

	peerWindow  int64 // a stream's send window at its start
	peerFrame   uint32
	peerStreams uint32
	peerConnect bool

	unacked    uint8 // SETTINGS of ours
	pings      uint8 // PINGs of ours that have not come back
	awaySent   bool
	lastServed uint32 // with awaySent: streams above are not taken
	awayGot    bool
	ending     bool // Shutdown was called and Finish is due
}

// unbounded is the room when Writable was never called.
const unbounded = 1<<63 - 1

type phase uint8

const (
	wantPreface phase = iota
	wantSettings
	running
)

// Reset makes c a new connection and keeps its memory. Streams that were open
// are forgotten without a word.
func (c *Conn) Reset(role Role, o Options, h Handler, w Writer) {
	o.fill()
	streams := c.streams
	streams.clear()
	*c = Conn{
		role: role, o: o, h: h, w: w, dec: c.dec, enc: c.enc, buf: c.buf[:0], void: message.Head{Buf: c.void.Buf[:0]}, gone: c.gone[:0], streams: streams,
		block: fieldBlock{buf: c.block.buf[:0]}, recvWin: defaultWindow, sendWin: defaultWindow, room: unbounded,
		peerWindow: defaultWindow, peerFrame: defaultMaxFrame, peerStreams: 100,
	}
	c.dec.Init()
	c.enc.Init(o.EncoderTable)
	c.budget.fill(&c.o)
	if role == Client {
		c.phase, c.nextID = wantSettings, 1
	}
}

// Start writes our preface: SETTINGS, and WINDOW_UPDATE when ConnWindow is
// wider than what the protocol begins with.
func (c *Conn) Start() {
	b := c.buf[:0]
	if c.role == Client {
		b = append(b, preface...)
	}
	at := len(b)
	b = appendFrame(b, 0, frameSettings, 0, 0)
	set := func(id uint16, v uint32) {
		b = binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(b, id), v)
	}
	if c.o.TableSize != defaultTableSize {
		set(setTableSize, c.o.TableSize)
	}
	if c.role == Client {
		set(setEnablePush, 0)
	} else {
		set(setMaxStreams, c.o.MaxStreams)
		if c.o.AllowConnect {
			set(setConnect, 1)
		}
	}
	if c.o.StreamWindow != defaultWindow {
		set(setWindow, c.o.StreamWindow)
	}
	if c.o.MaxFrame != defaultMaxFrame {
		set(setMaxFrame, c.o.MaxFrame)
	}
	set(setMaxList, c.o.MaxList)
	set(setNoPriorities, 1)
	putLength(b[at:], len(b)-at-frameHead)
	c.unacked++
	if more := int64(c.o.ConnWindow) - c.recvWin; more > 0 {
		b = appendWindow(b, 0, more)
		c.recvWin += more
	}
	c.write(b)
}

// write sends b, which is or becomes the scratch buffer.
func (c *Conn) write(b []byte) {
	c.w.Append(b)
	c.buf = b[:0]
}

func appendFrame(b []byte, length int, typ, flags byte, id uint32) []byte {
	return append(b, byte(length>>16), byte(length>>8), byte(length), typ, flags,
		byte(id>>24), byte(id>>16), byte(id>>8), byte(id))
}

func putLength(b []byte, n int) { b[0], b[1], b[2] = byte(n>>16), byte(n>>8), byte(n) }

func appendWindow(b []byte, id uint32, n int64) []byte {
	return binary.BigEndian.AppendUint32(appendFrame(b, 4, frameWindow, 0, id), uint32(n))
}

// fail ends the connection for the peer's fault.
func (c *Conn) fail(f *Fault) {
	c.fault = f
	c.goAway(f.Code, c.taken())
}

// taken is the last stream that we acted on, or will. It never grows once it
// was said (RFC 9113, 6.8).
func (c *Conn) taken() uint32 {
	if c.awaySent {
		return c.lastServed
	}
	return c.lastPeer
}

func (c *Conn) goAway(code Code, last uint32) {
	b := appendFrame(c.buf[:0], 8, frameGoAway, 0, 0)
	b = binary.BigEndian.AppendUint32(b, last)
	c.write(binary.BigEndian.AppendUint32(b, uint32(code)))
}

// GoAway writes GOAWAY with the last stream that we took, and takes no more.
// With a code other than NoError the owner should close the connection after
// what was written has left.
func (c *Conn) GoAway(code Code) {
	if c.fault != nil || c.awaySent && code == NoError {
		return
	}
	c.ending = false
	c.awaySent, c.lastServed = true, c.taken()
	c.goAway(code, c.lastServed)
}

// shutdownPing marks the PING of Shutdown.
var shutdownPing = [8]byte{'s', 'h', 'u', 't', 'd', 'o', 'w', 'n'}

// Shutdown begins a graceful end: GOAWAY that refuses nothing yet, and a PING.
// When its answer comes, or the owner calls Finish, a second GOAWAY names the
// last stream. The owner closes when Active is 0 and Closing is true.
func (c *Conn) Shutdown() {
	if c.fault != nil || c.awaySent || c.ending {
		return
	}
	c.ending = true
	c.goAway(NoError, maxID)
	c.ping(shutdownPing)
}

// Finish ends the first part of Shutdown.
func (c *Conn) Finish() {
	if c.ending {
		c.GoAway(NoError)
	}
}

// Ping writes a PING. Unanswered tells whether it came back.
func (c *Conn) Ping() {
	if c.pings < 255 {
		c.ping([8]byte{'p', 'i', 'n', 'g'})
	}
}

func (c *Conn) ping(p [8]byte) {
	c.pings++
	c.write(append(appendFrame(c.buf[:0], 8, framePing, 0, 0), p[:]...))
}

// Unanswered is how many PINGs have not come back.
func (c *Conn) Unanswered() int { return int(c.pings) }

// CanOpen tells whether WriteRequest can open another stream now.
func (c *Conn) CanOpen() bool {
	return c.role == Client && !c.Closing() && c.nextID <= maxID && uint32(c.streams.n) < min(c.peerStreams, c.o.MaxStreams)
}

// Active is how many streams are open.
func (c *Conn) Active() int { return c.streams.n }

// Closing tells that no new streams come to be: GOAWAY was sent or received,
// or the connection failed.
func (c *Conn) Closing() bool { return c.awaySent || c.awayGot || c.fault != nil }

// PeerConnect tells that the peer takes extended CONNECT (RFC 8441).
func (c *Conn) PeerConnect() bool { return c.peerConnect }

// Settled tells that the peer's SETTINGS have arrived.
func (c *Conn) Settled() bool { return c.phase == running }

// Halfway tells that the peer owes the rest of its preface, its SETTINGS or a
// field block, which nothing else can overtake: an owner gives that a deadline
// of its own (slow headers; a block held back keeps up to twice MaxList).
func (c *Conn) Halfway() bool { return c.phase != running || c.block.on }

// Oldest is the stream that has been open for longest; nil for none. Younger
// streams follow by Stream.Younger.
func (c *Conn) Oldest() *Stream { return c.oldest }

// Close forgets all streams, each with Reset and Closed, after the transport
// has ended or the connection failed. Nothing is written.
func (c *Conn) Close(code Code) {
	if c.fault == nil {
		c.fault = errClosed
	}
	for c.oldest != nil {
		c.drop(c.oldest, code)
	}
}

// drop tells that a stream is over and forgets it.
func (c *Conn) drop(s *Stream, code Code) {
	id := s.id
	c.h.Reset(s, code)
	if c.has(s, id) {
		c.close(s, byPeer)
	}
}

// has tells that s is still the stream that it was before a callback.
func (c *Conn) has(s *Stream, id uint32) bool { return s.c == c && s.id == id }
