// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"fmt"
	"reflect"
	"strconv"
	"sync"

	"gvisor.dev/gvisor/pkg/control/server"
	"gvisor.dev/gvisor/runsc/boot"
)

// Volumes is one more object on the control socket: it bounds a pod-wide
// volume before a container first mounts it. The Sentry reads the bound of
// such a volume once, when it makes it, from what was known at boot; but how
// large a volume may become is known only when its container is added.
type Volumes struct {
	mu    sync.Mutex
	hints *boot.PodMountHints
}

// BoundArgs names a slot and its bound.
type BoundArgs struct {
	Slot  int
	Bytes int64
}

// Bound sets the bound of a slot that no container has mounted yet. The
// driver sees to that: it bounds a slot when it gives it away.
func (v *Volumes) Bound(a *BoundArgs, _ *struct{}) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	hint := v.hints.Mounts["s"+strconv.Itoa(a.Slot)]
	if hint == nil || a.Bytes <= 0 {
		return fmt.Errorf("volume slot %d, %d bytes: not found", a.Slot, a.Bytes)
	}
	// Nobody else writes hints, and the only reader of this field is the
	// first mount of this slot, which the driver asks for after this call.
	hint.Mount.Options = []string{"size=" + strconv.FormatInt(a.Bytes, 10)}
	return nil
}

// addVolumes puts Volumes beside the Sentry's own objects. The loader does
// not give away what is needed for that, so it is taken by name; when a later
// version keeps it elsewhere, no sandbox starts, and the driver's tests say so.
func addVolumes(l *boot.Loader) error {
	hints, err := field[*boot.PodMountHints](reflect.ValueOf(l).Elem(), "mountHints")
	if err != nil {
		return err
	}
	ctrl := reflect.ValueOf(l).Elem().FieldByName("ctrl")
	if ctrl.Kind() != reflect.Pointer || ctrl.IsNil() {
		return fmt.Errorf("the loader has no controller")
	}
	srv, err := field[*server.Server](ctrl.Elem(), "srv")
	if err != nil {
		return err
	}
	srv.Register(&Volumes{hints: hints})
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
