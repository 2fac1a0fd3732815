// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func testOutput(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r, w := pipe(t)
	c := p.shell("c", "echo to-out; echo to-err >&2")
	h, err := p.Add(p.ctx, withStdio(c, nil, w, w))
	w.Close() // borrowed for the call only
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(p.ctx); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(r)
	// The control, runc behind a command line, carries the two apart: in its
	// output either may come first.
	swapped := !s.f.Kernel && string(out) == "to-err\nto-out\n"
	if err != nil || string(out) != "to-out\nto-err\n" && !swapped {
		t.Errorf("output %q, %v", out, err)
	}
	// Much output arrives whole.
	big, e := p.run(p.shell("big", "seq 1 200000"))
	if n := strings.Count(big, "\n"); n != 200000 || !strings.HasSuffix(big, "\n200000\n") {
		t.Errorf("%d lines of 200000, %+v", n, e)
	}
}

func withStdio(c sandbox.ContainerSpec, in, out, err *os.File) sandbox.ContainerSpec {
	c.Stdio = [3]*os.File{in, out, err}
	return c
}

func testExitCode(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	for script, want := range map[string]int{"true": 0, "exit 7": 7, "kill -9 $$; sleep 9": 128 + 9, "kill -15 $$; sleep 9": 128 + 15} {
		if strings.Contains(script, "-15") || strings.Contains(script, "-9") {
			// The first process of a PID namespace cannot kill itself.
			script = "sh -c '" + strings.ReplaceAll(script, "$$", "$$$$") + "' & wait $!"
			script = strings.ReplaceAll(script, "$$$$", "$$")
		}
		before := time.Now()
		r := p.start(p.shell("c", script))
		_, e := r.finish()
		if e.Code != want || e.At.Before(before.Add(-time.Second)) || e.At.After(time.Now().Add(time.Second)) {
			t.Errorf("%q ended with %+v, want %d", script, e, want)
		}
		r.delete()
	}
}

func testStdin(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	in, feed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := p.shell("c", "cat; echo end")
	c.Stdio[0] = in
	r := p.start(c)
	in.Close()
	if _, err := io.WriteString(feed, "fed\n"); err != nil {
		t.Fatal(err)
	}
	if got := r.line(); got != "fed" {
		t.Errorf("echoed %q", got)
	}
	feed.Close()
	if out, e := r.finish(); out != "end\n" || e.Code != 0 {
		t.Errorf("after the end of input: %q, %+v", out, e)
	}
	// nil is /dev/null: reading ends at once.
	if out, _ := p.run(p.shell("null", "cat; echo nothing")); out != "nothing\n" {
		t.Errorf("from no input came %q", out)
	}
}

func testEnvironment(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	c := p.shell("c", "echo $WHO; pwd; id -u; id -g; hostname; umask")
	c.OCI.Process.Env = append(c.OCI.Process.Env, "WHO=me")
	c.OCI.Process.Cwd = "/tmp"
	c.OCI.Process.User = specs.User{UID: 1000, GID: 2000}
	if out, _ := p.run(c); out != "me\n/tmp\n1000\n2000\npod\n0022\n" {
		t.Errorf("saw %q", out)
	}
}

// terminal opens a pseudo terminal.
func terminal(t testing.TB) (host, replica *os.File) {
	t.Helper()
	host, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = host.SetReadDeadline(time.Now().Add(patience))
	if err := unix.IoctlSetPointerInt(int(host.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(host.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetWinsize(int(host.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 33, Col: 77}); err != nil {
		t.Fatal(err)
	}
	replica, err = os.OpenFile("/dev/pts/"+itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close(); replica.Close() })
	return host, replica
}

func itoa(n int) string {
	if n < 10 {
		return string(rune('0' + n))
	}
	return itoa(n/10) + string(rune('0'+n%10))
}

func testTerminal(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	host, replica := terminal(t)
	c := p.shell("c", "test -t 0 && test -t 1 && echo is-terminal; stty size; read x; echo got $x")
	c.OCI.Process.Terminal = true
	c.Stdio = [3]*os.File{replica, replica, replica}
	r := p.start(c)
	for _, want := range []string{"is-terminal", "33 77"} {
		if got, err := readLine(host); strings.TrimRight(got, "\r") != want {
			t.Errorf("terminal shows %q, %v, want %q", got, err, want)
		}
	}
	if _, err := io.WriteString(host, "typed\n"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"typed", "got typed"} { // the echo comes first
		if got, err := readLine(host); strings.TrimRight(got, "\r") != want {
			t.Errorf("terminal shows %q, %v, want %q", got, err, want)
		}
	}
	if e := r.exit(); e.Code != 0 {
		t.Errorf("ended with %+v", e)
	}
}

func testSignal(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "trap 'echo caught; exit 4' TERM; echo ready; while :; do sleep 0.05; done"))
	if got := r.line(); got != "ready" {
		t.Fatal(got)
	}
	if err := r.Signal(p.ctx, syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if out, e := r.finish(); out != "caught\n" || e.Code != 4 {
		t.Errorf("%q, %+v", out, e)
	}
	if err := r.Signal(p.ctx, syscall.SIGTERM, false); !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.Conflict) {
		t.Errorf("signal to an ended process: %v", err)
	}
	r = p.start(p.shell("k", "echo ready; sleep 1000"))
	r.line()
	if err := r.Signal(p.ctx, syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := r.exit(); e.Code != 128+9 {
		t.Errorf("killed: %+v", e)
	}
}

func testSignalAll(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "sleep 1000 & sleep 1000 & echo ready; wait; echo woke; exit 3"))
	r.line()
	if err := r.Signal(p.ctx, syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	if e := r.exit(); e.Code != 128+9 {
		t.Errorf("%+v", e)
	}
}

