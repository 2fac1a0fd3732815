// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
)

// startConf is the part of the Sentry's configuration that it wants to hear
// again with each container. What is left out is off (package guest, Config).
func startConf() map[string]any {
	return map[string]any{
		"Platform": "systrap", "OCISeccomp": true, "FDLimit": -1, "DCache": -1, "PanicSignal": -1,
		"InSandboxCgroup":  1, // version 2
		"FileAccessMounts": 1, // volumes of the host are seen live: someone else may change them
	}
}

func invalid(field, want, seen string) error {
	return &errs.Error{Kind: errs.Invalid, Field: field, Expected: want, Seen: seen}
}

func unsupported(field, want, seen string) error {
	return &errs.Error{Kind: errs.Unsupported, Field: field, Expected: want, Seen: seen}
}

// checkContainer refuses what this driver cannot honour.
func checkContainer(s sandbox.ContainerSpec) error {
	switch {
	case !containerID.MatchString(s.ID):
		return invalid("ID", containerID.String(), s.ID)
	case s.OCI == nil || s.OCI.Process == nil:
		return invalid("OCI.Process", "a process", "none")
	case len(s.OCI.Process.Args) == 0:
		return invalid("OCI.Process.Args", "a command", "none")
	case s.OCI.Process.Terminal && s.Stdio[0] == nil:
		return invalid("Stdio", "the replica end of a terminal, for OCI.Process.Terminal", "nil")
	case s.Rootfs == "":
		return invalid("Rootfs", "path of an EROFS image", "")
	case s.OCI.Process.ApparmorProfile != "" && s.OCI.Process.ApparmorProfile != "unconfined":
		return unsupported("OCI.Process.ApparmorProfile", "none: the guest's kernel has no AppArmor", s.OCI.Process.ApparmorProfile)
	case s.OCI.Hooks != nil && !emptyHooks(s.OCI.Hooks):
		return unsupported("OCI.Hooks", "none: no program of a pod runs on the host", "some")
	}
	return checkLinux(s.OCI.Linux)
}

func emptyHooks(h *specs.Hooks) bool {
	//lint:ignore SA1019 deprecated, refused all the same
	return len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer)+len(h.StartContainer)+len(h.Poststart)+len(h.Poststop) == 0
}

func checkLinux(l *specs.Linux) error {
	if l == nil {
		return nil
	}
	if len(l.Devices) > 0 {
		return unsupported("OCI.Linux.Devices", "none: no device of the host crosses the boundary", l.Devices[0].Path)
	}
	if len(l.UIDMappings)+len(l.GIDMappings) > 0 {
		return unsupported("OCI.Linux.UIDMappings", "none: users of the guest are not users of the host", fmt.Sprint(l.UIDMappings))
	}
	for _, ns := range l.Namespaces {
		if ns.Type == specs.UserNamespace {
			return unsupported("OCI.Linux.Namespaces", "no user namespace: users of the guest are not users of the host", ns.Path)
		}
	}
	return nil
}

// guestSpec is the specification as the Sentry gets it.
func guestSpec(s sandbox.ContainerSpec) (*specs.Spec, error) {
	mounts, err := ownMounts(s.OCI.Mounts)
	if err != nil {
		return nil, err
	}
	process := *s.OCI.Process
	process.ApparmorProfile, process.SelinuxLabel = "", ""
	if process.Cwd == "" {
		process.Cwd = "/"
	}
	g := &specs.Spec{
		Version:  specs.Version,
		Process:  &process,
		Root:     &specs.Root{Path: "/"},
		Hostname: s.OCI.Hostname,
		Mounts:   mounts,
		Linux:    &specs.Linux{Namespaces: namespaces(s.OCI.Linux)},
	}
	if s.OCI.Root != nil {
		g.Root.Readonly = s.OCI.Root.Readonly
	}
	if l := s.OCI.Linux; l != nil {
		// No annotations: some of the Sentry's would change how it runs.
		g.Linux.Seccomp, g.Linux.Sysctl = l.Seccomp, nil
		g.Linux.MaskedPaths, g.Linux.ReadonlyPaths = nil, nil // the guest's /proc and /sys show nothing of the host
	}
	return g, nil
}

