// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

var (
	churnFor = flag.Duration("churn", 20*time.Second, "how long the configuration is churned, per source of it")
	idleConn = flag.Int("idle", 100000, "idle connections, as far as the machine has descriptors")
	bodySize = flag.Int64("body", 2<<30, "bytes of a large body")
)

// patience bounds every wait of these tests.
const patience = 30 * time.Second

// sized gives a number of its full or its short size.
func sized[T any](full, short T) T {
	if testing.Short() {
		return short
	}
	return full
}

// process is a running redoubt-proxy.
type process struct {
	t          testing.TB
	dir        string // the proxy's own: configuration, admin socket, log
	conf, sock string
	log        *os.File
	cmd        *exec.Cmd
	exited     chan struct{}
	err        error // of Wait; read after exited
	admin      *http.Client
}

// start runs a proxy on a bootstrap until the test ends, and waits until it
// is LIVE. text gets the admin section before it.
func start(t testing.TB, text string, args ...string) *process {
	t.Helper()
	return startBy(t, nil, text, args...)
}

// startBy does it by another program, which execs the proxy's command line.
func startBy(t testing.TB, by []string, text string, args ...string) *process {
	t.Helper()
	p := prepare(t, text)
	p.run(by, args...)
	p.live()
	return p
}

// prepare writes the bootstrap.
func prepare(t testing.TB, text string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, dir: dir, conf: filepath.Join(dir, "proxy.yaml"), sock: filepath.Join(dir, "admin.sock")}
	p.configure(text)
	p.admin = &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.sock)
	}}}
	return p
}

func (p *process) configure(text string) {
	p.t.Helper()
	if err := os.WriteFile(p.conf, []byte("admin: {address: {pipe: {path: "+p.sock+"}}}\n"+text), 0o600); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) run(by []string, args ...string) {
	p.t.Helper()
	var err error
	if p.log, err = os.OpenFile(filepath.Join(p.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil {
		p.t.Fatal(err)
	}
	argv := append(append(by, rig.Binary(p.t), "--config", p.conf, "--loops", "2"), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = p.dir, p.log, p.log
	// The process dies with the test binary, also when that is killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	exited := make(chan struct{})
	p.cmd, p.exited = cmd, exited
	go func() {
		p.err = cmd.Wait()
		close(exited)
	}()
	p.t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if p.t.Failed() {
			p.t.Logf("process %d said:\n%s", cmd.Process.Pid, p.notable())
		}
		p.log.Close()
	})
}

// notable is the end of the log, without what is said of each configuration.
func (p *process) notable() string {
	var out []string
	for l := range strings.Lines(p.said()) {
		if !strings.Contains(l, "configuration in force") {
			out = append(out, l)
		}
	}
	return strings.Join(out[max(0, len(out)-40):], "")
}

// live waits for /ready.
func (p *process) live() {
	p.t.Helper()
	ok := rig.Eventually(patience, func() bool {
		select {
		case <-p.exited:
			p.t.Fatalf("the proxy ended before it served: %v\n%s", p.err, p.said())
		default:
		}
		code, _, err := p.ask("GET", "/ready")
		return err == nil && code == 200
	})
	if !ok {
		p.t.Fatalf("the proxy does not become ready:\n%s", p.said())
	}
}

func (p *process) said() string {
	b, _ := os.ReadFile(p.log.Name())
	return string(b)
}

// await waits for words in the log.
func (p *process) await(words string) {
	p.t.Helper()
	if !rig.Eventually(patience, func() bool { return strings.Contains(p.said(), words) }) {
		p.t.Fatalf("the proxy does not say %q", words)
	}
}

// ask asks the admin socket.
func (p *process) ask(method, path string) (code int, body string, err error) {
	req, err := http.NewRequest(method, "http://admin"+path, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := p.admin.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), err
}

func (p *process) get(path string) string {
	p.t.Helper()
	code, body, err := p.ask("GET", path)
	if err != nil || code != 200 {
		p.t.Errorf("admin %s: %d, %v", path, code, err)
	}
	return body
}

// stats are all counters.
func (p *process) stats() map[string]int64 {
	p.t.Helper()
	var in struct {
		Stats []struct {
			Name  string
			Value int64
		}
	}
	if err := json.Unmarshal([]byte(p.get("/stats?format=json")), &in); err != nil {
		p.t.Errorf("admin /stats: %v", err)
	}
	out := map[string]int64{}
	for _, s := range in.Stats {
		out[s.Name] = s.Value
	}
	return out
}

// end waits for the process to end by itself.
func (p *process) end() error {
	p.t.Helper()
	select {
	case <-p.exited:
		return p.err
	case <-time.After(patience):
		p.t.Fatal("the proxy does not end")
		return nil
	}
}

// alive reports a process that has ended.
func (p *process) alive() bool {
	p.t.Helper()
	select {
	case <-p.exited:
		p.t.Errorf("the proxy has ended: %v", p.err)
		return false
	default:
		return true
	}
}

// holds is what a process holds.
type holds struct {
	rss        int64 // bytes
	fds        int
	goroutines int
}

func (h holds) String() string {
	return fmt.Sprintf("%d KiB, %d descriptors, %d goroutines", h.rss>>10, h.fds, h.goroutines)
}

func (p *process) rss() int64 { return rssOf(p.cmd.Process.Pid) }

func rssOf(pid int) int64 {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := bytes.Cut(b, []byte("VmRSS:"))
	f := bytes.Fields(rest)
	if len(f) == 0 {
		return 0
	}
	kib, _ := strconv.ParseInt(string(f[0]), 10, 64)
	return kib << 10
}

func (p *process) holds() holds {
	p.t.Helper()
	h := holds{rss: p.rss()}
	e, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.cmd.Process.Pid))
	h.fds = len(e)
	line, _, _ := strings.Cut(p.get("/debug/pprof/goroutine?debug=1"), "\n")
	fmt.Sscanf(line, "goroutine profile: total %d", &h.goroutines)
	if h.goroutines == 0 {
		p.t.Errorf("no goroutines in %q", line)
	}
	return h
}

// settle waits until the process holds no more than before, but for slack
// descriptors and goroutines each, and growth bytes.
func (p *process) settle(before holds, slack int, growth int64) {
	p.t.Helper()
	var h holds
	ok := rig.Eventually(patience, func() bool {
		h = p.holds()
		return h.fds <= before.fds+slack && h.goroutines <= before.goroutines+slack && h.rss <= before.rss+growth
	})
	p.t.Logf("before: %v; after: %v", before, h)
	if !ok {
		p.t.Errorf("the proxy holds %v, and %v before", h, before)
	}
}

// unhurt wants clients that noticed nothing.
func unhurt(t testing.TB, all []load.Report) {
	t.Helper()
	for _, r := range all {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused != 0 || r.Requests == 0 {
			t.Errorf("clients were hurt: %v", r)
		}
	}
}

// lasting keeps on for d, or until stop.
func lasting(d time.Duration, stop <-chan struct{}) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-stop:
	}
}
