// SPDX-License-Identifier: Apache-2.0

package sentry_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry"
	"redoubt.dev/sandbox/drivertest"
)

// running makes a sandbox with one sleeping container that sees a volume of
// the host, and gives both.
func running(t *testing.T, d sandbox.Driver, dir string) (sandbox.Sandbox, sandbox.Container, sandbox.Spec) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	ctx := context.Background()
	spec := sandbox.Spec{ID: fmt.Sprintf("confine-%d", os.Getpid()), Dir: t.TempDir(), Hostname: "pod", Limits: sandbox.Limits{MemoryBytes: 256 << 20}}
	spec.Cgroup = "/redoubt-drivertest/" + spec.ID
	if err := os.Chmod(spec.Dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := d.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Destroy(ctx); err != nil {
			t.Error(err)
		}
	})
	return s, add(t, s, "c", dir, "echo up; exec sleep 1000"), spec
}

func add(t *testing.T, s sandbox.Sandbox, id, dir, script string) sandbox.Container {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	c := sandbox.ContainerSpec{ID: id, Rootfs: rootfs(t, t.TempDir(), drivertest.Layer(t)), Stdio: [3]*os.File{nil, w, w},
		OCI: &specs.Spec{Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}}}}
	if dir != "" {
		c.Mounts = []sandbox.Mount{{Kind: sandbox.Host, Source: dir, Target: "/host"}}
	}
	h, err := s.Add(context.Background(), c)
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	return h
}

// status reads /proc/PID/status.
func status(t *testing.T, pid int) map[string]string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, l := range strings.Split(string(b), "\n") {
		k, v, _ := strings.Cut(l, ":")
		out[k] = strings.Join(strings.Fields(v), " ")
	}
	return out
}

// gofer finds the gofer of a sandbox.
func gofer(t *testing.T, id string) int {
	t.Helper()
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		if b, _ := os.ReadFile(d); bytes.HasPrefix(b, []byte("redoubt-sentry\x00gofer\x00"+id)) {
			var pid int
			_, _ = fmt.Sscan(filepath.Base(filepath.Dir(d)), &pid)
			return pid
		}
	}
	return 0
}

// TestConfinement looks at the processes of a pod from outside.
func TestConfinement(t *testing.T) {
	vol := t.TempDir()
	s, _, spec := running(t, open(t), vol)
	pid, helper := s.Info().PID, gofer(t, spec.ID)
	if helper == 0 {
		t.Fatal("no gofer for a volume of the host")
	}
	none := "0000000000000000"
	for _, p := range []struct {
		name string
		pid  int
		want map[string]string
	}{
		{"Sentry", pid, map[string]string{"Uid": "65534 65534 65534 65534", "Gid": "65534 65534 65534 65534", "Groups": "",
			"CapInh": none, "CapPrm": none, "CapEff": none, "CapBnd": none, "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"}},
		// CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID: in a user
		// namespace of its own.
		{"gofer", helper, map[string]string{"Groups": "", "CapInh": none, "CapPrm": "000000000000001f", "CapEff": "000000000000001f",
			"CapBnd": "000000000000001f", "CapAmb": none, "NoNewPrivs": "1", "Seccomp": "2"}},
	} {
		st := status(t, p.pid)
		for k, want := range p.want {
			if st[k] != want {
				t.Errorf("%s: %s is %q, want %q", p.name, k, st[k], want)
			}
		}
		for _, ns := range []string{"user", "mnt", "pid", "ipc", "uts", "net"} {
			theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid, ns))
			ours, _ := os.Readlink("/proc/self/ns/" + ns)
			if err != nil || theirs == ours {
				t.Errorf("%s shares our %s namespace (%s, %v)", p.name, ns, theirs, err)
			}
		}
		tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.pid))
		for _, task := range tasks {
			b, _ := os.ReadFile(task)
			if !bytes.Contains(b, []byte("Seccomp:\t2\n")) || !bytes.Contains(b, []byte("CapEff:\t"+p.want["CapEff"])) {
				t.Errorf("%s: thread %s is not behind the filter, or has capabilities", p.name, filepath.Base(filepath.Dir(task)))
			}
		}
		if cg, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", p.pid)); !bytes.Contains(cg, []byte(spec.Cgroup)) {
			t.Errorf("%s is not in the pod's control group: %s", p.name, cg)
		}
	}
	// The Sentry's root is empty and the only mount there is.
	if mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid)); bytes.Count(mounts, []byte("\n")) != 1 || !bytes.Contains(mounts, []byte(" / / ro,nosuid,nodev,noexec")) {
		t.Errorf("the Sentry sees mounts:\n%s", mounts)
	}
	// The gofer's has volumes besides.
	mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", helper))
	if bytes.Count(mounts, []byte("\n")) != 2 || !bytes.Contains(mounts, []byte(" /v/0 ")) {
		t.Errorf("the gofer sees mounts:\n%s", mounts)
	}
	if ifs, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/dev", pid)); bytes.Count(ifs, []byte(":")) > 1 {
		t.Errorf("the Sentry's own network namespace is not empty:\n%s", ifs)
	}
	checkDescriptors(t, pid)
	for _, p := range []int{pid, helper} {
		if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/limits", p)); !regexp.MustCompile(`Max core file size +1 +1 `).Match(b) {
			t.Errorf("process %d may dump core:\n%s", p, b)
		}
	}
	if b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid)); strings.HasPrefix(string(b), "-") {
		t.Errorf("the Sentry is protected from being killed for want of memory: %s", b)
	}
}

