// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/cgroup"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
)

// rootID is the container of the guest's first process. No container of a
// pod can have it: their names begin with a letter or digit.
const rootID = "_redoubt"

// kernelName is what uname shows in every Sentry of this version.
const kernelName = "Linux 4.19.0-gvisor"

// box is one sandbox.
type box struct {
	d       *Driver
	spec    sandbox.Spec
	group   cgroup.Group
	control control.Client
	proc    *proc.Process // the Sentry; set before anyone else sees the box
	gofer   *proc.Process // nil when no volume of the host is mounted; guarded by acts

	// acts is held by what changes the sandbox step by step, one at a time.
	// It is held while the Sentry is asked, which, when it is in an
	// attacker's hand, may never answer: Destroy kills before it takes acts,
	// and nothing that only looks takes it at all.
	acts sync.Mutex

	mu         sync.Mutex // never held while anything is waited for
	state      state
	containers map[string]*container
	destroyed  bool
}

var (
	_ sandbox.Sandbox = (*box)(nil)
	_ sandbox.Meter   = (*box)(nil)
)

// note changes the journal and writes it.
func (b *box) note(change func(*state)) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	change(&b.state)
	return b.state.save(b.spec.Dir)
}

// connect prepares what needs a listening Sentry.
func (b *box) connect(context.Context) error {
	b.control = b.client()
	b.containers = map[string]*container{}
	return nil
}

// load reads the journal of an earlier process.
func (b *box) load() (err error) {
	if b.state, err = loadState(b.spec.Dir); err != nil {
		return err
	}
	if b.state.ID != b.spec.ID || b.state.Cgroup != b.spec.Cgroup {
		return &errs.Error{Kind: errs.Conflict, Subject: "sandbox " + b.spec.ID, Field: "Spec",
			Expected: b.state.ID + " in " + b.state.Cgroup, Seen: b.spec.ID + " in " + b.spec.Cgroup,
			Fix: "adopt a sandbox with the Spec that it was created with"}
	}
	b.group = b.d.groups.Group(b.state.Cgroup)
	return nil
}

// adopt takes hold of the processes that the journal names.
func (b *box) adopt(ctx context.Context) (err error) {
	if b.state.Boot != proc.BootID() {
		return errors.New("the machine was restarted since")
	}
	if !b.state.Ready {
		return errors.New("it was never finished")
	}
	if b.proc, err = proc.Watch(b.state.Sentry); err != nil {
		return err
	}
	if err := b.connect(ctx); err != nil {
		return err
	}
	if st, err := b.control.State(ctx, rootID); err != nil || st != control.Running {
		return fmt.Errorf("the guest's first process is in state %d: %w", st, err)
	}
	if b.gofer, err = proc.Watch(b.state.Gofer); err != nil && !errors.Is(err, errs.NotFound) {
		return err
	}
	for id := range b.state.Containers {
		b.containers[id] = newContainer(b, id)
	}
	return nil
}

// Info tells what the sandbox is.
func (b *box) Info() sandbox.Info {
	return sandbox.Info{PID: b.proc.PID, Kernel: kernelName, Binary: b.state.Binary} // neither ever changes
}

// Find gives a container of the sandbox.
func (b *box) Find(_ context.Context, id string) (sandbox.Container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if c := b.containers[id]; c != nil {
		return c, nil
	}
	return nil, &errs.Error{Kind: errs.NotFound, Subject: fmt.Sprintf("container %s of sandbox %s", id, b.spec.ID)}
}

// weigh tells the host's kernel how gladly to kill the Sentry when the
// machine is out of memory: as its least expendable container, but never less
// gladly than a process of no special kind. What this process inherited, as
// the node often is protected, must not protect a pod.
func (b *box) weigh() {
	b.mu.Lock()
	defer b.mu.Unlock()
	score, some := 1000, false
	for _, c := range b.containers {
		if c.oom != nil {
			score, some = min(score, *c.oom), true
		}
	}
	if !some {
		score = 0
	}
	// Lowering needs a privilege that the node may lack: then the pod stays
	// as expendable as it was, which harms nobody else.
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", b.state.Sentry.PID), []byte(fmt.Sprint(max(0, score))), 0)
}

// Wait returns when the Sentry has ended.
func (b *box) Wait(ctx context.Context) error {
	select {
	case <-b.proc.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Usage is what the pod's control group counts: Sentry, application, helper.
func (b *box) Usage(context.Context) (sandbox.Usage, error) { return b.group.Usage() }

// Destroy undoes all that the journal tells. A Sentry that is killed takes
// all of the application along: the processes that the application's threads
// run in are children of its PID namespace, which the kernel ends with it.
func (b *box) Destroy(ctx context.Context) error {
	if b.proc != nil {
		if err := b.proc.Kill(); err != nil {
			return fmt.Errorf("kill sandbox %s: %w", b.spec.ID, err)
		}
	}
	b.acts.Lock()
	defer b.acts.Unlock()
	if b.gone() {
		return nil
	}
	for _, p := range []struct {
		held **proc.Process
		note proc.ID
	}{{&b.proc, b.state.Sentry}, {&b.gofer, b.state.Gofer}} {
		if err := b.end(ctx, p.held, p.note); err != nil {
			return err
		}
	}
	if b.state.Cgroup != "" {
		if err := b.d.groups.Group(b.state.Cgroup).Remove(ctx); err != nil {
			return err
		}
	}
	// The journal goes last: until here, Destroy can be called again by
	// whoever comes after us.
	if err := b.sweep(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.destroyed = true
	return nil
}

// gone says whether Destroy is done.
func (b *box) gone() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.destroyed
}

// end kills a process that the journal names and waits for its end.
func (b *box) end(ctx context.Context, held **proc.Process, note proc.ID) error {
	if *held == nil && b.state.Boot == proc.BootID() {
		w, err := proc.Watch(note)
		if err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
		*held = w
	}
	w := *held
	if w == nil {
		return nil
	}
	if err := w.Kill(); err != nil {
		return fmt.Errorf("kill process %d of sandbox %s: %w", w.PID, b.spec.ID, err)
	}
	select {
	case <-w.Done():
		_ = w.Close() // closed already when an earlier Destroy came this far
		return nil
	case <-ctx.Done():
		return fmt.Errorf("process %d of sandbox %s does not die: %w", w.PID, b.spec.ID, context.Cause(ctx))
	}
}

// sweep removes all files that a sandbox has in its directory.
func (b *box) sweep() error {
	names := []string{controlSock, goferSock, logFile}
	scratch, err := filepath.Glob(filepath.Join(b.spec.Dir, ".scratch-*"))
	if err != nil {
		return err
	}
	for _, s := range scratch {
		names = append(names, filepath.Base(s))
	}
	for _, f := range append(names, "."+stateFile, stateFile) {
		if err := os.Remove(filepath.Join(b.spec.Dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
