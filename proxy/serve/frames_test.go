// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"testing"
)

// What follows speaks just enough HTTP/2 to make no garbage.

const (
	frameData, frameHeaders, frameSettings, framePing = 0, 1, 4, 6
	endStream, endHeaders, ack                        = 1, 4, 1
)

type framer struct {
	c   net.Conn
	in  []byte
	n   int
	out []byte
}

func newFramer(c net.Conn) *framer { return &framer{c: c, in: make([]byte, 64<<10)} }

// next gives the next frame's kind, flags and stream; its payload is passed over.
func (f *framer) next() (kind, flags byte, id uint32, err error) {
	for {
		if f.n >= 9 {
			size := 9 + int(f.in[0])<<16 + int(f.in[1])<<8 + int(f.in[2])
			if f.n >= size {
				kind, flags, id = f.in[3], f.in[4], binary.BigEndian.Uint32(f.in[5:])&0x7fffffff
				if kind == framePing && flags&ack == 0 {
					f.out = append(append(f.out, 0, 0, 8, framePing, ack, 0, 0, 0, 0), f.in[9:17]...)
				}
				f.n = copy(f.in, f.in[size:f.n])
				return kind, flags, id, nil
			}
		}
		k, err := f.c.Read(f.in[f.n:])
		if err != nil {
			return 0, 0, 0, err
		}
		f.n += k
	}
}

func (f *framer) frame(kind, flags byte, id uint32, p []byte) {
	f.out = append(f.out, 0, byte(len(p)>>8), byte(len(p)), kind, flags, 0, 0, 0, 0)
	binary.BigEndian.PutUint32(f.out[len(f.out)-4:], id)
	f.out = append(f.out, p...)
}

func (f *framer) flush() error {
	_, err := f.c.Write(f.out)
	f.out = f.out[:0]
	return err
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

// origin2 answers every request with "hello".
func origin2(t testing.TB) netip.AddrPort {
	head := append([]byte{0x88}, "\x0f\x0d\x015"...) // :status 200; content-length 5, not indexed
	return tcpOrigin(t, func(c *net.TCPConn) {
		if _, err := io.ReadFull(c, make([]byte, len(preface))); err != nil {
			return
		}
		f := newFramer(c)
		f.frame(frameSettings, 0, 0, nil)
		for {
			kind, flags, id, err := f.next()
			if err != nil {
				return
			}
			switch {
			case kind == frameSettings && flags&ack == 0:
				f.frame(frameSettings, ack, 0, nil)
			case kind == frameHeaders:
				f.frame(frameHeaders, endHeaders, id, head)
				f.frame(frameData, endStream, id, []byte("hello"))
			}
			if f.n == 0 && len(f.out) > 0 && f.flush() != nil {
				return
			}
		}
	})
}

func origin1(t testing.TB) netip.AddrPort {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello")
	return tcpOrigin(t, func(c *net.TCPConn) {
		b := make([]byte, 4096)
		for n := 0; ; {
			k, err := c.Read(b[n:])
			if err != nil {
				return
			}
			if n += k; bytes.HasSuffix(b[:n], []byte("\r\n\r\n")) {
				n = 0
				c.Write(answer)
			}
		}
	})
}

func ask1(t testing.TB, k *wire) func() {
	request := []byte("GET /accounts/1?x=y HTTP/1.1\r\nHost: ledger.bank\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
	b := make([]byte, 4096)
	return func() {
		k.Write(request)
		for n := 0; !bytes.HasSuffix(b[:n], []byte("\r\n\r\nhello")); {
			i, err := k.Read(b[n:])
			if err != nil {
				t.Fatalf("%v after %q", err, b[:n])
			}
			n += i
		}
	}
}

func ask2(t testing.TB, k *wire) func() {
	f := newFramer(k.Conn)
	f.out = append(f.out, preface...)
	f.frame(frameSettings, 0, 0, nil)
	id := uint32(1)
	head := append([]byte{0x82, 0x86}, "\x04\x09/accounts\x01\x0bledger.bank"...) // GET, http, literals that are not indexed
	return func() {
		f.frame(frameHeaders, endHeaders|endStream, id, head)
		if err := f.flush(); err != nil {
			t.Fatal(err)
		}
		for {
			kind, flags, at, err := f.next()
			if err != nil {
				t.Fatal(err)
			}
			if kind == frameSettings && flags&ack == 0 {
				f.frame(frameSettings, ack, 0, nil)
			}
			if at == id && flags&endStream != 0 && (kind == frameData || kind == frameHeaders) {
				break
			}
			if kind > framePing && kind != 8 || kind == 3 {
				t.Fatalf("frame of kind %d", kind)
			}
		}
		id += 2
	}
}
