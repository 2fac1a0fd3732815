// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"archive/tar"
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/sandbox"
)

// Fixture is what the suite needs to know of a driver.
type Fixture struct {
	// Open makes a driver. It is called anew in each process.
	Open func(t testing.TB) sandbox.Driver
	// Rootfs turns a tar archive into what ContainerSpec.Rootfs wants, below
	// dir.
	Rootfs func(t testing.TB, dir string, layer io.Reader) string
	// Kernel says that the driver gives each pod a kernel of its own: then
	// the probes of the boundary must fail to get through. Without it they
	// run as control, and what got through is only logged.
	Kernel bool
	// Network says that the guest takes the NIC of Spec.NetNS into a stack
	// of its own.
	Network bool
}

// patience bounds each subtest: longer than any machine needs.
const patience = time.Minute

// pipe is a pipe whose reads give up when patience is over.
func pipe(t testing.TB) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := r.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r, w
}

// Run checks the whole contract.
func Run(t *testing.T, f Fixture) {
	if name := os.Getenv(probeEnv); name != "" {
		runProbe(name)
	}
	if dir := os.Getenv(childEnv); dir != "" {
		runChild(t, f, dir)
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root: namespaces and control groups")
	}
	s := &suite{f: f, driver: f.Open(t)}
	s.layers(t)
	for _, c := range []struct {
		name string
		test func(*testing.T, *suite)
	}{
		{"Output", testOutput}, {"ExitCode", testExitCode}, {"Stdin", testStdin}, {"Environment", testEnvironment},
		{"Terminal", testTerminal}, {"Signal", testSignal}, {"SignalAll", testSignalAll},
		{"Exec", testExec}, {"ExecSignal", testExecSignal}, {"ExecTerminal", testExecTerminal},
		{"StartFails", testStartFails}, {"WaitTwice", testWaitTwice}, {"WaitCancel", testWaitCancel}, {"StartTwice", testStartTwice},
		{"Several", testSeveral}, {"Restart", testRestart}, {"Shared", testShared}, {"SharedBound", testSharedBound},
		{"Fixed", testFixed}, {"FixedIsTakenOnce", testFixedOnce},
		{"Host", testHost}, {"HostReadOnly", testHostReadOnly}, {"HostFile", testHostFile}, {"HostStays", testHostEscape},
		{"ReadonlyRoot", testReadonlyRoot}, {"RootfsIsUntouched", testRootfsUntouched},
		{"Memory", testMemory}, {"Usage", testUsage}, {"CPU", testCPU}, {"Pids", testPids},
		{"DestroyTwice", testDestroyTwice}, {"DestroyRunning", testDestroyRunning}, {"SandboxWait", testSandboxWait},
		{"Adopt", testAdopt}, {"AdoptNothing", testAdoptNothing}, {"AdoptDead", testAdoptDead}, {"DieWhileCreating", testDieWhileCreating},
		{"Concurrent", testConcurrent}, {"Kernel", testKernel}, {"Seccomp", testSeccomp}, {"NoNewPrivileges", testNoNewPrivileges},
		{"Refusals", testRefusals}, {"Network", testNetwork}, {"Probes", testProbes},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.name == "Network" && !f.Network {
				t.Skip("needs a driver with a network stack of its own")
			}
			if why := ofRunc[c.name]; why != "" && !f.Kernel {
				t.Skip("needs a driver whose every step is its own: " + why)
			}
			c.test(t, s)
		})
	}
}

// ofRunc is what the control, runc behind a command line, does not hold every
// time: it is there to show what a boundary is worth, not to be shipped.
var ofRunc = map[string]string{
	"DieWhileCreating": "runc cut down between two of its steps keeps what it likes",
	"Terminal":         "runc may set a terminal up after the program looked at it",
}

type suite struct {
	f      Fixture
	driver sandbox.Driver
	rootfs string // with busybox
	probes string // with busybox and the test binary
}

var sequence atomic.Int64

// layers makes the images.
func (s *suite) layers(t *testing.T) {
	t.Helper()
	s.rootfs = s.f.Rootfs(t, t.TempDir(), bytes.NewReader(layer(t, nil)))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if ef, err := elf.Open(self); err != nil {
		t.Fatal(err)
	} else if libs, _ := ef.ImportedLibraries(); len(libs) > 0 {
		t.Fatalf("the test binary needs %v: run with CGO_ENABLED=0", libs)
	}
	b, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	s.probes = s.f.Rootfs(t, t.TempDir(), bytes.NewReader(layer(t, map[string][]byte{"probe": b})))
}

// Layer is the archive that the suite's images are made of: busybox and what
// belongs to a small system.
func Layer(t testing.TB) io.Reader { return bytes.NewReader(layer(t, nil)) }

