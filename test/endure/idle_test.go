// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// crowdVar is how this executable is told to be a crowd of idle clients: one
// process has not the descriptors for both sides.
const crowdVar = "REDOUBT_ENDURE_CROWD"

func TestMain(m *testing.M) {
	if s := os.Getenv(crowdVar); s != "" {
		var c crowdOf
		if err := json.Unmarshal([]byte(s), &c); err != nil {
			fmt.Println(err)
			os.Exit(2)
		}
		c.be()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// crowdOf is a number of clients that ask once, and then keep still.
type crowdOf struct {
	Addr string
	Kind string // h1, tls, h2
	N    int
	From int    // number of the source address
	CA   []byte // PEM
}

// be opens the connections, says so, and keeps them until its input ends.
func (c *crowdOf) be() {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(c.CA)
	conns := make([]net.Conn, c.N)
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	var mu sync.Mutex
	failed := 0
	for i := range conns {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			conn, err := c.open(i, pool)
			conns[i] = conn
			if err != nil {
				mu.Lock()
				if failed++; failed == 1 {
					fmt.Println("first failure:", err)
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	fmt.Println("open", c.N-failed)
	io.Copy(io.Discard, os.Stdin)
	cut := 0
	for _, conn := range conns {
		if conn == nil {
			continue
		}
		conn.SetReadDeadline(time.Now()) // what has come is read all the same
		if t, ok := conn.(*tls.Conn); ok {
			conn = t.NetConn()
		}
		raw, _ := conn.(*net.TCPConn).SyscallConn()
		raw.Read(func(fd uintptr) bool {
			var b [1]byte
			n, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
			if n == 0 && err == nil || err == syscall.ECONNRESET {
				cut++
			}
			return true
		})
	}
	fmt.Println("cut", cut)
}

// open opens one connection, from one of the loopback's addresses, and asks
// once.
func (c *crowdOf) open(i int, pool *x509.CertPool) (net.Conn, error) {
	// 20,000 ports of each source address, at most.
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1, byte(c.From), byte(1+i/20000))}}
	conn, err := d.Dial("tcp", c.Addr)
	if err != nil {
		return nil, err
	}
	conn.SetDeadline(time.Now().Add(patience))
	if c.Kind == "h2" {
		io.WriteString(conn, http2.ClientPreface)
		fr := http2.NewFramer(conn, conn)
		fr.WriteSettings()
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				return conn, err
			}
			if s, ok := f.(*http2.SettingsFrame); ok && s.IsAck() {
				return conn, nil
			} else if ok {
				fr.WriteSettingsAck()
			}
		}
	}
	if c.Kind == "tls" {
		conn = tls.Client(conn, &tls.Config{RootCAs: pool, ServerName: "localhost", NextProtos: []string{"http/1.1"}})
	}
	io.WriteString(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReaderSize(conn, 512), nil)
	if err != nil {
		return conn, err
	}
	res.Body.Close()
	if res.StatusCode != 200 {
		return conn, fmt.Errorf("status %d", res.StatusCode)
	}
	return conn, nil
}

// crowdProcess is a crowd in a process of its own.
type crowdProcess struct {
	in   io.Closer
	out  *bufio.Scanner
	cmd  *exec.Cmd
	once sync.Once
}

func startCrowd(t *testing.T, c crowdOf) *crowdProcess {
	t.Helper()
	b, _ := json.Marshal(c)
	p := &crowdProcess{cmd: exec.Command(os.Args[0])}
	p.cmd.Env = append(os.Environ(), crowdVar+"="+string(b))
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err1 := p.cmd.StdinPipe()
	out, err2 := p.cmd.StdoutPipe()
	if err1 != nil || err2 != nil || p.cmd.Start() != nil {
		t.Fatal("cannot start a crowd")
	}
	p.in, p.out = in, bufio.NewScanner(out)
	t.Cleanup(func() { p.once.Do(func() { p.cmd.Process.Kill(); p.cmd.Wait() }) })
	return p
}

// word waits for a line "name number".
func (p *crowdProcess) word(t *testing.T, name string) (n int) {
	t.Helper()
	for p.out.Scan() {
		if v, ok := strings.CutPrefix(p.out.Text(), name+" "); ok {
			fmt.Sscan(v, &n)
			return n
		}
		t.Log(p.out.Text())
	}
	t.Errorf("a crowd has ended before it said %q", name)
	return 0
}

