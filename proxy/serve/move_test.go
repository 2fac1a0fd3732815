// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/handover"
	"redoubt.dev/proxy/serve"
)

// lineage is one proxy after the other on the same upgrade socket.
type lineage struct {
	t    *testing.T
	path string
	log  *slog.Logger
	cur  *serve.Server
	cfg  *config.Config
	end  func() error
	late bool // listeners come after the first configuration
}

func newLineage(t *testing.T, cfg *config.Config) *lineage {
	l := &lineage{t: t, cfg: cfg, path: filepath.Join(t.TempDir(), "up", "upgrade.sock"), log: slog.New(slog.NewTextHandler(t.Output(), nil))}
	l.cur, l.end = l.start(cfg, nil)
	t.Cleanup(func() {
		if err := l.end(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// start runs a server that keeps the socket once it serves.
func (l *lineage) start(cfg *config.Config, in *serve.Inheritance) (*serve.Server, func() error) {
	l.t.Helper()
	s, err := serve.New(serve.Options{Loops: 2, Drain: 2 * time.Second, Inherit: in, Prove: 50 * time.Millisecond, Log: l.log})
	if err != nil {
		l.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(l.t.Context())
	up, done := make(chan error, 1), make(chan error, 1)
	go func() {
		done <- s.Run(ctx, func(ctx context.Context) error {
			var k *handover.Keeper
			take := func() (err error) {
				k, err = handover.Listen(l.path, "", l.log)
				return err
			}
			first := cfg
			if l.late {
				first = &config.Config{Clusters: cfg.Clusters}
				s.Go("discovery", func(context.Context) error { return s.Apply(cfg) })
			}
			err := s.Apply(first)
			if err == nil && in == nil {
				err = take()
			} else if err == nil {
				err = s.TakeOver(ctx, l.late, take)
				s.Go("bye", func(ctx context.Context) error { s.Bye(ctx, 10*time.Second); return nil })
			}
			if err != nil {
				up <- err
				return err
			}
			up <- nil
			return k.Run(ctx, s.HandOver)
		})
	}()
	if err := <-up; err != nil {
		l.t.Fatal(err)
	}
	return s, func() error { cancel(); return <-done }
}

// upgrade replaces the server and waits for the end of the old one.
func (l *lineage) upgrade(cfg *config.Config) {
	l.t.Helper()
	p, f, err := handover.Join(l.path, 5*time.Second)
	if err != nil {
		l.t.Fatal(err)
	}
	in, err := serve.Inherit(p, f)
	if err != nil {
		l.t.Fatal(err)
	}
	old := l.end
	l.cur, l.end = l.start(cfg, in)
	if err := old(); err != nil {
		l.t.Error("the old process:", err)
	}
}

func echoTCP(t *testing.T) netip.AddrPort {
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
			go func() { io.Copy(c, c); c.Close() }()
		}
	}()
	return netip.MustParseAddrPort(ln.Addr().String())
}

// worker is one client in a loop until stop; it counts what it did.
type workload struct {
	t    *testing.T
	stop chan struct{}
	wg   sync.WaitGroup
	n    atomic.Int64
	slow atomic.Int64 // ns, the longest
}

func (w *workload) run(name string, f func() error) {
	w.wg.Go(func() {
		for {
			select {
			case <-w.stop:
				return
			default:
			}
			began := time.Now()
			if err := f(); err != nil {
				w.t.Errorf("%s: %v", name, err)
				return
			}
			w.n.Add(1)
			for d, m := int64(time.Since(began)), w.slow.Load(); d > m && !w.slow.CompareAndSwap(m, d); m = w.slow.Load() {
			}
		}
	})
}

func (w *workload) end() {
	close(w.stop)
	w.wg.Wait()
}

func TestUpgradeUnderLoad(t *testing.T) {
	at := origin(t, http.HandlerFunc(echo), true)
	cfg := conf([]*config.Listener{
		httpListener("web", &config.HTTPManager{StatPrefix: "web", Routes: routes(to("/one", "one"), to("/two", "two"))}),
		{Name: "tcp", Addr: netip.MustParseAddrPort("127.0.0.1:0"), Chains: []*config.FilterChain{{TCP: &config.TCPProxy{StatPrefix: "tcp", Cluster: "tcp"}}}},
	}, cluster("one", config.UpHTTP1, at), cluster("two", config.UpHTTP2, at), cluster("tcp", config.UpHTTP1, echoTCP(t)))
	l := newLineage(t, cfg)
	web, tcp := l.cur.Addr("web").String(), l.cur.Addr("tcp").String()
	load := &workload{t: t, stop: make(chan struct{})}
	for i := range 8 {
		c, err := net.Dial("tcp", tcp)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		buf, got := make([]byte, 20000), make([]byte, 20000)
		rand.Read(buf)
		load.run("tcp", func() error {
			go c.Write(buf)
			if _, err := io.ReadFull(c, got); err != nil {
				return err
			}
			if !bytes.Equal(buf, got) {
				return fmt.Errorf("other bytes")
			}
			return nil
		})
		for _, h2 := range []bool{false, true} {
			conns := new(atomic.Int64)
			p := new(http.Protocols)
			p.SetHTTP1(!h2)
			p.SetUnencryptedHTTP2(h2)
			tr := &http.Transport{Protocols: p, DialContext: func(ctx context.Context, n, a string) (net.Conn, error) {
				if conns.Add(1) > 1 {
					t.Errorf("h2=%v: a second connection", h2)
				}
				return new(net.Dialer).DialContext(ctx, n, a)
			}}
			defer tr.CloseIdleConnections()
			hc := &http.Client{Transport: tr, Timeout: 10 * time.Second}
			path := []string{"/one/", "/two/"}[i%2]
			body := bytes.Repeat([]byte{byte('a' + i)}, 1+i*40000)
			load.run(fmt.Sprintf("h2=%v%s", h2, path), func() error {
				r, err := hc.Post("http://"+web+path, "x/y", bytes.NewReader(body))
				if err != nil {
					return err
				}
				defer r.Body.Close()
				b, err := io.ReadAll(r.Body)
				if err != nil || !bytes.Equal(b, body) {
					return fmt.Errorf("%d of %d bytes: %v", len(b), len(body), err)
				}
				return nil
			})
		}
	}
	for range 10 {
		l.upgrade(cfg)
	}
	load.end()
	t.Logf("%d exchanges, the slowest took %v", load.n.Load(), time.Duration(load.slow.Load()))
}

// TestConfigurationChangesMeanwhile: a successor that was welcomed to other
// listeners than are in force must not go on; the old one does.
func TestConfigurationChangesMeanwhile(t *testing.T) {
	at := origin(t, http.HandlerFunc(echo), false)
	cfg := conf([]*config.Listener{httpListener("web", &config.HTTPManager{Routes: routes(to("/", "one"))})}, cluster("one", config.UpHTTP1, at))
	l := newLineage(t, cfg)
	hc := client(t, false)
	get := func() {
		t.Helper()
		r, err := hc.Get("http://" + l.cur.Addr("web").String() + "/")
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	get()
	p, f, err := handover.Join(l.path, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	in, err := serve.Inherit(p, f)
	if err != nil {
		t.Fatal(err)
	}
	next, err := serve.New(serve.Options{Loops: 1, Inherit: in, Log: l.log})
	if err != nil {
		t.Fatal(err)
	}
	other := *cfg
	if err := l.cur.Apply(&other); err != nil {
		t.Fatal(err)
	}
	err = next.Run(t.Context(), func(ctx context.Context) error {
		if err := next.Apply(cfg); err != nil {
			return err
		}
		return next.TakeOver(ctx, false, func() error { t.Error("took what is not its own"); return nil })
	})
	if err == nil || !strings.Contains(err.Error(), "configuration changed") {
		t.Error(err)
	}
	get()
	hc.CloseIdleConnections()
	get() // it accepts
	l.upgrade(cfg)
	get()
}

// TestDatagramsGoOn: a client of a UDP listener is served throughout.
func TestDatagramsGoOn(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	go func() {
		b := make([]byte, 100)
		for {
			n, from, err := pc.ReadFrom(b)
			if err != nil {
				return
			}
			pc.WriteTo(b[:n], from)
		}
	}()
	at := netip.MustParseAddrPort(pc.LocalAddr().String())
	l := newLineage(t, conf([]*config.Listener{{Name: "dns", Addr: netip.MustParseAddrPort("127.0.0.1:0"), UDP: &config.UDPProxy{Cluster: "udp"}}}, cluster("udp", config.UpHTTP1, at)))
	c, err := net.Dial("udp", l.cur.Addr("dns").String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ask := func() bool {
		c.SetDeadline(time.Now().Add(time.Second))
		b := make([]byte, 100)
		c.Write([]byte("who"))
		n, err := c.Read(b)
		return err == nil && string(b[:n]) == "who"
	}
	for range 3 {
		if !ask() {
			t.Fatal("no answer")
		}
		l.upgrade(l.cfg)
	}
	if !ask() {
		t.Error("no answer after the last upgrade")
	}
}

// TestListenersThatComeLater: with discovery a successor waits for the
// listeners whose sockets it was given.
func TestListenersThatComeLater(t *testing.T) {
	at := origin(t, http.HandlerFunc(echo), false)
	cfg := conf([]*config.Listener{httpListener("web", &config.HTTPManager{Routes: routes(to("/", "one"))})}, cluster("one", config.UpHTTP1, at))
	l := newLineage(t, cfg)
	web := l.cur.Addr("web")
	c, err := net.Dial("tcp", web.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r := bufio.NewReader(c)
	ask := func() {
		t.Helper()
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil || res.Close {
			t.Fatal(res, err)
		}
	}
	ask()
	l.late = true
	l.upgrade(cfg)
	ask()
	if l.cur.Addr("web") != web {
		t.Error("another address")
	}
}