// namespaces keeps the PID namespace, the only one that may differ between
// the containers of a pod; a container without one gets one of its own.
// Containers that name the same path share it. Its control groups each
// container sees from its own downwards.
func namespaces(l *specs.Linux) []specs.LinuxNamespace {
	pid := specs.LinuxNamespace{Type: specs.PIDNamespace}
	if l != nil {
		for _, ns := range l.Namespaces {
			if ns.Type == specs.PIDNamespace {
				pid.Path = ns.Path
			}
		}
	}
	return []specs.LinuxNamespace{pid, {Type: specs.CgroupNamespace}}
}

// guestLimits are what the guest's own control group of a container says:
// the container's resources where it has some, else the pod's. The guest's
// kernel enforces the number of processes; the others tell programs what they
// have, which the host's control group enforces for the pod as a whole.
func guestLimits(pod sandbox.Limits, l *specs.Linux) []control.Limit {
	memory, cpu, pids := pod.MemoryBytes, pod.CPUMillis, pod.Pids
	if l != nil && l.Resources != nil {
		r := l.Resources
		if r.Memory != nil && r.Memory.Limit != nil && *r.Memory.Limit > 0 {
			memory = lower(memory, *r.Memory.Limit)
		}
		if r.CPU != nil && r.CPU.Quota != nil && r.CPU.Period != nil && *r.CPU.Quota > 0 && *r.CPU.Period > 0 {
			cpu = lower(cpu, *r.CPU.Quota*1000/int64(*r.CPU.Period))
		}
		if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit > 0 {
			pids = lower(pids, *r.Pids.Limit)
		}
	}
	var out []control.Limit
	if memory > 0 {
		out = append(out, control.Limit{File: "memory.max", Value: fmt.Sprint(memory)})
	}
	if cpu > 0 {
		out = append(out, control.Limit{File: "cpu.max", Value: fmt.Sprintf("%d 100000", cpu*100)})
	}
	if pids > 0 {
		out = append(out, control.Limit{File: "pids.max", Value: fmt.Sprint(pids)})
	}
	return out
}

// lower of two limits, of which 0 is none.
func lower(a, b int64) int64 {
	if a == 0 || b > 0 && b < a {
		return b
	}
	return a
}

// ownMounts passes the file systems that the guest's kernel makes itself.
func ownMounts(mounts []specs.Mount) ([]specs.Mount, error) {
	var out []specs.Mount
	hasCgroup := false
	for _, m := range mounts {
		hasCgroup = hasCgroup || m.Type == "cgroup" || m.Type == "cgroup2"
		if slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") || m.Type == "bind" {
			return nil, unsupported("OCI.Mounts", "no bind mounts: name volumes in Mounts", m.Destination)
		}
		switch m.Type {
		case "proc", "sysfs", "devpts", "cgroup", "cgroup2":
			out = append(out, specs.Mount{Type: m.Type, Source: m.Type, Destination: path.Clean(m.Destination), Options: m.Options})
		case "tmpfs":
			// Never the source that a caller chose: it could name a
			// pod-wide volume.
			out = append(out, specs.Mount{Type: m.Type, Source: "tmpfs", Destination: path.Clean(m.Destination), Options: tmpfsOptions(m.Options)})
		case "mqueue": // message queues work without being visible as files
		default:
			return nil, unsupported("OCI.Mounts", "proc, sysfs, tmpfs, devpts, mqueue or cgroup", m.Type+" on "+m.Destination)
		}
	}
	if !hasCgroup { // without it the container has no control group of its own
		out = append(out, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"ro"}})
	}
	return out, nil
}