// end ends the crowd, and tells how many of its connections had been cut.
func (p *crowdProcess) end(t *testing.T) (cut int) {
	p.in.Close()
	cut = p.word(t, "cut")
	p.once.Do(func() { p.cmd.Wait() })
	return cut
}

// capacity is how many connections a proxy may have here, and why.
func capacity(t *testing.T) int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	hard := int(min(l.Max, 1<<20))
	return hard - hard/16 - 64 - 600 // what the proxy keeps for itself, and for the others
}

// Ceilings of what an idle connection may cost, in bytes: several times what
// was measured.
var ceilings = map[string]int64{"h1": 8 << 10, "tls": 32 << 10, "h2": 24 << 10}

// TestIdle holds as many idle connections as the machine allows, to several
// proxies when one may not have the descriptors, and measures what each costs
// and what the others notice.
func TestIdle(t *testing.T) {
	want, each := sized(*idleConn, 6000), capacity(t)
	if each < want {
		t.Logf("RLIMIT_NOFILE bounds a process to about %d connections: %d are spread over several proxies and clients", each, want)
	}
	total := 0
	for i := 0; total < want; i++ {
		kind, n := "h1", min(each, want-total)
		if i < 3 { // the others cost more time to open
			kind = []string{"h1", "tls", "h2"}[i]
			n = min(n, sized(10000, 2000))
		}
		idle(t, kind, n, i)
		total += n
	}
	t.Logf("%d idle connections in all, at the same time", total)
}

// idle holds n connections of a kind to a proxy of their own, until the test
// ends.
func idle(t *testing.T, kind string, n, from int) {
	e, a := load.NewEcho(t), newAuthority(t)
	web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web"}
	mark := &listener{name: "mark", addr: rig.FreeAddr(t), to: "web"}
	if kind == "tls" {
		mark.tls = a.certs()
	}
	p := start(t, boot([]*listener{web, mark}, []*cluster{{name: "web", to: e.HTTP}}))
	group := load.Group{Name: "others, beside no idle connections", Proto: load.HTTP1, Addr: web.addr, Clients: 8, Every: pace}
	alone := load.Start(group)
	lasting(sized(time.Second, 300*time.Millisecond), nil)
	unhurt(t, alone.Stop())

	ca, err := os.ReadFile(a.file)
	if err != nil {
		t.Fatal(err)
	}
	first := n / 5 // what is made once is not counted with what each costs
	one := startCrowd(t, crowdOf{Addr: mark.addr, Kind: kind, N: first, From: 2 * from, CA: ca})
	open := one.word(t, "open")
	low := p.settled()
	two := startCrowd(t, crowdOf{Addr: mark.addr, Kind: kind, N: n - first, From: 2*from + 1, CA: ca})
	open += two.word(t, "open")
	high := p.settled()
	cost := (high.rss - low.rss) / int64(n-first)
	t.Logf("%s: %d connections, %d bytes each (%v; %v)", kind, open, cost, low, high)
	if open != n {
		t.Errorf("%s: %d connections of %d are open", kind, open, n)
	}
	if cost > ceilings[kind] {
		t.Errorf("%s: an idle connection costs %d bytes", kind, cost)
	}
	group.Name = fmt.Sprintf("others, beside %d idle connections, %s", n, kind)
	beside := load.Start(group)
	lasting(sized(time.Second, 300*time.Millisecond), nil)
	unhurt(t, beside.Stop())
	if got := int(p.stats()["server.total_connections"]); got < n {
		t.Errorf("%d connections are counted", got)
	}
	t.Cleanup(func() {
		if cut := one.end(t) + two.end(t); cut > 0 {
			t.Errorf("%s: %d idle connections were cut", kind, cut)
		}
		p.settle(low, 24, 0x7fffffff)
	})
}

// settled is what the proxy holds when it has stopped to move: heaps grow
// beyond what lives.
func (p *process) settled() (h holds) {
	p.get("/debug/pprof/heap?gc=1")
	return p.holds()
}
