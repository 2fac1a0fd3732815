// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Kind is one proxy that can stand in the middle.
type Kind string

// The kinds.
const (
	Redoubt Kind = "redoubt"
	Nginx   Kind = "nginx"
	Haproxy Kind = "haproxy"
)

// Listener is one address that the proxy serves.
type Listener struct {
	TCP     bool   // opaque bytes; otherwise HTTP/1.1, and HTTP/2 by its preface or ALPN
	To      string // the origin, host:port
	ToHTTP2 bool   // the origin speaks HTTP/2 in clear, with prior knowledge
	TLS     *Certs // terminate TLS; nil in clear
	Mutual  bool   // demand a client certificate of the authority of TLS
	GRPCWeb bool   // translate gRPC-Web (redoubt only)
}

// Setup is what a Proxy is started with.
type Setup struct {
	Listeners []Listener
	Loops     int           // 0: 1
	Patience  time.Duration // how long a head or an idle stream may take; 0: 2 s
}

// Proxy is a running process.
type Proxy struct {
	Kind  Kind
	Addrs []string // of the listeners, in order
	Admin string   // unix socket; "" but for Redoubt

	cmd    *exec.Cmd
	log    *os.File
	exited chan struct{} // closed when the process has ended
	err    error         // of Wait; read after exited

	stop sync.Once
}

// Ready bounds the wait for a process to serve.
const Ready = 20 * time.Second

// Start runs a proxy of that kind until the test ends. It skips the test,
// naming what is missing, when the program is not there.
func Start(t testing.TB, kind Kind, s Setup) *Proxy {
	t.Helper()
	if s.Loops == 0 {
		s.Loops = 1
	}
	if s.Patience == 0 {
		s.Patience = 2 * time.Second
	}
	dir := t.TempDir()
	p := &Proxy{Kind: kind, exited: make(chan struct{})}
	for range s.Listeners {
		p.Addrs = append(p.Addrs, FreeAddr(t))
	}
	argv, conf := p.command(t, dir, &s)
	path := filepath.Join(dir, "proxy.conf")
	if kind == Redoubt {
		path = filepath.Join(dir, "proxy.yaml")
	}
	if err := os.WriteFile(path, []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	var err error
	if p.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	p.cmd = exec.Command(argv[0], append(argv[1:], path)...)
	p.cmd.Dir = dir
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	// The process dies with the test binary, also when that is killed.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s said:\n%s", kind, p.Log())
		}
		p.log.Close()
	})
	p.await(t)
	return p
}

// command gives the program with its arguments but the configuration file,
// which comes last, and the file's text.
func (p *Proxy) command(t testing.TB, dir string, s *Setup) (argv []string, conf string) {
	switch p.Kind {
	case Redoubt:
		p.Admin = filepath.Join(dir, "admin.sock")
		return []string{Binary(t), "--loops", strconv.Itoa(s.Loops), "--config"}, bootstrap(s, p.Addrs, p.Admin)
	case Nginx:
		return []string{program(t, "nginx"), "-p", dir, "-e", "stderr", "-c"}, nginxConf(s, p.Addrs)
	case Haproxy:
		return []string{program(t, "haproxy"), "-db", "-q", "-f"}, haproxyConf(s, p.Addrs)
	}
	t.Fatalf("no proxy %q", p.Kind)
	return nil, ""
}

func program(t testing.TB, name string) string {
	t.Helper()
	for _, p := range []string{name, "/usr/sbin/" + name} { // root's PATH may lack the latter
		if p, err := exec.LookPath(p); err == nil {
			return p
		}
	}
	t.Skip("needs " + name)
	return ""
}

func (p *Proxy) await(t testing.TB) {
	t.Helper()
	end := time.Now().Add(Ready)
	for _, a := range p.Addrs {
		for {
			c, err := net.DialTimeout("tcp", a, time.Second)
			if err == nil {
				c.Close()
				break
			}
			select {
			case <-p.exited:
				t.Fatalf("%s ended before it served: %v\n%s", p.Kind, p.err, p.Log())
			case <-time.After(20 * time.Millisecond):
			}
			if time.Now().After(end) {
				t.Fatalf("%s does not serve %s: %v\n%s", p.Kind, a, err, p.Log())
			}
		}
	}
}

// Stop ends the process: politely, then not. It is safe to repeat.
func (p *Proxy) Stop() error {
	p.stop.Do(func() {
		p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.exited:
		case <-time.After(10 * time.Second):
			p.cmd.Process.Kill()
			<-p.exited
			p.err = errors.Join(errors.New("did not end on SIGTERM"), p.err)
		}
	})
	<-p.exited
	return p.err
}

// Alive tells that the process has not ended.
func (p *Proxy) Alive() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// Log is what the process has printed.
func (p *Proxy) Log() string {
	b, _ := os.ReadFile(p.log.Name())
	if len(b) > 16<<10 {
		b = b[len(b)-16<<10:]
	}
	return string(b)
}

// Pid is the process, or nginx's master.
func (p *Proxy) Pid() int { return p.cmd.Process.Pid }

// pids is the process with its children: nginx works in one.
func (p *Proxy) pids() []int {
	ids := []int{p.Pid()}
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", p.Pid(), p.Pid()))
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			ids = append(ids, n)
		}
	}
	return ids
}

// FDs counts open descriptors.
func (p *Proxy) FDs() int {
	n := 0
	for _, id := range p.pids() {
		ents, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", id))
		n += len(ents)
	}
	return n
}

// RSS is the resident memory in bytes.
func (p *Proxy) RSS() int64 {
	var n int64
	for _, id := range p.pids() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", id))
		if _, rest, ok := bytes.Cut(b, []byte("VmRSS:")); ok {
			if f := bytes.Fields(rest); len(f) > 0 {
				kb, _ := strconv.ParseInt(string(f[0]), 10, 64)
				n += kb << 10
			}
		}
	}
	return n
}

// Settle waits until the process holds at most base descriptors, and reports
// a leak when it does not in time. Pooled connections to origins are not a
// leak: close the origin's side, or allow for them in base.
func (p *Proxy) Settle(t testing.TB, base int) {
	t.Helper()
	if !p.Alive() {
		t.Errorf("%s has ended: %v", p.Kind, p.err)
		return
	}
	if !Eventually(10*time.Second, func() bool { return p.FDs() <= base }) {
		t.Errorf("%s holds %d descriptors, at most %d expected", p.Kind, p.FDs(), base)
	}
}

// Eventually polls ok until it holds or the time is over.
func Eventually(limit time.Duration, ok func() bool) bool {
	end := time.Now().Add(limit)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(end) {
			return false
		}
		<-tick.C
	}
	return true
}

// FreeAddr finds a loopback address that nobody listens on.
func FreeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}
