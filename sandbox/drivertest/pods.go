// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func testSeveral(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	a := p.start(p.shell("a", "echo ready; sleep 1000"))
	b := p.start(p.shell("b", "echo ready; sleep 1000"))
	a.line()
	b.line()
	// Each has processes of its own.
	x, out := a.exec("/bin/sh", "-c", "ps | grep -c 'sleep 1000$'; true")
	_ = x
	if n, _ := readLine(out); n != "1" && n != "2" { // the shell may replace itself
		t.Errorf("a sees %s sleepers", n)
	}
	if err := a.Signal(p.ctx, syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	a.exit()
	a.delete()
	if _, err := p.Find(p.ctx, "a"); !errors.Is(err, errs.NotFound) {
		t.Errorf("deleted container: %v", err)
	}
	if h, err := p.Find(p.ctx, "b"); err != nil || h == nil {
		t.Errorf("the other one: %v", err)
	}
	x, _ = b.exec("/bin/true")
	if e, err := x.Wait(p.ctx); err != nil || e.Code != 0 {
		t.Errorf("the other one does not live: %+v, %v", e, err)
	}
	select {
	case <-ended(p):
		t.Error("the sandbox ended with one of its containers")
	default:
	}
}

func ended(p *pod) <-chan struct{} {
	c := make(chan struct{})
	go func() {
		defer close(c)
		_ = p.Wait(p.ctx)
	}()
	return c
}

func testRestart(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	other := p.start(p.shell("other", "echo ready; sleep 1000"))
	other.line()
	for i := range 4 {
		r := p.start(p.shell("c", "test -e /tmp/mark && echo dirty; touch /tmp/mark; exit "+strconv.Itoa(i)))
		if out, e := r.finish(); e.Code != i || out != "" {
			t.Errorf("run %d: %q, %+v", i, out, e)
		}
		r.delete()
		r.delete() // safe to repeat
	}
}

func testShared(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	vol := []sandbox.Mount{{Kind: sandbox.Shared, Source: "scratch", Target: "/vol/deep"}}
	a := p.shell("a", "echo from-a > /vol/deep/f; echo ready; sleep 1000")
	a.Mounts = vol
	r := p.start(a)
	r.line()
	b := p.shell("b", "cat /vol/deep/f; echo from-b > /vol/deep/g")
	b.Mounts = vol
	if out, _ := p.run(b); out != "from-a\n" {
		t.Errorf("b sees %q", out)
	}
	x, out := r.exec("/bin/cat", "/vol/deep/g")
	_ = x
	if l, _ := readLine(out); l != "from-b" {
		t.Errorf("a sees %q", l)
	}
	ro := p.shell("ro", "cat /vol/deep/f; touch /vol/deep/h || echo refused")
	ro.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Source: "scratch", Target: "/vol/deep", ReadOnly: true}}
	if out, _ := p.run(ro); !strings.Contains(out, "from-a\n") || !strings.Contains(out, "refused\n") {
		t.Errorf("read-only: %q", out)
	}
	other := p.shell("other", "ls /vol/deep | wc -l")
	other.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Source: "another", Target: "/vol/deep"}}
	if out, _ := p.run(other); strings.TrimSpace(out) != "0" {
		t.Errorf("another volume holds %q files", out)
	}
	// It outlives the container that wrote it.
	if err := r.Signal(p.ctx, syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
	r.exit()
	r.delete()
	again := p.shell("again", "cat /vol/deep/f")
	again.Mounts = vol
	if out, _ := p.run(again); out != "from-a\n" {
		t.Errorf("after a restart: %q", out)
	}
}

func testSharedBound(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	for i, size := range []int64{1 << 20, 5 << 20} {
		c := p.shell("c"+strconv.Itoa(i), "dd if=/dev/zero of=/vol/f bs=64k count=200 2>/dev/null; stat -c %s /vol/f")
		c.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Source: "v" + strconv.Itoa(i), Target: "/vol", SizeBytes: size}}
		out, _ := p.run(c)
		n, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
		if err != nil || n > size || n < size-128<<10 {
			t.Errorf("wrote %d bytes to a volume of %d (%q)", n, size, out)
		}
	}
}

func testFixed(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "..2026", "key"), "secret\n")
	if err := os.Symlink("..2026", filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("..data/key", filepath.Join(dir, "key")); err != nil {
		t.Fatal(err)
	}
	file := write(t, filepath.Join(t.TempDir(), "hosts"), "127.0.0.1 localhost\n")
	c := p.shell("c", "cat /run/secret/key /etc/hosts; touch /run/secret/x 2>/dev/null || echo ro-dir; echo x 2>/dev/null >> /etc/hosts || echo ro-file")
	c.Mounts = []sandbox.Mount{
		{Kind: sandbox.Fixed, Source: dir, Target: "/run/secret"},
		{Kind: sandbox.Fixed, Source: file, Target: "/etc/hosts"},
	}
	out, _ := p.run(c)
	if !strings.HasPrefix(out, "secret\n127.0.0.1 localhost\n") || !strings.Contains(out, "ro-dir") || !strings.Contains(out, "ro-file") {
		t.Errorf("saw %q", out)
	}
}

