// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// gated is a server whose answers to /wait come when they are let go.
type gated struct {
	addr    string
	waiting chan struct{} // one for each request that waits
	pass    chan struct{}
}

func newGated(t *testing.T) *gated {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gated{addr: l.Addr().String(), waiting: make(chan struct{}, 100), pass: make(chan struct{})}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			g.waiting <- struct{}{}
			<-g.pass
		}
		b, _ := io.ReadAll(r.Body)
		w.Write(b)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { srv.Close(); wg.Wait() })
	return g
}

// TestTerm ends the proxy under load: whoever honours Connection: close and
// GOAWAY loses no request, what is under way is answered, and who comes later
// is refused at once.
func TestTerm(t *testing.T) {
	for round := range sized(5, 2) {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			g := newGated(t)
			web, slow := &listener{name: "web", addr: rig.FreeAddr(t), to: "web"}, &listener{name: "slow", addr: rig.FreeAddr(t), to: "web"}
			p := start(t, boot([]*listener{web, slow}, []*cluster{{name: "web", to: g.addr, extra: roomy}}), "--drain", "20s")
			d := newDoomed()
			for range 10 {
				d.add(web.addr)
			}
			under, err := rig.Dial(slow.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer under.Close()
			io.WriteString(under, "GET /wait HTTP/1.1\r\nHost: x\r\n\r\n")
			<-g.waiting
			if !rig.Eventually(patience, func() bool { return d.answered.Load() > 500 }) {
				t.Fatalf("no load: %v", d)
			}
			at := d.refused.Load()
			p.cmd.Process.Signal(syscall.SIGTERM)
			if !rig.Eventually(patience, func() bool { return d.refused.Load() > at }) {
				t.Error("nobody was refused after SIGTERM")
			}
			code, state, err := p.ask("GET", "/ready")
			if err == nil && (code != 503 || !strings.Contains(state, "DRAINING")) {
				t.Errorf("/ready while draining: %d %q", code, state)
			}
			close(g.pass)
			a, err := under.Answer("GET")
			if err != nil || a.Status != 200 || a.Header.Get("Connection") != "close" && a.Status == 0 {
				t.Errorf("the request under way: %v, %v", a, err)
			}
			if err := p.end(); err != nil {
				t.Errorf("the proxy ended by %v", err)
			}
			d.end()
			t.Log(d)
			if d.failed.Load() > 0 || d.announced.Load() == 0 {
				t.Errorf("clients were hurt: %v", d)
			}
			if strings.Contains(p.said(), "connections cut") {
				t.Error("connections were cut")
			}
			if _, err := os.Stat(p.sock); err == nil {
				t.Error("the admin socket is left behind")
			}
		})
	}
}

// TestDrainByAdmin ends the proxy by its admin socket.
func TestDrainByAdmin(t *testing.T) {
	e := load.NewEcho(t)
	web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web"}
	p := start(t, boot([]*listener{web}, []*cluster{{name: "web", to: e.HTTP}}))
	d := newDoomed()
	for range 4 {
		d.add(web.addr)
	}
	if !rig.Eventually(patience, func() bool { return d.answered.Load() > 200 }) {
		t.Fatalf("no load: %v", d)
	}
	if code, body, err := p.ask("POST", "/drain"); code != 200 || err != nil {
		t.Errorf("/drain: %d %q %v", code, body, err)
	}
	if err := p.end(); err != nil {
		t.Errorf("the proxy ended by %v", err)
	}
	d.end()
	t.Log(d)
	if d.failed.Load() > 0 || d.announced.Load() == 0 {
		t.Errorf("clients were hurt: %v", d)
	}
}

// TestKill kills the proxy under load and starts another at once: addresses
// and the admin socket are free for it.
func TestKill(t *testing.T) {
	e := load.NewEcho(t)
	certs := newAuthority(t).certs()
	ls := []*listener{{name: "web", addr: rig.FreeAddr(t), to: "web"}, {name: "tcp", addr: rig.FreeAddr(t), to: "tcp", tcp: true}, {name: "tls", addr: rig.FreeAddr(t), to: "web", tls: certs}}
	p := start(t, boot(ls, []*cluster{{name: "web", to: e.HTTP}, {name: "tcp", to: e.TCP}}))
	for range sized(5, 2) {
		l := load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: ls[0].addr, Clients: 8}, load.Group{Name: "tcp", Proto: load.TCP, Addr: ls[1].addr, Clients: 8},
			load.Group{Name: "tls", Proto: load.HTTP2, Addr: ls[2].addr, Clients: 4, TLS: certs.Client})
		p.cmd.Process.Kill()
		<-p.exited
		began := time.Now()
		p.run(nil)
		p.live()
		t.Logf("ready again after %v", time.Since(began).Round(time.Millisecond))
		from := l.Requests()
		if !rig.Eventually(patience, func() bool { return l.Requests() > from+1000 }) {
			t.Errorf("clients do not go on: %v", l.Now())
		}
		l.Stop()
	}
	again := load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: ls[0].addr, Clients: 8, Every: pace}, load.Group{Name: "tcp", Proto: load.TCP, Addr: ls[1].addr, Clients: 8, Every: pace})
	lasting(500*time.Millisecond, nil)
	unhurt(t, again.Stop())
}
