// SPDX-License-Identifier: Apache-2.0

package edge_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/edge"
)

// lab gives the test a node of its own: a fresh network namespace that the
// test's thread lives in, with two edges.
func lab(t *testing.T) (a, b edge.Edge) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("capability: root, to make network namespaces")
	}
	runtime.LockOSThread() // not unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skip("capability: network namespaces: ", err)
	}
	dir := t.TempDir() + "/netns"
	if err := edge.Host(dir); err != nil {
		t.Fatal(err)
	}
	a = edge.At(dir, "a", netip.MustParseAddr("10.201.0.2"))
	b = edge.At(dir, "b", netip.MustParseAddr("10.201.0.3"))
	t.Cleanup(func() {
		if err := edge.Unhost(dir); err != nil {
			t.Error(err)
		}
	})
	for _, e := range []edge.Edge{a, b} {
		if err := e.Create(); err != nil {
			t.Fatal(err)
		}
		if !e.Exists() {
			t.Fatalf("%s does not exist after Create", e.Pod)
		}
	}
	return a, b
}

// transparent listens inside e's POD namespace as the proxy does.
func transparent(t *testing.T, e edge.Edge, addr string) net.Listener {
	t.Helper()
	var l net.Listener
	err := edge.Within(e.Pod, func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
			var serr error
			err := c.Control(func(fd uintptr) { serr = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1) })
			return errors.Join(err, serr)
		}}
		l, err = lc.Listen(context.Background(), "tcp4", addr)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// dial connects from e's INNER namespace as the application does.
func dial(e edge.Edge, network, addr string) (c net.Conn, err error) {
	werr := edge.Within(e.Inner, func() error {
		c, err = net.DialTimeout(network, addr, 500*time.Millisecond)
		return nil
	})
	return c, errors.Join(werr, err)
}

func TestOutboundMeetsProxyWithOriginalDestination(t *testing.T) {
	a, _ := lab(t)
	l := transparent(t, a, "127.0.0.1:15001")
	c, err := dial(a, "tcp4", "10.202.0.9:443")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.LocalAddr().String(); got != "10.202.0.9:443" {
		t.Errorf("original destination %s, want 10.202.0.9:443", got)
	}
	if got := s.RemoteAddr().(*net.TCPAddr).IP.String(); got != a.Addr.String() {
		t.Errorf("source %s, want %s", got, a.Addr)
	}
	if _, err := s.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != "hello" {
		t.Errorf("read %q, %v", buf, err)
	}
}

// The proxy of A connects to B with A's address; B's proxy sees both real ends.
func TestProxyToProxyKeepsAddresses(t *testing.T) {
	a, b := lab(t)
	l := transparent(t, b, "127.0.0.1:15006")
	var c net.Conn
	err := edge.Within(a.Pod, func() (err error) {
		d := net.Dialer{Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: a.Addr.AsSlice()}, Control: func(_, _ string, rc syscall.RawConn) error {
			var serr error
			err := rc.Control(func(fd uintptr) {
				serr = errors.Join(unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1), unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1))
			})
			return errors.Join(err, serr)
		}}
		c, err = d.Dial("tcp4", netip.AddrPortFrom(b.Addr, 8080).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if s.LocalAddr().String() != "10.201.0.3:8080" || s.RemoteAddr().(*net.TCPAddr).IP.String() != "10.201.0.2" {
		t.Errorf("connection %s → %s", s.RemoteAddr(), s.LocalAddr())
	}
}

// The node's gateway connects from an address of its own, also on a machine
// that has none.
func TestNodeReachesTheInboundSocket(t *testing.T) {
	_, b := lab(t)
	l := transparent(t, b, "127.0.0.1:15006")
	c, err := net.DialTimeout("tcp4", netip.AddrPortFrom(b.Addr, 8080).String(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if got := s.RemoteAddr().(*net.TCPAddr).IP.String(); got != "169.254.1.2" {
		t.Errorf("the node speaks from %s", got)
	}
}

func TestNothingPassesWithoutProxy(t *testing.T) {
	a, b := lab(t)
	// A server on the node, on its own address, and one in B that no proxy guards.
	if err := exposeNode(t); err != nil {
		t.Fatal(err)
	}
	node, err := net.ListenPacket("udp4", "10.199.0.1:9")
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()
	for _, dst := range []string{"10.199.0.1:22", b.Addr.String() + ":80", "169.254.1.2:80", "169.254.1.1:80", "127.0.0.1:15001"} {
		if c, err := dial(a, "tcp4", dst); err == nil {
			c.Close()
			t.Errorf("TCP to %s connected without a proxy", dst)
		}
	}
	if c, err := dial(a, "udp4", "10.199.0.1:9"); err == nil {
		_, _ = c.Write([]byte("x"))
		c.Close()
	}
	if err := node.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if n, from, err := node.ReadFrom(make([]byte, 8)); err == nil {
		t.Errorf("node received %d bytes of UDP from %s", n, from)
	}
}

func TestDestroyIsComplete(t *testing.T) {
	a, _ := lab(t)
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.Destroy(); err != nil {
			t.Fatal(err)
		}
	}
	after, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before)-1 || a.Exists() {
		t.Errorf("%d links before, %d after; exists %v", len(before), len(after), a.Exists())
	}
	if err := a.Create(); err != nil {
		t.Errorf("create again: %v", err)
	}
}