func testFixedOnce(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "f"), "old\n")
	c := p.shell("c", "echo ready; sleep 1000")
	c.Mounts = []sandbox.Mount{{Kind: sandbox.Fixed, Source: file, Target: "/f"}}
	r := p.start(c)
	r.line()
	write(t, file, "new\n")
	x, out := r.exec("/bin/cat", "/f")
	_ = x
	if l, _ := readLine(out); l != "old" {
		t.Errorf("saw %q", l)
	}
}

func testHost(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "in"), "from-host\n")
	vol := []sandbox.Mount{{Kind: sandbox.Host, Source: dir, Target: "/host"}}
	a := p.shell("a", "cat /host/in; echo out > /host/out; mkdir /host/d; mv /host/out /host/d/out; echo ready; while ! test -e /host/go; do sleep 0.05; done; cat /host/go; exit 3")
	a.Mounts = vol
	r := p.start(a)
	if l := r.line(); l != "from-host" {
		t.Errorf("saw %q", l)
	}
	r.line()
	if b, err := os.ReadFile(filepath.Join(dir, "d", "out")); string(b) != "out\n" {
		t.Errorf("the host sees %q, %v", b, err)
	}
	// A second container of the same pod sees it too.
	b := p.shell("b", "cat /host/d/out")
	b.Mounts = vol
	if out, _ := p.run(b); out != "out\n" {
		t.Errorf("b sees %q", out)
	}
	write(t, filepath.Join(dir, "go"), "went\n") // seen live
	if out, e := r.finish(); out != "went\n" || e.Code != 3 {
		t.Errorf("%q, %+v", out, e)
	}
}

func testHostReadOnly(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x\n")
	c := p.shell("c", "cat /host/f; for c in 'touch /host/g' 'rm /host/f' 'mkdir /host/d' 'mv /host/f /host/g'; do $c 2>/dev/null && echo broke: $c; done; echo y 2>/dev/null >> /host/f && echo broke: append; true")
	c.Mounts = []sandbox.Mount{{Kind: sandbox.Host, Source: dir, Target: "/host", ReadOnly: true}}
	if out, _ := p.run(c); out != "x\n" {
		t.Errorf("%q", out)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "f")); string(b) != "x\n" {
		t.Errorf("the host's file now holds %q", b)
	}
}

func testHostFile(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "f"), "one\n")
	c := p.shell("c", "cat /etc/one; echo two >> /etc/one")
	c.Mounts = []sandbox.Mount{{Kind: sandbox.Host, Source: file, Target: "/etc/one"}}
	if out, e := p.run(c); out != "one\n" || e.Code != 0 {
		t.Errorf("%q, %+v", out, e)
	}
	if b, _ := os.ReadFile(file); string(b) != "one\ntwo\n" {
		t.Errorf("the host's file holds %q", b)
	}
}

// testHostEscape tries to leave a mounted directory by links and "..".
func testHostEscape(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	top := t.TempDir()
	dir := filepath.Join(top, "vol")
	write(t, filepath.Join(dir, "f"), "")
	secret := write(t, filepath.Join(top, "secret"), "host-secret\n")
	for name, target := range map[string]string{"abs": secret, "rel": "../secret", "etc": "/etc"} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	c := p.shell("c", "cat /host/abs /host/rel /host/../secret /host/etc/shadow /host/etc/hostname 2>/dev/null; true")
	c.Mounts = []sandbox.Mount{{Kind: sandbox.Host, Source: dir, Target: "/host"}}
	if out, _ := p.run(c); out != "" {
		t.Errorf("got out of the volume: %q", out)
	}
}

func testReadonlyRoot(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	file := write(t, filepath.Join(t.TempDir(), "f"), "mounted\n")
	c := p.shell("c", "touch /x 2>/dev/null || echo ro; touch /bin/x 2>/dev/null || echo ro; cat /not/in/the/image; touch /vol/deep/x && echo rw; stat -c %a /root; ls / | wc -l")
	c.OCI.Root.Readonly = true
	c.Mounts = []sandbox.Mount{
		{Kind: sandbox.Fixed, Source: file, Target: "/not/in/the/image"},
		{Kind: sandbox.Shared, Source: "v", Target: "/vol/deep"},
	}
	out, e := p.run(c)
	if want := "ro\nro\nmounted\nrw\n755\n"; !strings.HasPrefix(out, want) || e.Code != 0 {
		t.Errorf("saw %q, want %q..., %+v", out, want, e)
	}
}

