// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"redoubt.dev/proxy/proxyproto"
)

// haproxy runs haproxy with two listeners that take the PROXY protocol and
// say it again, in version 1 and in version 2 with a checksum, to back.
func haproxy(t *testing.T, back string) (v1, v2 string) {
	t.Helper()
	exe, err := exec.LookPath("haproxy")
	if errors.Is(err, exec.ErrNotFound) {
		if exe = "/usr/sbin/haproxy"; !exists(exe) {
			t.Skip("needs haproxy")
		}
	}
	lo := netip.MustParseAddr("127.0.0.1")
	v1, v2 = fmt.Sprintf("127.0.0.1:%d", freePort(t, lo)), fmt.Sprintf("127.0.0.1:%d", freePort(t, lo))
	conf := filepath.Join(t.TempDir(), "haproxy.cfg")
	text := fmt.Sprintf(`global
  maxconn 100
defaults
  mode tcp
  timeout connect 10s
  timeout client 10s
  timeout server 10s
listen v1
  bind %s accept-proxy
  server s %s send-proxy
listen v2
  bind %s accept-proxy
  server s %s send-proxy-v2-ssl proxy-v2-options crc32c
`, v1, back, v2, back)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, exe, "-db", "-f", conf)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); cmd.Wait() })
	return v1, v2
}

func exists(p string) bool {
	_, err := os.Stat(p)
	return err == nil
}

// relay sends head and "hello" to haproxy and gives what came out behind it,
// and the address that was sent from.
func relay(t *testing.T, to string, ln net.Listener, head []byte) (h proxyproto.Header, from netip.AddrPort, ok bool) {
	t.Helper()
	var c net.Conn
	var err error
	for end := time.Now().Add(20 * time.Second); ; {
		if c, err = net.Dial("tcp", to); err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
		<-time.After(20 * time.Millisecond)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	c.Write(append(head, "hello"...))
	came := make(chan net.Conn, 1)
	ln.(*net.TCPListener).SetDeadline(time.Now().Add(10 * time.Second))
	go func() {
		b, _ := ln.Accept()
		came <- b
	}()
	b := <-came
	if b == nil {
		return h, from, false
	}
	defer b.Close()
	b.SetDeadline(time.Now().Add(10 * time.Second))
	var got []byte
	one := make([]byte, 1) // byte by byte: every prefix is looked at
	for {
		if _, err := io.ReadFull(b, one); err != nil {
			t.Fatalf("after %q: %v", got, err)
		}
		got = append(got, one[0])
		parsed, n, f := proxyproto.Parse(got)
		switch f {
		case proxyproto.More:
			continue
		case proxyproto.Complete:
			if rest := make([]byte, 5); n != len(got) {
				t.Fatalf("%d bytes of %d", n, len(got))
			} else if _, err := io.ReadFull(b, rest); err != nil || string(rest) != "hello" {
				t.Fatalf("behind the header: %q, %v", rest, err)
			}
			return parsed, c.LocalAddr().(*net.TCPAddr).AddrPort(), true
		}
		t.Fatalf("%v: %q", f, got)
	}
}

// TestHAProxy: what is appended here, haproxy takes; what it says again is
// read here, and names the same.
func TestHAProxy(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	v1, v2 := haproxy(t, ln.Addr().String())
	at := netip.MustParseAddrPort
	crc := proxyproto.AppendTLV(nil, proxyproto.TypeCRC32C, make([]byte, 4))
	more := proxyproto.AppendTLV(proxyproto.AppendTLV(crc, proxyproto.TypeAuthority, []byte("a.example")), proxyproto.TypeNoop, make([]byte, 300))
	for name, h := range map[string]proxyproto.Header{
		"version 1, IPv4":    {Version: 1, Stream: true, Source: at("192.0.2.1:1000"), Dest: at("192.0.2.2:443")},
		"version 1, IPv6":    {Version: 1, Stream: true, Source: at("[2001:db8::1]:65535"), Dest: at("[2001:db8::2]:1")},
		"version 1, unknown": {Version: 1},
		"version 2, IPv4":    {Version: 2, Stream: true, Source: at("192.0.2.1:1000"), Dest: at("192.0.2.2:443")},
		"version 2, IPv6":    {Version: 2, Stream: true, Source: at("[2001:db8::1]:1"), Dest: at("[2001:db8::2]:2")},
		"version 2, sum":     {Version: 2, Stream: true, Source: at("192.0.2.1:1000"), Dest: at("192.0.2.2:443"), TLVs: crc},
		"version 2, TLVs":    {Version: 2, Stream: true, Source: at("192.0.2.1:1000"), Dest: at("192.0.2.2:443"), TLVs: more},
		"version 2, local":   {Version: 2, Local: true},
	} {
		for _, to := range []string{v1, v2} {
			got, from, ok := relay(t, to, ln, proxyproto.Append(nil, &h))
			if !ok {
				t.Errorf("%s: haproxy refused it", name)
				continue
			}
			if !h.Source.IsValid() { // the connection's own
				h.Source, h.Dest = from, at(to)
			}
			if want := map[string]int{v1: 1, v2: 2}[to]; got.Version != want || !got.Stream || got.Source != h.Source || got.Dest != h.Dest {
				t.Errorf("%s: %+v", name, got)
			}
			if h.Local || h.Version == 1 && h.Source == from {
				h.Source, h.Dest = netip.AddrPort{}, netip.AddrPort{}
			}
		}
	}
}
