// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 a raw HTTP/2 client connection has no successor in the Go versions that build this

package endure_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"golang.org/x/net/http2"

	"redoubt.dev/test/conform/rig"
)

// pattern is what large bodies repeat: a byte that is lost, doubled or moved
// shows.
var pattern = func() []byte {
	b := make([]byte, 1<<20+7) // no multiple of anybody's buffer
	x := uint32(1)
	for i := range b {
		x = x*1664525 + 1013904223
		b[i] = byte(x >> 24)
	}
	return b
}()

// source is a body of n bytes of the pattern.
type source struct{ at, n int64 }

func (s *source) Read(p []byte) (int, error) {
	if s.at == s.n {
		return 0, io.EOF
	}
	from := pattern[s.at%int64(len(pattern)):]
	k := copy(p[:min(int64(len(p)), s.n-s.at)], from)
	s.at += int64(k)
	return k, nil
}

// sink counts a body, and compares it.
type sink struct{ n int64 }

func (s *sink) Write(p []byte) (int, error) {
	for all := p; len(all) > 0; {
		want := pattern[s.n%int64(len(pattern)):]
		k := min(len(want), len(all))
		if !bytes.Equal(want[:k], all[:k]) {
			return 0, fmt.Errorf("other bytes at %d", s.n)
		}
		s.n, all = s.n+int64(k), all[k:]
	}
	return len(p), nil
}

// bulk is a server of large bodies, over HTTP/1.1 and HTTP/2.
type bulk struct{ addr string }

func newBulk(t *testing.T) *bulk {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Protocols: &protocols, HTTP2: &http.HTTP2Config{MaxReadFrameSize: 1 << 20, MaxReceiveBufferPerStream: 4 << 20, MaxReceiveBufferPerConnection: 8 << 20},
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			n, _ := strconv.ParseInt(r.URL.Query().Get("n"), 10, 64)
			switch r.URL.Path {
			case "/source":
				if r.URL.Query().Get("chunked") == "" {
					w.Header().Set("Content-Length", fmt.Sprint(n))
				}
				io.CopyBuffer(struct{ io.Writer }{w}, &source{n: n}, make([]byte, 256<<10))
			case "/sink":
				var s sink
				_, err := io.CopyBuffer(&s, struct{ io.Reader }{r.Body}, make([]byte, 256<<10))
				fmt.Fprintf(w, "%d %v", s.n, err)
			}
		})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	return &bulk{l.Addr().String()}
}

// TestLargeBody sends a body of many gigabytes through the proxy, each way:
// every byte is compared, and the proxy does not grow.
func TestLargeBody(t *testing.T) {
	n := sized(*bodySize, 128<<20)
	b := newBulk(t)
	ls := []*listener{{name: "one", addr: rig.FreeAddr(t), to: "one", route: "timeout: 0s,"}, {name: "two", addr: rig.FreeAddr(t), to: "two", route: "timeout: 0s,"}}
	p := start(t, boot(ls, []*cluster{{name: "one", to: b.addr}, {name: "two", to: b.addr, h2: true}}))
	for _, l := range ls {
		before := p.holds()
		for _, c := range []struct {
			name string
			do   func(addr string, n int64) error
		}{
			{"up, sized, HTTP/1.1", func(a string, n int64) error { return up1(a, n, false) }},
			{"up, chunked, HTTP/1.1", func(a string, n int64) error { return up1(a, n, true) }},
			{"down, sized, HTTP/1.1", func(a string, n int64) error { return down1(a, n, "") }},
			{"down, chunked, HTTP/1.1", func(a string, n int64) error { return down1(a, n, "1") }},
			{"up, HTTP/2", up2},
			{"down, HTTP/2", down2},
		} {
			t.Run(c.name+", to a host of HTTP/"+l.name, func(t *testing.T) {
				if err := c.do(l.addr, n); err != nil {
					t.Error(err)
				}
				if r := p.rss(); r > before.rss+growth {
					t.Errorf("memory grew by %d MiB", (r-before.rss)>>20)
				}
			})
		}
		p.settle(before, kept, growth)
	}
	if s := p.stats(); s["http.one.downstream_cx_rx_bytes_total"] < 3*n || s["http.one.downstream_cx_tx_bytes_total"] < 3*n {
		t.Errorf("counted %d and %d bytes", s["http.one.downstream_cx_rx_bytes_total"], s["http.one.downstream_cx_tx_bytes_total"])
	}
}

func dial1(addr string) (net.Conn, error) {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err == nil {
		c.SetDeadline(lastly())
	}
	return c, err
}

func up1(addr string, n int64, chunked bool) error {
	c, err := dial1(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	req, err := http.NewRequest("POST", "http://x/sink", &source{n: n})
	if err != nil {
		return err
	}
	if req.ContentLength = n; chunked {
		req.ContentLength = -1
	}
	w := bufio.NewWriterSize(c, 256<<10)
	if err := req.Write(w); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return counted(http.ReadResponse(bufio.NewReader(c), req))(n)
}

// counted compares what the server counted.
func counted(res *http.Response, err error) func(int64) error {
	return func(n int64) error {
		if err != nil {
			return err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		if want := fmt.Sprintf("%d <nil>", n); err != nil || res.StatusCode != 200 || string(b) != want {
			return fmt.Errorf("%d %q %v, want %q", res.StatusCode, b, err, want)
		}
		return nil
	}
}

func taken(res *http.Response, err error) func(int64) error {
	return func(n int64) error {
		if err != nil {
			return err
		}
		defer res.Body.Close()
		var s sink
		_, err := io.CopyBuffer(&s, struct{ io.Reader }{res.Body}, make([]byte, 256<<10))
		if err != nil || res.StatusCode != 200 || s.n != n {
			return fmt.Errorf("%d, %d bytes, %v", res.StatusCode, s.n, err)
		}
		return nil
	}
}

func down1(addr string, n int64, chunked string) error {
	c, err := dial1(addr)
	if err != nil {
		return err
	}
	defer c.Close()
	fmt.Fprintf(c, "GET /source?n=%d&chunked=%s HTTP/1.1\r\nHost: x\r\n\r\n", n, chunked)
	return taken(http.ReadResponse(bufio.NewReaderSize(c, 256<<10), nil))(n)
}

func conn2(addr string) (*http2.ClientConn, error) {
	c, err := dial1(addr)
	if err != nil {
		return nil, err
	}
	cc, err := (&http2.Transport{AllowHTTP: true, MaxReadFrameSize: 1 << 20}).NewClientConn(c)
	if err != nil {
		c.Close()
	}
	return cc, err
}

func up2(addr string, n int64) error {
	cc, err := conn2(addr)
	if err != nil {
		return err
	}
	defer cc.Close()
	req, err := http.NewRequest("POST", "http://x/sink", &source{n: n})
	if err != nil {
		return err
	}
	req.ContentLength = n
	return counted(cc.RoundTrip(req))(n)
}

func down2(addr string, n int64) error {
	cc, err := conn2(addr)
	if err != nil {
		return err
	}
	defer cc.Close()
	req, err := http.NewRequest("GET", fmt.Sprintf("http://x/source?n=%d", n), nil)
	if err != nil {
		return err
	}
	return taken(cc.RoundTrip(req))(n)
}
