// SPDX-License-Identifier: Apache-2.0

// Package cgroup makes, fills, reads and removes the control groups of
// sandboxes, on hierarchies of version 1 and 2, whichever of them a
// controller lives on.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// The controllers that a sandbox uses. Memory must be there, for without it
// one pod could take the whole machine. cpuacct is version 1's, apart from
// cpu on some machines.
var wanted = []string{"memory", "cpu", "cpuacct", "pids"}

// mount is one hierarchy.
type mount struct {
	path string   // where it is mounted
	v2   bool     // unified
	has  []string // wanted controllers on it
}

// Root is what the machine offers.
type Root struct{ mounts []mount }

// Probe reads which controllers are mounted where.
func Probe() (*Root, error) { return probe("/proc/self/mountinfo") }

func probe(mountinfo string) (*Root, error) {
	b, err := os.ReadFile(mountinfo)
	if err != nil {
		return nil, err
	}
	r := &Root{}
	found := map[string]bool{}
	for _, line := range strings.Split(string(b), "\n") {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		fresh := m.has[:0:0]
		for _, c := range m.has {
			if !found[c] {
				found[c] = true
				fresh = append(fresh, c)
			}
		}
		if m.has = fresh; len(fresh) > 0 {
			r.mounts = append(r.mounts, m)
		}
	}
	if !found["memory"] {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "control groups", Expected: "the memory controller",
			Seen: "no mounted hierarchy with it", Fix: "mount cgroup2 on /sys/fs/cgroup, or the v1 memory controller"}
	}
	return r, nil
}

// parseMount reads a line of mountinfo (proc(5)); ok is false when it is no
// hierarchy that helps.
func parseMount(line string) (m mount, ok bool) {
	left, right, found := strings.Cut(line, " - ")
	lf, rf := strings.Fields(left), strings.Fields(right)
	if !found || len(lf) < 5 || len(rf) < 3 {
		return m, false
	}
	// In a container the hierarchy's root is not ours to use, unless it was
	// mounted as root.
	m.path = unescape(lf[4])
	switch rf[0] {
	case "cgroup2":
		m.v2 = true
		b, err := os.ReadFile(filepath.Join(m.path, "cgroup.controllers"))
		if err != nil {
			return m, false
		}
		m.has = among(strings.Fields(string(b)))
	case "cgroup":
		m.has = among(strings.Split(rf[2], ","))
	}
	return m, len(m.has) > 0
}

func among(have []string) []string {
	var out []string
	for _, w := range wanted {
		for _, h := range have {
			if h == w {
				out = append(out, w)
			}
		}
	}
	return out
}

// unescape undoes mountinfo's octal escapes of blanks.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Group is one sandbox's control group on all hierarchies.
type Group struct {
	root *Root
	path string
}

// Group names the group at path; nothing is made yet.
func (r *Root) Group(path string) Group { return Group{r, filepath.Clean("/" + path)} }

func (g Group) dir(m mount) string { return filepath.Join(m.path, g.path) }

// Make creates the group with its limits. Limits are in force before any
// process is in it.
func (g Group) Make(l sandbox.Limits) error {
	for _, m := range g.root.mounts {
		if m.v2 {
			if err := enable(m, g.path); err != nil {
				return err
			}
		}
		if err := os.MkdirAll(g.dir(m), 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		for _, c := range m.has {
			if err := g.limit(m, c, l); err != nil {
				return err
			}
		}
	}
	return g.supports(l)
}

// enable hands the controllers down from the root to the group's parent.
func enable(m mount, path string) error {
	dir := m.path
	for _, e := range append([]string{""}, strings.Split(strings.Trim(filepath.Dir(path), "/"), "/")...) {
		dir = filepath.Join(dir, e)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make control group: %w", err)
		}
		for _, c := range m.has {
			if err := write(dir, "cgroup.subtree_control", "+"+c); err != nil {
				return err
			}
		}
	}
	return nil
}

// supports refuses limits for which the machine has no controller.
func (g Group) supports(l sandbox.Limits) error {
	have := map[string]bool{}
	for _, m := range g.root.mounts {
		for _, c := range m.has {
			have[c] = true
		}
	}
	for c, set := range map[string]bool{"cpu": l.CPUMillis > 0, "pids": l.Pids > 0} {
		if set && !have[c] {
			return &errs.Error{Kind: errs.Unavailable, Subject: "control groups", Field: c, Expected: "its controller", Seen: "not mounted"}
		}
	}
	return nil
}

// LimitCPU sets the limit of processor time alone.
func (g Group) LimitCPU(l sandbox.Limits) error {
	for _, m := range g.root.mounts {
		for _, c := range m.has {
			if c != "cpu" {
				continue
			}
			if err := g.limit(m, c, l); err != nil {
				return err
			}
		}
	}
	return g.supports(l)
}

