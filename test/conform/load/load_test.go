// SPDX-License-Identifier: Apache-2.0

package load_test

import (
	"io"
	"net"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// wait lets the load go on until n more requests were answered.
func wait(t *testing.T, l *load.Load, n int64) {
	t.Helper()
	from := l.Requests()
	if !rig.Eventually(30*time.Second, func() bool { return l.Requests() >= from+n }) {
		t.Fatalf("only %d requests: %v", l.Requests()-from, l.Now())
	}
}

// TestSteady: through haproxy, every protocol, nothing is lost.
func TestSteady(t *testing.T) {
	e := load.NewEcho(t)
	certs := rig.NewCerts(t)
	p := rig.Start(t, rig.Haproxy, rig.Setup{Patience: 30 * time.Second, Listeners: []rig.Listener{
		{To: e.HTTP}, {To: e.TCP, TCP: true}, {To: e.HTTP, TLS: certs, Mutual: true}, {To: e.TCP, TCP: true, TLS: certs, Mutual: true}}})
	every := 20 * time.Millisecond
	l := load.Start(
		load.Group{Name: "h1", Proto: load.HTTP1, Addr: p.Addrs[0], Clients: 10, Every: every},
		load.Group{Name: "h2", Proto: load.HTTP2, Addr: p.Addrs[0], Clients: 10, Every: every, Body: 5000},
		load.Group{Name: "tcp", Proto: load.TCP, Addr: p.Addrs[1], Clients: 10, Every: every, Body: 1000},
		load.Group{Name: "mtls h1", Proto: load.HTTP1, Addr: p.Addrs[2], Clients: 5, Every: every, TLS: certs.Client},
		load.Group{Name: "mtls h2", Proto: load.HTTP2, Addr: p.Addrs[2], Clients: 5, Every: every, TLS: certs.Client},
		load.Group{Name: "mtls tcp", Proto: load.TCP, Addr: p.Addrs[3], Clients: 5, Every: every, TLS: certs.Client},
	)
	wait(t, l, 1000)
	for _, r := range l.Stop() {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused != 0 || r.Requests == 0 || r.Max < r.P50 {
			t.Errorf("%v", r)
		}
	}
}

// TestLossIsCounted: a server that cuts, lies or refuses shows in the report.
func TestLossIsCounted(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for i := 0; ; i++ {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				b := make([]byte, 64)
				if _, err := io.ReadFull(c, b); err == nil && i%2 == 0 {
					b[5] ^= 1
					c.Write(b)
				}
				c.Close()
			}()
		}
	}()
	run := load.Start(load.Group{Name: "spoiled", Proto: load.TCP, Addr: l.Addr().String(), Clients: 3, Every: time.Millisecond},
		load.Group{Name: "nobody", Proto: load.HTTP1, Addr: rig.FreeAddr(t), Clients: 2, Every: time.Millisecond})
	ok := rig.Eventually(10*time.Second, func() bool { r := run.Now(); return r[0].Failed > 10 && r[1].Refused > 2 })
	r := run.Stop()
	if !ok || r[0].Requests != 0 || r[0].Closed != r[0].Failed || r[0].First == "" || r[1].Requests != 0 {
		t.Errorf("%v", r)
	}
}