func layer(t testing.TB, more map[string][]byte) []byte {
	t.Helper()
	bb, err := os.ReadFile("/bin/busybox")
	if err != nil {
		t.Skip("needs Debian's busybox-static")
	}
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(h tar.Header, content []byte) {
		h.Size = int64(len(content))
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(content); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		add(tar.Header{Name: d, Typeflag: tar.TypeDir, Mode: 0o755}, nil)
	}
	add(tar.Header{Name: "bin/busybox", Typeflag: tar.TypeReg, Mode: 0o755}, bb)
	for _, n := range strings.Fields("sh echo cat sleep ls id env test stty mkdir touch rm dd kill ps wc readlink stat head mount wget nc ping ip hostname seq true false tail md5sum mv sync du uname chmod") {
		add(tar.Header{Name: "bin/" + n, Typeflag: tar.TypeSymlink, Linkname: "busybox"}, nil)
	}
	add(tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644}, []byte("root:x:0:0::/root:/bin/sh\n"))
	for name, b := range more {
		add(tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755}, b)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// pod is one sandbox of a subtest.
type pod struct {
	t    *testing.T
	s    *suite
	ctx  context.Context
	spec sandbox.Spec
	sandbox.Sandbox
}

// newSpec names a sandbox.
func newSpec(t testing.TB) sandbox.Spec {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("dt-%d-%d", os.Getpid(), sequence.Add(1))
	return sandbox.Spec{ID: id, Dir: dir, Hostname: "pod", Cgroup: "/redoubt-drivertest/" + id}
}

// pod creates a sandbox; change may alter its specification.
func (s *suite) pod(t *testing.T, change func(*sandbox.Spec)) *pod {
	t.Helper()
	spec := newSpec(t)
	if change != nil {
		change(&spec)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	before := take(t)
	b, err := s.driver.Create(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	p := &pod{t, s, ctx, spec, b}
	t.Cleanup(func() {
		if err := p.Destroy(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("Destroy: %v", err)
		}
		audit(t, spec, before)
	})
	return p
}

// shell is a container that runs a script.
func (p *pod) shell(id, script string) sandbox.ContainerSpec {
	return sandbox.ContainerSpec{ID: id, Rootfs: p.s.rootfs, OCI: &specs.Spec{
		Root: &specs.Root{},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/",
			Capabilities: usual(),
		},
	}}
}

// usual are the capabilities that containerd grants by default.
func usual() *specs.LinuxCapabilities {
	c := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE"}
	return &specs.LinuxCapabilities{Bounding: c, Effective: c, Permitted: c}
}

// run runs a container to its end and gives its output.
func (p *pod) run(c sandbox.ContainerSpec) (string, sandbox.Exit) {
	p.t.Helper()
	h := p.start(c)
	return h.finish()
}

// running is a started container with its output.
type running struct {
	p *pod
	sandbox.Container
	out *os.File
}

func (p *pod) start(c sandbox.ContainerSpec) *running {
	p.t.Helper()
	r, w := pipe(p.t)
	defer w.Close()
	if c.Stdio[1] == nil {
		c.Stdio[1], c.Stdio[2] = w, w
	}
	h, err := p.Add(p.ctx, c)
	if err != nil {
		p.t.Fatalf("Add: %v", err)
	}
	if err := h.Start(p.ctx); err != nil {
		p.t.Fatalf("Start: %v", err)
	}
	return &running{p, h, r}
}

// line reads one line of output.
func (r *running) line() string {
	r.p.t.Helper()
	line, err := readLine(r.out)
	if err != nil {
		r.p.t.Fatalf("read a line: %v, got %q", err, line)
	}
	return line
}

// readLine reads without reading ahead.
func readLine(f io.Reader) (string, error) {
	var b []byte
	one := make([]byte, 1)
	for {
		if _, err := f.Read(one); err != nil {
			return string(b), err
		}
		if one[0] == '\n' {
			return string(b), nil
		}
		b = append(b, one[0])
	}
}

// finish reads the rest and waits for the end.
func (r *running) finish() (string, sandbox.Exit) {
	r.p.t.Helper()
	out, err := io.ReadAll(r.out)
	if err != nil {
		r.p.t.Fatal(err)
	}
	return string(out), r.exit()
}

func (r *running) exit() sandbox.Exit {
	r.p.t.Helper()
	e, err := r.Wait(r.p.ctx)
	if err != nil {
		r.p.t.Fatalf("Wait: %v", err)
	}
	return e
}

func (r *running) delete() {
	r.p.t.Helper()
	if err := r.Delete(r.p.ctx); err != nil {
		r.p.t.Fatalf("Delete: %v", err)
	}
}

// write puts a file for a test.
func write(t testing.TB, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}
