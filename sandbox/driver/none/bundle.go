// SPDX-License-Identifier: Apache-2.0

package none

import (
	"encoding/json"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

func unsupported(field, want, seen string) error {
	return &errs.Error{Kind: errs.Unsupported, Field: field, Expected: want, Seen: seen}
}

func checkContainer(s sandbox.ContainerSpec) error {
	switch {
	case !containerID.MatchString(s.ID):
		return invalid("ID", containerID.String(), s.ID)
	case s.OCI == nil || s.OCI.Process == nil || len(s.OCI.Process.Args) == 0:
		return invalid("OCI.Process", "a command", "none")
	case s.OCI.Process.Terminal && s.Stdio[0] == nil:
		return invalid("Stdio", "the replica end of a terminal", "nil")
	case s.OCI.Hooks != nil:
		return unsupported("OCI.Hooks", "none", "some")
	}
	if st, err := os.Stat(s.Rootfs); err != nil || !st.IsDir() {
		return &errs.Error{Kind: errs.NotFound, Field: "Rootfs", Expected: "a directory", Seen: s.Rootfs, Err: err}
	}
	for _, m := range s.OCI.Mounts {
		if m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind") {
			return unsupported("OCI.Mounts", "no bind mounts", m.Destination)
		}
	}
	return nil
}

// bundle writes what runc runs: a root of its own over the image's directory,
// and the configuration.
func (c *container) bundle(s sandbox.ContainerSpec) error {
	for _, d := range []string{"upper", "work", "rootfs"} {
		if err := os.MkdirAll(filepath.Join(c.dir, d), 0o755); err != nil {
			return err
		}
	}
	opts := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", s.Rootfs, c.dir, c.dir)
	if err := unix.Mount("overlay", filepath.Join(c.dir, "rootfs"), "overlay", 0, opts); err != nil {
		return fmt.Errorf("mount root: %w", err)
	}
	conf, err := c.config(s)
	if err != nil {
		return err
	}
	b, err := json.Marshal(conf)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(c.dir, "config.json"), b, 0o600)
}

func (c *container) config(s sandbox.ContainerSpec) (*specs.Spec, error) {
	process := *s.OCI.Process
	if process.Cwd == "" {
		process.Cwd = "/"
	}
	conf := &specs.Spec{
		Version: "1.0.2", Process: &process,
		Root:   &specs.Root{Path: "rootfs", Readonly: s.OCI.Root != nil && s.OCI.Root.Readonly},
		Mounts: usualMounts(s.OCI.Mounts),
		Linux: &specs.Linux{
			CgroupsPath: path.Join(c.p.spec.Cgroup, c.id),
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace}, {Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: c.p.namespace("net")},
				{Type: specs.IPCNamespace, Path: c.p.namespace("ipc")},
				{Type: specs.UTSNamespace},
			},
			MaskedPaths:   []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
		Hostname: c.p.spec.Hostname,
	}
	if s.OCI.Linux != nil {
		conf.Linux.Seccomp = s.OCI.Linux.Seccomp
	}
	for i, m := range s.Mounts {
		mount, err := c.volume(i, m)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d]: %w", i, err)
		}
		conf.Mounts = append(conf.Mounts, mount)
	}
	return conf, nil
}

func (p *pod) namespace(kind string) string {
	return fmt.Sprintf("/proc/%d/ns/%s", p.state.Pause.PID, kind)
}

func usualMounts(asked []specs.Mount) []specs.Mount {
	if len(asked) > 0 {
		return asked
	}
	return []specs.Mount{
		{Type: "proc", Source: "proc", Destination: "/proc"},
		{Type: "tmpfs", Source: "tmpfs", Destination: "/dev", Options: []string{"nosuid", "strictatime", "mode=755"}},
		{Type: "devpts", Source: "devpts", Destination: "/dev/pts", Options: []string{"newinstance", "ptmxmode=0666"}},
		{Type: "sysfs", Source: "sysfs", Destination: "/sys", Options: []string{"nosuid", "noexec", "nodev", "ro"}},
	}
}

// volume makes one volume on the host and says how it is bound.
func (c *container) volume(i int, m sandbox.Mount) (specs.Mount, error) {
	out := specs.Mount{Type: "bind", Destination: path.Clean(m.Target), Options: []string{"rbind", "rprivate", "rw"}}
	if m.ReadOnly || m.Kind == sandbox.Fixed {
		out.Options[2] = "ro"
	}
	if !path.IsAbs(m.Target) || out.Destination == "/" {
		return out, invalid("Target", "an absolute path below the root", m.Target)
	}
	switch m.Kind {
	case sandbox.Shared:
		if !containerID.MatchString(m.Source) {
			return out, invalid("Source", containerID.String(), m.Source)
		}
		out.Source = c.p.shared("shared-" + m.Source)
		return out, c.p.sharedVolume(out.Source, m.SizeBytes)
	case sandbox.Fixed:
		out.Source = filepath.Join(c.dir, fmt.Sprintf("fixed-%d", i))
		return out, copyFixed(m.Source, out.Source)
	case sandbox.Host:
		out.Source = m.Source
		if _, err := os.Stat(m.Source); err != nil {
			return out, &errs.Error{Kind: errs.NotFound, Field: "Source", Err: err}
		}
		return out, nil
	}
	return out, unsupported("Kind", "Shared, Fixed or Host", fmt.Sprint(m.Kind))
}

// sharedVolume makes a pod-wide volume once; a bounded one is a tmpfs.
func (p *pod) sharedVolume(dir string, size int64) error {
	if err := os.Mkdir(dir, 0o777); err != nil {
		if os.IsExist(err) {
			return nil
		}
		return err
	}
	opts := ""
	if size > 0 {
		opts = fmt.Sprintf("size=%d", size)
	}
	return unix.Mount("redoubt-none", dir, "tmpfs", 0, opts)
}

// copyFixed takes the content of a file or directory as it is now.
func copyFixed(from, to string) error {
	st, err := os.Stat(from)
	if err != nil {
		return &errs.Error{Kind: errs.NotFound, Field: "Source", Err: err}
	}
	if st.IsDir() {
		root, err := os.OpenRoot(from)
		if err != nil {
			return err
		}
		defer root.Close()
		return os.CopyFS(to, root.FS())
	}
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, st.Mode().Perm())
}
