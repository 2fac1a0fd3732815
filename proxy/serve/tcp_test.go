// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
)

// tcpOrigin serves each connection by f.
func tcpOrigin(t testing.TB, f func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() { defer c.Close(); f(c.(*net.TCPConn)) }()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

func tcpListener(name, cluster string) *config.Listener {
	return &config.Listener{Name: name, Addr: netip.MustParseAddrPort("127.0.0.1:0"), Chains: []*config.FilterChain{{TCP: &config.TCPProxy{StatPrefix: name, Cluster: cluster}}}}
}

// TestTCPEcho passes more than fits into any buffer both ways at once, so that
// bytes go through memory first and through a pipe then, with half-closed ends.
func TestTCPEcho(t *testing.T) {
	at := tcpOrigin(t, func(c *net.TCPConn) {
		io.Copy(c, c)
		c.CloseWrite()
	})
	s := start(t, conf([]*config.Listener{tcpListener("tcp", "echo")}, cluster("echo", config.UpHTTP1, at)))
	body := make([]byte, 24<<20)
	rand.NewChaCha8([32]byte{9}).Read(body)
	for _, slow := range []bool{false, true} {
		c, err := net.Dial("tcp", s.Addr("tcp").String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			c.Write(body)
			c.(*net.TCPConn).CloseWrite()
		}()
		var got bytes.Buffer
		var r io.Reader = c
		if slow {
			r = smallReads{c}
		}
		if _, err := io.Copy(&got, r); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), body) {
			t.Fatalf("%d bytes of %d, or changed", got.Len(), len(body))
		}
		c.Close()
	}
}

type smallReads struct{ io.Reader }

func (r smallReads) Read(p []byte) (int, error) { return r.Reader.Read(p[:min(len(p), 3000)]) }

// TestTCPResetShows wants a host's reset to reach the client as one, also in
// the middle of bulk.
func TestTCPResetShows(t *testing.T) {
	at := tcpOrigin(t, func(c *net.TCPConn) {
		c.Write(make([]byte, 2<<20))
		b := make([]byte, 1)
		c.Read(b)
		c.SetLinger(0)
	})
	s := start(t, conf([]*config.Listener{tcpListener("tcp", "rst")}, cluster("rst", config.UpHTTP1, at)))
	c, err := net.Dial("tcp", s.Addr("tcp").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := io.ReadFull(c, make([]byte, 2<<20)); err != nil {
		t.Fatal(err)
	}
	c.Write([]byte("x"))
	if _, err := io.Copy(io.Discard, c); err == nil {
		t.Fatal("a reset was taken for an end")
	}
}
