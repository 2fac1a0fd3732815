// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/engine"
)

// slowAcceptor takes one connection a turn, so that what is left must be told
// of again.
type slowAcceptor struct {
	l   *engine.Loop
	w   engine.Watch
	fd  int
	got *atomic.Int64
}

func (a *slowAcceptor) Ready(uint32) {
	fd, _, err := sys.Accept(a.fd)
	if err != nil {
		return
	}
	a.got.Add(1)
	if _, err := a.l.Add(fd, false, &echo{make(chan error, 1)}); err != nil {
		panic("engine_test: " + err.Error())
	}
}

func listenTCP(t testing.TB) (fd int, at string) {
	t.Helper()
	fd, err := sys.Socket(unix.AF_INET, unix.SOCK_STREAM)
	if err == nil {
		err = unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}})
	}
	if err == nil {
		err = unix.Listen(fd, 512)
	}
	if err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(sa.(*unix.SockaddrInet4).Port)).String()
}

// TestListenersAreLevelTriggered: two loops share a listener, take one
// connection a turn, and leave none; after Unwatch they take none.
func TestListenersAreLevelTriggered(t *testing.T) {
	fd, at := listenTCP(t)
	var got atomic.Int64
	var as []*slowAcceptor
	for range 2 {
		a := &slowAcceptor{l: start(t), fd: fd, got: &got}
		as = append(as, a)
		on(t, a.l, func() {
			var err error
			if a.w, err = a.l.Watch(fd, engine.Shared, a); err != nil {
				t.Error(err)
			}
		})
	}
	const n = 100
	for range n {
		c, err := net.Dial("tcp", at)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(20 * time.Second))
		defer func() { // all are dialed by then
			b := make([]byte, 2)
			if _, err := c.Write([]byte("hi")); err != nil {
				t.Error(err)
			}
			if _, err := io.ReadFull(c, b); err != nil {
				t.Error(err)
			}
		}()
	}
	for end := time.Now().Add(20 * time.Second); got.Load() < n; {
		if time.Now().After(end) {
			t.Fatalf("%d of %d connections taken", got.Load(), n)
		}
		on(t, as[0].l, func() {})
	}
	for _, a := range as {
		on(t, a.l, func() { a.l.Unwatch(a.w) })
	}
	c, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, a := range as {
		on(t, a.l, func() {})
	}
	if got.Load() != n {
		t.Error("a connection was taken after Unwatch")
	}
}

// churn closes its connection at the first byte, so that a later event of the
// descriptor's number is another connection's.
type churn struct{ closed *atomic.Int64 }

func (h churn) OnConn(c *engine.Conn) {
	if !c.Fill(4<<10) || len(c.Bytes()) == 0 && !c.Dead() {
		return
	}
	c.Abort()
	h.closed.Add(1)
}

// TestChurn opens and closes connections as fast as they come, with events
// under way for those that are closed.
func TestChurn(t *testing.T) {
	l := start(t)
	var closed atomic.Int64
	const n, rounds = 8, 50
	done := make(chan error, n)
	fds := make(chan int, n)
	lfd, at := listenTCP(t)
	for range n {
		go func() {
			for range rounds {
				c, err := net.Dial("tcp", at)
				if err != nil {
					done <- err
					return
				}
				c.SetDeadline(time.Now().Add(20 * time.Second))
				c.Write([]byte("x"))
				c.Write([]byte("y"))
				if _, err := c.Read(make([]byte, 1)); err == nil {
					done <- errors.New("bytes from nowhere")
					return
				}
				c.Close()
			}
			done <- nil
		}()
	}
	a := accepting{fd: lfd, got: fds}
	on(t, l, func() {
		if _, err := l.Watch(lfd, engine.Readable, a); err != nil {
			t.Error(err)
		}
	})
	go func() {
		for fd := range fds {
			l.Post(func() { l.Add(fd, false, churn{&closed}) })
		}
	}()
	defer close(fds)
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for end := time.Now().Add(20 * time.Second); closed.Load() < n*rounds && time.Now().Before(end); {
		on(t, l, func() {})
	}
	if closed.Load() != n*rounds || l.Load() != 0 {
		t.Errorf("%d connections closed of %d, %d open", closed.Load(), n*rounds, l.Load())
	}
}

type accepting struct {
	fd  int
	got chan int
}

func (a accepting) Ready(uint32) {
	if fd, _, err := sys.Accept(a.fd); err == nil {
		a.got <- fd
	}
}

// TestResetIsToldUnread: that a peer has given up is told also while nothing
// is read.
func TestResetIsToldUnread(t *testing.T) {
	l := start(t)
	c, fd := tcpPair(t)
	h := &unread{make(chan struct{}), make(chan struct{})}
	on(t, l, func() { l.Add(fd, false, h) })
	c.Write([]byte("never read"))
	<-h.some
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	<-h.reset
}

// unread looks at nothing but how its connection is.
type unread struct{ some, reset chan struct{} }

func (h *unread) OnConn(c *engine.Conn) {
	if len(c.Bytes()) == 0 && c.Fill(2) {
		close(h.some)
	}
	if c.Reset() {
		close(h.reset)
		c.Close()
	}
}
