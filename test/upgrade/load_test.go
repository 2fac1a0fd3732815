// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// TestTenUpgrades holds ten upgrades in a row to their promise under 1,000
// clients of all kinds: no failed exchange, no connection closed.
func TestTenUpgrades(t *testing.T) {
	echo, certs := load.NewEcho(t), rig.NewCerts(t)
	web := &port{name: "web", to: echo.HTTP}
	two := &port{name: "two", to: echo.HTTP, h2up: true}
	tcp := &port{name: "tcp", to: echo.TCP, tcp: true}
	https := &port{name: "https", to: echo.HTTP, tls: certs}
	mtls := &port{name: "mtls", to: echo.HTTP, tls: certs, mutual: true}
	old := &port{name: "tls12", to: echo.HTTP, h2up: true, tls: certs, max12: true}
	tlsTCP := &port{name: "tlstcp", to: echo.TCP, tcp: true, tls: certs, mutual: true}
	w := newWorld(t, web, two, tcp, https, mtls, old, tlsTCP)
	every := 500 * time.Millisecond
	l := load.Start(
		load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 250, Every: every, Body: 300},
		load.Group{Name: "http1 to http2", Proto: load.HTTP1, Addr: two.addr, Clients: 100, Every: every, Body: 3000},
		load.Group{Name: "http2", Proto: load.HTTP2, Addr: web.addr, Clients: 100, Every: every, Body: 3000},
		load.Group{Name: "http2 to http2", Proto: load.HTTP2, Addr: two.addr, Clients: 100, Every: every, Body: 300},
		load.Group{Name: "tcp", Proto: load.TCP, Addr: tcp.addr, Clients: 150, Every: every, Body: 1000},
		load.Group{Name: "https http1", Proto: load.HTTP1, Addr: https.addr, Clients: 75, Every: every, TLS: certs.Client, Body: 1000},
		load.Group{Name: "https http2", Proto: load.HTTP2, Addr: https.addr, Clients: 50, Every: every, TLS: certs.Client, Body: 1000},
		load.Group{Name: "mtls http1", Proto: load.HTTP1, Addr: mtls.addr, Clients: 75, Every: every, TLS: certs.Client, Body: 40000},
		load.Group{Name: "tls12 http1", Proto: load.HTTP1, Addr: old.addr, Clients: 50, Every: every, TLS: certs.Client, Body: 1000},
		load.Group{Name: "mtls tcp", Proto: load.TCP, Addr: tlsTCP.addr, Clients: 50, Every: every, TLS: certs.Client, Body: 20000},
	)
	n := l.Requests()
	rig.Eventually(patience, func() bool { return l.Requests() > n+4000 })
	for _, r := range l.Now() {
		t.Log("before:", r)
	}
	for range 10 {
		t.Log(w.upgrade())
		n := l.Requests()
		rig.Eventually(patience, func() bool { return l.Requests() > n+1000 })
	}
	for _, r := range l.Stop() {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
			t.Errorf("%s lost something", r.Name)
		}
	}
}

// TestBusyUpgrades has no pause between a client's requests, so that nearly
// every connection moves with one under way.
func TestBusyUpgrades(t *testing.T) {
	echo, certs := load.NewEcho(t), rig.NewCerts(t)
	web := &port{name: "web", to: echo.HTTP}
	two := &port{name: "two", to: echo.HTTP, h2up: true}
	tcp := &port{name: "tcp", to: echo.TCP, tcp: true}
	mtls := &port{name: "mtls", to: echo.HTTP, tls: certs, mutual: true}
	w := newWorld(t, web, two, tcp, mtls)
	l := load.Start(
		load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 10, Body: 70000},
		load.Group{Name: "http1 to http2", Proto: load.HTTP1, Addr: two.addr, Clients: 10, Body: 70000},
		load.Group{Name: "http2", Proto: load.HTTP2, Addr: web.addr, Clients: 10, Body: 70000},
		load.Group{Name: "http2 to http2", Proto: load.HTTP2, Addr: two.addr, Clients: 10},
		load.Group{Name: "tcp", Proto: load.TCP, Addr: tcp.addr, Clients: 10, Body: 70000},
		load.Group{Name: "mtls", Proto: load.HTTP2, Addr: mtls.addr, Clients: 10, TLS: certs.Client, Body: 20000},
	)
	for range 5 {
		t.Log(w.upgrade())
	}
	for _, r := range l.Stop() {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
			t.Errorf("%s lost something", r.Name)
		}
	}
}
