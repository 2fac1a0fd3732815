// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func testDestroyTwice(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	p.run(p.shell("c", "true"))
	for range 2 {
		if err := p.Destroy(p.ctx); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.driver.Adopt(p.ctx, p.spec); !errors.Is(err, errs.NotFound) {
		t.Errorf("Adopt of a destroyed sandbox: %v", err)
	}
	if _, err := p.Add(p.ctx, p.shell("d", "true")); err == nil {
		t.Error("Add to a destroyed sandbox succeeded")
	}
}

func testDestroyRunning(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "sleep 1000 & sleep 1000 & echo ready; wait"))
	r.line()
	x, _ := r.exec("/bin/sleep", "1000")
	if err := p.Destroy(p.ctx); err != nil {
		t.Fatal(err)
	}
	if e, err := r.Wait(p.ctx); err != nil || e.Code != 128+9 {
		t.Errorf("container: %+v, %v", e, err)
	}
	if e, err := x.Wait(p.ctx); err != nil || e.Code != 128+9 {
		t.Errorf("added process: %+v, %v", e, err)
	}
}

func testSandboxWait(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	i := p.Info()
	if i.PID <= 0 || i.Kernel == "" || i.Binary == "" {
		t.Errorf("Info: %+v", i)
	}
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	end := ended(p)
	select {
	case <-end:
		t.Error("ended early")
	default:
	}
	// Its process is killed from outside, as the kernel does for want of memory.
	if err := syscall.Kill(i.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-end
	if e := r.exit(); e.Code != 128+9 {
		t.Errorf("container of a killed sandbox: %+v", e)
	}
}

// childEnv makes the test binary another driver process, which creates a
// sandbox in the directory that it names, and then waits to be killed.
const childEnv = "REDOUBT_DRIVERTEST_CHILD"

// order is what the child is to do.
type order struct {
	Spec   sandbox.Spec
	Rootfs string
	Script string
	Stdout string // FIFO
	Die    bool   // at once after Create was called, without waiting for it
}

const orderFile = "order.json"

func runChild(t *testing.T, f Fixture, dir string) {
	b, err := os.ReadFile(filepath.Join(dir, orderFile))
	if err != nil {
		t.Fatal(err)
	}
	var o order
	if err := json.Unmarshal(b, &o); err != nil {
		t.Fatal(err)
	}
	d := f.Open(t)
	done := os.NewFile(3, "done")
	if o.Die {
		_, _ = done.Write([]byte("!")) // the parent kills us whenever it likes from here on
	}
	ctx := context.Background()
	box, err := d.Create(ctx, o.Spec)
	if err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(o.Stdout, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	h, err := box.Add(ctx, sandbox.ContainerSpec{ID: "c", Rootfs: o.Rootfs, Stdio: [3]*os.File{nil, out, out}, OCI: &specs.Spec{
		Root:    &specs.Root{},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", o.Script}, Env: []string{"PATH=/bin"}, Cwd: "/", Capabilities: usual()},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := done.Write([]byte(".")); err != nil {
		t.Fatal(err)
	}
	select {} // until killed
}

// child runs the order in another process, which answers on the pipe.
func child(t *testing.T, o order) (*os.Process, *os.File) {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, orderFile), string(b))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	r, w := pipe(t)
	defer w.Close()
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The same test, by its whole name, runs in the child; Run sees the
	// environment variable and does the order instead.
	p, err := os.StartProcess(self, []string{self, "-test.run=^" + testName(t) + "$", "-test.count=1"}, &os.ProcAttr{
		Env: append(os.Environ(), childEnv+"="+dir), Files: []*os.File{nil, log, log, w},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			b, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Logf("the other process said: %s", b)
		}
		_ = p.Kill()
		_, _ = p.Wait()
	})
	return p, r
}

// testName is the name of the driver's own test, without the suite's parts.
func testName(t *testing.T) string {
	name := t.Name()
	for i := range name {
		if name[i] == '/' {
			return name[:i]
		}
	}
	return name
}

// testAdopt kills the process that drives with SIGKILL and goes on in this
// one: output, exit codes and processes are as if nothing had been.
func testAdopt(t *testing.T, s *suite) {
	before := take(t)
	spec := newSpec(t)
	fifo := filepath.Join(t.TempDir(), "out")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	proc, done := child(t, order{Spec: spec, Rootfs: s.rootfs, Stdout: fifo,
		Script: "trap 'echo asked; exit 21' TERM; echo up; while :; do sleep 0.05; done"})
	if _, err := io.ReadFull(done, make([]byte, 1)); err != nil {
		t.Fatal("the other process failed:", err)
	}
	if l, _ := readLine(out); l != "up" {
		t.Fatal(l)
	}
	if err := proc.Kill(); err != nil {
		t.Fatal(err)
	}
	if _, err := proc.Wait(); err != nil {
		t.Fatal(err)
	}

	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	box, err := s.driver.Adopt(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t, s, ctx, spec, box}
	h, err := box.Find(ctx, "c")
	if err != nil {
		t.Fatal(err)
	}
	r := &running{p, h, out}
	x, xout := r.exec("/bin/echo", "still here")
	if l, _ := readLine(xout); l != "still here" {
		t.Errorf("exec in an adopted container: %q", l)
	}
	if e, err := x.Wait(ctx); err != nil || e.Code != 0 {
		t.Errorf("%+v, %v", e, err)
	}
	if got, _ := p.run(p.shell("new", "echo new")); got != "new\n" {
		t.Errorf("a new container in an adopted sandbox: %q", got)
	}
	if err := h.Signal(ctx, syscall.SIGTERM, false); err != nil {
		t.Fatal(err)
	}
	if l := r.line(); l != "asked" {
		t.Errorf("output after adoption: %q", l)
	}
	if e := r.exit(); e.Code != 21 {
		t.Errorf("%+v", e)
	}
	r.delete()
	if err := box.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	if err := box.Wait(ctx); err != nil {
		t.Errorf("Wait for an adopted, destroyed sandbox: %v", err)
	}
	audit(t, spec, before)
}

func testAdoptNothing(t *testing.T, s *suite) {
	ctx := context.Background()
	if _, err := s.driver.Adopt(ctx, newSpec(t)); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
}

// testAdoptDead adopts a sandbox that died while nobody looked.
func testAdoptDead(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	if err := syscall.Kill(p.Info().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(p.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := s.driver.Adopt(p.ctx, p.spec); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
	for _, left := range leftovers(t, p.spec) {
		t.Errorf("left behind: %s", left)
	}
}

// testDieWhileCreating kills the driving process at many moments of Create.
// Whatever it had made, the next one removes, or takes over.
func testDieWhileCreating(t *testing.T, s *suite) {
	for i := range 12 {
		before := take(t)
		spec := newSpec(t)
		proc, done := child(t, order{Spec: spec, Rootfs: s.rootfs, Stdout: "/dev/null", Script: "sleep 1000", Die: true})
		if _, err := io.ReadFull(done, make([]byte, 1)); err != nil {
			t.Fatal("the other process failed:", err)
		}
		wait(i)
		if err := proc.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := proc.Wait(); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		box, err := s.driver.Adopt(ctx, spec)
		if err == nil {
			err = box.Destroy(ctx)
		}
		if err != nil && !errors.Is(err, errs.NotFound) {
			t.Errorf("after death at moment %d: %v", i, err)
		}
		cancel()
		settle(t, spec)
		audit(t, spec, before)
	}
}
