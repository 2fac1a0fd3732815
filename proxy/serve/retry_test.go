// SPDX-License-Identifier: Apache-2.0

package serve_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// failing answers the first n requests of each path by f, and then 200.
func failing(t testing.TB, n int64, f func(w http.ResponseWriter, r *http.Request)) netip.AddrPort {
	var seen sync.Map
	return origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		k, _ := seen.LoadOrStore(r.URL.Path, new(atomic.Int64))
		if i := k.(*atomic.Int64).Add(1); i <= n {
			f(w, r)
			return
		}
		fmt.Fprintf(w, "%s%s", r.Header.Get("X-Envoy-Attempt-Count"), b)
	}), true)
}

func status(code int, fields ...string) func(http.ResponseWriter, *http.Request) {
	return func(w http.ResponseWriter, _ *http.Request) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Set(fields[i], fields[i+1])
		}
		w.WriteHeader(code)
	}
}

func reset(w http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

func dead(t testing.TB) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), freePort(t))
}

// TestRetries holds each condition: the request succeeds with it, and does not
// without.
func TestRetries(t *testing.T) {
	whole(t)
	hang := func(w http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for _, x := range []struct {
		name, policy string
		at           func() netip.AddrPort
		with, out    int
	}{
		{"5xx", "retry_on: 5xx", func() netip.AddrPort { return failing(t, 1, status(500)) }, 200, 500},
		{"5xx twice", "retry_on: 5xx, num_retries: 2", func() netip.AddrPort { return failing(t, 2, status(503)) }, 200, 503},
		{"5xx too often", "retry_on: 5xx, num_retries: 1", func() netip.AddrPort { return failing(t, 2, status(503)) }, 503, 503},
		{"gateway", "retry_on: gateway-error", func() netip.AddrPort { return failing(t, 1, status(502)) }, 200, 502},
		{"no gateway", "retry_on: gateway-error", func() netip.AddrPort { return failing(t, 1, status(500)) }, 500, 500},
		{"4xx", "retry_on: retriable-4xx", func() netip.AddrPort { return failing(t, 1, status(409)) }, 200, 409},
		{"codes", "retry_on: retriable-status-codes, retriable_status_codes: [425]", func() netip.AddrPort { return failing(t, 1, status(425)) }, 200, 425},
		{"headers", "retry_on: retriable-headers, retriable_headers: [{name: x-again, present_match: true}]", func() netip.AddrPort { return failing(t, 1, status(200, "X-Again", "1")) }, 200, 200},
		{"overloaded", "retry_on: 5xx", func() netip.AddrPort { return failing(t, 1, status(503, "X-Envoy-Overloaded", "true")) }, 503, 503},
		{"reset", "retry_on: reset", func() netip.AddrPort { return failing(t, 1, reset) }, 200, 503},
		{"try time", "retry_on: 5xx, per_try_timeout: 0.1s", func() netip.AddrPort { return failing(t, 1, hang) }, 200, 504},
		{"grpc", "retry_on: unavailable", func() netip.AddrPort { return failing(t, 1, status(200, "Grpc-Status", "14")) }, 200, 200},
	} {
		for _, two := range []string{"", speaks2} {
			t.Run(fmt.Sprintf("%s h2=%v", x.name, two != ""), func(t *testing.T) {
				w := open(t, site{hosts: `
- name: a
  domains: ["*"]
  include_request_attempt_count: true
  routes:
  - {match: {prefix: /with}, route: {cluster: one, timeout: 5s, retry_policy: {` + x.policy + `, retry_back_off: {base_interval: 0.001s}}}}
  - {match: {prefix: /}, route: {cluster: one, timeout: 0.3s}}`, clusters: []string{host("one", two, x.at())}})
				c := plain(t, false)
				for _, body := range []string{"", "body"} {
					target := "POST /with" + body
					if a := w.ask(c, target, body); a.StatusCode != x.with || x.with == 200 && x.name != "headers" && x.name != "grpc" && !strings.HasSuffix(a.body, body) {
						t.Errorf("with policy: %v", a)
					} else if x.with == 200 && x.name == "5xx twice" && a.body != "3"+body {
						t.Errorf("attempt count and body %q", a.body)
					}
				}
				if a := w.ask(c, "POST /none", "b"); a.StatusCode != x.out {
					t.Errorf("without: %v", a)
				}
			})
		}
	}
}

// TestDeadHosts finds another host when one cannot be reached, with any policy
// and without, also for a request with a body that a freed connection serves.
func TestDeadHosts(t *testing.T) {
	whole(t)
	at := failing(t, 0, nil)
	w := open(t, site{routes: `
- {match: {prefix: /p}, route: {cluster: one, retry_policy: {retry_on: connect-failure, num_retries: 3, retry_back_off: {base_interval: 0.001s}, host_selection_retry_max_attempts: 5, retry_host_predicate: [{name: p, typed_config: {"@type": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate}}]}}}
- {match: {prefix: /none}, route: {cluster: none}}
- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", "", at, dead(t)), host("none", "", dead(t))}})
	c := plain(t, false)
	for i := range 200 {
		for _, p := range []string{"/p", "/"} {
			if a := w.ask(c, fmt.Sprint("POST ", p, i), "body"); a.StatusCode != 200 || a.body != "body" {
				t.Fatal(i, p, a)
			}
		}
	}
	if a := w.ask(c, "/none", ""); a.StatusCode != 503 {
		t.Error(a)
	}
}

// TestRetryTimeIsOne holds the route's time over all attempts.
func TestRetryTimeIsOne(t *testing.T) {
	whole(t)
	var tries atomic.Int64
	at := origin(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tries.Add(1)
		<-r.Context().Done()
	}), false)
	w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one, timeout: 0.5s, retry_policy: {retry_on: 5xx, num_retries: 50, per_try_timeout: 0.1s, retry_back_off: {base_interval: 0.001s}}}}`,
		clusters: []string{host("one", "", at)}})
	began := time.Now()
	a := w.ask(plain(t, false), "/", "")
	if a.StatusCode != 504 || time.Since(began) > 5*time.Second || tries.Load() < 2 || tries.Load() > 8 {
		t.Error(a, time.Since(began), tries.Load())
	}
}

// dying serves HTTP/1.1 with keep-alive, and ends one connection of eight after
// a response, without a word. met counts those on which a request was waiting:
// a kernel that closes then resets, and nobody can prove that it was not read.
func dying(t testing.TB, served, met *atomic.Int64) netip.AddrPort {
	var n atomic.Uint64
	return tcpOrigin(t, func(c *net.TCPConn) {
		r := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			if _, err := io.Copy(io.Discard, req.Body); err != nil {
				return
			}
			served.Add(1)
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			if x := n.Add(1) * 0x9e3779b97f4a7c15; x>>61 != 0 {
				continue
			}
			if raw, err := c.SyscallConn(); err == nil {
				raw.Control(func(fd uintptr) {
					if k, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil && k > 0 {
						met.Add(1)
					}
				})
			}
			return
		}
	})
}