func (r *running) exec(args ...string) (sandbox.Process, *os.File) {
	r.p.t.Helper()
	out, w := pipe(r.p.t)
	defer w.Close()
	x, err := r.Exec(r.p.ctx, sandbox.ProcessSpec{
		OCI:   &specs.Process{Args: args, Env: []string{"PATH=/bin"}, Cwd: "/", Capabilities: usual()},
		Stdio: [3]*os.File{nil, w, w},
	})
	if err != nil {
		r.p.t.Fatalf("Exec: %v", err)
	}
	return x, out
}

func testExec(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo here > /tmp/f; echo ready; sleep 1000"))
	r.line()
	x, out := r.exec("/bin/sh", "-c", "cat /tmp/f; exit 5")
	if b, _ := io.ReadAll(out); string(b) != "here\n" {
		t.Errorf("exec saw %q", b)
	}
	for range 2 { // Wait may be called again
		if e, err := x.Wait(p.ctx); err != nil || e.Code != 5 {
			t.Errorf("%+v, %v", e, err)
		}
	}
	if x.PID() <= 0 {
		t.Errorf("pid %d", x.PID())
	}
	if _, err := r.Exec(p.ctx, sandbox.ProcessSpec{OCI: &specs.Process{Args: []string{"/no/such"}, Cwd: "/"}}); err == nil {
		t.Error("exec of nothing succeeded")
	}
	// Many at once.
	var all []sandbox.Process
	for range 20 {
		x, _ := r.exec("/bin/true")
		all = append(all, x)
	}
	for _, x := range all {
		if e, err := x.Wait(p.ctx); err != nil || e.Code != 0 {
			t.Errorf("%+v, %v", e, err)
		}
	}
}

func testExecSignal(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	x, out := r.exec("/bin/sh", "-c", "trap 'exit 9' USR1; echo up; while :; do sleep 0.05; done")
	if l, _ := readLine(out); l != "up" {
		t.Fatal(l)
	}
	if err := x.Signal(p.ctx, syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if e, err := x.Wait(p.ctx); err != nil || e.Code != 9 {
		t.Errorf("%+v, %v", e, err)
	}
	if err := x.Signal(p.ctx, syscall.SIGUSR1); !errors.Is(err, errs.NotFound) {
		t.Errorf("signal to an ended process: %v", err)
	}
}

func testExecTerminal(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	host, replica := terminal(t)
	x, err := r.Exec(p.ctx, sandbox.ProcessSpec{
		OCI:   &specs.Process{Args: []string{"/bin/sh", "-c", "sleep 0.2; test -t 0 && stty size"}, Env: []string{"PATH=/bin"}, Cwd: "/", Terminal: true},
		Stdio: [3]*os.File{replica, replica, replica},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := readLine(host); strings.TrimRight(got, "\r") != "33 77" {
		t.Errorf("%q, %v", got, err)
	}
	if e, err := x.Wait(p.ctx); err != nil || e.Code != 0 {
		t.Errorf("%+v, %v", e, err)
	}
}

func testStartFails(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	c := p.shell("c", "")
	c.OCI.Process.Args = []string{"/no/such/program"}
	h, err := p.Add(p.ctx, c)
	if err == nil {
		err = h.Start(p.ctx)
		if derr := h.Delete(p.ctx); derr != nil {
			t.Errorf("Delete after a failed Start: %v", derr)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("starting nothing gave %v", err)
	}
	// The pod is still good, also for a container of the same name.
	if out, _ := p.run(p.shell("c", "echo fine")); out != "fine\n" {
		t.Errorf("afterwards: %q", out)
	}
}

func testWaitTwice(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "sleep 0.2; exit 6"))
	results := make(chan sandbox.Exit)
	for range 3 {
		go func() {
			e, _ := r.Wait(p.ctx)
			results <- e
		}()
	}
	for range 3 {
		if e := <-results; e.Code != 6 {
			t.Errorf("%+v", e)
		}
	}
	if e := r.exit(); e.Code != 6 {
		t.Errorf("after the end: %+v", e)
	}
}

func testWaitCancel(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	ctx, cancel := context.WithCancel(p.ctx)
	cancel()
	if _, err := r.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	if err := r.Signal(p.ctx, syscall.SIGKILL, false); err != nil {
		t.Fatal(err)
	}
	if e := r.exit(); e.Code != 128+9 {
		t.Errorf("%+v", e)
	}
}

func testStartTwice(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	if err := r.Start(p.ctx); !errors.Is(err, errs.Conflict) {
		t.Errorf("second Start: %v", err)
	}
	if _, err := p.Add(p.ctx, p.shell("c", "true")); !errors.Is(err, errs.Exists) {
		t.Errorf("second Add: %v", err)
	}
}
