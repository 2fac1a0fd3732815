// SPDX-License-Identifier: Apache-2.0

package conform

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/test/conform/rig"
	"redoubt.dev/test/conform/websock"
)

// wsServer sends each frame back, answers pings, and closes as it is asked.
func wsServer(t testing.TB) string {
	return websock.Server(t, func(path string, c *websock.Conn) {
		if strings.HasPrefix(path, "/close/") {
			var code uint16
			fmt.Sscanf(path, "/close/%d", &code)
			c.Write(websock.CloseFrame(code, "because"))
			c.Read() // the client's closing frame, or the end
			return
		}
		if path == "/cut" {
			c.Write(websock.Frame{Fin: true, Op: websock.Text, Payload: []byte("last words")})
			return // without a closing handshake
		}
		for {
			f, err := c.Read()
			if err != nil {
				return
			}
			switch f.Op {
			case websock.Ping:
				f.Op = websock.Pong
			case websock.Close:
				c.Write(f)
				return
			}
			if c.Write(f) != nil {
				return
			}
		}
	})
}

// TestWebSocket holds the proxy to carrying every frame as it is.
func TestWebSocket(t *testing.T) {
	dials := map[string]func(addr, path string) (*websock.Conn, error){"HTTP/1.1": websock.Dial, "RFC 8441": websock.DialHTTP2}
	for _, kind := range []rig.Kind{rig.Redoubt, rig.Haproxy, rig.Nginx} {
		for name, dial := range dials {
			if kind == rig.Nginx && name != "HTTP/1.1" {
				continue // nginx has no extended CONNECT
			}
			t.Run(string(kind)+"/"+name, func(t *testing.T) {
				p := rig.Start(t, kind, rig.Setup{Listeners: []rig.Listener{{To: wsServer(t)}}, Patience: 30 * time.Second})
				base := p.FDs()
				wsCases(t, func(path string) (*websock.Conn, error) { return dial(p.Addrs[0], path) })
				if kind == rig.Redoubt {
					p.Settle(t, base)
				}
			})
		}
	}
}

func wsCases(t *testing.T, dial func(path string) (*websock.Conn, error)) {
	open := func(t *testing.T, path string) *websock.Conn {
		t.Helper()
		c, err := dial(path)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	echo := func(t *testing.T, c *websock.Conn, frames ...websock.Frame) {
		t.Helper()
		sent := make(chan error, 1)
		go func() {
			for _, f := range frames {
				if err := c.Write(f); err != nil {
					sent <- err
					return
				}
			}
			sent <- nil
		}()
		for i, f := range frames {
			if f.Op == websock.Ping {
				f.Op = websock.Pong
			}
			got, err := c.Read()
			if err != nil || got.Fin != f.Fin || got.Op != f.Op || !bytes.Equal(got.Payload, f.Payload) {
				t.Fatalf("frame %d of %d bytes: got op %d, fin %v, %d bytes, %v", i, len(f.Payload), got.Op, got.Fin, len(got.Payload), err)
			}
		}
		if err := <-sent; err != nil {
			t.Fatal(err)
		}
	}
	for _, n := range []int{0, 1, 125, 126, 127, 1000, 4096, 16384, 65535, 65536, 70000, 1 << 20, 16 << 20} {
		t.Run(fmt.Sprintf("binary of %d", n), func(t *testing.T) {
			echo(t, open(t, "/"), websock.Frame{Fin: true, Op: websock.Binary, Payload: pattern(n)})
		})
	}
	t.Run("text", func(t *testing.T) {
		echo(t, open(t, "/"), websock.Frame{Fin: true, Op: websock.Text, Payload: []byte("κόσμε 😈 \u0000\uffff")})
	})
	t.Run("text that is no UTF-8 is the ends' matter", func(t *testing.T) {
		echo(t, open(t, "/"), websock.Frame{Fin: true, Op: websock.Text, Payload: []byte("\xce\xba\xed\xa0\x80")})
	})
	t.Run("fragments with pings between", func(t *testing.T) {
		var f []websock.Frame
		for i := range 200 {
			op := byte(websock.Continuation)
			if i == 0 {
				op = websock.Text
			}
			f = append(f, websock.Frame{Fin: i == 199, Op: op, Payload: pattern(i * 7)}, websock.Frame{Fin: true, Op: websock.Ping, Payload: pattern(i % 126)})
		}
		echo(t, open(t, "/"), f...)
	})
	t.Run("empty fragments", func(t *testing.T) {
		echo(t, open(t, "/"), websock.Frame{Op: websock.Binary}, websock.Frame{Op: websock.Continuation}, websock.Frame{Fin: true, Op: websock.Continuation})
	})
	t.Run("many small", func(t *testing.T) {
		var f []websock.Frame
		for i := range 5000 {
			f = append(f, websock.Frame{Fin: true, Op: websock.Binary, Payload: pattern(i % 64)})
		}
		echo(t, open(t, "/"), f...)
	})
	t.Run("unasked pong and reserved opcodes pass", func(t *testing.T) {
		echo(t, open(t, "/"), websock.Frame{Fin: true, Op: websock.Pong, Payload: []byte("x")}, websock.Frame{Fin: true, Op: 0x3, Payload: []byte("y")})
	})
	for _, code := range []uint16{0, 1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 3000, 3999, 4000, 4999} {
		t.Run(fmt.Sprintf("client closes with %d", code), func(t *testing.T) {
			c := open(t, "/")
			want := websock.CloseFrame(code, "done")
			echo(t, c, want)
			if _, err := c.Read(); err == nil {
				t.Error("the connection goes on behind the closing handshake")
			}
		})
		if code == 0 {
			continue
		}
		t.Run(fmt.Sprintf("server closes with %d", code), func(t *testing.T) {
			c := open(t, fmt.Sprintf("/close/%d", code))
			f, err := c.Read()
			if err != nil || f.Op != websock.Close || binary.BigEndian.Uint16(f.Payload) != code || string(f.Payload[2:]) != "because" {
				t.Fatalf("%+v, %v", f, err)
			}
			if err := c.Write(f); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Read(); err == nil {
				t.Error("the connection goes on behind the closing handshake")
			}
		})
	}
	t.Run("server ends without a word", func(t *testing.T) {
		c := open(t, "/cut")
		f, err := c.Read()
		if err != nil || string(f.Payload) != "last words" {
			t.Fatalf("%+v, %v", f, err)
		}
		if _, err := c.Read(); err == nil {
			t.Error("the end did not arrive")
		} else if strings.Contains(err.Error(), "timeout") {
			t.Error(err)
		}
	})
	t.Run("refused", func(t *testing.T) {
		if c, err := dial("/refuse"); err == nil {
			c.Close()
			t.Fatal("taken")
		} else if !strings.Contains(err.Error(), "403") {
			t.Errorf("got %v, want the server's 403", err)
		}
	})
	t.Run("100 at once", func(t *testing.T) {
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() {
				c, err := dial("/")
				if err != nil {
					t.Error(err)
					return
				}
				defer c.Close()
				for j := range 20 {
					want := fmt.Appendf(nil, "%d/%d %s", i, j, pattern(j*100))
					if err := c.Write(websock.Frame{Fin: true, Op: websock.Binary, Payload: want}); err != nil {
						t.Error(err)
						return
					}
					if f, err := c.Read(); err != nil || !bytes.Equal(f.Payload, want) {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
				c.Write(websock.CloseFrame(1000, ""))
				if _, err := c.Read(); err != nil && err != io.EOF {
					t.Error(err)
				}
			})
		}
		wg.Wait()
	})
}

func pattern(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*31 + i>>8)
	}
	return b
}
