// SPDX-License-Identifier: Apache-2.0

package interop

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// hears gives on what comes, and says each of it again.
type hears struct{ got chan []byte }

func (h hears) OnConn(c *engine.Conn) {
	for {
		if b := c.Bytes(); len(b) > 0 {
			h.got <- append([]byte(nil), b...)
			c.Append(b)
			c.Discard(len(b))
		}
		if !c.Fill(64 << 10) {
			break
		}
	}
	if c.Dead() {
		close(h.got)
		c.Close()
	}
}

// TestEdgeOpenSSLServerUpdatesKeys: s_server updates its keys, and asks for
// the same, between lines in both directions.
func TestEdgeOpenSSLServerUpdatesKeys(t *testing.T) {
	d := newDesk(t)
	d.issue("a.example", "")
	d.back = fmt.Sprintf("127.0.0.1:%d", freePort(t, netip.MustParseAddr("127.0.0.1")))
	path := func(n string) string { return filepath.Join(d.dir, n) }
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	cmd := exec.CommandContext(ctx, "openssl", "s_server", "-accept", d.back, "-cert", path("a.example.crt"), "-key", path("a.example.key"), "-tls1_3", "-naccept", "1")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); cmd.Wait() })
	cl, err := secure.NewClient(&config.ClientTLS{SNI: "a.example", Common: config.CommonTLS{Validation: &config.Validation{CAs: d.caPEM()}}}, nil, secure.Deps{})
	if err != nil {
		t.Fatal(err)
	}
	h := hears{make(chan []byte, 100)}
	ap := netip.MustParseAddrPort(d.back)
	fd := -1
	for ctx.Err() == nil {
		if fd, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM, 0); err != nil {
			t.Fatal(err)
		}
		if err = unix.Connect(fd, &unix.SockaddrInet4{Addr: ap.Addr().As4(), Port: int(ap.Port())}); err == nil {
			break
		}
		unix.Close(fd)
		<-time.After(20 * time.Millisecond)
	}
	unix.SetNonblock(fd, true)
	done := make(chan error, 1)
	d.post(func() {
		c, err := d.l.Add(fd, false, idle{})
		if err != nil {
			done <- err
			return
		}
		cl.Start(d.hs, c, secure.Target{}, secure.Options{}, func(_ *filter.TLSInfo, err error) {
			if err == nil {
				c.SetHandler(h)
			}
			done <- err
		})
	})
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	for i, step := range []string{"first\n", "K\n", "second\n", "k\n", "third\n", "K\n", "K\n", "fourth\n"} {
		io.WriteString(in, step)
		if len(step) == 2 {
			<-time.After(100 * time.Millisecond) // a command is one only when it is all that a read gives
			continue
		}
		var heard []byte
		for len(heard) < len(step) {
			b, ok := <-h.got
			if !ok {
				t.Fatalf("step %d: ended after %q", i, heard)
			}
			heard = append(heard, b...)
		}
		if string(heard) != step {
			t.Fatalf("step %d: heard %q", i, heard)
		}
		waitFor(t, out, step) // what was said again, under keys that were asked for
	}
}

// waitFor reads until s has come.
func waitFor(t *testing.T, r io.Reader, s string) {
	t.Helper()
	var tail []byte
	b := make([]byte, 1)
	for {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("waiting for %q: %v", s, err)
		}
		if tail = append(tail, b[0]); len(tail) >= len(s) && string(tail[len(tail)-len(s):]) == s {
			return
		}
	}
}
