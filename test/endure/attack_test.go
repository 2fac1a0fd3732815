// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// field is a proxy under attack, and its other clients.
type field struct {
	t           *testing.T
	p           *process
	echo        *load.Echo
	a           *authority
	client      *tls.Config
	web, secure *listener // for the others
	mark        *listener // attacked, in clear
	tls         *listener // attacked, by TLS
	slack       int       // descriptors that may stay
}

const hurry = `request_headers_timeout: 2s, request_timeout: 4s, stream_idle_timeout: 3s, common_http_protocol_options: {idle_timeout: 3s},`

// kept is how many descriptors may stay after a disturbance: a loop keeps up to
// 32 pipes for what it splices, and pools keep connections to hosts.
const kept = 2*2*32 + 24

// newField makes it; origin is what stands behind the attacked listeners.
func newField(t *testing.T, origin string, more ...*listener) *field {
	t.Helper()
	f := &field{t: t, slack: kept, echo: load.NewEcho(t), a: newAuthority(t)}
	f.client = f.a.client()
	certs := f.a.certs()
	if origin == "" {
		origin = f.echo.HTTP
	}
	f.web = &listener{name: "web", addr: rig.FreeAddr(t), to: "others"}
	f.secure = &listener{name: "secure", addr: rig.FreeAddr(t), to: "others", tls: certs}
	f.mark = &listener{name: "mark", addr: rig.FreeAddr(t), to: "mark", hcm: hurry}
	f.tls = &listener{name: "tls", addr: rig.FreeAddr(t), to: "mark", tls: certs, chain: "transport_socket_connect_timeout: 2s,", hcm: hurry}
	f.p = start(t, boot(append([]*listener{f.web, f.secure, f.mark, f.tls}, more...), []*cluster{{name: "others", to: f.echo.HTTP}, {name: "mark", to: origin, extra: roomy}}))
	return f
}

// growth is what an attack may take in memory: several times what was seen.
const growth = 128 << 20

// beside runs an attack beside other clients, who must not notice it, and
// holds what the proxy takes meanwhile and keeps afterwards.
func (f *field) beside(attack func()) {
	f.t.Helper()
	groups := []load.Group{{Name: "others, h1", Proto: load.HTTP1, Addr: f.web.addr, Clients: 4, Every: pace}, {Name: "others, h2", Proto: load.HTTP2, Addr: f.web.addr, Clients: 2, Every: pace},
		{Name: "others, tls", Proto: load.HTTP1, Addr: f.secure.addr, TLS: f.client, Clients: 2, Every: pace}}
	load.Start(groups...).Stop()
	before := f.p.holds()
	l := load.Start(groups...)
	stop, peak := make(chan struct{}), before.rss
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			peak = max(peak, f.p.rss())
			select {
			case <-stop:
				return
			default:
				lasting(20*time.Millisecond, stop)
			}
		}
	})
	attack()
	close(stop)
	wg.Wait()
	unhurt(f.t, l.Stop())
	f.t.Logf("memory %d KiB, at most %d KiB", before.rss>>10, peak>>10)
	if peak > before.rss+growth {
		f.t.Errorf("memory grew by %d MiB", (peak-before.rss)>>20)
	}
	f.p.settle(before, f.slack, growth)
	if n := f.p.stats()["server.handler_faults"]; n != 0 {
		f.t.Errorf("%d faults", n)
	}
}

// count wants a counter to be at least so much.
func (f *field) count(name string, least int) {
	f.t.Helper()
	var n int64
	if !rig.Eventually(patience, func() bool { n = f.p.stats()[name]; return n >= int64(least) }) {
		f.t.Errorf("%s is %d, want %d", name, n, least)
	}
	f.t.Logf("%s: %d", name, n)
}

// crowd opens n connections, has each of them do its part, and waits for all.
// Words of a failure to connect that is none may be given.
func crowd(t *testing.T, addr string, n int, part func(i int, c net.Conn) error, may ...string) {
	t.Helper()
	var wg sync.WaitGroup
	var failed atomic.Int64
	var first atomic.Value
	for i := range n {
		wg.Go(func() {
			c, err := net.DialTimeout("tcp", addr, patience)
			if err == nil {
				c.SetDeadline(time.Now().Add(patience))
				err = part(i, c)
				c.Close()
			} else if len(may) > 0 && strings.Contains(err.Error(), may[0]) {
				return
			}
			if err != nil {
				failed.Add(1)
				first.CompareAndSwap(nil, err.Error())
			}
		})
	}
	wg.Wait()
	if failed.Load() > 0 {
		t.Errorf("%d of %d connections: %v", failed.Load(), n, first.Load())
	}
}

