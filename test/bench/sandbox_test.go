// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/none"
	"redoubt.dev/sandbox/driver/sentry"
	"redoubt.dev/sandbox/drivertest"
	"redoubt.dev/sandbox/image"
)

// rival is a driver in the comparison, with its image.
type rival struct {
	sandbox.Driver
	rootfs string
}

// rivals are the sentry driver and, as control, runc without a sandbox. They
// take turns, so that what else the machine does hits both.
//
//	CGO_ENABLED=0 go test -bench Sandbox -run '^$' ./test/bench
func rivals(b *testing.B) []rival {
	b.Helper()
	if os.Geteuid() != 0 {
		b.Skip("needs root")
	}
	bin := filepath.Join(b.TempDir(), "redoubt-sentry")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", bin, "redoubt.dev/cmd/redoubt-sentry")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	c := sentry.Default()
	c.Binary = bin
	s, err := sentry.New(c)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.Close() })
	n, err := none.SkipIsolationForTest()
	if err != nil {
		b.Skip(err)
	}
	erofs := filepath.Join(b.TempDir(), "image")
	if _, err := image.Flatten(context.Background(), []io.Reader{drivertest.Layer(b)}, erofs, image.DefaultLimits()); err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	unpack(b, drivertest.Layer(b), dir)
	return []rival{{s, erofs}, {n, dir}}
}

