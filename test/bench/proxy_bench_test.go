// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"bufio"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"redoubt.dev/proxy/proxytest"
	"redoubt.dev/test/bench/load"
)

// generate is the process of one load.Job.
func generate(ctx context.Context, text string) error {
	var j load.Job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return err
	}
	r, err := load.Run(ctx, j)
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(r)
}

// running is a contestant that answers.
type running struct {
	name  string
	front netip.AddrPort
	pid   int
	cmd   *exec.Cmd
	ended <-chan struct{}
}

func (r *running) url(path string) string { return "http://" + r.front.String() + path }

// ground is what one cell of the comparison stands on: a folder, and
// processes that end with it.
func ground(tb *testing.B) *bench {
	tb.Helper()
	b := &bench{b: tb, dir: tb.TempDir(), ca: proxytest.NewCA(tb, "bank.example"), at: proxytest.Net()}
	for _, tool := range []string{"nginx", "wrk"} {
		if _, err := exec.LookPath(tool); err != nil {
			tb.Skip("needs " + tool)
		}
	}
	return b
}

// httpOrigin answers from memory: /100 and every other path 100 bytes, /4k
// 4 KiB, /1m 1 MiB.
func (b *bench) httpOrigin() netip.AddrPort {
	b.b.Helper()
	at := load.Addr4(b.port())
	b.file("1m", strings.Repeat("0123456789abcdef", 1<<16))
	k := strings.Repeat("x", 1024)
	b.nginx("origin", fmt.Sprintf(`open_file_cache max=16; sendfile on; tcp_nopush on;
server { listen %s backlog=8192; default_type text/plain; set $k "%s"; set $c "%s";
location / { return 200 $c; } location = /4k { return 200 $k$k$k$k; } location = /1m { root %s; } }`, at, k, k[:100], b.dir))
	b.wait(at)
	return at
}

// origin runs one of package load's origins.
func (b *bench) origin(k load.Kind) netip.AddrPort {
	b.b.Helper()
	at := load.Addr4(b.port())
	b.start(b.job(load.Job{Kind: k, Addr: at}))
	b.wait(at)
	return at
}

// entry is a contestant with the work it is set up for, under a name of its
// own where one takes part twice.
type entry struct {
	name string
	contestant
	work
}

// everyone enters all contestants for the same work.
func everyone(w work) []entry {
	var all []entry
	for _, c := range contestants {
		all = append(all, entry{c.name, c, w})
	}
	return all
}

// begin starts the entries that can do their work, and notes on the sheet
// why the others cannot. Each has answered once, rightly.
func (b *bench) begin(s *sheet, entries []entry) []*running {
	b.b.Helper()
	var all []*running
	for _, e := range entries {
		if !picked(e.contestant.name) {
			continue
		}
		r, err := b.enter(e)
		if err == nil {
			err = b.proves(r, e.work)
		}
		if err != nil {
			s.drop(e.name, err)
			continue
		}
		all = append(all, r)
	}
	if len(all) == 0 {
		s.show()
		b.b.Skip("no contestant can do this")
	}
	return all
}

// enter starts one and waits for its port.
func (b *bench) enter(e entry) (*running, error) {
	front := load.Addr4(b.port())
	cmd, err := e.command(b, e.work, front)
	if err != nil {
		return nil, err
	}
	words, err := os.Create(filepath.Join(b.dir, fmt.Sprintf("%s-%d.out", e.name, front.Port())))
	if err != nil {
		return nil, err
	}
	defer words.Close()
	cmd.Stdout, cmd.Stderr = words, words
	ended, err := b.launch(cmd)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if c, err := net.Dial("tcp", front.String()); err == nil {
			c.Close()
			return &running{e.name, front, cmd.Process.Pid, cmd, ended}, nil
		}
		select {
		case <-ended:
			said, _ := os.ReadFile(words.Name())
			return nil, fmt.Errorf("%w: %.300s", errEnded, strings.TrimSpace(string(said)))
		case <-time.After(time.Millisecond):
		}
	}
	return nil, fmt.Errorf("does not listen after 30 s")
}

