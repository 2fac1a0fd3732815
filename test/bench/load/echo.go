// SPDX-License-Identifier: Apache-2.0

package load

import (
	"bufio"
	"context"
	"io"
	"net"
	"net/netip"

	"golang.org/x/net/http2"
)

// Header blocks that need no HPACK state (RFC 7541 §6.1, §6.2.2): an origin
// that keeps no table costs little and cannot fall out of step.
var (
	// :status 200, content-type: application/grpc
	answerBlock = append([]byte{0x88, 0x0f, 0x10, 16}, "application/grpc"...)
	// grpc-status: 0
	trailerBlock = []byte("\x00\x0bgrpc-status\x010")
	// Without any message: internal error, in the only block.
	emptyBlock = append(append([]byte{}, answerBlock...), "\x00\x0bgrpc-status\x0213"...)
)

// window is what the origin lets its peers send before it says more.
const window = 1 << 30

// Echo is a gRPC origin without TLS: each message of a stream comes back, and
// the end of the client's half ends the stream with status 0. It so answers
// unary calls and streams of any method whose request and response look alike.
func Echo(ctx context.Context, at netip.AddrPort) error {
	return serve(ctx, at, func(c net.Conn) {
		e := &echo{r: bufio.NewReaderSize(c, 64<<10), w: bufio.NewWriterSize(c, 64<<10), streams: map[uint32]*echoed{}, credit: 65535, initial: 65535}
		e.serve()
	})
}

// echo is one connection.
type echo struct {
	r        *bufio.Reader
	w        *bufio.Writer
	f        *http2.Framer
	streams  map[uint32]*echoed
	credit   int64 // what the peer takes on the connection
	initial  int64 // and on a new stream
	received uint32
}

// echoed is one stream.
type echoed struct {
	credit  int64
	open    bool   // the response's head was sent
	ended   bool   // the client's half
	pending []byte // what the peer's windows held back
}

func (e *echo) serve() {
	preface := make([]byte, len(http2.ClientPreface))
	if _, err := io.ReadFull(e.r, preface); err != nil || string(preface) != http2.ClientPreface {
		return
	}
	e.f = http2.NewFramer(e.w, e.r)
	e.f.SetReuseFrames()
	err := e.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window}, http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: 10000},
		http2.Setting{ID: http2.SettingHeaderTableSize, Val: 0})
	if err == nil {
		err = e.f.WriteWindowUpdate(0, window)
	}
	for err == nil {
		if e.r.Buffered() == 0 {
			if e.w.Flush() != nil {
				return
			}
		}
		var f http2.Frame
		if f, err = e.f.ReadFrame(); err == nil {
			err = e.take(f)
		}
	}
}

func (e *echo) take(f http2.Frame) error {
	id := f.Header().StreamID
	s := e.streams[id]
	switch f := f.(type) {
	case *http2.SettingsFrame:
		return e.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			return e.f.WritePing(true, f.Data)
		}
	case *http2.WindowUpdateFrame:
		if id == 0 {
			e.credit += int64(f.Increment)
			for id, s := range e.streams {
				if err := e.send(id, s); err != nil {
					return err
				}
			}
		} else if s != nil {
			s.credit += int64(f.Increment)
			return e.send(id, s)
		}
	case *http2.RSTStreamFrame:
		delete(e.streams, id)
	case *http2.HeadersFrame:
		if s == nil {
			s = &echoed{credit: e.initial}
			e.streams[id] = s
		}
		s.ended = f.StreamEnded()
		return e.send(id, s)
	case *http2.DataFrame:
		return e.data(id, s, f)
	}
	return nil
}

func (e *echo) data(id uint32, s *echoed, f *http2.DataFrame) error {
	if e.received += f.Length; e.received > window/4 {
		if err := e.f.WriteWindowUpdate(0, e.received); err != nil {
			return err
		}
		e.received = 0
	}
	if s == nil {
		return nil // reset meanwhile
	}
	s.ended = f.StreamEnded()
	s.pending = append(s.pending, f.Data()...)
	return e.send(id, s)
}

func (e *echo) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		return nil
	}
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		for _, s := range e.streams { // RFC 9113 §6.9.2
			s.credit += int64(v) - e.initial
		}
		e.initial = int64(v)
	}
	return e.f.WriteSettingsAck()
}

// send writes what the windows allow, in frames of the smallest legal limit.
func (e *echo) send(id uint32, s *echoed) error {
	if len(s.pending) > 0 && !s.open {
		s.open = true
		if err := e.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: answerBlock, EndHeaders: true}); err != nil {
			return err
		}
	}
	for len(s.pending) > 0 {
		n := min(int64(len(s.pending)), s.credit, e.credit, 16384)
		if n <= 0 {
			return nil
		}
		if err := e.f.WriteData(id, false, s.pending[:n]); err != nil {
			return err
		}
		s.credit, e.credit = s.credit-n, e.credit-n
		s.pending = s.pending[:copy(s.pending, s.pending[n:])]
	}
	if !s.ended {
		return nil
	}
	delete(e.streams, id)
	block := trailerBlock
	if !s.open {
		block = emptyBlock
	}
	return e.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true})
}
