// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 a raw HTTP/2 client connection has no successor in the Go versions that build this

package endure_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/http2"
)

// doomed are clients of servers that go away again and again. They honour
// the announcement of an end, and hold every other end against the server.
type doomed struct {
	stop      chan struct{}
	wg        sync.WaitGroup
	answered  atomic.Int64
	announced atomic.Int64 // connections that ended by Connection: close or GOAWAY
	refused   atomic.Int64 // connections that were not taken: no byte came on them
	failed    atomic.Int64
	first     atomic.Pointer[string]
}

// pace is the pause between a doomed client's requests.
const pace = 5 * time.Millisecond

func newDoomed() *doomed { return &doomed{stop: make(chan struct{})} }

// add starts a client of each protocol of addr.
func (d *doomed) add(addr string) {
	d.wg.Go(func() { d.each(func() { d.http1(addr) }) })
	d.wg.Go(func() { d.each(func() { d.http2(addr) }) })
}

// end stops the clients.
func (d *doomed) end() {
	close(d.stop)
	d.wg.Wait()
}

func (d *doomed) String() string {
	s := fmt.Sprintf("%d requests, %d failed; %d connections ended by announcement, %d not taken", d.answered.Load(), d.failed.Load(), d.announced.Load(), d.refused.Load())
	if p := d.first.Load(); p != nil {
		s += "; first: " + *p
	}
	return s
}

func (d *doomed) each(f func()) {
	for d.rest() {
		f()
	}
}

func (d *doomed) rest() bool {
	t := time.NewTimer(pace)
	defer t.Stop()
	select {
	case <-d.stop:
		return false
	case <-t.C:
		return true
	}
}

func (d *doomed) fail(format string, args ...any) {
	d.failed.Add(1)
	s := fmt.Sprintf(format, args...)
	d.first.CompareAndSwap(nil, &s)
}

func (d *doomed) dial(addr string) net.Conn {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		d.refused.Add(1)
		return nil
	}
	c.SetDeadline(time.Now().Add(4 * patience))
	return c
}

// http1 uses one connection until it ends.
func (d *doomed) http1(addr string) {
	c := d.dial(addr)
	if c == nil {
		return
	}
	defer c.Close()
	r := bufio.NewReader(c)
	for n := 0; ; n++ {
		body := fmt.Sprintf("doomed %d", n)
		fmt.Fprintf(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			if n == 0 {
				d.refused.Add(1) // it was in the queue of a socket that closed
			} else {
				d.fail("HTTP/1.1, request %d: %v", n, err)
			}
			return
		}
		got := make([]byte, 200)
		k, _ := readFull(res.Body, got)
		res.Body.Close()
		if res.StatusCode != 200 || string(got[:k]) != body {
			d.fail("HTTP/1.1: %d %q", res.StatusCode, got[:k])
			return
		}
		d.answered.Add(1)
		if res.Close {
			d.announced.Add(1)
			return
		}
		if !d.rest() {
			return
		}
	}
}

func readFull(r interface{ Read([]byte) (int, error) }, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var k int
		k, err = r.Read(b[n:])
		n += k
	}
	return n, err
}

// http2 uses one connection until it ends.
func (d *doomed) http2(addr string) {
	c := d.dial(addr)
	if c == nil {
		return
	}
	defer c.Close()
	cc, err := (&http2.Transport{AllowHTTP: true}).NewClientConn(c)
	if err != nil {
		d.refused.Add(1)
		return
	}
	defer cc.Close()
	for n := 0; ; n++ {
		req, _ := http.NewRequest("GET", "http://x/", nil)
		res, err := cc.RoundTrip(req)
		st := cc.State()
		switch {
		case err == nil:
			res.Body.Close()
			if res.StatusCode != 200 {
				d.fail("HTTP/2: %d", res.StatusCode)
				return
			}
			d.answered.Add(1)
		case n == 0:
			d.refused.Add(1)
			return
		case st.Closing && !st.Closed || notSent(err):
			// The request was not sent, or the server said that it did not take it.
		default:
			d.fail("HTTP/2, request %d: %v, %+v", n, err, st)
			return
		}
		if st = cc.State(); st.Closing {
			d.announced.Add(1)
			return
		}
		if !d.rest() {
			return
		}
	}
}

// notSent tells that a client may send its request again elsewhere: the
// connection had announced its end before it was taken.
func notSent(err error) bool {
	switch err.Error() {
	case "http2: Transport received Server's graceful shutdown GOAWAY", "http2: client conn not usable":
		return true
	}
	return false
}