// proves asks once, in the protocol that will be measured.
func (b *bench) proves(r *running, w work) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	switch {
	case w.streaming:
		_, err := load.Run(ctx, load.Job{Kind: load.KindStream, Addr: r.front, Path: streamPath, Conns: 1, Per: 1, Size: messageSize, For: 50 * time.Millisecond})
		return err
	case w.front == grpc:
		return load.Call(ctx, load.Job{Addr: r.front, Path: unaryPath, Size: messageSize})
	case w.front == tcp || w.tls != nil:
		return nil // the load itself says when it fails
	}
	p := new(http.Protocols)
	p.SetHTTP1(w.front == http1)
	p.SetUnencryptedHTTP2(w.front == http2)
	t := &http.Transport{Protocols: p}
	defer t.CloseIdleConnections()
	path := "/100"
	if w.routes > 0 {
		path = prefix(w.routes-1) + "x"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.url(path), nil)
	if err != nil {
		return err
	}
	res, err := t.RoundTrip(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK || len(body) != 100 {
		return fmt.Errorf("answers %s with %d bytes: %v", res.Status, len(body), err)
	}
	return nil
}

// interleave gives each contestant its turn in each round, beginning with
// another one each time: the machine's moods hit all alike. The first, short
// turn fills pools and caches. Who fails leaves the comparison, which goes on
// without him; it gives those that are left.
func (b *bench) interleave(s *sheet, all []*running, warm, f func(*running) error) []*running {
	failed := map[string]bool{}
	try := func(r *running, f func(*running) error) {
		if failed[r.name] {
			return
		}
		if err := f(r); err != nil {
			failed[r.name] = true
			s.drop(r.name, err)
		}
	}
	for _, r := range all {
		try(r, warm)
	}
	for round := range *rounds {
		for i := range all {
			try(all[(i+round)%len(all)], f)
		}
	}
	return slices.DeleteFunc(slices.Clone(all), func(r *running) bool { return failed[r.name] })
}

// spent runs f and gives the processor time that r used meanwhile.
func (b *bench) spent(r *running, f func()) time.Duration {
	before := b.used(r.pid)
	f()
	return b.used(r.pid) - before
}

func micros(d time.Duration) float64 { return float64(d) / 1e3 }

// pems writes a server's and a client's certificates.
func (b *bench) pems() *pki {
	root := b.file("root.pem", string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: b.ca.Root()})))
	// Caddy chooses its certificate by name and takes none that has none.
	cert, key := b.pem(b.ca.ID("bank", "server"), func(c *x509.Certificate) {
		c.DNSNames, c.IPAddresses = []string{"localhost"}, []net.IP{net.IPv4(127, 0, 0, 1)}
	})
	c, err := os.ReadFile(cert)
	if err != nil {
		b.b.Fatal(err)
	}
	k, err := os.ReadFile(key)
	if err != nil {
		b.b.Fatal(err)
	}
	return &pki{root, cert, key, b.file("both.pem", string(c)+string(k))}
}

// drain reads one response with a length and leaves the connection open.
func drain(c net.Conn) error {
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if _, err := io.Copy(io.Discard, res.Body); err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK || res.Close {
		return fmt.Errorf("answers %s, close %t", res.Status, res.Close)
	}
	return nil
}

// BenchmarkProxyVersions prints what is compared, and on what.
func BenchmarkProxyVersions(b *testing.B) {
	kernel, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	cpus, _ := os.ReadFile("/proc/cpuinfo")
	model := "unknown"
	for line := range strings.Lines(string(cpus)) {
		if name, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			model = strings.TrimSpace(v)
		}
	}
	var s strings.Builder
	fmt.Fprintf(&s, "\n%d × %s, Linux %s, %s.", runtime.NumCPU(), model, strings.TrimSpace(string(kernel)), runtime.Version())
	for _, c := range contestants {
		if picked(c.name) {
			fmt.Fprintf(&s, " %s %s.", c.name, c.version())
		}
	}
	fmt.Fprintf(&s, " %d rounds of %v; medians; ratio to the better of nginx and haproxy in the same round.\n", *rounds, *span)
	emit(s.String())
}
