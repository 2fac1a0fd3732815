// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the client of golang.org/x/net is the one that takes a connection that was made already

package upgrade_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// pattern is an endless run of bytes that tells where one is in it.
type pattern struct{ r *rand.ChaCha8 }

func newPattern(seed byte) *pattern { return &pattern{rand.NewChaCha8([32]byte{seed})} }

func (p *pattern) Read(b []byte) (int, error) { return p.r.Read(b) }

// paced gives its bytes until the test has had its upgrades, and then ends.
type paced struct {
	io.Reader
	over  chan struct{}
	chunk int
	n     atomic.Int64
}

func (p *paced) Read(b []byte) (int, error) {
	t := time.NewTimer(2 * time.Millisecond)
	defer t.Stop()
	select {
	case <-p.over:
		return 0, io.EOF
	case <-t.C:
	}
	n, err := p.Reader.Read(b[:min(len(b), p.chunk)])
	p.n.Add(int64(n))
	return n, err
}

// switching upgrades every connection that asks to "websocket" and echoes what
// follows.
func switching(t *testing.T) string {
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
			go func() {
				defer c.Close()
				r := bufio.NewReader(c)
				if _, err := http.ReadRequest(r); err != nil {
					return
				}
				io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
				io.Copy(c, r)
			}()
		}
	}()
	return ln.Addr().String()
}

// TestStreamsThroughUpgrades keeps bodies that are sent and answered at the
// same time, tunnels, and bulk TCP going through three upgrades and checks
// every byte.
func TestStreamsThroughUpgrades(t *testing.T) {
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.EnableFullDuplex()
		b := make([]byte, 4<<10)
		for {
			n, err := r.Body.Read(b)
			w.Write(b[:n])
			c.Flush()
			if err != nil {
				return
			}
		}
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	origin := ln.Addr().String()

	certs, echo := rig.NewCerts(t), load.NewEcho(t)
	web := &port{name: "web", to: origin}
	two := &port{name: "two", to: origin, h2up: true}
	mtls := &port{name: "mtls", to: origin, h2up: true, tls: certs, mutual: true}
	tunnel := &port{name: "tunnel", to: switching(t)}
	secret := &port{name: "secret", to: tunnel.to, tls: certs}
	bulk := &port{name: "bulk", to: echo.TCP, tcp: true}
	w := newWorld(t, web, two, mtls, tunnel, secret, bulk)

	over := make(chan struct{})
	var wg sync.WaitGroup
	var sources []*paced
	seed := byte(0)
	run := func(name string, chunk int, f func(src *paced, seed byte) error) {
		seed++
		own := seed
		src := &paced{Reader: newPattern(own), over: over, chunk: chunk}
		sources = append(sources, src)
		wg.Go(func() {
			if err := f(src, own); err != nil {
				t.Errorf("%s, after %d bytes: %v", name, src.n.Load(), err)
			}
		})
	}
	for _, p := range []*port{web, two, mtls} {
		for _, h2 := range []bool{false, true} {
			run(fmt.Sprintf("%s h2=%v", p.name, h2), 3000, func(src *paced, own byte) error { return duplex(p, h2, src, own) })
		}
	}
	for _, p := range []*port{tunnel, secret} {
		for range 3 {
			run(p.name, 700, func(src *paced, own byte) error { return through(p, src, own) })
		}
	}
	for range 3 { // as fast as it goes, so that the kernel carries it
		run("bulk", 1<<20, func(src *paced, own byte) error {
			c, err := net.Dial("tcp", bulk.addr)
			if err != nil {
				return err
			}
			defer c.Close()
			return echoed(c, c, src, own, func() { c.(*net.TCPConn).CloseWrite() })
		})
	}
	flowing := func(more int64) bool {
		var at []int64
		for _, s := range sources {
			at = append(at, s.n.Load())
		}
		return rig.Eventually(patience, func() bool {
			for i, s := range sources {
				if s.n.Load() < at[i]+more {
					return false
				}
			}
			return true
		})
	}
	for i := range 3 {
		if !flowing(50_000) {
			t.Fatalf("a stream stands still before upgrade %d", i)
		}
		t.Log(w.upgrade())
	}
	if !flowing(50_000) {
		t.Error("a stream stands still after the last upgrade")
	}
	close(over)
	wg.Wait()
	for _, s := range sources {
		t.Log(s.n.Load(), "bytes")
	}
}

// duplex sends a body without an end and checks what comes back meanwhile.
func duplex(p *port, h2 bool, src *paced, own byte) error {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	if p.tls != nil {
		cfg := p.tls.Client.Clone()
		cfg.NextProtos = []string{map[bool]string{false: "http/1.1", true: "h2"}[h2]}
		c = tls.Client(c, cfg)
	}
	defer c.Close()
	if !h2 {
		req := "POST /long HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
		if _, err := io.WriteString(c, req); err != nil {
			return err
		}
		sent := make(chan error, 1)
		go func() { sent <- chunks(c, src) }()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return err
		}
		return matches(res.Body, src, own, sent)
	}
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
	if err != nil {
		return err
	}
	req, err := http.NewRequest("POST", "http://x/long", io.NopCloser(src))
	if err != nil {
		return err
	}
	res, err := cc.RoundTrip(req)
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("%s", res.Status)
	}
	sent := make(chan error, 1)
	sent <- nil
	return matches(res.Body, src, own, sent)
}

func chunks(c io.Writer, src io.Reader) error {
	b := make([]byte, 8<<10)
	for {
		n, err := src.Read(b)
		if n > 0 {
			if _, err := fmt.Fprintf(c, "%x\r\n%s\r\n", n, b[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF {
			_, err := io.WriteString(c, "0\r\n\r\n")
			return err
		}
	}
}

// matches reads until the end and holds what came to what was sent.
func matches(r io.Reader, src *paced, own byte, sent chan error) error {
	want := newPattern(own)
	n := int64(0)
	b, p := make([]byte, 8<<10), make([]byte, 8<<10)
	for {
		k, err := r.Read(b)
		want.Read(p[:k])
		if !bytes.Equal(b[:k], p[:k]) {
			return fmt.Errorf("other bytes at %d", n)
		}
		n += int64(k)
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
	}
	if err := <-sent; err != nil {
		return err
	}
	if n != src.n.Load() {
		return fmt.Errorf("%d bytes came back of %d", n, src.n.Load())
	}
	return nil
}

// through upgrades a connection and uses it as a tunnel.
func through(p *port, src *paced, own byte) error {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	end := func() { c.(*net.TCPConn).CloseWrite() }
	if p.tls != nil {
		tc := tls.Client(c, p.tls.Client)
		c, end = tc, func() { tc.CloseWrite() }
	}
	defer c.Close()
	if _, err := io.WriteString(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"); err != nil {
		return err
	}
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != 101 {
		return fmt.Errorf("%s", res.Status)
	}
	return echoed(c, r, src, own, end)
}

// echoed sends all of src and checks that it comes back.
func echoed(c io.Writer, r io.Reader, src *paced, own byte, end func()) error {
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, struct{ io.Reader }{src})
		end()
		sent <- err
	}()
	return matches(r, src, own, sent)
}
