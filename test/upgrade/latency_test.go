// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// probe is one client that asks all the time and notes when each answer was
// due and how long it took.
type probe struct {
	ask, got []byte
	at       []time.Time
	took     []time.Duration
	err      error
}

func (p *probe) run(c net.Conn, every time.Duration, stop chan struct{}) {
	r := bufio.NewReader(c)
	t := time.NewTicker(every)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case at := <-t.C:
			if _, p.err = c.Write(p.ask); p.err == nil {
				_, p.err = io.ReadFull(r, p.got)
			}
			if p.err != nil {
				return
			}
			p.at, p.took = append(p.at, at), append(p.took, time.Since(at))
		}
	}
}

// TestExtraLatency measures what clients feel of upgrades, on a proxy with 1,000
// further connections that ask now and then. It judges nothing but errors: the machine decides the
// figures.
func TestExtraLatency(t *testing.T) {
	echo, certs := load.NewEcho(t), rig.NewCerts(t)
	web := &port{name: "web", to: echo.HTTP}
	tcp := &port{name: "tcp", to: echo.TCP, tcp: true}
	mtls := &port{name: "mtls", to: echo.HTTP, tls: certs, mutual: true}
	w := newWorld(t, web, tcp, mtls)
	idle := load.Start(load.Group{Name: "mtls", Proto: load.HTTP1, Addr: mtls.addr, Clients: 500, Every: 2 * time.Second, TLS: certs.Client},
		load.Group{Name: "http2", Proto: load.HTTP2, Addr: web.addr, Clients: 500, Every: 2 * time.Second})
	defer idle.Stop()

	stop := make(chan struct{})
	var wg sync.WaitGroup
	var probes []*probe
	for i := range 8 {
		addr, ask := tcp.addr, []byte("0123456789abcdef")
		got := make([]byte, len(ask))
		if i%2 == 1 {
			addr, ask = web.addr, []byte("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
		}
		c, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 1 { // learn how long an answer is: they are all alike
			c.Write(ask)
			b := make([]byte, 4096)
			n := 0
			for !bytes.HasSuffix(b[:n], []byte("abc")) {
				k, err := c.Read(b[n:])
				if err != nil {
					t.Fatal(err)
				}
				n += k
			}
			got = make([]byte, n)
		}
		p := &probe{ask: ask, got: got}
		probes = append(probes, p)
		wg.Go(func() { p.run(c, 2*time.Millisecond, stop) })
	}
	windows := [][2]time.Time{}
	calm := time.NewTimer(2 * time.Second)
	<-calm.C
	windows = append(windows, [2]time.Time{time.Now().Add(-1500 * time.Millisecond), time.Now()})
	for range 5 {
		from := time.Now()
		t.Log(w.upgrade())
		windows = append(windows, [2]time.Time{from, time.Now()})
	}
	close(stop)
	wg.Wait()
	for i, win := range windows {
		var all []time.Duration
		for _, p := range probes {
			if p.err != nil {
				t.Error(p.err)
			}
			for k, at := range p.at {
				if at.After(win[0]) && at.Before(win[1]) {
					all = append(all, p.took[k])
				}
			}
		}
		what := fmt.Sprintf("upgrade %d", i)
		if i == 0 {
			what = "without upgrade"
		}
		if len(all) == 0 {
			continue
		}
		slices.Sort(all)
		q := func(f float64) time.Duration { return all[int(f*float64(len(all)-1))].Round(10 * time.Microsecond) }
		t.Logf("%s: %d answers, p50 %v, p99 %v, p99.9 %v, longest %v", what, len(all), q(.5), q(.99), q(.999), q(1))
	}
}