func unpack(b *testing.B, layer io.Reader, dir string) {
	for r := tar.NewReader(layer); ; {
		h, err := r.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			b.Fatal(err)
		}
		path := filepath.Join(dir, h.Name)
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeSymlink:
			err = os.Symlink(h.Linkname, path)
		default:
			var content []byte
			if content, err = io.ReadAll(r); err == nil {
				err = os.WriteFile(path, content, os.FileMode(h.Mode))
			}
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

var podNumber int

// podOf starts a pod with one container and gives it when its first byte of
// output has come.
func podOf(b *testing.B, r rival, script string) (sandbox.Sandbox, sandbox.Spec) {
	b.Helper()
	podNumber++
	id := fmt.Sprintf("bench-%s-%d-%d", r.Kind(), os.Getpid(), podNumber)
	dir, err := os.MkdirTemp("", id)
	if err != nil {
		b.Fatal(err)
	}
	spec := sandbox.Spec{ID: id, Dir: dir, Hostname: "pod", Cgroup: "/redoubt-bench/" + id, Limits: sandbox.Limits{MemoryBytes: 512 << 20}}
	ctx := context.Background()
	s, err := r.Create(ctx, spec)
	if err != nil {
		b.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		b.Fatal(err)
	}
	defer out.Close()
	c, err := s.Add(ctx, sandbox.ContainerSpec{ID: "c", Rootfs: r.rootfs, Stdio: [3]*os.File{nil, w, w}, OCI: &specs.Spec{
		Root:    &specs.Root{},
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", script}, Env: []string{"PATH=/bin"}, Cwd: "/"},
	}})
	w.Close()
	if err != nil {
		b.Fatal(err)
	}
	if err := c.Start(ctx); err != nil {
		b.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b.Fatal(err)
	}
	return s, spec
}

func destroy(b *testing.B, s sandbox.Sandbox, spec sandbox.Spec) {
	b.Helper()
	if err := s.Destroy(context.Background()); err != nil {
		b.Fatal(err)
	}
	os.RemoveAll(spec.Dir)
}

// BenchmarkSandboxStart measures from Create to the first byte of output, and
// Destroy.
func BenchmarkSandboxStart(b *testing.B) {
	rs := rivals(b)
	start, end, cpu := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	for i := range 50 {
		for _, r := range rs {
			t0 := time.Now()
			s, spec := podOf(b, r, "echo; exec sleep 1000")
			t1 := time.Now()
			if u, err := s.(sandbox.Meter).Usage(context.Background()); err == nil {
				cpu[r.Kind()] = append(cpu[r.Kind()], u.CPU)
			}
			destroy(b, s, spec)
			if i == 0 {
				continue // caches
			}
			start[r.Kind()] = append(start[r.Kind()], t1.Sub(t0))
			end[r.Kind()] = append(end[r.Kind()], time.Since(t1))
		}
	}
	for _, r := range rs {
		report(b, r.Kind()+"-start", start[r.Kind()])
		report(b, r.Kind()+"-destroy", end[r.Kind()])
		report(b, r.Kind()+"-start-cpu-in-pod", cpu[r.Kind()]) // of runc, its own work is not in the pod
	}
	b.ReportMetric(0, "ns/op")
}

func report(b *testing.B, name string, ds []time.Duration) {
	slices.Sort(ds)
	ms := func(q float64) float64 { return float64(ds[int(q*float64(len(ds)-1))].Microseconds()) / 1000 }
	b.ReportMetric(ms(0.5), name+"-p50-ms")
	b.ReportMetric(ms(0.95), name+"-p95-ms")
}

// BenchmarkSandboxIdle measures what an idle pod costs: the slope of the
// machine's available memory over 20 pods, everything counted, and the
// processes that it takes.
func BenchmarkSandboxIdle(b *testing.B) {
	for _, r := range rivals(b) {
		var xs, ys []float64
		var pods []func()
		helpers, guest := 0, 0
		var charged int64 // to the pods' control groups
		settle()
		for n := range 20 {
			s, spec := podOf(b, r, "echo; exec sleep 1000")
			pods = append(pods, func() { destroy(b, s, spec) })
			settle()
			xs, ys = append(xs, float64(n)), append(ys, float64(available(b)))
			if u, err := s.(sandbox.Meter).Usage(context.Background()); err == nil {
				charged += u.MemoryBytes
			}
			if n == 0 {
				helpers, guest = processes(b, spec)
			}
		}
		for _, p := range pods {
			p()
		}
		b.ReportMetric(-slope(xs, ys)/(1<<20), r.Kind()+"-MiB/pod")
		b.ReportMetric(float64(charged)/20/(1<<20), r.Kind()+"-charged-MiB/pod")
		b.ReportMetric(float64(helpers), r.Kind()+"-helpers/pod")
		b.ReportMetric(float64(guest), r.Kind()+"-guest-processes/pod")
	}
	b.ReportMetric(0, "ns/op")
}

// settle lets the kernel finish what it does late.
func settle() {
	runtime.GC()
	<-time.After(150 * time.Millisecond)
}

func available(b *testing.B) int64 {
	mem, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		b.Fatal(err)
	}
	for _, l := range strings.Split(string(mem), "\n") {
		if v, ok := strings.CutPrefix(l, "MemAvailable:"); ok {
			n, err := strconv.ParseInt(strings.Fields(v)[0], 10, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no MemAvailable")
	return 0
}

// slope is the median of all slopes between two points (Theil and Sen): what
// else happens on the machine moves some of them, not their middle.
func slope(xs, ys []float64) float64 {
	var all []float64
	for i := range xs {
		for j := range i {
			all = append(all, (ys[i]-ys[j])/(xs[i]-xs[j]))
		}
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// processes counts, of one pod's, those that are there beside the application
// and, for the sentry driver, its kernel; and those that are either.
func processes(b *testing.B, spec sandbox.Spec) (helpers, guest int) {
	inGroup := map[string]bool{}
	files, _ := filepath.Glob("/sys/fs/cgroup/memory" + spec.Cgroup + "/cgroup.procs")
	more, _ := filepath.Glob("/sys/fs/cgroup/memory" + spec.Cgroup + "/*/cgroup.procs")
	for _, f := range append(files, more...) {
		pids, _ := os.ReadFile(f)
		for _, p := range strings.Fields(string(pids)) {
			inGroup[p] = true
		}
	}
	dirs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, d := range dirs {
		pid := filepath.Base(filepath.Dir(d))
		cmd, _ := os.ReadFile(d)
		switch {
		case bytes.Contains(cmd, []byte(spec.ID)) && (bytes.Contains(cmd, []byte("\x00gofer")) || bytes.Contains(cmd, []byte("/run/pause"))):
			helpers++ // in the group, but neither kernel nor application
		case inGroup[pid]:
			guest++
		case bytes.Contains(cmd, []byte(spec.ID)):
			helpers++
		}
	}
	return helpers, guest
}
