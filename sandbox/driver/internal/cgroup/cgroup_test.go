// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// fake makes directories that look like mounted hierarchies.
func fake(t *testing.T, v2 bool) *Root {
	t.Helper()
	if v2 {
		return &Root{[]mount{{t.TempDir(), true, []string{"memory", "cpu", "pids"}}}}
	}
	r := &Root{}
	for _, c := range wanted {
		r.mounts = append(r.mounts, mount{t.TempDir(), false, []string{c}})
	}
	return r
}

func content(t *testing.T, r *Root, path string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, m := range r.mounts {
		files, _ := filepath.Glob(filepath.Join(m.path, path, "*"))
		for _, f := range files {
			if b, err := os.ReadFile(f); err == nil {
				out[filepath.Base(f)] = string(b)
			}
		}
	}
	return out
}

func TestLimits(t *testing.T) {
	l := sandbox.Limits{MemoryBytes: 1 << 30, CPUMillis: 250, Pids: 77}
	for _, c := range []struct {
		v2   bool
		want map[string]string
	}{
		{false, map[string]string{"memory.limit_in_bytes": "1073741824", "memory.memsw.limit_in_bytes": "1073741824",
			"cpu.cfs_quota_us": "25000", "cpu.cfs_period_us": "100000", "pids.max": "77"}},
		{true, map[string]string{"memory.max": "1073741824", "memory.swap.max": "0", "memory.oom.group": "1",
			"cpu.max": "25000 100000", "pids.max": "77"}},
	} {
		r := fake(t, c.v2)
		if err := r.Group("/redoubt/pod").Make(l); err != nil {
			t.Fatal(err)
		}
		got := content(t, r, "/redoubt/pod")
		for f, v := range c.want {
			if got[f] != v {
				t.Errorf("v2 %v: %s holds %q, want %q", c.v2, f, got[f], v)
			}
		}
		if c.v2 {
			for _, dir := range []string{"/", "/redoubt"} { // handed down to the group, not below
				if s := content(t, r, dir)["cgroup.subtree_control"]; s != "+pids" { // the last of three writes
					t.Errorf("%s: subtree_control %q", dir, s)
				}
			}
			if _, ok := got["cgroup.subtree_control"]; ok {
				t.Error("controllers were handed on to below the group, where processes are")
			}
		}
		if none := fake(t, c.v2); none.Group("/x").Make(sandbox.Limits{}) != nil || len(content(t, none, "/x")) != 0 {
			t.Error("no limits wrote something")
		}
	}
	r := &Root{[]mount{{t.TempDir(), false, []string{"memory"}}}}
	if err := r.Group("/x").Make(sandbox.Limits{Pids: 3}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("a limit without its controller: %v", err)
	}
}

func TestUsage(t *testing.T) {
	for _, c := range []struct {
		v2    bool
		files map[string]string
	}{
		{false, map[string]string{"memory/memory.usage_in_bytes": "1000\n", "cpuacct/cpuacct.usage": "5000000\n", "pids/pids.current": "7\n"}},
		{true, map[string]string{"memory.current": "1000\n", "cpu.stat": "nr_periods 3\nusage_usec 5000\n", "pids.current": "7\n"}},
	} {
		r := fake(t, c.v2)
		g := r.Group("/pod")
		if err := g.Make(sandbox.Limits{}); err != nil {
			t.Fatal(err)
		}
		for name, v := range c.files {
			controller, file, split := strings.Cut(name, "/")
			for _, m := range r.mounts {
				if !split || m.has[0] == controller {
					if !split {
						file = name
					}
					if err := os.WriteFile(filepath.Join(m.path, "pod", file), []byte(v), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		u, err := g.Usage()
		if want := (sandbox.Usage{MemoryBytes: 1000, CPU: 5 * time.Millisecond, Pids: 7}); err != nil || u != want {
			t.Errorf("v2 %v: %+v, %v", c.v2, u, err)
		}
	}
}

func TestParseMount(t *testing.T) {
	for line, want := range map[string]string{
		"33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct": "/sys/fs/cgroup/cpu,cpuacct cpu cpuacct",
		`33 31 0:30 / /sys/fs/cgroup/with\040blank rw - cgroup cgroup rw,memory`:             "/sys/fs/cgroup/with blank memory",
		"34 31 0:31 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices":                  "",
		"41 31 0:38 / /no/such/hierarchy rw - cgroup2 cgroup2 rw":                            "",
		"23 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw":                             "",
		"garbage": "", "": "", " - ": "", "1 2 3 4 5 - cgroup": "",
	} {
		m, ok := parseMount(line)
		got := ""
		if ok {
			got = m.path + " " + strings.Join(m.has, " ")
		}
		if got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

func FuzzParseMount(f *testing.F) {
	f.Add("33 31 0:30 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct")
	f.Fuzz(func(t *testing.T, line string) { parseMount(line) })
}

// TestRealGroup makes, fills and removes a group on this machine.
func TestRealGroup(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	r, err := Probe()
	if err != nil {
		t.Skip("needs control groups:", err)
	}
	g := r.Group("/redoubt-cgroup-test")
	defer g.Remove(context.Background())
	if err := g.Make(sandbox.Limits{MemoryBytes: 64 << 20}); err != nil {
		t.Fatal(err)
	}
	in, hold, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer hold.Close()
	p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "read x"}, &os.ProcAttr{Files: []*os.File{in}})
	in.Close()
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Join(p.Pid); err != nil {
		t.Fatal(err)
	}
	if pids, err := g.Processes(); err != nil || len(pids) != 1 || pids[0] != p.Pid {
		t.Errorf("%v, %v", pids, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = p.Wait()
	}()
	for range 2 { // Remove kills, and is safe to repeat
		if err := g.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	}
	<-done
}
