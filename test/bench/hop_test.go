// SPDX-License-Identifier: Apache-2.0

// Package bench measures the proxy beside others on the same machine in the
// same run, and is run by hand, whole or by rows:
//
//	make bench BENCH='Hop/c64|ProxyHTTP1/c64-100B' BENCHFLAGS='-rounds 5'
//
// Walk of a row: ground → origin → begin (all contestants start, each answers
// once) → interleave (turns in rounds) → sheet.show (medians, ratios, who is
// absent and why).
//
// What counts is processor time per request of each proxy, by the kernel's
// accounting; wall time on a shared machine says little. Contestants are in
// proxy_rivals_test.go with what was tuned and why, flags in
// proxy_flags_test.go, the generators in package load.
package bench

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/api/wire"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/proxy/route"
	"redoubt.dev/test/bench/load"
)

// role is what a re-executed test binary runs as a process of its own.
type role struct {
	Dir     string
	Snap    wire.Snapshot
	Leaving map[string][]netip.AddrPort
	Coming  map[string][2]netip.AddrPort
	Loops   int
	Log     bool
}

const roleEnv = "REDOUBT_BENCH_ROLE"

func TestMain(m *testing.M) {
	if f := os.Getenv(roleEnv); f != "" {
		os.Exit(run.Main(func(ctx context.Context) error { return serve(ctx, f) }))
	}
	if j := os.Getenv(loadEnv); j != "" {
		os.Exit(run.Main(func(ctx context.Context) error { return generate(ctx, j) }))
	}
	os.Exit(m.Run())
}

func serve(ctx context.Context, file string) error {
	b, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var r role
	if err := json.Unmarshal(b, &r); err != nil {
		return err
	}
	open := proxytest.NewLoopback()
	for uid, at := range r.Leaving {
		open.Leaving(uid, at...)
	}
	for uid, at := range r.Coming {
		open.Coming(uid, at[0], at[1])
	}
	cfg := proxy.Default(r.Loops)
	cfg.Control, cfg.Metrics = filepath.Join(r.Dir, "c.sock"), ""
	cfg.Audit, cfg.AccessLog = filepath.Join(r.Dir, "audit.log"), ""
	if r.Log {
		cfg.AccessLog = filepath.Join(r.Dir, "access.log")
	}
	cfg.Drain = time.Second
	cfg.Snapshot = route.Options{AllowLoopbackForTest: true}
	runtime.GOMAXPROCS(r.Loops + 1)
	p, err := proxy.New(cfg, obs.Logger(os.Stderr, "proxy", 8), open)
	if err != nil {
		return err
	}
	g := run.New(ctx)
	g.Go("proxy", p.Run)
	if err := p.Apply(&r.Snap); err != nil {
		return err
	}
	return g.Wait()
}

// hop is a pair of running proxies.
type hop struct {
	name  string
	front netip.AddrPort
	pids  [2]int
}

type bench struct {
	b   *testing.B
	dir string
	ca  *proxytest.CA
	at  func(byte) netip.Addr
}

// start runs a process until the benchmark ends and gives its pid.
func (b *bench) start(cmd *exec.Cmd) int {
	b.b.Helper()
	cmd.Stderr = os.Stderr
	if _, err := b.launch(cmd); err != nil {
		b.b.Fatal(err)
	}
	return cmd.Process.Pid
}

// launch starts a process that is ended, by force if it must, when the
// benchmark is over, also when the benchmark dies. The channel closes when
// the process has ended.
func (b *bench) launch(cmd *exec.Cmd) (<-chan struct{}, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		cmd.Wait()
	}()
	b.b.Cleanup(func() { stop(cmd, ended) })
	return ended, nil
}

func stop(cmd *exec.Cmd, ended <-chan struct{}) {
	all := family(cmd.Process.Pid)
	cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
		for _, pid := range all {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		<-ended
	}
}

func (b *bench) wait(at netip.AddrPort) {
	b.b.Helper()
	for end := time.Now().Add(10 * time.Second); time.Now().Before(end); {
		c, err := net.Dial("tcp", at.String())
		if err == nil {
			c.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	b.b.Fatalf("nothing listens on %s", at)
}

func (b *bench) file(name, text string) string {
	p := filepath.Join(b.dir, name)
	if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
		b.b.Fatal(err)
	}
	return p
}

var lastPort = uint16(21000)

// port is one that nobody listens on, and that was not given out before: what
// waits in the kernel from an earlier row would be met by the next one.
func (b *bench) port() uint16 {
	for {
		lastPort++
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", lastPort))
		if err == nil {
			l.Close()
			return lastPort
		}
	}
}

// nginx starts one nginx with one worker, in the foreground, and gives the
// worker's pid.
func (b *bench) nginx(name, http string) int {
	conf := b.file(name+".conf", `daemon off; worker_processes 1; master_process off; pid `+filepath.Join(b.dir, name+".pid")+`; error_log `+filepath.Join(b.dir, name+".err")+` crit;
events { worker_connections 8192; }
http { access_log off; keepalive_requests 100000000; keepalive_timeout 600; client_body_temp_path `+b.dir+`; proxy_temp_path `+b.dir+`; fastcgi_temp_path `+b.dir+`; uwsgi_temp_path `+b.dir+`; scgi_temp_path `+b.dir+`;
`+http+"}\n")
	return b.start(exec.Command("nginx", "-p", b.dir, "-c", conf))
}

func (b *bench) pem(id string, change ...func(*x509.Certificate)) (cert, key string) {
	s := b.ca.Issue(b.b, id, time.Hour, change...)
	n := strings.ReplaceAll(id, "/", "_")
	cert = b.file(n+".crt", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Chain[0]})))
	key = b.file(n+".key", string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: s.Key})))
	return cert, key
}

