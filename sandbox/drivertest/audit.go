// SPDX-License-Identifier: Apache-2.0

package drivertest

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"redoubt.dev/sandbox"
)

// inventory is what could leak, counted.
type inventory struct {
	mounts string
	fds    int
}

func take(t testing.TB) inventory {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return inventory{mounts: string(b), fds: len(fds)}
}

// audit fails the test when something of a destroyed sandbox is left.
func audit(t testing.TB, spec sandbox.Spec, before inventory) {
	t.Helper()
	for _, left := range leftovers(t, spec) {
		t.Errorf("left behind: %s", left)
	}
	after := take(t)
	for _, line := range strings.Split(after.mounts, "\n") {
		// Others mount things on this machine too; a sandbox's mounts name
		// its directory, its volumes in the test's, or its own root.
		mine := strings.Contains(line, spec.ID) || strings.Contains(line, os.TempDir()+"/Test") || strings.Contains(line, "redoubt-root")
		if mine && !strings.Contains(before.mounts, line) {
			t.Errorf("left behind: mount %s", line)
		}
	}
	// One descriptor per driver may appear for good with its first sandbox
	// (a network namespace that all of them share), and pollers.
	if after.fds > before.fds+4 {
		t.Errorf("%d descriptors are open, %d before", after.fds, before.fds)
	}
}

// leftovers finds processes, control groups and files of a sandbox.
func leftovers(t testing.TB, spec sandbox.Spec) []string {
	t.Helper()
	var left []string
	groups, err := filepath.Glob("/sys/fs/cgroup/*" + spec.Cgroup)
	if err != nil {
		t.Fatal(err)
	}
	more, _ := filepath.Glob("/sys/fs/cgroup" + spec.Cgroup)
	for _, g := range append(groups, more...) {
		if spec.Cgroup == "/" {
			break // a refused specification
		}
		left = append(left, "control group "+g)
	}
	procs, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range procs {
		b, err := os.ReadFile(p)
		if err == nil && strings.Contains(string(b), spec.ID) {
			left = append(left, fmt.Sprintf("process %s: %q", filepath.Base(filepath.Dir(p)), b))
		}
	}
	entries, _ := os.ReadDir(spec.Dir)
	for _, e := range entries {
		left = append(left, "file "+filepath.Join(spec.Dir, e.Name()))
	}
	return left
}
