// SPDX-License-Identifier: Apache-2.0

package upgrade_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/proxy/handover"
	"redoubt.dev/test/conform/load"
	"redoubt.dev/test/conform/rig"
)

// allowMe lets this executable in.
func (w *world) allowMe() {
	w.t.Helper()
	own, err := handover.Own()
	if err == nil {
		err = os.WriteFile(w.allow, []byte("# the test itself\n"+own.String()+"\n"), 0o600)
	}
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) misbehave(fault, step string) *process {
	w.t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), faultVar+"="+fault, stepVar+"="+step, sockVar+"="+w.sock)
	return w.run(cmd)
}

// count tells how many lines of the log hold text.
func (p *process) count(text string) int { return strings.Count(p.said(), text) }

// TestBadSuccessors has successors fail in every way at every step. The old
// process goes on, loses nothing, keeps no descriptor, and lets a good one in
// at the end.
func TestBadSuccessors(t *testing.T) {
	echo, certs := load.NewEcho(t), rig.NewCerts(t)
	web := &port{name: "web", to: echo.HTTP}
	two := &port{name: "two", to: echo.HTTP, h2up: true}
	tcp := &port{name: "tcp", to: echo.TCP, tcp: true}
	mtls := &port{name: "mtls", to: echo.HTTP, tls: certs, mutual: true}
	w := newWorld(t, web, two, tcp, mtls)
	w.allowMe()
	every := 50 * time.Millisecond
	l := load.Start(
		load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 15, Every: every, Body: 5000},
		load.Group{Name: "http2", Proto: load.HTTP2, Addr: two.addr, Clients: 15, Every: every, Body: 5000},
		load.Group{Name: "tcp", Proto: load.TCP, Addr: tcp.addr, Clients: 15, Every: every, Body: 5000},
		load.Group{Name: "mtls", Proto: load.HTTP2, Addr: mtls.addr, Clients: 15, Every: every, Body: 5000, TLS: certs.Client},
	)
	old := w.cur
	base := w.fds(old)
	t.Logf("before: %d descriptors beside connections, %d KiB of memory", base, old.rss())
	for _, fault := range []string{"hang", "exit", "garbage"} {
		for _, step := range steps {
			said := old.count("this process goes on")
			p := w.misbehave(fault, step)
			p.await("misbehaves")
			n := l.Requests()
			if fault == "hang" && (step == "welcomed" || step == "connected") {
				// Its time to make itself ready is long. Clients do not wait for it.
				if !rig.Eventually(patience, func() bool { return l.Requests() > n+500 }) {
					t.Fatalf("%s at %s: clients wait", fault, step)
				}
				p.cmd.Process.Kill()
			}
			if !rig.Eventually(patience, func() bool { return old.count("this process goes on") > said }) {
				t.Fatalf("%s at %s is not noticed", fault, step)
			}
			if !rig.Eventually(patience, func() bool { return l.Requests() > n+300 }) {
				t.Fatalf("%s at %s: clients wait", fault, step)
			}
			p.cmd.Process.Kill()
			<-p.exited
		}
		t.Logf("after %s: %d KiB of memory", fault, old.rss())
	}
	if !rig.Eventually(patience, func() bool { return w.fds(old) <= base+1 }) { // a socket may be closing just now
		t.Errorf("%d descriptors, %d before all attempts", w.fds(old), base)
	}
	t.Log(w.upgrade())
	for _, r := range l.Stop() {
		t.Log(r)
		if r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
			t.Errorf("%s lost something", r.Name)
		}
	}
}