// drip writes text a byte at a time, until the other side ends the
// connection; it gives what that said.
func drip(c net.Conn, text string) (said string, err error) {
	over := make(chan struct{})
	var got []byte
	go func() {
		defer close(over)
		got, err = io.ReadAll(c)
	}()
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for i := 0; ; i++ {
		select {
		case <-over:
			if len(got) > 0 {
				err = nil // a reset behind the answer
			}
			return string(got), err
		case <-t.C:
			io.WriteString(c, text[i%len(text):][:1])
		}
	}
}

// TestSlowLoris sends heads and bodies a byte at a time, on many connections.
func TestSlowLoris(t *testing.T) {
	n := sized(1000, 200)
	for _, c := range []struct{ name, start, text string }{
		{"heads", "GET / HTTP/1.1\r\nHost: x\r\n", "A: b\r\n"},
		{"request lines", "", "GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"},
		{"bodies", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n", "body"},
		{"chunks", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\nx\r\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newField(t, "")
			f.beside(func() {
				crowd(t, f.mark.addr, n, func(_ int, conn net.Conn) error {
					io.WriteString(conn, c.start)
					said, err := drip(conn, c.text)
					if err != nil || !strings.HasPrefix(said, "HTTP/1.1 408 ") {
						return fmt.Errorf("%.60q, %v", said, err)
					}
					return nil
				})
			})
			f.count("http.mark.downstream_rq_4xx", n)
		})
	}
}

// TestStoppedHandshakes opens TLS connections that stop before, in and behind
// the hello.
func TestStoppedHandshakes(t *testing.T) {
	f := newField(t, "")
	hello := helloOf(t)
	n := sized(3000, 300)
	f.beside(func() {
		crowd(t, f.tls.addr, n, func(i int, c net.Conn) error {
			c.Write(hello[:[]int{0, 1, 5, len(hello) / 2, len(hello) - 1, len(hello)}[i%6]])
			if _, err := io.Copy(io.Discard, c); err != nil && !strings.Contains(err.Error(), "reset") {
				return err
			}
			return nil
		}, "reset") // more than a chain may have under way at once
		if _, err := serialAt(f.tls.addr, f.client); err != nil {
			t.Errorf("a handshake behind the flood: %v", err)
		}
	})
	f.count("listener.tls.downstream_cx_total", n)
	f.count("listener.tls.ssl.connection_error", n)
}

// helloOf is what a client says first.
func helloOf(t *testing.T) []byte {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go tls.Client(a, &tls.Config{ServerName: "localhost"}).Handshake()
	buf := make([]byte, 16<<10)
	n, err := b.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return buf[:n]
}

// TestHandshakeFlood shakes hands without end, and asks nothing.
func TestHandshakeFlood(t *testing.T) {
	f := newField(t, "")
	var done atomic.Int64
	f.beside(func() {
		end := time.Now().Add(sized(4*time.Second, time.Second))
		crowd(t, f.tls.addr, 1, func(int, net.Conn) error { return nil })
		var wg sync.WaitGroup
		for range 16 {
			wg.Go(func() {
				for time.Now().Before(end) {
					if _, err := serialAt(f.tls.addr, f.client); err != nil {
						t.Errorf("handshake: %v", err)
						return
					}
					done.Add(1)
				}
			})
		}
		wg.Wait()
	})
	t.Logf("%d handshakes", done.Load())
	f.count("listener.tls.downstream_cx_total", int(done.Load()))
}

// TestRapidReset opens and resets streams on several connections at once, and
// comes back when it is sent away.
func TestRapidReset(t *testing.T) {
	f := newField(t, "")
	var conns, resets atomic.Int64
	f.beside(func() {
		end := time.Now().Add(sized(4*time.Second, time.Second))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for time.Now().Before(end) {
					conns.Add(1)
					resets.Add(resetOn(f.mark.addr, end))
				}
			})
		}
		wg.Wait()
	})
	t.Logf("%d connections, %d resets", conns.Load(), resets.Load())
	if conns.Load() < 16 {
		t.Error("connections that only reset are not ended")
	}
	f.count("http.mark.downstream_cx_protocol_error", 8)
}

// resetOn resets streams until the server ends the connection.
func resetOn(addr string, end time.Time) (n int64) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return 0
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	go io.Copy(io.Discard, c)
	io.WriteString(c, http2.ClientPreface)
	fr := http2.NewFramer(c, nil)
	fr.WriteSettings()
	var block bytes.Buffer
	enc := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "x"}, {":path", "/"}} {
		enc.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true})
	}
	for s := uint32(1); time.Now().Before(end); s += 2 {
		if fr.WriteHeaders(http2.HeadersFrameParam{StreamID: s, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}) != nil || fr.WriteRSTStream(s, http2.ErrCodeCancel) != nil {
			break
		}
		n++
	}
	return n
}