// tmpfsOptions keeps what the guest's tmpfs knows.
func tmpfsOptions(options []string) []string {
	var out []string
	for _, o := range options {
		key, _, _ := strings.Cut(o, "=")
		if slices.Contains([]string{"ro", "rw", "noexec", "nosuid", "noatime", "mode", "size", "uid", "gid"}, key) {
			out = append(out, o)
		}
	}
	return out
}

// capabilities by their numbers in Linux (capability.h), which is their order
// here.
var capabilityNames = []string{
	"CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID", "SETPCAP",
	"LINUX_IMMUTABLE", "NET_BIND_SERVICE", "NET_BROADCAST", "NET_ADMIN", "NET_RAW", "IPC_LOCK", "IPC_OWNER",
	"SYS_MODULE", "SYS_RAWIO", "SYS_CHROOT", "SYS_PTRACE", "SYS_PACCT", "SYS_ADMIN", "SYS_BOOT", "SYS_NICE",
	"SYS_RESOURCE", "SYS_TIME", "SYS_TTY_CONFIG", "MKNOD", "LEASE", "AUDIT_WRITE", "AUDIT_CONTROL", "SETFCAP",
	"MAC_OVERRIDE", "MAC_ADMIN", "SYSLOG", "WAKE_ALARM", "BLOCK_SUSPEND", "AUDIT_READ", "PERFMON", "BPF",
	"CHECKPOINT_RESTORE",
}

// netRaw is never granted: the pod's edge may see only what a socket of the
// guest's stack made.
const netRaw = 13

func capabilityBits(names []string) (uint64, error) {
	var bits uint64
	for _, n := range names {
		i := slices.Index(capabilityNames, strings.TrimPrefix(n, "CAP_"))
		if i < 0 || !strings.HasPrefix(n, "CAP_") {
			return 0, invalid("OCI.Process.Capabilities", "capabilities of Linux", n)
		}
		if i != netRaw {
			bits |= 1 << i
		}
	}
	return bits, nil
}

func capabilities(c *specs.LinuxCapabilities) (out control.Capabilities, err error) {
	if c == nil {
		return out, nil
	}
	for _, set := range []struct {
		names []string
		bits  *uint64
	}{
		{c.Permitted, &out.PermittedCaps}, {c.Inheritable, &out.InheritableCaps}, {c.Effective, &out.EffectiveCaps},
		{c.Bounding, &out.BoundingCaps}, {c.Ambient, &out.AmbientCaps},
	} {
		if *set.bits, err = capabilityBits(set.names); err != nil {
			return out, err
		}
	}
	return out, nil
}

// execArgs translates an added process. The caller closes the files.
func (c *container) execArgs(p sandbox.ProcessSpec) (a control.ExecArgs, files []*os.File, err error) {
	if p.OCI == nil || len(p.OCI.Args) == 0 {
		return a, nil, invalid("OCI.Args", "a command", "none")
	}
	if p.OCI.Terminal && p.Stdio[0] == nil {
		return a, nil, invalid("Stdio", "the replica end of a terminal, for OCI.Terminal", "nil")
	}
	caps, err := capabilities(p.OCI.Capabilities)
	if err != nil {
		return a, nil, err
	}
	if files, err = ownStreams(p.Stdio); err != nil {
		return a, nil, err
	}
	cwd := p.OCI.Cwd
	if cwd == "" {
		cwd = "/"
	}
	return control.ExecArgs{
		Argv: p.OCI.Args, Envv: p.OCI.Env, WorkingDirectory: cwd,
		KUID: p.OCI.User.UID, KGID: p.OCI.User.GID, ExtraKGIDs: p.OCI.User.AdditionalGids,
		NoNewPrivileges: p.OCI.NoNewPrivileges, Capabilities: caps,
		StdioIsPty: p.OCI.Terminal, GuestFDs: []int{0, 1, 2}, ContainerID: c.id,
	}, files, nil
}
