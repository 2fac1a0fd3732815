// SPDX-License-Identifier: Apache-2.0

package endure_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// flood opens n connections, asks on each that is taken, and holds all until
// held is told how many got an answer.
func flood(addr string, n int, held func(served, refused int)) {
	var mu sync.Mutex
	var conns []net.Conn
	served, refused := 0, 0
	var wg sync.WaitGroup
	gate := make(chan struct{}, 64)
	for range n {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			c, err := net.DialTimeout("tcp", addr, patience)
			ok := false
			if err == nil {
				c.SetDeadline(time.Now().Add(2 * time.Second))
				io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
				k, _ := c.Read(make([]byte, 1024))
				ok = k > 0
			}
			mu.Lock()
			defer mu.Unlock()
			if c != nil {
				conns = append(conns, c)
			}
			if ok {
				served++
			} else {
				refused++
			}
		})
	}
	wg.Wait()
	held(served, refused)
	for _, c := range conns {
		c.Close()
	}
}

// TestConnectionFlood opens more connections than a listener or a chain may
// have: the rest is refused and counted, and when the flood is over the
// listener serves again.
func TestConnectionFlood(t *testing.T) {
	const limit = 100
	n := sized(1000, 300)
	bounded := &listener{name: "bounded", addr: rig.FreeAddr(t), to: "mark", first: fmt.Sprintf(`{name: limit, typed_config: {"@type": %sfilters.network.connection_limit.v3.ConnectionLimit, stat_prefix: limit, max_connections: %d}},`, typePrefix, limit)}
	tcp := &listener{name: "tcp", addr: rig.FreeAddr(t), to: "mark", tcp: true, first: bounded.first}
	f := newField(t, "", bounded, tcp)
	f.slack += limit
	check := func(l *listener) {
		t.Helper()
		flood(l.addr, n, func(served, refused int) {
			t.Logf("%s: %d served, %d refused", l.name, served, refused)
			if served != limit || refused != n-limit {
				t.Errorf("%s: %d served, %d refused, with a limit of %d", l.name, served, refused, limit)
			}
		})
		ok := rig.Eventually(patience, func() bool {
			c, err := rig.Dial(l.addr)
			if err != nil {
				return false
			}
			defer c.Close()
			a, err := c.Ask("GET", "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
			return err == nil && a.Status == 200
		})
		if !ok {
			t.Errorf("%s does not serve after the flood", l.name)
		}
	}
	f.beside(func() { check(bounded); check(tcp) })
	f.count("listener.bounded.downstream_cx_refused", n-limit)
	f.count("listener.tcp.downstream_cx_refused", n-limit)
}

// TestDescriptorsRunOut floods a proxy that has few descriptors: it sheds, and
// those who are connected do not notice.
func TestDescriptorsRunOut(t *testing.T) {
	prlimit, err := exec.LookPath("prlimit")
	if err != nil {
		t.Skip("needs prlimit")
	}
	e := load.NewEcho(t)
	web, mark := &listener{name: "web", addr: rig.FreeAddr(t), to: "web"}, &listener{name: "mark", addr: rig.FreeAddr(t), to: "web"}
	p := startBy(t, []string{prlimit, "--nofile=256"}, boot([]*listener{web, mark}, []*cluster{{name: "web", to: e.HTTP, extra: roomy}}))
	groups := []load.Group{{Name: "others, h1", Proto: load.HTTP1, Addr: web.addr, Clients: 8, Every: pace}, {Name: "others, h2", Proto: load.HTTP2, Addr: web.addr, Clients: 2, Every: pace}}
	l := load.Start(groups...)
	flood(mark.addr, 1000, func(served, refused int) {
		t.Logf("%d served, %d refused", served, refused)
		if served == 0 || refused < 1000-256 {
			t.Errorf("%d served, %d refused, of a process with 256 descriptors", served, refused)
		}
	})
	unhurt(t, l.Stop())
	if n := p.stats()["listener.mark.downstream_cx_overflow"]; n == 0 {
		t.Errorf("%d connections are counted as shed", n)
	}
	// What waited in the listener's queue is served yet, on what there is.
	if !rig.Eventually(patience, func() bool { return p.stats()["server.total_connections"] < 100 }) {
		t.Errorf("%d connections are open after the flood", p.stats()["server.total_connections"])
	}
	again := load.Start(groups...)
	lasting(300*time.Millisecond, nil)
	unhurt(t, again.Stop())
}

// TestFullDisk writes access logs to a disk that fills: requests go on, lost
// lines are counted, and when there is room again lines are whole.
func TestFullDisk(t *testing.T) {
	for _, k := range []struct {
		name, needs string
		by          func(dir string) []string
	}{
		{"tmpfs", "needs root, for a mount namespace", func(dir string) []string {
			return []string{"unshare", "-m", "sh", "-c", `mount -t tmpfs -o size=256k none "$0" && head -c 131072 /dev/zero >"$0/filler" && exec "$@"`, dir}
		}},
		{"limit of a file's size", "needs prlimit", func(string) []string { return []string{"prlimit", "--fsize=262144"} }},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			by := k.by(dir)
			if exec.Command(by[0], append(by[1:], "true")...).Run() != nil {
				t.Skip(k.needs)
			}
			e := load.NewEcho(t)
			file := filepath.Join(dir, "access.log")
			web := &listener{name: "web", addr: rig.FreeAddr(t), to: "web", hcm: fmt.Sprintf(`access_log: [{name: file, typed_config: {"@type": %saccess_loggers.file.v3.FileAccessLog, path: %s,
          log_format: {text_format_source: {inline_string: "<%%RESPONSE_CODE%% %%REQ(:METHOD)%% %s>\n"}}}}],`, typePrefix, file, strings.Repeat("x", 200))}
			p := startBy(t, by, boot([]*listener{web}, []*cluster{{name: "web", to: e.HTTP}}))
			seen := file
			if k.name == "tmpfs" {
				seen = fmt.Sprintf("/proc/%d/root%s", p.cmd.Process.Pid, file)
			}
			l := load.Start(load.Group{Name: "h1", Proto: load.HTTP1, Addr: web.addr, Clients: 8}, load.Group{Name: "h2", Proto: load.HTTP2, Addr: web.addr, Clients: 4})
			dropped := func() int64 { return p.stats()["access_log."+file+".dropped"] }
			if !rig.Eventually(patience, func() bool { return dropped() > 1000 }) {
				t.Errorf("%d lines are counted as dropped", dropped())
			}
			p.alive()
			// Room again: what is written from now on is whole.
			at := int64(0)
			if k.name == "tmpfs" {
				fi, err := os.Stat(seen)
				if err != nil || os.Remove(filepath.Join(filepath.Dir(seen), "filler")) != nil {
					t.Fatal("the filler cannot be removed", err)
				}
				at = fi.Size()
			} else if err := os.Truncate(seen, 0); err != nil {
				t.Fatal(err)
			}
			if !rig.Eventually(patience, func() bool { fi, err := os.Stat(seen); return err == nil && fi.Size() > at }) {
				t.Error("no line is written after there is room again")
			}
			unhurt(t, l.Stop())
			b, err := os.ReadFile(seen)
			if err != nil {
				t.Fatal(err)
			}
			whole := regexp.MustCompile(`^<200 POST x{200}>$`)
			all := strings.Split(string(b), "\n")
			torn := 0
			for i, line := range all[:len(all)-1] { // the disk may be full again
				if line != "" && !whole.MatchString(line) {
					if torn++; strings.Count(line, "<") > 1 || torn > 1 {
						t.Errorf("line %d is not whole, or two: %.500q", i, line)
					}
				}
			}
			t.Logf("%d lines dropped, %d there", dropped(), len(all))
		})
	}
}
