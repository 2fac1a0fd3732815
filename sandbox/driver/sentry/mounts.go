// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry/internal/bootdoc"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
	"redoubt.dev/sandbox/image"
)

// plan gathers what the Sentry gets with a container: its specification, and
// files in the order in which the Sentry takes them.
type plan struct {
	spec   *specs.Spec
	confs  []control.MountConf
	stdio  []*os.File // not with a terminal
	uppers []*os.File
	over   *os.File // archive laid over the root; nil when there is none
	lowers []*os.File
}

func (p *plan) close() { closeAll(p.files()) }

func (p *plan) files() []*os.File {
	var all []*os.File
	all = append(all, p.stdio...)
	all = append(all, p.uppers...)
	if p.over != nil {
		all = append(all, p.over)
	}
	return append(all, p.lowers...)
}

// prepare opens all that a container needs. On failure nothing stays open.
func (b *box) prepare(ctx context.Context, s sandbox.ContainerSpec, rec *record) (*container, error) {
	p := &plan{}
	if err := b.fill(ctx, p, s, rec); err != nil {
		p.close()
		return nil, err
	}
	if n := len(p.files()); n > control.MaxFiles {
		p.close()
		return nil, &errs.Error{Kind: errs.TooLarge, Field: "Mounts", Expected: fmt.Sprintf("at most %d files for one container", control.MaxFiles),
			Seen: fmt.Sprint(n), Fix: "mount fewer Fixed and Host volumes"}
	}
	c := newContainer(b, s.ID)
	c.files = p.files()
	c.limits = guestLimits(b.spec.Limits, s.OCI.Linux)
	c.oom = s.OCI.Process.OOMScoreAdj
	c.start = &control.StartArgs{
		Spec: p.spec, Conf: startConf(), CID: s.ID,
		NumGoferFilestoreFDs: len(p.uppers), GoferMountConfs: p.confs, IsRootfsUpperTarFilePresent: p.over != nil,
	}
	return c, nil
}

func (b *box) fill(ctx context.Context, p *plan, s sandbox.ContainerSpec, rec *record) (err error) {
	if p.spec, err = guestSpec(s); err != nil {
		return err
	}
	if p.spec.Hostname == "" {
		p.spec.Hostname = b.spec.Hostname
	}
	if !s.OCI.Process.Terminal {
		if p.stdio, err = ownStreams(s.Stdio); err != nil {
			return err
		}
	}
	if err := b.rootfs(p, s); err != nil {
		return err
	}
	points := []image.Point{{Path: p.spec.Process.Cwd, Dir: true}, {Path: "/tmp", Dir: true}}
	for _, m := range p.spec.Mounts {
		points = append(points, image.Point{Path: m.Destination, Dir: true})
	}
	for i, m := range s.Mounts {
		dir, err := b.volume(ctx, p, m, rec)
		if err != nil {
			return fmt.Errorf("mounts[%d]: %w", i, err)
		}
		points = append(points, image.Point{Path: m.Target, Dir: dir})
	}
	if p.spec.Root.Readonly {
		return p.overlay(points)
	}
	return nil
}

// overlay lays over a read-only image what the Sentry could not make in it:
// mount points, its own ("/proc" and the like) and those of volumes.
func (p *plan) overlay(points []image.Point) error {
	for _, own := range []string{"/proc", "/sys", "/dev"} {
		points = append(points, image.Point{Path: own, Dir: true})
	}
	any := false
	f, err := frozen("overlay", 0, 0o444, func(f *os.File) (err error) {
		any, err = image.MountPoints(p.lowers[0], points, f)
		return err
	})
	if err != nil {
		return err
	}
	root := control.MountConf{Lower: control.LowerErofs}
	if !any {
		f.Close()
	} else {
		root.Upper, p.over = control.UpperMemory, f
	}
	p.confs = append([]control.MountConf{root}, p.confs...)
	return nil
}

// rootfs gives the Sentry the image, and a file without a name for what the
// container writes over it.
func (b *box) rootfs(p *plan, s sandbox.ContainerSpec) error {
	f, err := os.Open(s.Rootfs)
	if err != nil {
		return &errs.Error{Kind: errs.NotFound, Field: "Rootfs", Err: err}
	}
	p.lowers = append(p.lowers, f)
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return invalid("Rootfs", "an EROFS image", st.Mode().Type().String())
	}
	if p.spec.Root.Readonly {
		return nil // lowest decides, when all mount points are known
	}
	upper, err := b.scratch()
	if err != nil {
		return err
	}
	p.uppers = append(p.uppers, upper)
	conf := control.MountConf{Lower: control.LowerErofs, Upper: control.UpperAnon}
	if n := b.d.conf.ScratchBytes; n > 0 {
		conf.Size = fmt.Sprint(n)
	}
	p.confs = append(p.confs, conf)
	return nil
}

