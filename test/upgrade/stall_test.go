// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 the client of golang.org/x/net is the one that takes a connection that was made already

package upgrade_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

const bigBody = 24 << 20

// TestStalledReaders moves connections whose peers read nothing, so that all
// buffers and pipes on the way are full, twice. Afterwards every byte must
// come.
func TestStalledReaders(t *testing.T) {
	want := make([]byte, bigBody)
	newPattern(99).Read(want)
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: &protocols, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/sized" {
			w.Header().Set("Content-Length", strconv.Itoa(bigBody))
		}
		w.Write(want)
	})}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
	origin, echo, certs := ln.Addr().String(), load.NewEcho(t), rig.NewCerts(t)
	web := &port{name: "web", to: origin}
	two := &port{name: "two", to: origin, h2up: true}
	mtls := &port{name: "mtls", to: origin, tls: certs, mutual: true}
	bulk := &port{name: "bulk", to: echo.TCP, tcp: true}
	w := newWorld(t, web, two, mtls, bulk)

	goOn := make(chan struct{})
	var wg, begun sync.WaitGroup
	run := func(name string, f func(begun func()) (io.Reader, error)) {
		begun.Add(1)
		wg.Go(func() {
			var once sync.Once
			r, err := f(func() { once.Do(begun.Done) })
			once.Do(begun.Done)
			if err != nil {
				t.Errorf("%s: %v", name, err)
				return
			}
			<-goOn
			got := make([]byte, bigBody)
			if n, err := io.ReadFull(r, got); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
		})
	}
	for _, p := range []*port{web, two, mtls} {
		for _, path := range []string{"/sized", "/chunked"} {
			for _, h2 := range []bool{false, true} {
				run(fmt.Sprintf("%s%s h2=%v", p.name, path, h2), func(func()) (io.Reader, error) { return get(t, p, path, h2) })
			}
		}
	}
	for range 2 {
		run("tcp", func(begun func()) (io.Reader, error) {
			c, err := net.Dial("tcp", bulk.addr)
			if err != nil {
				return nil, err
			}
			t.Cleanup(func() { c.Close() })
			half := bytes.NewReader(want[1<<20:])
			if _, err := c.Write(want[:1<<20]); err != nil {
				return nil, err
			}
			begun()
			wg.Go(func() {
				if _, err := io.Copy(c, struct{ io.Reader }{half}); err != nil {
					t.Error(err)
				}
			})
			return c, nil
		})
	}
	begun.Wait()
	t.Log(w.upgrade())
	t.Log(w.upgrade())
	close(goOn)
	wg.Wait()
}

// get asks for a body and does not read it.
func get(t *testing.T, p *port, path string, h2 bool) (io.Reader, error) {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { c.Close() })
	if p.tls != nil {
		cfg := p.tls.Client.Clone()
		cfg.NextProtos = []string{map[bool]string{false: "http/1.1", true: "h2"}[h2]}
		c = tls.Client(c, cfg)
	}
	var res *http.Response
	if h2 {
		cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
		if err != nil {
			return nil, err
		}
		req, err := http.NewRequest("GET", "http://x"+path, nil)
		if err != nil {
			return nil, err
		}
		if res, err = cc.RoundTrip(req); err != nil {
			return nil, err
		}
	} else {
		if _, err := io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			return nil, err
		}
		if res, err = http.ReadResponse(bufio.NewReader(c), nil); err != nil {
			return nil, err
		}
	}
	if res.StatusCode != 200 {
		return nil, fmt.Errorf("%s", res.Status)
	}
	return res.Body, nil
}