func (b *bench) nginxHop(origin netip.AddrPort) hop {
	root := b.file("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.ca.Root()})))
	crtA, keyA := b.pem(b.ca.ID("n", "a"))
	crtB, keyB := b.pem(b.ca.ID("n", "b"))
	front := netip.AddrPortFrom(b.at(10), b.port())
	back := netip.AddrPortFrom(b.at(11), b.port())
	up := `proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;`
	pb := b.nginx("b", fmt.Sprintf(`upstream o { server %s; keepalive 1024; keepalive_requests 100000000; }
server { listen %s ssl backlog=4096; ssl_certificate %s; ssl_certificate_key %s; ssl_client_certificate %s; ssl_verify_client on; ssl_protocols TLSv1.3; ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; ssl_session_tickets off;
location / { %s proxy_pass http://o; } }`, origin, back, crtB, keyB, root, up))
	pa := b.nginx("a", fmt.Sprintf(`upstream o { server %s; keepalive 1024; keepalive_requests 100000000; }
server { listen %s backlog=4096; location / { %s proxy_pass https://o; proxy_ssl_certificate %s; proxy_ssl_certificate_key %s; proxy_ssl_trusted_certificate %s; proxy_ssl_protocols TLSv1.3; proxy_ssl_conf_command Ciphersuites TLS_AES_128_GCM_SHA256; proxy_ssl_session_reuse off; } }`, back, front, up, crtA, keyA, root))
	b.wait(front)
	b.wait(back)
	return hop{"nginx", front, [2]int{pa, pb}}
}

func (b *bench) ownHop(origin netip.AddrPort, log bool) hop {
	name := "redoubt"
	if log {
		name += "+log"
	}
	idA, idB := b.ca.ID("shop", "a"), b.ca.ID("bank", "b")
	h0 := byte(20)
	if log {
		h0 = 30
	}
	vip, podB := netip.AddrPortFrom(b.at(h0), b.port()), netip.AddrPortFrom(b.at(h0+1), b.port())
	pa := wire.Pod{UID: "a", Namespace: "shop", Name: "a", Addr: b.at(h0 + 2), SVID: b.ca.Issue(b.b, idA, time.Hour), Inbound: wire.Authz{MTLS: wire.MTLSStrict}}
	pb := wire.Pod{UID: "b", Namespace: "bank", Name: "b", Addr: podB.Addr(), SVID: b.ca.Issue(b.b, idB, time.Hour),
		Inbound: wire.Authz{MTLS: wire.MTLSStrict, Allow: []wire.Rule{{Policy: "bank/shop", From: []wire.Source{{Namespaces: []string{"shop"}}}}}}}
	snap := wire.Snapshot{Version: 1, TrustDomain: b.ca.Domain, Roots: [][]byte{b.ca.Root()},
		Services: []wire.Service{{Namespace: "bank", Name: "s", VIP: vip.Addr(), Ports: []wire.ServicePort{{Port: vip.Port(), Protocol: wire.ProtoAuto, Endpoints: []wire.Backend{{Addr: podB, ID: idB}}}}}}}
	var h hop
	for i, r := range []role{
		{Leaving: map[string][]netip.AddrPort{"a": {vip}}, Snap: snap},
		{Coming: map[string][2]netip.AddrPort{"b": {podB, origin}}, Snap: snap},
	} {
		r.Snap.Pods = []wire.Pod{[]wire.Pod{pa, pb}[i]}
		r.Dir, r.Loops, r.Log = b.b.TempDir(), 1, log
		j, err := json.Marshal(r)
		if err != nil {
			b.b.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), roleEnv+"="+b.file(fmt.Sprintf("%s%d.json", name, i), string(j)))
		h.pids[i] = b.start(cmd)
	}
	b.wait(vip)
	b.wait(podB)
	h.name, h.front = name, vip
	return h
}

// ticks is the processor time of a process and of those of its children that
// have ended and were waited for; 0 when the process is gone.
func ticks(pid int) (own, ended time.Duration) {
	s, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, 0
	}
	f := strings.Fields(string(s[strings.LastIndexByte(string(s), ')')+2:]))
	sum := func(f []string) (d time.Duration) {
		for _, v := range f {
			n, _ := strconv.ParseInt(v, 10, 64)
			d += time.Duration(n) * 10 * time.Millisecond
		}
		return d
	}
	return sum(f[11:13]), sum(f[13:15])
}