// Period over which processor time is limited; Linux's default.
const Period = 100 * time.Millisecond

func (g Group) limit(m mount, controller string, l sandbox.Limits) error {
	dir := g.dir(m)
	quota := int64(-1)
	if l.CPUMillis > 0 {
		quota = l.CPUMillis * Period.Microseconds() / 1000
	}
	switch {
	case controller == "memory" && l.MemoryBytes > 0 && m.v2:
		// No swap: the limit is on what the pod takes from the machine.
		return errors.Join(write(dir, "memory.max", itoa(l.MemoryBytes)), optional(write(dir, "memory.swap.max", "0")),
			optional(write(dir, "memory.oom.group", "1")))
	case controller == "memory" && l.MemoryBytes > 0:
		return errors.Join(write(dir, "memory.limit_in_bytes", itoa(l.MemoryBytes)),
			optional(write(dir, "memory.memsw.limit_in_bytes", itoa(l.MemoryBytes))))
	case controller == "cpu" && quota > 0 && m.v2:
		return write(dir, "cpu.max", fmt.Sprintf("%d %d", quota, Period.Microseconds()))
	case controller == "cpu" && quota > 0:
		return errors.Join(write(dir, "cpu.cfs_period_us", itoa(Period.Microseconds())), write(dir, "cpu.cfs_quota_us", itoa(quota)))
	case controller == "pids" && l.Pids > 0:
		return write(dir, "pids.max", itoa(l.Pids))
	}
	return nil
}

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// optional forgives a missing file: swap accounting is a boot option.
func optional(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.EOPNOTSUPP) {
		return nil
	}
	return err
}

func write(dir, file, value string) error {
	if err := os.WriteFile(filepath.Join(dir, file), []byte(value), 0); err != nil {
		return fmt.Errorf("write %q: %w", value, err)
	}
	return nil
}

// Join moves a process in, with all its threads.
func (g Group) Join(pid int) error {
	for _, m := range g.root.mounts {
		if err := write(g.dir(m), "cgroup.procs", strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("join control group: %w", err)
		}
	}
	return nil
}

// Processes lists who is in the group.
func (g Group) Processes() ([]int, error) {
	seen := map[int]bool{}
	var pids []int
	for _, m := range g.root.mounts {
		b, err := os.ReadFile(filepath.Join(g.dir(m), "cgroup.procs"))
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENODEV) { // not there, or removed while it was read
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, f := range strings.Fields(string(b)) {
			if pid, err := strconv.Atoi(f); err == nil && !seen[pid] {
				seen[pid] = true
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// Remove kills who is in the group and removes it. It is safe to repeat.
func (g Group) Remove(ctx context.Context) error {
	for _, m := range g.root.mounts {
		if err := g.removeFrom(ctx, m); err != nil {
			return fmt.Errorf("remove control group: %w", err)
		}
	}
	return nil
}

func (g Group) removeFrom(ctx context.Context, m mount) error {
	// A dead process leaves its group only when the kernel has buried it,
	// which nobody tells: look again until then.
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := os.Remove(g.dir(m))
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, syscall.EBUSY) {
			return err
		}
		pids, perr := g.Processes()
		if perr != nil {
			return perr
		}
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-tick.C:
		}
	}
}

// Usage reads what the group consumes.
func (g Group) Usage() (sandbox.Usage, error) {
	var u sandbox.Usage
	for _, m := range g.root.mounts {
		for _, c := range m.has {
			if err := g.read(m, c, &u); err != nil {
				return u, err
			}
		}
	}
	return u, nil
}

func (g Group) read(m mount, controller string, u *sandbox.Usage) error {
	dir := g.dir(m)
	var err error
	switch {
	case controller == "memory" && m.v2:
		u.MemoryBytes, err = number(dir, "memory.current")
	case controller == "memory":
		u.MemoryBytes, err = number(dir, "memory.usage_in_bytes")
	case controller == "cpu" && m.v2:
		var us int64
		us, err = field(dir, "cpu.stat", "usage_usec")
		u.CPU = time.Duration(us) * time.Microsecond
	case controller == "cpuacct":
		var ns int64
		ns, err = number(dir, "cpuacct.usage")
		u.CPU = time.Duration(ns)
	case controller == "pids":
		u.Pids, err = number(dir, "pids.current")
	}
	return err
}

func number(dir, file string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
}

// field reads one line "name value" of a file.
func field(dir, file, name string) (int64, error) {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return 0, err
	}
	for _, line := range strings.Split(string(b), "\n") {
		if v, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		}
	}
	return 0, fmt.Errorf("%s has no %s", file, name)
}
