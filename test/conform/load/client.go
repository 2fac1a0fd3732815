// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 a raw HTTP/2 client connection has no successor in the Go versions that build this

package load

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/http2"
)

// client does one exchange at a time on one connection.
type client interface {
	// do sends body and wants it back. An error means that the connection is
	// of no more use, or that the answer was wrong.
	do(ctx context.Context, body []byte) error
	close()
}

// patience bounds one exchange; what takes longer has failed.
const patience = 30 * time.Second

func (g *Group) dial(ctx context.Context) (client, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", g.Addr)
	if err != nil {
		return nil, err
	}
	if g.TLS != nil {
		cfg := g.TLS.Clone()
		if cfg.NextProtos == nil && g.Proto != TCP {
			cfg.NextProtos = []string{string(g.Proto)}
		}
		tc := tls.Client(c, cfg)
		c.SetDeadline(time.Now().Add(patience))
		if err := tc.HandshakeContext(ctx); err != nil {
			c.Close()
			return nil, err
		}
		c.SetDeadline(time.Time{})
		c = tc
	}
	switch g.Proto {
	case HTTP2:
		cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
		if err != nil {
			c.Close()
			return nil, err
		}
		return &h2Client{cc, c}, nil
	case HTTP1:
		return &h1Client{c, bufio.NewReader(c)}, nil
	}
	return &tcpClient{c, nil}, nil
}

type h1Client struct {
	c net.Conn
	r *bufio.Reader
}

func (h *h1Client) close() { h.c.Close() }

func (h *h1Client) do(_ context.Context, body []byte) error {
	h.c.SetDeadline(time.Now().Add(patience))
	head := fmt.Appendf(nil, "POST /echo HTTP/1.1\r\nHost: load\r\nContent-Length: %d\r\n\r\n", len(body))
	if _, err := h.c.Write(append(head, body...)); err != nil {
		return err
	}
	res, err := http.ReadResponse(h.r, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := same(res, body); err != nil {
		return err
	}
	if res.Close {
		return errClosing
	}
	return nil
}

var errClosing = fmt.Errorf("connection announced its end")

// same wants a 200 whose body is what was sent.
func same(res *http.Response, body []byte) error {
	got, err := io.ReadAll(io.LimitReader(res.Body, int64(len(body))+1))
	if err != nil {
		return err
	}
	if res.StatusCode != 200 {
		return fmt.Errorf("status %d: %.100q", res.StatusCode, got)
	}
	if !bytes.Equal(got, body) {
		return fmt.Errorf("%d bytes came back, not the %d that were sent", len(got), len(body))
	}
	return nil
}

type h2Client struct {
	cc *http2.ClientConn
	c  net.Conn
}

func (h *h2Client) close() { h.cc.Close(); h.c.Close() }

func (h *h2Client) do(ctx context.Context, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, "POST", "http://load/echo", bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := h.cc.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if err := same(res, body); err != nil {
		return err
	}
	if !h.cc.CanTakeNewRequest() {
		return errClosing
	}
	return nil
}

type tcpClient struct {
	c   net.Conn
	got []byte
}

func (t *tcpClient) close() { t.c.Close() }

func (t *tcpClient) do(_ context.Context, body []byte) error {
	t.c.SetDeadline(time.Now().Add(patience))
	if _, err := t.c.Write(body); err != nil {
		return err
	}
	t.got = append(t.got[:0], make([]byte, len(body))...)
	if _, err := io.ReadFull(t.c, t.got); err != nil {
		return err
	}
	if !bytes.Equal(t.got, body) {
		return fmt.Errorf("other bytes came back")
	}
	return nil
}

// fill makes a body that no other client and no other request has.
func fill(b []byte, client, n uint64) {
	x := client<<32 ^ n ^ 0x9e3779b97f4a7c15
	for i := 0; i < len(b); i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		var w [8]byte
		binary.LittleEndian.PutUint64(w[:], x)
		copy(b[i:], w[:])
	}
}
