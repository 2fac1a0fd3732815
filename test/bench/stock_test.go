// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/sandbox/drivertest"
)

// buildRunsc builds gVisor's own runsc from the version that this module pins,
// in a module of its own: its cgroup package wants an older runtime-spec.
func buildRunsc(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "gvisor.dev/gvisor").Output()
	if err != nil {
		b.Fatal(err)
	}
	dir := b.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	write("go.mod", "module stock\n\ngo 1.26.3\n\nrequire gvisor.dev/gvisor "+strings.TrimSpace(string(out))+"\n")
	write("main.go", "package main\n\nimport \"gvisor.dev/gvisor/runsc/cli/maincli\"\n\nfunc main() { maincli.Main() }\n")
	for _, args := range [][]string{{"mod", "tidy"}, {"build", "-trimpath", "-ldflags=-s -w", "-o", "runsc", "."}} {
		cmd := exec.Command("go", args...)
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
		if msg, err := cmd.CombinedOutput(); err != nil {
			b.Skipf("capability: a build of stock runsc: %v\n%s", err, msg)
		}
	}
	return filepath.Join(dir, "runsc")
}

// stockRun is one `run` of an OCI command line runtime: the time to the first
// byte of output, and of all with deletion.
func stockRun(b *testing.B, bundle string, n int, argv ...string) (first, all time.Duration) {
	b.Helper()
	id := fmt.Sprintf("stock-%d-%d", os.Getpid(), n)
	cmd := exec.Command(argv[0], append(argv[1:], "run", "--bundle", bundle, id)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	var msg strings.Builder
	cmd.Stderr = &msg
	t0 := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		b.Fatalf("%v: %v: %s", argv, err, msg.String())
	}
	first = time.Since(t0)
	if err := cmd.Wait(); err != nil {
		b.Fatalf("%v: %v: %s", argv, err, msg.String())
	}
	return first, time.Since(t0)
}

// BenchmarkStockStart puts the sentry driver, stock runsc and runc in turn:
// the time from nothing to the first byte of output of a container without
// network.
//
//	CGO_ENABLED=0 go test -bench StockStart -run '^$' ./test/bench
func BenchmarkStockStart(b *testing.B) {
	ours := rivals(b)[0]
	runsc := buildRunsc(b)
	bundle := b.TempDir()
	if err := os.Mkdir(filepath.Join(bundle, "rootfs"), 0o755); err != nil {
		b.Fatal(err)
	}
	unpack(b, drivertest.Layer(b), filepath.Join(bundle, "rootfs"))
	spec := specs.Spec{Version: "1.0.2", Root: &specs.Root{Path: "rootfs"}, Hostname: "pod",
		Process: &specs.Process{Args: []string{"/bin/sh", "-c", "echo"}, Env: []string{"PATH=/bin"}, Cwd: "/"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.NetworkNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}}}}
	text, err := json.Marshal(spec)
	if err != nil {
		b.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o600); err != nil {
		b.Fatal(err)
	}
	state := b.TempDir()
	// runsc keeps an empty network namespace bound in its state directory.
	b.Cleanup(func() { _ = unix.Unmount(filepath.Join(state, "runsc", "null-netns"), unix.MNT_DETACH) })
	clis := map[string][]string{
		"runc":  {"runc", "--root", filepath.Join(state, "runc")},
		"runsc": {runsc, "--root", filepath.Join(state, "runsc"), "--platform", "systrap", "--network", "none", "--ignore-cgroups"},
	}
	first, all := map[string][]time.Duration{}, map[string][]time.Duration{}
	for n := range 31 {
		for name, argv := range clis {
			f, a := stockRun(b, bundle, n, argv...)
			first[name], all[name] = append(first[name], f), append(all[name], a)
		}
		t0 := time.Now()
		s, sp := podOf(b, ours, "echo")
		f := time.Since(t0)
		destroy(b, s, sp)
		first["redoubt"], all["redoubt"] = append(first["redoubt"], f), append(all["redoubt"], time.Since(t0))
	}
	for _, name := range []string{"redoubt", "runsc", "runc"} {
		report(b, name+"-first-byte", first[name][1:]) // the first one fills caches
		report(b, name+"-with-delete", all[name][1:])
	}
	b.ReportMetric(0, "ns/op")
}
