// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/test/conform/rig"
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// port is one listener and its cluster.
type port struct {
	name   string
	tcp    bool
	h2up   bool // the origin speaks HTTP/2
	tls    *rig.Certs
	mutual bool
	max12  bool // TLS 1.2 at most
	upTLS  *rig.Certs
	to     string
	addr   string
}

const (
	textListener = `
  - name: %[1]s
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]s}}
    filter_chains:
    - filters:
%[3]s%[4]s`

	textHTTP = `
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: %[1]s
          upgrade_configs: [{upgrade_type: websocket}]
          access_log:
          - name: envoy.access_loggers.file
            typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: %[2]s}
          route_config:
            name: %[1]s
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes: [{match: {prefix: /}, route: {cluster: %[1]s, timeout: 0s}}]
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
`

	textTCP = `
      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: %[1]s
          cluster: %[1]s
`

	textTLS = `
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: %[1]v
          common_tls_context:
            %[6]stls_params: {tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_2}
            tls_certificates: [{certificate_chain: {filename: %[2]s}, private_key: {filename: %[3]s}}]
            %[5]svalidation_context: {trusted_ca: {filename: %[4]s}}
`

	textCluster = `
  - name: %[1]s
    type: STATIC
    connect_timeout: 5s
%[4]s    circuit_breakers: {thresholds: [{max_connections: 65536, max_pending_requests: 65536, max_requests: 65536}]}
    load_assignment:
      cluster_name: %[1]s
      endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: %[2]s, port_value: %[3]s}}}}]}]
`

	textUpTLS = `    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: localhost
        common_tls_context:
          tls_certificates: [{certificate_chain: {filename: %[1]s}, private_key: {filename: %[2]s}}]
          validation_context: {trusted_ca: {filename: %[3]s}}
`

	textHTTP2 = `    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
`
)

// world is a proxy, its files, and all that come after it.
type world struct {
	t                           *testing.T
	dir, conf, sock, admin, log string
	allow                       string
	ports                       []*port
	cur                         *process
	exe                         string
	uid                         uint32
}

func newWorld(t *testing.T, ports ...*port) *world {
	t.Helper()
	return newWorldAs(t, 0, ports...)
}

// newWorldAs has the proxies run as another user; 0 is the one who runs the
// test.
func newWorldAs(t *testing.T, uid uint32, ports ...*port) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, uid: uid, exe: rig.Binary(t), dir: dir, conf: filepath.Join(dir, "proxy.yaml"), sock: filepath.Join(dir, "up", "upgrade.sock"), admin: filepath.Join(dir, "admin.sock"),
		log: filepath.Join(dir, "access.log"), allow: filepath.Join(dir, "allow"), ports: ports}
	for _, p := range ports {
		if p.addr == "" {
			p.addr = rig.FreeAddr(t)
		}
	}
	if err := os.WriteFile(w.conf, []byte(w.bootstrap()), 0o600); err != nil {
		t.Fatal(err)
	}
	if uid != 0 {
		w.exe = filepath.Join(dir, "redoubt-proxy") // where that user can run it
		b, err := os.ReadFile(rig.Binary(t))
		if err == nil {
			err = os.WriteFile(w.exe, b, 0o755)
		}
		os.Chmod(filepath.Dir(dir), 0o711)
		for _, path := range []string{dir, w.conf} {
			if err == nil {
				err = os.Chown(path, int(uid), int(uid))
			}
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.cur = w.start()
	w.cur.await("configuration in force")
	if !rig.Eventually(patience, func() bool { _, err := os.Stat(w.sock); return err == nil }) {
		t.Fatal("no upgrade socket")
	}
	return w
}

// configure writes the configuration anew, for the processes to come.
func (w *world) configure(ports ...*port) {
	w.t.Helper()
	w.ports = ports
	if err := os.WriteFile(w.conf, []byte(w.bootstrap()), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) bootstrap() string {
	var b strings.Builder
	fmt.Fprintf(&b, "admin: {address: {pipe: {path: %s}}}\nstatic_resources:\n  listeners:\n", w.admin)
	for _, p := range w.ports {
		filter, tls := fmt.Sprintf(textHTTP, p.name, w.log), ""
		if p.tcp {
			filter = fmt.Sprintf(textTCP, p.name)
		}
		if c := p.tls; c != nil {
			mutual, max12 := "#", "#"
			if p.mutual {
				mutual = ""
			}
			if p.max12 {
				max12 = ""
			}
			tls = fmt.Sprintf(textTLS, p.mutual, c.CertFile, c.KeyFile, c.CAFile, mutual, max12)
		}
		_, n, _ := net.SplitHostPort(p.addr)
		fmt.Fprintf(&b, textListener, p.name, n, filter, tls)
	}
	b.WriteString("\n  clusters:\n")
	for _, p := range w.ports {
		host, n, _ := net.SplitHostPort(p.to)
		proto := ""
		if p.h2up {
			proto = textHTTP2
		}
		if c := p.upTLS; c != nil {
			proto += fmt.Sprintf(textUpTLS, c.CertFile, c.KeyFile, c.CAFile)
		}
		fmt.Fprintf(&b, textCluster, p.name, host, n, proto)
	}
	return b.String()
}

// process is one redoubt-proxy, or what stands in for it.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	exited chan struct{}
	err    error // of Wait; read after exited

	mu    sync.Mutex
	lines []string
	more  *sync.Cond
}

// start starts another proxy with the world's configuration.
func (w *world) start(args ...string) *process {
	w.t.Helper()
	args = append([]string{"--config", w.conf, "--loops", "2", "--drain", "10s", "--upgrade-socket", w.sock, "--upgrade-allow", w.allow}, args...)
	cmd := exec.Command(w.exe, args...)
	if w.uid != 0 {
		cmd.Dir = w.dir
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: w.uid, Gid: w.uid}}
	}
	return w.run(cmd)
}

