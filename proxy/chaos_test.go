// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"redoubt.dev/api/wire"
)

// unruly answers requests, ends connections at random points, and echoes
// what is no request.
func unruly(c *net.TCPConn) {
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	br := bufio.NewReader(c)
	for {
		if b, err := br.Peek(1); err != nil || b[0] == 0 {
			io.Copy(c, br)
			return
		}
		req, err := http.ReadRequest(br)
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, req.Body)
		if err != nil {
			return
		}
		switch rand.IntN(40) {
		case 0:
			return
		case 1:
			c.SetLinger(0)
			return
		case 2:
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart")
			return
		case 3:
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n%d", n)
			return
		case 4:
			io.WriteString(c, "nonsense\r\n\r\n")
			return
		}
		s := fmt.Sprint(n)
		if rand.IntN(2) == 0 {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(s), s)
		} else {
			fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(s), s)
		}
	}
}

// TestChaos: clients that leave at any point, a server that does too, and
// snapshots that change all the while. Whole answers are right, accounts
// balance, nothing is left.
func TestChaos(t *testing.T) {
	w := newWorld(t, tcpApp(t, unruly))
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	var whole, cut atomic.Int64
	for range 24 {
		wg.Go(func() {
			for ctx.Err() == nil {
				if chaoticClient(t, w) {
					whole.Add(1)
				} else {
					cut.Add(1)
				}
			}
		})
	}
	all := w.podB.Inbound.Allow
	for i := range 40 {
		switch i % 4 {
		case 0:
			w.podB.Inbound.Allow = []wire.Rule{{Policy: "bank/some", To: []wire.Operation{{Methods: []string{"POST"}}}}}
		case 1:
			w.podA.SVID = w.ca.Issue(t, w.podA.SVID.ID, time.Hour)
		case 2:
			w.podB.Inbound.Allow = nil
		case 3:
			w.podB.Inbound.Allow = all
		}
		w.apply()
		for _, m := range []*machine{w.a, w.b} {
			if err := m.p.CheckForTest(); err != nil {
				t.Fatal(err)
			}
		}
		<-time.After(time.Duration(rand.IntN(50)) * time.Millisecond)
	}
	stop()
	wg.Wait()
	if whole.Load() < 20 || cut.Load() < 20 {
		t.Errorf("%d exchanges whole, %d not: the test does not test", whole.Load(), cut.Load())
	}
	settled(t, w)
}

// chaoticClient does one random thing and tells whether it was whole.
func chaoticClient(t *testing.T, w *world) bool {
	c, err := net.Dial("tcp", w.vip.String())
	if err != nil {
		return false
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(10 * time.Second))
	switch rand.IntN(8) {
	case 0: // says nothing for a while
		c.SetDeadline(time.Now().Add(time.Duration(rand.IntN(150)) * time.Millisecond))
		c.Read(make([]byte, 1))
		return false
	case 1: // half a head
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: ")
		return false
	case 2: // part of a body, then a reset
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000\r\n\r\n%s", strings.Repeat("x", rand.IntN(90000)))
		c.(*net.TCPConn).SetLinger(0)
		return false
	case 3: // a stream
		n := rand.IntN(100_000)
		go func() { c.Write(make([]byte, n)); c.(*net.TCPConn).CloseWrite() }()
		got, err := io.Copy(io.Discard, c)
		return err == nil && n > 0 && int(got) == n
	case 4: // a request, and away
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: h\r\n\r\n")
		return false
	}
	br := bufio.NewReader(c)
	for i := range 5 {
		n := rand.IntN(20000)
		fmt.Fprintf(c, "POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n%s", i, n, strings.Repeat("x", n))
		res, err := http.ReadResponse(br, nil)
		if err != nil {
			return false
		}
		b, err := io.ReadAll(res.Body)
		if err != nil || res.StatusCode != 200 {
			return false
		}
		if string(b) != fmt.Sprint(n) {
			t.Errorf("answer %q to a body of %d bytes", b, n)
		}
	}
	return true
}

// settled waits until nothing but idle connections is left.
func settled(t *testing.T, w *world) {
	t.Helper()
	for _, m := range []*machine{w.a, w.b} {
		var conns, shakes, queued int64
		for end := time.Now().Add(10 * time.Second); ; runtime.Gosched() {
			if conns, shakes, queued = m.p.LeftForTest(); shakes == 0 && queued == 0 && (m == w.b || conns == 0) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("left: %d sessions, %d handshakes, %d records", conns, shakes, queued)
			}
		}
		if err := m.p.CheckForTest(); err != nil {
			t.Error(err)
		}
	}
}
