// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// newRaw is a server that has each connection to itself, until the test ends.
func newRaw(t *testing.T, f func(c *net.TCPConn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			wg.Go(func() { f(c.(*net.TCPConn)) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return l.Addr().String()
}

// TestDeafClient asks for large answers and reads none of them.
func TestDeafClient(t *testing.T) {
	b := newBulk(t)
	f := newField(t, b.addr)
	n := sized(200, 50)
	f.beside(func() {
		over := make(chan struct{})
		go func() { // one asks the admin socket for all
			defer close(over)
			rig.Eventually(patience, func() bool {
				s := f.p.stats()
				return s["http.mark.downstream_rq_total"] >= int64(n) && s["http.mark.downstream_rq_active"] == 0
			})
		}()
		crowd(t, f.mark.addr, n, func(_ int, c net.Conn) error {
			fmt.Fprintf(c, "GET /source?n=%d HTTP/1.1\r\nHost: x\r\n\r\n", 64<<20)
			// Nothing is read until the proxy has given up: what was under way
			// then is less than the answer.
			<-over
			got, _ := io.Copy(io.Discard, c)
			if got == 0 || got >= 64<<20 {
				return fmt.Errorf("%d bytes came", got)
			}
			return nil
		})
	})
	f.count("http.mark.downstream_rq_total", n)
}

// TestDeafUpstream has hosts that take connections, and then read nothing, or
// answer nothing, or end at once.
func TestDeafUpstream(t *testing.T) {
	n := sized(100, 20)
	head := func(c net.Conn) { bufio.NewReader(c).ReadString('\n') }
	for _, k := range []struct {
		name string
		do   func(c *net.TCPConn, over <-chan struct{})
		want []int // 0: the connection is cut
	}{
		{"never reads", func(_ *net.TCPConn, over <-chan struct{}) { <-over }, []int{408, 504}},
		{"never answers", func(c *net.TCPConn, _ <-chan struct{}) { io.Copy(io.Discard, c) }, []int{408, 504}},
		{"half-closes without a word", func(c *net.TCPConn, _ <-chan struct{}) { head(c); c.CloseWrite(); io.Copy(io.Discard, c) }, []int{502, 503}},
		{"closes at once", func(c *net.TCPConn, _ <-chan struct{}) { c.Close() }, []int{502, 503}},
		{"resets", func(c *net.TCPConn, _ <-chan struct{}) { head(c); c.SetLinger(0); c.Close() }, []int{502, 503}},
		{"half an answer", func(c *net.TCPConn, _ <-chan struct{}) {
			head(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
			c.Close()
		}, []int{0}},
		{"half a head", func(c *net.TCPConn, _ <-chan struct{}) {
			head(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-")
			c.Close()
		}, []int{502, 503}},
		{"no HTTP", func(c *net.TCPConn, _ <-chan struct{}) {
			head(c)
			io.WriteString(c, strings.Repeat("SSH-2.0 hello\r\n", 1000))
			c.Close()
		}, []int{502, 503}},
		{"answers to its end", func(c *net.TCPConn, _ <-chan struct{}) {
			head(c)
			io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\nall")
			c.CloseWrite()
			io.Copy(io.Discard, c)
		}, []int{200}},
	} {
		t.Run(k.name, func(t *testing.T) {
			f := newField(t, newRaw(t, func(c *net.TCPConn) { k.do(c, t.Context().Done()) }))
			f.beside(func() {
				crowd(t, f.mark.addr, n, func(i int, c net.Conn) error {
					size := 0
					if i%2 == 1 {
						size = 8 << 20
					}
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", size)
					go c.Write(make([]byte, size))
					res, err := http.ReadResponse(bufio.NewReader(c), nil)
					status := 0
					if err == nil {
						status = res.StatusCode
						if _, err := io.Copy(io.Discard, res.Body); err != nil {
							status = 0
						}
					}
					for _, w := range k.want {
						if status == w {
							return nil
						}
					}
					return fmt.Errorf("status %d, want %v: %v", status, k.want, err)
				})
			})
			if s := f.p.stats(); s["http.mark.downstream_rq_active"] != 0 {
				t.Errorf("%d requests are still under way", s["http.mark.downstream_rq_active"])
			}
			f.count("http.mark.downstream_rq_total", n)
		})
	}
}

// TestEarlyAnswer has the host answer before the request has ended, and then
// read on, or close.
func TestEarlyAnswer(t *testing.T) {
	for _, k := range []struct {
		name string
		then func(c *net.TCPConn)
	}{
		{"reads on", func(c *net.TCPConn) { io.Copy(io.Discard, c) }},
		{"closes", func(c *net.TCPConn) { c.Close() }},
		{"half-closes", func(c *net.TCPConn) { c.CloseWrite(); io.Copy(io.Discard, c) }},
	} {
		t.Run(k.name, func(t *testing.T) {
			origin := newRaw(t, func(c *net.TCPConn) {
				r := bufio.NewReader(c)
				for line := ""; line != "\r\n"; {
					var err error
					if line, err = r.ReadString('\n'); err != nil {
						return
					}
				}
				io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nearly")
				k.then(c)
			})
			f := newField(t, origin)
			f.beside(func() {
				crowd(t, f.mark.addr, sized(50, 20), func(i int, c net.Conn) error {
					fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n", 1<<20)
					c.Write(make([]byte, 1000))
					res, err := http.ReadResponse(bufio.NewReader(c), nil)
					if err != nil {
						return err
					}
					b, err := io.ReadAll(res.Body)
					if err != nil || res.StatusCode != 403 || string(b) != "early" {
						return fmt.Errorf("%d %q %v", res.StatusCode, b, err)
					}
					return nil
				})
			})
		})
	}
}

// TestHalfClosed has peers that end one direction and go on with the other.
func TestHalfClosed(t *testing.T) {
	late := newRaw(t, func(c *net.TCPConn) { // speaks when the client has ended
		n, _ := io.Copy(io.Discard, c)
		fmt.Fprintf(c, "%d came", n)
		c.Close()
	})
	first := newRaw(t, func(c *net.TCPConn) { // ends first, and reads on
		io.WriteString(c, "hello")
		c.CloseWrite()
		n, _ := io.Copy(io.Discard, c)
		if n != 100000 {
			t.Errorf("%d bytes came behind the half-close", n)
		}
	})
	e := load.NewEcho(t)
	ls := []*listener{{name: "late", addr: rig.FreeAddr(t), to: "late", tcp: true}, {name: "first", addr: rig.FreeAddr(t), to: "first", tcp: true}, {name: "web", addr: rig.FreeAddr(t), to: "web"}}
	p := start(t, boot(ls, []*cluster{{name: "late", to: late}, {name: "first", to: first}, {name: "web", to: e.HTTP}}))
	before := p.holds()
	crowd(t, ls[0].addr, 50, func(_ int, c net.Conn) error {
		c.Write(make([]byte, 100000))
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "100000 came" {
			return fmt.Errorf("%q, %v", b, err)
		}
		return nil
	})
	crowd(t, ls[1].addr, 50, func(_ int, c net.Conn) error {
		b, err := io.ReadAll(c)
		if err != nil || string(b) != "hello" {
			return fmt.Errorf("%q, %v", b, err)
		}
		_, err = c.Write(make([]byte, 100000))
		return err
	})
	crowd(t, ls[2].addr, 50, func(_ int, c net.Conn) error {
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody")
		c.(*net.TCPConn).CloseWrite()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		if b, err := io.ReadAll(res.Body); err != nil || string(b) != "body" {
			return fmt.Errorf("%q, %v", b, err)
		}
		return nil
	})
	p.settle(before, kept, growth)
}

// lastly is a deadline for a test's own waits.
func lastly() time.Time { return time.Now().Add(4 * patience) }