func (w *world) run(cmd *exec.Cmd) *process {
	w.t.Helper()
	p := &process{t: w.t, cmd: cmd, exited: make(chan struct{})}
	p.more = sync.NewCond(&p.mu)
	out, in := io.Pipe()
	cmd.Stdout, cmd.Stderr = in, in
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		s := bufio.NewScanner(out)
		for s.Scan() {
			p.mu.Lock()
			p.lines = append(p.lines, s.Text())
			p.more.Broadcast()
			p.mu.Unlock()
		}
	}()
	go func() {
		p.err = cmd.Wait()
		in.Close()
		<-read
		close(p.exited)
		p.mu.Lock()
		p.more.Broadcast()
		p.mu.Unlock()
	}()
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.exited
		if w.t.Failed() {
			w.t.Logf("process %d said:\n%s", cmd.Process.Pid, p.said())
		}
	})
	return p
}

func (p *process) said() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.lines, "\n")
}

// find gives the first line that holds text.
func (p *process) find(text string) string {
	for _, l := range p.lines {
		if strings.Contains(l, text) {
			return l
		}
	}
	return ""
}

// await waits for a line of the log.
func (p *process) await(text string) string {
	p.t.Helper()
	late := time.AfterFunc(patience, func() { p.more.Broadcast() })
	defer late.Stop()
	end := time.Now().Add(patience)
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		if l := p.find(text); l != "" {
			return l
		}
		select {
		case <-p.exited:
			p.t.Fatalf("process %d ended (%v) before it said %q", p.cmd.Process.Pid, p.err, text)
		default:
		}
		if time.Now().After(end) {
			p.t.Fatalf("process %d does not say %q", p.cmd.Process.Pid, text)
		}
		p.more.Wait()
	}
}

// end waits for the process to end by itself.
func (p *process) end() error {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.t.Fatalf("process %d does not end", p.cmd.Process.Pid)
		return nil
	}
}

// upgrade starts a successor and waits until the old process is gone. It
// gives the old one's account of it.
func (w *world) upgrade() string {
	w.t.Helper()
	old, next := w.cur, w.start()
	next.await("took over")
	w.cur = next
	if err := old.end(); err != nil {
		w.t.Fatalf("the old process: %v", err)
	}
	if !rig.Eventually(patience, func() bool { c, err := net.Dial("unix", w.admin); return err == nil && c.Close() == nil }) {
		w.t.Fatal("the admin socket does not answer")
	}
	old.mu.Lock()
	defer old.mu.Unlock()
	line := old.find("handed over")
	if _, after, ok := strings.Cut(line, "handed over"); ok {
		return after
	}
	return line
}

// fds counts the process's descriptors that are no TCP connections: those come
// and go with the clients.
func (w *world) fds(p *process) int {
	tcp := map[string]bool{}
	for _, name := range []string{"tcp", "tcp6"} {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.cmd.Process.Pid, name))
		for _, l := range strings.Split(string(b), "\n") {
			if f := strings.Fields(l); len(f) > 9 {
				tcp["socket:["+f[9]+"]"] = true
			}
		}
	}
	dir := fmt.Sprintf("/proc/%d/fd/", p.cmd.Process.Pid)
	e, _ := os.ReadDir(dir)
	n := 0
	for _, f := range e {
		if to, err := os.Readlink(dir + f.Name()); err == nil && !tcp[to] && !strings.HasPrefix(to, "pipe:") {
			n++
		}
	}
	return n
}

// rss is the process's resident memory in KiB.
func (p *process) rss() (kib int) {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if _, after, ok := strings.Cut(string(b), "VmRSS:"); ok {
		fmt.Sscan(after, &kib)
	}
	return kib
}

// stats asks the admin interface for all counters.
func (w *world) stats() map[string]int64 {
	out := map[string]int64{}
	c := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", w.admin)
	}}}
	r, err := c.Get("http://admin/stats")
	if err != nil {
		return out
	}
	defer r.Body.Close()
	for s := bufio.NewScanner(r.Body); s.Scan(); {
		var n int64
		name, v, _ := strings.Cut(s.Text(), ": ")
		if _, err := fmt.Sscan(v, &n); err == nil {
			out[name] = n
		}
	}
	return out
}
