// SPDX-License-Identifier: Apache-2.0

//go:build !race

package proxy_test

import (
	"bytes"
	"net"
	"runtime"
	"testing"
)

// TestNoGarbagePerRequest sends thousands of requests over one connection,
// with a client and a server that make none, and counts what the two proxies
// allocate: TLS, policy, retry state, metrics and access log included.
func TestNoGarbagePerRequest(t *testing.T) {
	answer := []byte("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Type: text/plain\r\n\r\nhello")
	w := newWorld(t, tcpApp(t, func(c *net.TCPConn) {
		defer c.Close()
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
	}))
	c := dial(t, w.vip)
	request := []byte("GET /accounts/1?x=y HTTP/1.1\r\nHost: ledger.bank\r\nUser-Agent: test\r\nAccept: */*\r\n\r\n")
	b := make([]byte, 4096)
	sent := 0
	do := func() {
		sent++
		c.Write(request)
		for n := 0; !bytes.HasSuffix(b[:n], []byte("\r\n\r\nhello")); {
			k, err := c.Read(b[n:])
			if err != nil {
				t.Fatalf("request %d: %v after %q", sent, err, b[:n])
			}
			n += k
		}
	}
	for range 2000 {
		do()
	}
	const n = 5000
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range n {
		do()
	}
	runtime.ReadMemStats(&after)
	// The tickers and the log's batches remain.
	if per := float64(after.Mallocs-before.Mallocs) / n; per > 0.05 {
		t.Errorf("%.2f allocations per request", per)
	} else {
		t.Logf("%.4f allocations, %.1f bytes per request", per, float64(after.TotalAlloc-before.TotalAlloc)/n)
	}
}