// saturateHops loads the hops in turn. Both ends of a hop are compared at once:
// what a call costs is the sum.
func (b *bench) saturateHops(hops []hop, path string, conns int) {
	s := newSheet(fmt.Sprintf("Mesh hop, %d connections, %s", conns, path), column{name: "CPU µs/request, A+B", ratio: true}, column{name: "A"}, column{name: "B"},
		column{name: "requests/s", more: true}, column{name: "p50 µs"}, column{name: "p99 µs"}, column{name: "MB A (RSS)"}, column{name: "MB B (RSS)"}, column{name: "errors"})
	// Not wrk: it leaves in the midst of requests, a proxy then closes their
	// connections too, and 512 handshakes per turn would be what is measured.
	once := func(h hop, d time.Duration) turn {
		return b.generate(load.Job{Kind: load.KindPace, Addr: h.front, Path: path, Conns: conns, For: d})
	}
	for _, h := range hops { // fills pools and caches; 512 handshakes on one processor last seconds
		once(h, 4*time.Second)
	}
	for range *rounds {
		for _, h := range hops {
			a, z := b.used(h.pids[0]), b.used(h.pids[1])
			t := once(h, *span)
			a, z = b.used(h.pids[0])-a, b.used(h.pids[1])-z
			if t.broken != nil {
				b.b.Errorf("%s: %v", h.name, t.broken)
				continue
			}
			ra, _ := memory(h.pids[0])
			rz, _ := memory(h.pids[1])
			s.add(h.name, micros(a+z)/t.done, micros(a)/t.done, micros(z)/t.done, t.rate, micros(t.p50), micros(t.p99), ra/1e6, rz/1e6, t.errors)
		}
	}
	s.show()
}

// addedLatency is what a hop adds to a request when little is going on,
// beside the origin asked directly.
func (b *bench) addedLatency(hops []hop, origin netip.AddrPort) {
	s := newSheet("Mesh hop, latency it adds at 1,000 requests/s on 16 connections", column{name: "p50 µs added"}, column{name: "p50 µs"}, column{name: "p99 µs"}, column{name: "errors"})
	for range *rounds {
		direct := 0.0
		for _, h := range append([]hop{{name: "direct", front: origin}}, hops...) {
			t := b.generate(load.Job{Kind: load.KindPace, Addr: h.front, Path: "/", Conns: 16, Rate: 1000, Warm: 300 * time.Millisecond, For: *span})
			if t.broken != nil {
				b.b.Fatal(t.broken)
			}
			if h.name == "direct" {
				direct = micros(t.p50)
			}
			s.add(h.name, micros(t.p50)-direct, micros(t.p50), micros(t.p99), t.errors)
		}
	}
	s.show()
}

// idleHops is what waiting costs, with idle connections kept.
func (b *bench) idleHops(hops []hop) {
	s := newSheet("Mesh hop, idle", column{name: "ms of processor per second, A"})
	<-time.After(time.Second)
	for range *rounds {
		for _, h := range hops {
			before := b.used(h.pids[0])
			<-time.After(*span)
			s.add(h.name, float64(b.used(h.pids[0])-before)/1e6/span.Seconds())
		}
	}
	s.show()
}

func BenchmarkHop(tb *testing.B) {
	for _, tool := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(tool); errors.Is(err, exec.ErrNotFound) {
			tb.Skip("needs " + tool)
		}
	}
	b := &bench{b: tb, dir: tb.TempDir(), ca: proxytest.NewCA(tb, "bank.example"), at: proxytest.Net()}
	origin := netip.AddrPortFrom(b.at(1), b.port())
	b.nginx("origin", fmt.Sprintf(`server { listen %s backlog=4096; location / { default_type text/plain; return 200 "%s"; } location /big { root %s; } }`, origin, strings.Repeat("x", 100), b.dir))
	b.file("big", strings.Repeat("0123456789abcdef", 1<<16)) // 1 MiB
	b.wait(origin)
	// nginx is one mTLS connection to one; a variant of ours that shares
	// connections stands in this list beside the others.
	hops := []hop{b.nginxHop(origin), b.ownHop(origin, false), b.ownHop(origin, true)}
	row := func(name string, f func(b *bench)) {
		tb.Run(name, func(tb *testing.B) {
			sub := *b
			sub.b = tb
			f(&sub)
		})
	}
	for _, conns := range []int{1, 64, 512} {
		row(fmt.Sprintf("c%d", conns), func(b *bench) { b.saturateHops(hops, "/", conns) })
	}
	row("bodies", func(b *bench) { b.saturateHops(hops, "/big", 16) })
	row("latency", func(b *bench) { b.addedLatency(hops, origin) })
	row("idle", func(b *bench) { b.idleHops(hops) })
}