// TestStrangers are refused before anything is sent to them.
func TestStrangers(t *testing.T) {
	echo := load.NewEcho(t)
	w := newWorld(t, &port{name: "tcp", to: echo.TCP, tcp: true})
	t.Run("another executable", func(t *testing.T) {
		p := w.misbehave("exit", "welcomed")
		if line := p.await("stopped before"); !strings.Contains(line, "executable") {
			t.Error(line)
		}
		w.cur.await("upgrade refused")
	})
	t.Run("an allow file that others may write", func(t *testing.T) {
		w.allowMe()
		if err := os.Chmod(w.allow, 0o666); err != nil {
			t.Fatal(err)
		}
		p := w.misbehave("exit", "welcomed")
		if line := p.await("stopped before"); !strings.Contains(line, "allowed executables") {
			t.Error(line)
		}
		os.Chmod(w.allow, 0o600)
	})
	t.Run("another user", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("capability: root, to become another user")
		}
		// The directory keeps others out; open it, to see the second lock.
		for dir := filepath.Dir(w.sock); dir != "/"; dir = filepath.Dir(dir) {
			if fi, err := os.Stat(dir); err == nil && fi.Mode().Perm()&0o001 == 0 {
				os.Chmod(dir, fi.Mode().Perm()|0o011)
				defer os.Chmod(dir, fi.Mode().Perm())
			}
		}
		os.Chmod(w.sock, 0o666)
		exe := filepath.Join(filepath.Dir(w.sock), "successor") // where that user can run it
		if b, err := os.ReadFile("/proc/self/exe"); err != nil || os.WriteFile(exe, b, 0o755) != nil {
			t.Fatal("copy the executable")
		}
		cmd := exec.Command(exe, "-test.run=^$")
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), faultVar+"=exit", stepVar+"=welcomed", sockVar+"="+w.sock)
		p := w.runAs(cmd, 65534)
		if line := p.await("stopped before"); !strings.Contains(line, "uid") {
			t.Error(line)
		}
	})
	t.Run("not while another is under way", func(t *testing.T) {
		first := w.misbehave("hang", "welcomed")
		first.await("misbehaves")
		p := w.misbehave("exit", "welcomed")
		if line := p.await("stopped before"); !strings.Contains(line, "under way") {
			t.Error(line)
		}
		first.cmd.Process.Kill()
	})
	if w.cur.count("BEGIN") > 0 {
		t.Error("a key in the log")
	}
	t.Log(w.upgrade())
}

func (w *world) runAs(cmd *exec.Cmd, uid uint32) *process {
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	return w.run(cmd)
}

// TestOldDies: the old process is killed before it has given anything. The
// successor has its sockets, and serves.
func TestOldDies(t *testing.T) {
	echo := load.NewEcho(t)
	web := &port{name: "web", to: echo.HTTP}
	w := newWorld(t, web)
	next := w.start()
	next.await("configuration in force")
	w.cur.await("upgrade begins")
	w.cur.cmd.Process.Kill()
	next.await("the old process died")
	next.await("took over")
	w.cur = next
	l := load.Start(load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 10, Every: 5 * time.Millisecond})
	if !rig.Eventually(patience, func() bool { return len(w.stats()) > 0 }) {
		t.Error("no admin socket")
	}
	t.Log(w.upgrade())
	if r := l.Stop()[0]; r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
		t.Error(r)
	}
}

// TestTermWhileUpgrading: the old process is told to end in the middle of an
// upgrade. It drains, and the successor, which was told so, ends too.
func TestTermWhileUpgrading(t *testing.T) {
	w := newWorld(t, &port{name: "web", to: load.NewEcho(t).HTTP})
	w.allowMe()
	p := w.misbehave("hang", "welcomed")
	p.await("misbehaves")
	w.cur.cmd.Process.Signal(syscall.SIGTERM)
	if err := w.cur.end(); err != nil {
		t.Error(err)
	}
}

// TestTooFewDescriptors: a successor that could not hold what it would be given
// says so before anything moves.
func TestTooFewDescriptors(t *testing.T) {
	echo := load.NewEcho(t)
	web := &port{name: "web", to: echo.HTTP}
	w := newWorld(t, web)
	l := load.Start(load.Group{Name: "http1", Proto: load.HTTP1, Addr: web.addr, Clients: 100, Every: 20 * time.Millisecond})
	bad := w.run(exec.Command("sh", "-c", `ulimit -n 90; exec "$@"`, "sh", w.exe, "--config", w.conf, "--loops", "2", "--upgrade-socket", w.sock))
	if err := bad.end(); err == nil || !strings.Contains(bad.said(), "limit of descriptors") {
		t.Error(err)
	}
	w.cur.await("this process goes on")
	t.Log(w.upgrade())
	if r := l.Stop()[0]; r.Failed+r.Closed+r.Refused > 0 || r.Requests == 0 {
		t.Error(r)
	}
}
