// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"redoubt.dev/test/bench/load"
)

// BenchmarkProxyMemory is the slope of memory over connections that wait
// after one request, up to 5,000 of them; and the memory without any.
func BenchmarkProxyMemory(tb *testing.B) {
	for _, secured := range []bool{false, true} {
		name := "http1"
		if secured {
			name = "mtls"
		}
		tb.Run(name, func(tb *testing.B) {
			b := ground(tb)
			s := newSheet("Memory, 1 loop, 0 to 5,000 idle connections, "+name, column{name: "KB per connection (RSS)", ratio: true}, column{name: "KB per connection (PSS)", ratio: true},
				column{name: "MB idle process (RSS)", ratio: true}, column{name: "MB idle process (PSS)", ratio: true}, column{name: "MB at the end (RSS)"})
			w := work{origin: b.httpOrigin(), loops: 1}
			if secured {
				w.tls = b.pems()
			}
			for _, r := range b.begin(s, everyone(w)) {
				if err := b.grow(s, r, b.dialer(secured)); err != nil {
					s.drop(r.name, err)
				}
			}
			s.show()
		})
	}
}

// dialer opens clients' connections.
func (b *bench) dialer(secured bool) func(addr string) (net.Conn, error) {
	if !secured {
		return func(addr string) (net.Conn, error) { return net.DialTimeout("tcp", addr, 5*time.Second) }
	}
	crt, key := b.pem(b.ca.ID("shop", "client"))
	pair, err := tls.LoadX509KeyPair(crt, key)
	if err != nil {
		b.b.Fatal(err)
	}
	// The server's name is a SPIFFE ID, and who is measured is not under test.
	cfg := &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12, CurvePreferences: []tls.CurveID{tls.X25519}}
	return func(addr string) (net.Conn, error) {
		return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, cfg)
	}
}

func (b *bench) grow(s *sheet, r *running, dial func(string) (net.Conn, error)) error {
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			c.Close()
		}
	}()
	idleRSS, idlePSS := memory(r.pid)
	var xs, rss, pss []float64
	for step := 1; step <= 5; step++ {
		for len(conns) < 1000*step {
			c, err := dial(r.front.String())
			if err != nil {
				return err
			}
			conns = append(conns, c)
			if _, err := fmt.Fprintf(c, "GET /100 HTTP/1.1\r\nHost: %s\r\n\r\n", r.front); err != nil {
				return err
			}
			if err := drain(c); err != nil {
				return fmt.Errorf("connection %d: %w", len(conns), err)
			}
		}
		<-time.After(500 * time.Millisecond) // what is freed late
		x, y := memory(r.pid)
		xs, rss, pss = append(xs, float64(len(conns))), append(rss, x), append(pss, y)
	}
	s.add(r.name, slope(xs, rss)/1024, slope(xs, pss)/1024, idleRSS/1e6, idlePSS/1e6, rss[len(rss)-1]/1e6)
	return nil
}

// BenchmarkProxyRoutes is 10,000 prefixes: from exec to the first 200, and
// what a request costs when its path is one of them.
func BenchmarkProxyRoutes(tb *testing.B) {
	const n = 10000
	b := ground(tb)
	s := newSheet("10,000 routes: from exec to the first answer", column{name: "ms", ratio: true}, column{name: "MB (RSS)", ratio: true})
	w := work{origin: b.httpOrigin(), loops: 1, routes: n}
	for range *rounds {
		for _, e := range everyone(w) {
			if !picked(e.name) || len(s.absent) > 0 && strings.Contains(strings.Join(s.absent, "\n"), e.name+":") {
				continue
			}
			took, rss, err := b.firstAnswer(e)
			if err != nil {
				s.drop(e.name, err)
				continue
			}
			s.add(e.name, took.Seconds()*1e3, rss/1e6)
		}
	}
	s.show()

	s = newSheet("HTTP/1.1, 10,000 routes, 1 loop, 64 connections, 100B", perRequest...)
	all := b.begin(s, everyone(w))
	script := b.file("paths.lua", fmt.Sprintf(`local n = 0
local all = {}
function init(args) for i = 0, %d do all[i] = wrk.format("GET", string.format("/r%%05d/x", (i * 7919) %% %d)) end end
function request() n = (n + 1) %% %d; return all[n] end
`, n-1, n, n))
	b.saturate(s, all, s.title, func(r *running, d time.Duration) turn { return b.wrk(r.url("/"), 64, d, "-s", script) })
}

// firstAnswer is the time from exec, with the configuration written, to the
// first right answer.
func (b *bench) firstAnswer(e entry) (time.Duration, float64, error) {
	front := load.Addr4(b.port())
	cmd, err := e.command(b, e.work, front)
	if err != nil {
		return 0, 0, err
	}
	t0 := time.Now()
	ended, err := b.launch(cmd)
	if err != nil {
		return 0, 0, err
	}
	defer stop(cmd, ended)
	r := &running{name: e.name, front: front, pid: cmd.Process.Pid}
	for err = b.proves(r, e.work); err != nil; err = b.proves(r, e.work) {
		select {
		case <-ended:
			return 0, 0, errEnded
		case <-time.After(2 * time.Millisecond):
		}
		if time.Since(t0) > 60*time.Second {
			return 0, 0, err
		}
	}
	took := time.Since(t0)
	rss, _ := memory(r.pid)
	return took, rss, nil
}