func testRootfsUntouched(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	if out, _ := p.run(p.shell("a", "echo gone > /bin/mine; rm /bin/true; echo x > /etc/passwd; cat /etc/passwd")); out != "x\n" {
		t.Errorf("cannot write its own root: %q", out)
	}
	if out, _ := p.run(p.shell("b", "test -e /bin/mine && echo leaked; test -e /bin/true || echo lost; cat /etc/passwd")); out != "root:x:0:0::/root:/bin/sh\n" {
		t.Errorf("another container of the same image sees %q", out)
	}
}

func testMemory(t *testing.T, s *suite) {
	quiet := s.pod(t, nil)
	bystander := quiet.start(quiet.shell("c", "echo ready; sleep 1000"))
	bystander.line()

	greedy := s.pod(t, func(sp *sandbox.Spec) { sp.Limits.MemoryBytes = 128 << 20 })
	c := greedy.shell("c", "dd if=/dev/zero of=/vol/f bs=1M count=1024 2>/dev/null; echo survived")
	c.Mounts = []sandbox.Mount{{Kind: sandbox.Shared, Source: "v", Target: "/vol"}}
	out, e := greedy.run(c)
	if strings.Contains(out, "survived") && e.Code == 0 {
		// A guest may also have refused the memory; then it must not hold it.
		u, err := greedy.Sandbox.(sandbox.Meter).Usage(greedy.ctx)
		if err != nil || u.MemoryBytes > 128<<20 {
			t.Errorf("a pod of 128 MiB holds %d bytes (%v), output %q", u.MemoryBytes, err, out)
		}
	}
	x, _ := bystander.exec("/bin/true")
	if e, err := x.Wait(quiet.ctx); err != nil || e.Code != 0 {
		t.Errorf("another pod was hit: %+v, %v", e, err)
	}
}

func testUsage(t *testing.T, s *suite) {
	p := s.pod(t, nil)
	m, ok := p.Sandbox.(sandbox.Meter)
	if !ok {
		t.Skip("needs a driver that meters")
	}
	r := p.start(p.shell("c", "echo ready; sleep 1000"))
	r.line()
	before, err := m.Usage(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	x, _ := r.exec("/bin/sh", "-c", "dd if=/dev/zero of=/dev/null bs=1M count=2000 2>/dev/null")
	if _, err := x.Wait(p.ctx); err != nil {
		t.Fatal(err)
	}
	after, err := m.Usage(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if after.CPU <= before.CPU || after.MemoryBytes <= 0 || after.Pids <= 0 {
		t.Errorf("%+v, then %+v", before, after)
	}
	t.Logf("%+v", after)
}

// testCPU lets a pod of a tenth of a core burn for a second and looks at what
// it got.
func testCPU(t *testing.T, s *suite) {
	p := s.pod(t, func(sp *sandbox.Spec) { sp.Limits.CPUMillis = 200 })
	m, ok := p.Sandbox.(sandbox.Meter)
	if !ok {
		t.Skip("needs a driver that meters")
	}
	r := p.start(p.shell("c", "echo ready; while :; do :; done"))
	r.line()
	before, err := m.Usage(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	<-time.After(1500 * time.Millisecond)
	after, err := m.Usage(p.ctx)
	if err != nil {
		t.Fatal(err)
	}
	share := float64(after.CPU-before.CPU) / float64(time.Since(start))
	if share > 0.35 || share < 0.02 {
		t.Errorf("used %.2f of a core, limited to 0.2", share)
	}
	if err := r.Signal(p.ctx, syscall.SIGKILL, true); err != nil {
		t.Fatal(err)
	}
}

// testPids forks more than the pod may: forks beyond the bound fail, and the
// pod lives on.
func testPids(t *testing.T, s *suite) {
	p := s.pod(t, func(sp *sandbox.Spec) { sp.Limits.Pids = 64 })
	r := p.start(p.shell("c", "sleep 0.5; for i in $(seq 1 300); do (sleep 1000 &) 2>/dev/null; done; echo ready; sleep 1000"))
	_, _ = readLine(r.out) // a shell may also give up when it cannot fork
	if e, err := p.usage(); err == nil {
		t.Logf("on the host: %+v", e)
	}
	x, out := r.exec("/bin/sh", "-c", "set -- /proc/[0-9]*; echo $#") // forks nothing itself
	l, err := readLine(out)
	n, nerr := strconv.Atoi(l)
	if err != nil || nerr != nil || n > 66 || n < 8 {
		t.Errorf("%q processes in a pod of 64, %v", l, err)
	}
	_ = x
}

func (p *pod) usage() (sandbox.Usage, error) {
	m, ok := p.Sandbox.(sandbox.Meter)
	if !ok {
		return sandbox.Usage{}, errs.Unsupported
	}
	return m.Usage(p.ctx)
}
