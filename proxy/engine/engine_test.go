// SPDX-License-Identifier: Apache-2.0

package engine_test

import (
	"bytes"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/base/sys"
	"redoubt.dev/proxy/engine"
)

// start runs a loop until the test ends.
func start(t testing.TB) *engine.Loop {
	t.Helper()
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	t.Cleanup(func() {
		l.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l
}

// on runs f on the loop and waits for it.
func on(t testing.TB, l *engine.Loop, f func()) {
	t.Helper()
	done := make(chan struct{})
	if !l.Post(func() { f(); close(done) }) {
		t.Fatal("loop has ended")
	}
	<-done
}

// tcpPair gives a blocking connection and the descriptor of its other end.
func tcpPair(t testing.TB) (net.Conn, int) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(20 * time.Second))
	s, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	s.Close()
	fd, err := unix.Dup(int(f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	unix.SetNonblock(fd, true)
	return c, fd
}

// echo sends back what it gets, and its end.
type echo struct{ closed chan error }

func (e *echo) OnConn(c *engine.Conn) {
	for {
		if b := c.Bytes(); len(b) > 0 {
			n := c.Send(b)
			c.Discard(n)
			if n < len(b) {
				return
			}
		}
		if !c.Fill(64 << 10) {
			break
		}
	}
	if c.Dead() && len(c.Bytes()) == 0 {
		e.closed <- c.Err()
		c.Finish()
	}
}

func TestEchoWithBackPressure(t *testing.T) {
	l := start(t)
	c, fd := tcpPair(t)
	h := &echo{make(chan error, 1)}
	on(t, l, func() {
		if _, err := l.Add(fd, false, h); err != nil {
			t.Error(err)
		}
	})
	body := make([]byte, 8<<20)
	rand.NewChaCha8([32]byte{3}).Read(body)
	go func() {
		c.Write(body)
		c.(*net.TCPConn).CloseWrite()
	}()
	var got bytes.Buffer
	buf := make([]byte, 3000) // a slow reader: small reads let the loop's writes block
	for {
		n, err := c.Read(buf)
		got.Write(buf[:n])
		if err != nil {
			break
		}
	}
	if !bytes.Equal(got.Bytes(), body) {
		t.Fatalf("%d bytes of %d, or changed", got.Len(), len(body))
	}
	if err := <-h.closed; err != nil {
		t.Fatal(err)
	}
}

func TestResetIsNoEnd(t *testing.T) {
	l := start(t)
	c, fd := tcpPair(t)
	h := &echo{make(chan error, 1)}
	on(t, l, func() { l.Add(fd, false, h) })
	c.(*net.TCPConn).SetLinger(0)
	c.Close()
	if err := <-h.closed; err == nil {
		t.Fatal("a reset was taken for an end")
	}
}

type dialed struct{ done chan error }

func (d *dialed) OnConn(c *engine.Conn) {
	if !c.Connecting() {
		d.done <- c.Err()
		c.Close()
	}
}

func TestConnectRefused(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	at := netip.MustParseAddrPort(ln.Addr().String())
	ln.Close()
	l := start(t)
	fd, err := sys.Socket(unix.AF_INET, unix.SOCK_STREAM)
	if err != nil {
		t.Fatal(err)
	}
	h := &dialed{make(chan error, 4)}
	on(t, l, func() {
		err := unix.Connect(fd, &unix.SockaddrInet4{Addr: at.Addr().As4(), Port: int(at.Port())})
		if err != nil && err != unix.EINPROGRESS {
			unix.Close(fd)
			h.done <- err
			return
		}
		l.Add(fd, err != nil, h)
	})
	if err := <-h.done; err == nil {
		t.Fatal("connected to nothing")
	}
}

type alarm struct {
	t     engine.Timer
	l     *engine.Loop
	fired chan int64
}

func (a *alarm) Expire(*engine.Timer) { a.fired <- engine.Mono() }

func TestTimers(t *testing.T) {
	l := start(t)
	const n = 200
	begin := engine.Mono()
	var as [n]*alarm
	on(t, l, func() {
		for i := range as {
			as[i] = &alarm{l: l, fired: make(chan int64, 8)}
			l.SetTimer(&as[i].t, time.Duration(i)*time.Millisecond, as[i])
		}
		for i := 0; i < n; i += 3 {
			l.StopTimer(&as[i].t)
		}
		for i := 1; i < n; i += 3 { // pushed back, then pulled forth
			l.SetTimer(&as[i].t, time.Hour, as[i])
			l.SetTimer(&as[i].t, time.Duration(n-i)*time.Millisecond, as[i])
		}
		for i := 2; i < n; i += 3 {
			l.SetTimer(&as[i].t, time.Duration(i+100)*time.Millisecond, as[i])
		}
	})
	for i, a := range as {
		want := time.Duration(i+100) * time.Millisecond
		switch i % 3 {
		case 0:
			continue
		case 1:
			want = time.Duration(n-i) * time.Millisecond
		}
		at := <-a.fired
		if d := time.Duration(at - begin); d < want {
			t.Errorf("timer %d ran out after %v, before %v", i, d, want)
		}
	}
	on(t, l, func() {})
	for i := 0; i < n; i++ {
		if len(as[i].fired) != 0 {
			t.Errorf("timer %d ran out once too often", i)
		}
	}
}

func TestPost(t *testing.T) {
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	var n atomic.Int64
	for range 8 {
		go func() {
			for range 1000 {
				l.Post(func() { n.Add(1) })
			}
		}()
	}
	for n.Load() < 8000 {
		on(t, l, func() {})
	}
	l.Stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if l.Post(func() {}) {
		t.Error("a loop that has ended took a function")
	}
}

type bomb struct{}

func (bomb) OnConn(*engine.Conn) { panic("engine_test: as planned") }

// TestPanicCostsOneConnection: the others go on.
func TestPanicCostsOneConnection(t *testing.T) {
	l, err := engine.New()
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan any, 10)
	l.Fault = func(cause any, stack []byte) { told <- cause }
	done := make(chan error, 1)
	go func() { done <- l.Run() }()
	good, fd := tcpPair(t)
	on(t, l, func() { l.Add(fd, false, &echo{make(chan error, 1)}) })
	bad, fd := tcpPair(t)
	on(t, l, func() { l.Add(fd, false, bomb{}) })
	if _, err := bad.Read(make([]byte, 1)); err == nil {
		t.Error("the connection of the handler that panicked lives")
	}
	if <-told == nil {
		t.Error("no cause")
	}
	good.Write([]byte("still"))
	b := make([]byte, 5)
	if _, err := good.Read(b); err != nil || string(b) != "still" {
		t.Errorf("%q %v", b, err)
	}
	l.Stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// TestNothingLeaks counts descriptors and goroutines over many loops and
// connections.
func TestNothingLeaks(t *testing.T) {
	count := func() int {
		es, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Fatal(err)
		}
		return len(es)
	}
	run := func() {
		l, err := engine.New()
		if err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- l.Run() }()
		for i := range 20 {
			c, fd := tcpPair(t)
			h := &echo{make(chan error, 1)}
			on(t, l, func() { l.Add(fd, false, h) })
			if i%2 == 0 {
				c.Close()
				<-h.closed
			}
		}
		if l.Load() == 0 {
			t.Error("no connections")
		}
		l.Stop()
		<-done
		if l.Load() != 0 {
			t.Errorf("%d connections left", l.Load())
		}
	}
	run()
	before, gs := count(), runtime.NumGoroutine()
	run()
	// 10 client ends stay open until the test's cleanup.
	if after := count(); after > before+10 {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	after := runtime.NumGoroutine()
	for end := time.Now().Add(5 * time.Second); after > gs && time.Now().Before(end); after = runtime.NumGoroutine() {
		runtime.Gosched() // one that said that it is done may have its last steps before it
	}
	if after > gs {
		t.Errorf("%d goroutines before, %d after", gs, after)
	}
}
