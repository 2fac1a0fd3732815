// SPDX-License-Identifier: Apache-2.0

package websock

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// patience bounds the life of a connection of a test.
const patience = 20 * time.Second

const clientKey = "dGhlIHNhbXBsZSBub25jZQ=="

func accept(key string) string {
	h := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(h[:])
}

// Dial opens a WebSocket over HTTP/1.1. A refusal is an error that names the
// status.
func Dial(addr, path string) (*Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: ws\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", path, clientKey)
	r := bufio.NewReaderSize(c, 64<<10)
	res, err := http.ReadResponse(r, nil)
	if err == nil && (res.StatusCode != 101 || res.Header.Get("Sec-WebSocket-Accept") != accept(clientKey) || !strings.EqualFold(res.Header.Get("Upgrade"), "websocket")) {
		err = fmt.Errorf("websock: status %d, %v", res.StatusCode, res.Header)
	}
	if err != nil {
		c.Close()
		return nil, err
	}
	return &Conn{rw: c, r: r, client: true}, nil
}

// Server takes WebSockets over HTTP/1.1 and calls serve for each.
func Server(t testing.TB, serve func(path string, c *Conn)) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				c.SetDeadline(time.Now().Add(patience))
				r := bufio.NewReaderSize(c, 64<<10)
				req, err := http.ReadRequest(r)
				if err != nil {
					return
				}
				key := req.Header.Get("Sec-WebSocket-Key")
				if !strings.EqualFold(req.Header.Get("Upgrade"), "websocket") || key == "" || req.URL.Path == "/refuse" {
					io.WriteString(c, "HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
					return
				}
				fmt.Fprintf(c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n", accept(key))
				serve(req.URL.Path, &Conn{rw: c, r: r})
			})
		}
	})
	t.Cleanup(func() { l.Close(); wg.Wait() })
	return l.Addr().String()
}

// DialHTTP2 opens a WebSocket on a stream of a new HTTP/2 connection
// (RFC 8441).
func DialHTTP2(addr, path string) (*Conn, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(patience))
	s := &stream{c: c, f: http2.NewFramer(c, bufio.NewReaderSize(c, 64<<10)), window: 65535, conn: 65535, frame: 16384}
	s.cond = sync.NewCond(&s.mu)
	s.f.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if err := s.open(path); err != nil {
		c.Close()
		return nil, err
	}
	pr, pw := io.Pipe()
	s.in = pw
	go s.read()
	return &Conn{rw: s, r: bufio.NewReaderSize(pr, 64<<10), client: true}, nil
}

// stream is stream 1 of a connection that has no other.
type stream struct {
	c  net.Conn
	f  *http2.Framer
	in *io.PipeWriter

	wmu sync.Mutex // one frame at a time

	mu           sync.Mutex
	cond         *sync.Cond
	window, conn int64 // what may be sent
	initial      int64
	frame        int
	dead         error
}

func (s *stream) open(path string) error {
	io.WriteString(s.c, http2.ClientPreface)
	s.f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20})
	s.f.WriteWindowUpdate(0, 1<<20)
	s.initial = 65535
	for connect := false; !connect; { // RFC 8441, 3: not before the server allows it
		f, err := s.f.ReadFrame()
		if err != nil {
			return err
		}
		if set, ok := f.(*http2.SettingsFrame); ok && !set.IsAck() {
			if v, _ := set.Value(http2.SettingEnableConnectProtocol); v != 1 {
				return fmt.Errorf("websock: the server does not announce extended CONNECT")
			}
			s.settings(set)
			s.f.WriteSettingsAck()
			connect = true
		}
	}
	var b strings.Builder
	enc := hpack.NewEncoder(&b)
	for _, f := range [][2]string{{":method", "CONNECT"}, {":protocol", "websocket"}, {":scheme", "http"}, {":path", path}, {":authority", "ws"}, {"sec-websocket-version", "13"}} {
		enc.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	if err := s.f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte(b.String()), EndHeaders: true}); err != nil {
		return err
	}
	for {
		f, err := s.f.ReadFrame()
		if err != nil {
			return err
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			if v := f.PseudoValue("status"); v != "200" {
				return fmt.Errorf("websock: status %s", v)
			}
			return nil
		case *http2.RSTStreamFrame:
			return fmt.Errorf("websock: reset %v", f.ErrCode)
		case *http2.GoAwayFrame:
			return fmt.Errorf("websock: goaway %v", f.ErrCode)
		default:
			s.other(f)
		}
	}
}

func (s *stream) settings(f *http2.SettingsFrame) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if v, ok := f.Value(http2.SettingInitialWindowSize); ok {
		s.window += int64(v) - s.initial
		s.initial = int64(v)
	}
	if v, ok := f.Value(http2.SettingMaxFrameSize); ok {
		s.frame = int(v)
	}
	s.cond.Broadcast()
}

func (s *stream) other(f http2.Frame) {
	switch f := f.(type) {
	case *http2.SettingsFrame:
		if !f.IsAck() {
			s.settings(f)
			s.wmu.Lock()
			s.f.WriteSettingsAck()
			s.wmu.Unlock()
		}
	case *http2.PingFrame:
		if !f.IsAck() {
			s.wmu.Lock()
			s.f.WritePing(true, f.Data)
			s.wmu.Unlock()
		}
	case *http2.WindowUpdateFrame:
		s.mu.Lock()
		if f.StreamID == 0 {
			s.conn += int64(f.Increment)
		} else {
			s.window += int64(f.Increment)
		}
		s.cond.Broadcast()
		s.mu.Unlock()
	}
}

func (s *stream) read() {
	fail := func(err error) {
		s.mu.Lock()
		s.dead = err
		s.cond.Broadcast()
		s.mu.Unlock()
		s.in.CloseWithError(err)
	}
	for {
		f, err := s.f.ReadFrame()
		if err != nil {
			fail(err)
			return
		}
		switch f := f.(type) {
		case *http2.DataFrame:
			if n := f.Length; n > 0 {
				if _, err := s.in.Write(f.Data()); err != nil {
					fail(err)
					return
				}
				s.wmu.Lock()
				s.f.WriteWindowUpdate(0, n)
				s.f.WriteWindowUpdate(1, n)
				s.wmu.Unlock()
			}
			if f.StreamEnded() {
				s.in.CloseWithError(io.EOF)
			}
		case *http2.RSTStreamFrame:
			if f.ErrCode == http2.ErrCodeNo {
				s.in.CloseWithError(io.EOF)
				continue
			}
			fail(fmt.Errorf("websock: reset %v", f.ErrCode))
			return
		default:
			s.other(f)
		}
	}
}

func (s *stream) Read([]byte) (int, error) { panic("websock: read by the pipe") }

func (s *stream) Write(b []byte) (n int, err error) {
	for len(b) > 0 {
		s.mu.Lock()
		for s.dead == nil && (s.window <= 0 || s.conn <= 0) {
			s.cond.Wait()
		}
		k := min(int64(len(b)), s.window, s.conn, int64(s.frame))
		s.window -= k
		s.conn -= k
		err := s.dead
		s.mu.Unlock()
		if err != nil {
			return n, err
		}
		s.wmu.Lock()
		err = s.f.WriteData(1, false, b[:k])
		s.wmu.Unlock()
		if err != nil {
			return n, err
		}
		n += int(k)
		b = b[k:]
	}
	return n, nil
}

func (s *stream) Close() error { return s.c.Close() }
