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
	lowers []*os.File
}

func (p *plan) close() { closeAll(p.files()) }

func (p *plan) files() []*os.File {
	var all []*os.File
	all = append(all, p.stdio...)
	all = append(all, p.uppers...)
	return append(all, p.lowers...)
}

// prepare opens all that a container needs. On failure nothing stays open.
func (b *box) prepare(ctx context.Context, s sandbox.ContainerSpec, rec *record) (*container, error) {
	p := &plan{}
	if err := b.fill(ctx, p, s, rec); err != nil {
		p.close()
		return nil, err
	}
	c := newContainer(b, s.ID)
	c.files = p.files()
	c.start = &control.StartArgs{
		Spec: p.spec, Conf: startConf(), CID: s.ID,
		NumGoferFilestoreFDs: len(p.uppers), GoferMountConfs: p.confs,
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
		st, err := openStreams(s.Stdio)
		if err != nil {
			return err
		}
		// The caller closes its files after Add, so Start needs copies.
		if p.stdio, err = dupAll(st.all); err != nil {
			return err
		}
		closeAll(st.own)
	}
	if err := b.rootfs(p, s); err != nil {
		return err
	}
	for i, m := range s.Mounts {
		if err := b.volume(ctx, p, m, rec); err != nil {
			return fmt.Errorf("Mounts[%d]: %w", i, err)
		}
	}
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
		p.confs = append(p.confs, control.MountConf{Lower: control.LowerErofs})
		// Mount points that the image lacks can only be made on a layer
		// above it; the Sentry makes it read-only when it is done.
		p.confs[len(p.confs)-1].Upper = control.UpperMemory
		return nil
	}
	upper, err := b.scratch()
	if err != nil {
		return err
	}
	p.uppers = append(p.uppers, upper)
	p.confs = append(p.confs, control.MountConf{Lower: control.LowerErofs, Upper: control.UpperAnon})
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

func (b *box) volume(ctx context.Context, p *plan, m sandbox.Mount, rec *record) error {
	if !path.IsAbs(m.Target) || path.Clean(m.Target) == "/" {
		return invalid("Target", "an absolute path below the root", m.Target)
	}
	mount := specs.Mount{Destination: path.Clean(m.Target), Options: []string{"rw"}}
	if m.ReadOnly || m.Kind == sandbox.Fixed {
		mount.Options = []string{"ro"}
	}
	switch m.Kind {
	case sandbox.Shared:
		slot, err := b.slot(ctx, m)
		if err != nil {
			return err
		}
		mount.Type, mount.Source = "tmpfs", bootdoc.SharedSource(slot)
	case sandbox.Fixed:
		f, err := fixed(m.Source)
		if err != nil {
			return err
		}
		mount.Type = "erofs"
		p.lowers = append(p.lowers, f)
		p.confs = append(p.confs, control.MountConf{Lower: control.LowerErofs})
	case sandbox.Host:
		f, err := b.hostVolume(ctx, m, rec)
		if err != nil {
			return err
		}
		mount.Type, mount.Source = "bind", "host"
		p.lowers = append(p.lowers, f)
		p.confs = append(p.confs, control.MountConf{Lower: control.LowerGofer})
	default:
		return unsupported("Kind", "Shared, Fixed or Host", fmt.Sprint(m.Kind))
	}
	p.spec.Mounts = append(p.spec.Mounts, mount)
	return nil
}

// slot gives the pod-wide volume of m's name its place among those that the
// Sentry has known since it booted. The same name keeps its place for the
// sandbox's life, so that a container that starts again finds its files.
func (b *box) slot(ctx context.Context, m sandbox.Mount) (int, error) {
	if m.Source == "" || m.SizeBytes < 0 {
		return 0, invalid("Source, SizeBytes", "the volume's name, and no negative bound", fmt.Sprintf("%q, %d", m.Source, m.SizeBytes))
	}
	if v, ok := b.state.Shared[m.Source]; ok {
		if v.Bytes != m.SizeBytes {
			return 0, &errs.Error{Kind: errs.Conflict, Field: "SizeBytes", Expected: fmt.Sprintf("%d, as when %s was first mounted", v.Bytes, m.Source),
				Seen: fmt.Sprint(m.SizeBytes)}
		}
		return v.Slot, nil
	}
	v := shared{Slot: len(b.state.Shared), Bytes: m.SizeBytes}
	if v.Slot >= b.d.conf.SharedSlots {
		return 0, &errs.Error{Kind: errs.TooLarge, Field: "Mounts", Expected: fmt.Sprintf("at most %d pod-wide volumes", b.d.conf.SharedSlots),
			Fix: "raise SharedSlots of the sentry driver"}
	}
	if m.SizeBytes > 0 {
		// Before the slot is given away: a bound that failed must not leave
		// a volume without one.
		if err := b.control.Bound(ctx, v.Slot, m.SizeBytes); err != nil {
			return 0, err
		}
	}
	if b.state.Shared == nil {
		b.state.Shared = map[string]shared{}
	}
	b.state.Shared[m.Source] = v
	return v.Slot, b.save()
}

// fixed takes the content of source into memory, never onto a disk: it may
// be a secret. The memory is immutable from then on.
func fixed(source string) (*os.File, error) {
	if !filepath.IsAbs(source) {
		return nil, invalid("Source", "an absolute path", source)
	}
	return frozen("fixed", 0, 0o444, func(f *os.File) error {
		_, err := image.Fix(f, source, image.FixedLimits())
		if errors.Is(err, os.ErrNotExist) {
			return &errs.Error{Kind: errs.NotFound, Field: "Source", Err: err}
		}
		return err
	})
}

// streams are the three standard files; own are those that were opened here.
type streams struct{ all, own []*os.File }

// openStreams puts /dev/null where there is none.
func openStreams(in [3]*os.File) (streams, error) {
	var s streams
	for _, f := range in {
		if f == nil {
			null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				closeAll(s.own)
				return streams{}, err
			}
			s.own = append(s.own, null)
			f = null
		}
		s.all = append(s.all, f)
	}
	return s, nil
}

// dupAll copies descriptors without touching the originals' flags.
func dupAll(files []*os.File) ([]*os.File, error) {
	var out []*os.File
	for _, f := range files {
		raw, err := f.SyscallConn()
		if err != nil {
			closeAll(out)
			return nil, err
		}
		var fd int
		var derr error
		if err := raw.Control(func(old uintptr) { fd, derr = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); err != nil {
			derr = err
		}
		if derr != nil {
			closeAll(out)
			return nil, derr
		}
		out = append(out, os.NewFile(uintptr(fd), f.Name()))
	}
	return out, nil
}
