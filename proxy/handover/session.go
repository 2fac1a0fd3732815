// SPDX-License-Identifier: Apache-2.0

package handover

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
)

// Kind is what a frame is for. Package serve gives the steps their meaning;
// those below are the socket's own.
type Kind uint8

// The frames of this package.
const (
	KindHello   Kind = 1 + iota // new: I am here
	KindRefused                 // old: go away; the body says why
	KindWelcome                 // old: you may
	kindFDs                     // descriptors of the frame that follows

	// KindFirst is the first that is the user's.
	KindFirst
)

// Bounds of a frame. maxFDs is the kernel's SCM_MAX_FD; more travel in frames
// of their own before the one they belong to.
const (
	maxBody  = 32 << 20
	maxFDs   = 253
	mostFDs  = 4096
	headLen  = 12
	magic    = "rdh1"
	lastKind = 32
)

// Frame is one message. Who receives it owns the descriptors and takes those
// it wants by Take; Close closes the rest and wipes the body.
type Frame struct {
	Kind Kind
	Body []byte
	FDs  []int // -1 once taken
}

// Take gives the i-th descriptor to the caller; -1 when there is none.
func (f *Frame) Take(i int) int {
	if i < 0 || i >= len(f.FDs) {
		return -1
	}
	fd := f.FDs[i]
	f.FDs[i] = -1
	return fd
}

// Close ends the frame. It may be called again.
func (f *Frame) Close() {
	closeAll(f.FDs)
	f.FDs = nil
	clear(f.Body)
}

func closeAll(fds []int) {
	for _, fd := range fds {
		if fd >= 0 {
			unix.Close(fd)
		}
	}
}

// Session is the connection between a proxy and its successor. One goroutine
// may send while another receives.
type Session struct {
	c      *net.UnixConn
	Peer   Peer
	keeper *Keeper // that let the peer in; nil at the peer
	kept   bool
	over   atomic.Bool // Interrupt was called
}

// Superseded tells that another process has taken the socket's name: whatever
// became of this session, that one serves.
func (s *Session) Superseded() bool { return s.keeper != nil && !s.keeper.kept() }

// Interrupt ends what waits in Receive, now and from now on. Send still works.
func (s *Session) Interrupt() {
	s.over.Store(true)
	s.c.SetReadDeadline(time.Unix(1, 0))
}

// Keep has the session live on when the function that Keeper.Run gave it to
// returns: whoever calls Keep calls Close.
func (s *Session) Keep() { s.kept = true }

// Close ends the session; the other side sees it.
func (s *Session) Close() { s.c.Close() }

// Send writes a frame, within a time. The descriptors stay the caller's.
func (s *Session) Send(k Kind, body []byte, fds []int, within time.Duration) error {
	if len(body) > maxBody || len(fds) > mostFDs {
		return errs.New(errs.TooLarge, "frame", "%d bytes, %d descriptors", len(body), len(fds))
	}
	s.c.SetWriteDeadline(time.Now().Add(within))
	for len(fds) > maxFDs {
		if err := s.send(kindFDs, nil, fds[:maxFDs]); err != nil {
			return err
		}
		fds = fds[maxFDs:]
	}
	return s.send(k, body, fds)
}

func (s *Session) send(k Kind, body []byte, fds []int) error {
	var h [headLen]byte
	copy(h[:], magic)
	h[4] = byte(k)
	binary.BigEndian.PutUint16(h[6:], uint16(len(fds)))
	binary.BigEndian.PutUint32(h[8:], uint32(len(body)))
	var oob []byte
	if len(fds) > 0 {
		oob = unix.UnixRights(fds...)
	}
	n, _, err := s.c.WriteMsgUnix(h[:], oob, nil)
	if err == nil && n != headLen {
		err = io.ErrShortWrite
	}
	if err == nil && len(body) > 0 {
		_, err = s.c.Write(body)
	}
	if err != nil {
		return fmt.Errorf("send to peer: %w", err)
	}
	return nil
}

// Receive reads a frame, within a time.
func (s *Session) Receive(within time.Duration) (*Frame, error) {
	s.c.SetReadDeadline(time.Now().Add(within))
	if s.over.Load() {
		s.c.SetReadDeadline(time.Unix(1, 0))
	}
	f := &Frame{}
	for {
		k, n, err := s.head(f)
		if err != nil {
			f.Close()
			return nil, err
		}
		if k == kindFDs {
			continue
		}
		f.Kind, f.Body = k, make([]byte, n)
		if _, err := io.ReadFull(s.c, f.Body); err != nil {
			f.Close()
			return nil, fmt.Errorf("receive from peer: %w", err)
		}
		return f, nil
	}
}

// Expect receives a frame of kind k; a refusal becomes an error.
func (s *Session) Expect(k Kind, within time.Duration) (*Frame, error) {
	f, err := s.Receive(within)
	if err != nil || f.Kind == k {
		return f, err
	}
	defer f.Close()
	if f.Kind == KindRefused {
		return nil, &errs.Error{Kind: errs.Denied, Subject: "upgrade", Seen: string(f.Body)}
	}
	return nil, &errs.Error{Kind: errs.Invalid, Subject: "upgrade", Field: "frame", Expected: fmt.Sprint(k), Seen: fmt.Sprint(f.Kind)}
}

// head reads a frame's head and its descriptors into f. The head is sent by
// itself: the kernel does not merge what carries descriptors with what came
// before or after.
func (s *Session) head(f *Frame) (Kind, int, error) {
	var h [headLen]byte
	oob := make([]byte, unix.CmsgSpace(maxFDs*4))
	got, before := 0, len(f.FDs)
	for got < headLen {
		n, oobn, flags, _, err := s.c.ReadMsgUnix(h[got:], oob)
		if err == nil && n == 0 {
			err = io.EOF
		}
		if oobn > 0 {
			fds, bad := rights(oob[:oobn])
			f.FDs = append(f.FDs, fds...)
			if bad != nil {
				return 0, 0, bad
			}
		}
		if err != nil {
			return 0, 0, fmt.Errorf("receive from peer: %w", err)
		}
		if flags&unix.MSG_CTRUNC != 0 {
			return 0, 0, errs.New(errs.TooLarge, "frame", "descriptors lost: limit reached")
		}
		got += n
	}
	k, n, fds, err := parseHead(h[:])
	if err == nil && (len(f.FDs)-before != fds || len(f.FDs) > mostFDs) {
		err = errs.New(errs.Invalid, "frame", "%d descriptors came, %d announced", len(f.FDs)-before, fds)
	}
	return k, n, err
}

// parseHead reads a frame's head: four bytes magic, kind, zero, two bytes
// number of descriptors, four bytes length.
func parseHead(h []byte) (k Kind, n, fds int, err error) {
	if len(h) != headLen || string(h[:4]) != magic {
		return 0, 0, 0, errs.New(errs.Invalid, "frame", "not of this protocol's version")
	}
	k, n, fds = Kind(h[4]), int(binary.BigEndian.Uint32(h[8:])), int(binary.BigEndian.Uint16(h[6:]))
	if k == 0 || k > lastKind || h[5] != 0 || n > maxBody || fds > maxFDs || k == kindFDs && (n > 0 || fds == 0) {
		return 0, 0, 0, errs.New(errs.Invalid, "frame", "kind %d, %d bytes, %d descriptors", k, n, fds)
	}
	return k, n, fds, nil
}

func rights(oob []byte) (fds []int, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("receive descriptors: %w", err)
	}
	for i := range msgs {
		got, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return fds, fmt.Errorf("receive descriptors: %w", err)
		}
		fds = append(fds, got...)
	}
	return fds, nil
}