// scratch gives a file on the sandbox's disk that vanishes with its last
// descriptor. What containers write goes there and not into memory, where
// the kernel could not reclaim it.
func (b *box) scratch() (*os.File, error) {
	fd, err := unix.Open(b.spec.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "scratch"), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.ENOENT) {
		return nil, fmt.Errorf("make scratch file: %w", err)
	}
	f, err := os.CreateTemp(b.spec.Dir, ".scratch-*")
	if err != nil {
		return nil, err
	}
	return f, os.Remove(f.Name())
}

// volume adds one volume and says whether it is a directory.
func (b *box) volume(ctx context.Context, p *plan, m sandbox.Mount, rec *record) (dir bool, err error) {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
		return false, invalid("Target", "an absolute path below the root", m.Target)
	}
	mount := specs.Mount{Destination: path.Clean(m.Target), Options: []string{"rw"}}
	if m.ReadOnly || m.Kind == sandbox.Fixed {
		mount.Options = []string{"ro"}
	}
	switch m.Kind {
	case sandbox.Shared:
		slot, err := b.slot(ctx, m)
		if err != nil {
			return false, err
		}
		dir, mount.Type, mount.Source = true, "tmpfs", bootdoc.SharedSource(slot)
	case sandbox.Fixed:
		f, isDir, err := fixed(m.Source)
		if err != nil {
			return false, err
		}
		dir, mount.Type = isDir, "erofs"
		p.lowers = append(p.lowers, f)
		p.confs = append(p.confs, control.MountConf{Lower: control.LowerErofs})
	case sandbox.Host:
		f, isDir, err := b.hostVolume(ctx, m, rec)
		if err != nil {
			return false, err
		}
		dir, mount.Type, mount.Source = isDir, "bind", "host"
		p.lowers = append(p.lowers, f)
		p.confs = append(p.confs, control.MountConf{Lower: control.LowerGofer})
	default:
		return false, unsupported("Kind", "Shared, Fixed or Host", fmt.Sprint(m.Kind))
	}
	p.spec.Mounts = append(p.spec.Mounts, mount)
	return dir, nil
}

// slot gives the pod-wide volume of m's name its place among those that the
// Sentry has known since it booted. The same name keeps its place for the
// sandbox's life, so that a container that starts again finds its files. The
// caller holds acts.
func (b *box) slot(ctx context.Context, m sandbox.Mount) (int, error) {
	if m.Source == "" || m.SizeBytes < 0 {
		return 0, invalid("Source, SizeBytes", "the volume's name, and no negative bound", fmt.Sprintf("%q, %d", m.Source, m.SizeBytes))
	}
	b.mu.Lock()
	v, known := b.state.Shared[m.Source]
	next := len(b.state.Shared)
	b.mu.Unlock()
	if known && v.Bytes != m.SizeBytes {
		return 0, &errs.Error{Kind: errs.Conflict, Field: "SizeBytes", Expected: fmt.Sprintf("%d, as when %s was first mounted", v.Bytes, m.Source),
			Seen: fmt.Sprint(m.SizeBytes)}
	}
	if known {
		return v.Slot, nil
	}
	if next >= b.d.conf.SharedSlots {
		return 0, &errs.Error{Kind: errs.TooLarge, Field: "Mounts", Expected: fmt.Sprintf("at most %d pod-wide volumes", b.d.conf.SharedSlots),
			Fix: "raise SharedSlots of the sentry driver"}
	}
	if m.SizeBytes > 0 {
		// Before the slot is given away: a bound that failed must not leave
		// a volume without one.
		if err := b.control.Bound(ctx, next, m.SizeBytes); err != nil {
			return 0, err
		}
	}
	return next, b.note(func(s *state) {
		if s.Shared == nil {
			s.Shared = map[string]shared{}
		}
		s.Shared[m.Source] = shared{Slot: next, Bytes: m.SizeBytes}
	})
}

// fixed takes the content of source into memory, never onto a disk: it may
// be a secret. The memory is immutable from then on.
func fixed(source string) (_ *os.File, dir bool, err error) {
	if !filepath.IsAbs(source) {
		return nil, false, invalid("Source", "an absolute path", source)
	}
	f, err := frozen("fixed", 0, 0o444, func(f *os.File) error {
		im, err := image.Fix(f, source, image.FixedLimits())
		if errors.Is(err, os.ErrNotExist) {
			return &errs.Error{Kind: errs.NotFound, Field: "Source", Err: err}
		}
		dir = im.Dir
		return err
	})
	return f, dir, err
}