// TestScratchIsBounded fills the disk from inside.
func TestScratchIsBounded(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	c := sentry.Default()
	c.Binary, c.ScratchBytes = binary(t), 4<<20
	d, err := sentry.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, h, _ := running(t, d, "")
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	x, err := h.Exec(context.Background(), sandbox.ProcessSpec{Stdio: [3]*os.File{nil, w, nil}, OCI: &specs.Process{
		Args: []string{"/bin/sh", "-c", "dd if=/dev/zero of=/big bs=64k count=1000 2>/dev/null; stat -c %s /big"}, Env: []string{"PATH=/bin"}}})
	w.Close()
	if err != nil {
		t.Fatal(err)
	}
	var n int
	if _, err := fmt.Fscan(r, &n); err != nil || n > 4<<20 || n < 3<<20 {
		t.Errorf("wrote %d bytes, %v", n, err)
	}
	if _, err := x.Wait(context.Background()); err != nil {
		t.Error(err)
	}
}

// checkDescriptors knows every kind of file that a Sentry may hold.
func checkDescriptors(t *testing.T, pid int) {
	t.Helper()
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil || len(fds) < 5 {
		t.Fatal(fds, err)
	}
	for _, fd := range fds {
		link, err := os.Readlink(fd)
		if err != nil {
			continue
		}
		st, err := os.Stat(fd)
		if err == nil && st.IsDir() {
			t.Errorf("the Sentry holds a directory: %s", link)
		}
		if !slices.ContainsFunc([]string{"/dev/null", "/null", "pipe:", "socket:", "anon_inode:", "/memfd:"}, func(p string) bool { return strings.HasPrefix(link, p) }) &&
			!strings.HasSuffix(link, "/sentry.log") && !strings.HasSuffix(link, "/image.erofs") && !strings.HasSuffix(link, " (deleted)") {
			t.Errorf("the Sentry holds %s", link)
		}
	}
}

// TestVolumesAreReleased looks into the gofer after a container has gone.
func TestVolumesAreReleased(t *testing.T) {
	s, c, spec := running(t, open(t), t.TempDir())
	ctx := context.Background()
	pid := gofer(t, spec.ID)
	if err := c.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	if mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid)); bytes.Count(mounts, []byte("\n")) != 1 {
		t.Errorf("the gofer still has\n%s", mounts)
	}
	add(t, s, "d", t.TempDir(), "echo up; exec sleep 1000")
	if again := gofer(t, spec.ID); again != pid {
		t.Errorf("a second gofer: %d, then %d", pid, again)
	}
}

// TestGoferDies: a pod survives its gofer; the next volume gets a new one.
func TestGoferDies(t *testing.T) {
	s, c, spec := running(t, open(t), t.TempDir())
	pid := gofer(t, spec.ID)
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("hi\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 1000 { // until the kernel has buried it
		if gofer(t, spec.ID) != pid {
			break
		}
		<-tick()
	}
	add(t, s, "d", dir, "cat /host/f; exec sleep 1000")
	if again := gofer(t, spec.ID); again == pid || again == 0 {
		t.Errorf("gofer %d, then %d", pid, again)
	}
	if err := c.Delete(context.Background()); err != nil {
		t.Error(err)
	}
}

// TestMeasured changes the binary under a running driver.
func TestMeasured(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	b, err := os.ReadFile(binary(t))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "redoubt-sentry")
	if err := os.WriteFile(path, b, 0o755); err != nil {
		t.Fatal(err)
	}
	c := sentry.Default()
	c.Binary = path
	d, err := sentry.New(c)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.WriteAt([]byte("#"), int64(len(b)-1))
	f.Close()
	dir := t.TempDir()
	_ = os.Chmod(dir, 0o700)
	_, err = d.Create(context.Background(), sandbox.Spec{ID: "measured", Dir: dir, Cgroup: "/redoubt-drivertest/measured"})
	if !errors.Is(err, errs.Unproven) {
		t.Errorf("a changed binary: %v", err)
	}
}

// TestDependencies compares what the two programs link with what is checked
// in: of the Sentry that list is its trusted base, and of the driver it must
// not have the Sentry in it.
func TestDependencies(t *testing.T) {
	list := func(pkg string) []string {
		cmd := exec.Command("go", "list", "-deps", "-f", "{{if not .Standard}}{{with .Module}}{{.Path}}{{end}}{{end}}", pkg)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v %s", err, out)
		}
		mods := strings.Fields(string(out))
		slices.Sort(mods)
		return slices.Compact(mods)
	}
	const file = "../../../cmd/redoubt-sentry/deps.txt"
	got := strings.Join(list("redoubt.dev/cmd/redoubt-sentry"), "\n") + "\n"
	if os.Getenv("REWRITE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil || string(want) != got {
		t.Errorf("cmd/redoubt-sentry links other modules than its deps.txt says (%v); when that is meant, run with REWRITE=1:\n%s", err, got)
	}
	for _, m := range list("redoubt.dev/sandbox/driver/sentry") {
		if strings.HasPrefix(m, "gvisor.dev/") {
			t.Error("the driver links the Sentry into the node")
		}
	}
}

// TestSilentSentry stops a Sentry, as one in an attacker's hand might stop
// answering, and destroys the pod while a call to it hangs.
func TestSilentSentry(t *testing.T) {
	s, c, spec := running(t, open(t), "")
	if err := syscall.Kill(s.Info().PID, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	hanging := make(chan error, 1)
	go func() { hanging <- c.Delete(ctx) }()
	<-tick()
	if _, err := s.Find(ctx, "c"); err != nil { // who only looks is not held up
		t.Error(err)
	}
	if err := s.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	<-hanging
	if left, _ := filepath.Glob("/sys/fs/cgroup/*" + spec.Cgroup); len(left) > 0 {
		t.Error(left)
	}
}