// TestIdleDeath sends 50,000 requests to an origin that ends connections at
// any time. None fails that can be repeated: what is idempotent, and what the
// origin's kernel had not received, as TCP proves.
func TestIdleDeath(t *testing.T) {
	whole(t)
	var served, met atomic.Int64
	w := open(t, site{routes: `- {match: {prefix: /}, route: {cluster: one}}`, clusters: []string{host("one", "", dying(t, &served, &met))}})
	total, workers := 50_000, 16
	if testing.Short() {
		total = 5_000
	}
	var failed [2]atomic.Int64 // GET, POST
	var n atomic.Int64
	var wg sync.WaitGroup
	for i := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			k := dialTo(t, w.at)
			k.SetDeadline(time.Now().Add(2 * time.Minute))
			request := [...]string{"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"}[i%2]
			for n.Add(1) <= int64(total) {
				if _, err := io.WriteString(k, request); err != nil {
					t.Error(err)
					return
				}
				resp, err := http.ReadResponse(k.r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				io.Copy(io.Discard, resp.Body)
				if resp.StatusCode != 200 {
					failed[i%2].Add(1)
				}
			}
		}()
	}
	wg.Wait()
	_, dials, _, replays, _ := w.s.Count("one")
	t.Logf("%d connections, %d replays, %d served; %d POST failed, a request was waiting on at least %d", dials, replays, served.Load(), failed[1].Load(), met.Load())
	if failed[0].Load() > 0 {
		t.Errorf("%d GET failed", failed[0].Load())
	}
	// Between the origin's look and its close some more arrive.
	if k := failed[1].Load(); k > 3*met.Load()+20 || served.Load()+k < int64(total) {
		t.Errorf("%d POST failed", k)
	}
}
