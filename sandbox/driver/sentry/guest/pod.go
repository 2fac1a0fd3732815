// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"reflect"
	"strconv"
	"sync"

	"gvisor.dev/gvisor/pkg/abi/linux"
	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/pkg/errors/linuxerr"
	"gvisor.dev/gvisor/pkg/fspath"
	"gvisor.dev/gvisor/pkg/sentry/kernel"
	"gvisor.dev/gvisor/pkg/sentry/kernel/auth"
	"gvisor.dev/gvisor/pkg/sentry/vfs"
	"gvisor.dev/gvisor/pkg/usermem"
	"gvisor.dev/gvisor/runsc/boot"
)

// Pod is one more object on the control socket, for what is known of a pod
// only when its containers are added, but cannot be said in the Sentry's own
// calls: bounds of pod-wide volumes, limits of containers.
type Pod struct {
	loader reflect.Value // the boot.Loader
	kernel *kernel.Kernel
	hints  *boot.PodMountHints

	mu sync.Mutex // one call at a time
}

// addPod puts a Pod beside the Sentry's own objects. The loader does not give
// away what is needed for that, so it is taken by name; when a later version
// keeps it elsewhere, no sandbox starts, and the driver's tests say so.
func addPod(l *boot.Loader) error {
	p := &Pod{loader: reflect.ValueOf(l).Elem()}
	var err error
	if p.hints, err = field[*boot.PodMountHints](p.loader, "mountHints"); err != nil {
		return err
	}
	if p.kernel, err = field[*kernel.Kernel](p.loader, "k"); err != nil {
		return err
	}
	if _, err := field[*vfs.Mount](p.loader, "cgroup2Mount"); err != nil {
		return err
	}
	ctrl := p.loader.FieldByName("ctrl")
	if ctrl.Kind() != reflect.Pointer || ctrl.IsNil() {
		return fmt.Errorf("the loader has no controller")
	}
	srv, err := field[*server.Server](ctrl.Elem(), "srv")
	if err != nil {
		return err
	}
	srv.Register(p)
	return nil
}

// field reads an unexported field of v.
func field[T any](v reflect.Value, name string) (T, error) {
	var zero T
	f := v.FieldByName(name)
	if !f.IsValid() || !f.CanAddr() || f.Type() != reflect.TypeFor[T]() {
		return zero, fmt.Errorf("the loader's field %s is not a %v", name, reflect.TypeFor[T]())
	}
	return reflect.NewAt(f.Type(), f.Addr().UnsafePointer()).Elem().Interface().(T), nil
}

// BoundArgs names a slot and its bound.
type BoundArgs struct {
	Slot  int
	Bytes int64
}

// Bound sets the bound of a slot that no container has mounted yet. The
// driver sees to that: it bounds a slot before it gives it away.
func (p *Pod) Bound(a *BoundArgs, _ *struct{}) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	hint := p.hints.Mounts["s"+strconv.Itoa(a.Slot)]
	if hint == nil || a.Bytes <= 0 {
		return fmt.Errorf("volume slot %d, %d bytes: not found", a.Slot, a.Bytes)
	}
	// Nobody else writes hints, and the only reader of this field is the
	// first mount of this slot, which the driver asks for after this call.
	hint.Mount.Options = []string{"size=" + strconv.FormatInt(a.Bytes, 10)}
	return nil
}

// LimitArgs are values for files of a container's control group in the guest.
type LimitArgs struct {
	CID    string
	Limits []Limit
}

// Limit is one file and its value.
type Limit struct{ File, Value string }

// Limit makes the control group of a container that is about to start, and
// writes its limits, so that they hold from its first instruction on.
func (p *Pod) Limit(a *LimitArgs, _ *struct{}) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	// Set when the guest's first process started, and never after.
	mount, err := field[*vfs.Mount](p.loader, "cgroup2Mount")
	if err != nil {
		return err
	}
	if mount == nil {
		return fmt.Errorf("the guest's control groups are not there yet")
	}
	ctx, fs := p.kernel.SupervisorContext(), p.kernel.VFS()
	creds := auth.NewRootCredentials(p.kernel.RootUserNamespace())
	root := vfs.MakeVirtualDentry(mount, mount.Root())
	at := func(name string) *vfs.PathOperation {
		return &vfs.PathOperation{Root: root, Start: root, Path: fspath.Parse(name)}
	}
	err = fs.MkdirAt(ctx, creds, at(a.CID), &vfs.MkdirOptions{Mode: 0o755})
	if err != nil && !linuxerr.Equals(linuxerr.EEXIST, err) {
		return fmt.Errorf("make control group: %w", err)
	}
	for _, l := range a.Limits {
		f, err := fs.OpenAt(ctx, creds, at(a.CID+"/"+l.File), &vfs.OpenOptions{Flags: linux.O_WRONLY})
		if err != nil {
			return fmt.Errorf("open %s: %w", l.File, err)
		}
		_, err = f.Write(ctx, usermem.BytesIOSequence([]byte(l.Value)), vfs.WriteOptions{})
		f.DecRef(ctx)
		if err != nil {
			return fmt.Errorf("write %q to %s: %w", l.Value, l.File, err)
		}
	}
	return nil
}
