// SPDX-License-Identifier: Apache-2.0

package sentry

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/sentry/internal/control"
)

// container is one container of a box.
type container struct {
	b  *box
	id string

	// What Start needs; nil after it, and in an adopted sandbox.
	start  *control.StartArgs
	files  []*os.File
	limits []control.Limit
	oom    *int // oom_score_adj that its processes would have

	end waiter
}

func newContainer(b *box, id string) *container { return &container{b: b, id: id} }

// Add makes a container. All files that it needs are opened here, and go to
// the Sentry with Start.
func (b *box) Add(ctx context.Context, spec sandbox.ContainerSpec) (sandbox.Container, error) {
	b.acts.Lock()
	defer b.acts.Unlock()
	c, err := b.add(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("add container %s to sandbox %s: %w", spec.ID, b.spec.ID, err)
	}
	return c, nil
}

// add does it; the caller holds acts.
func (b *box) add(ctx context.Context, spec sandbox.ContainerSpec) (*container, error) {
	if b.gone() || b.proc.Ended() {
		return nil, &errs.Error{Kind: errs.NotFound, Subject: "sandbox " + b.spec.ID, Seen: "it has ended"}
	}
	if err := checkContainer(spec); err != nil {
		return nil, err
	}
	if _, err := b.Find(ctx, spec.ID); err == nil {
		return nil, &errs.Error{Kind: errs.Exists, Subject: "container " + spec.ID}
	}
	rec := &record{}
	if err := b.note(func(s *state) { s.Containers[spec.ID] = rec }); err != nil {
		return nil, errors.Join(err, b.forget(spec.ID))
	}
	c, err := b.prepare(ctx, spec, rec)
	if err == nil {
		if err = b.register(ctx, spec); err != nil {
			closeAll(c.files)
		}
	}
	if err != nil {
		return nil, errors.Join(err, b.forget(spec.ID))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.containers[c.id] = c
	return c, nil
}

// register tells the Sentry of a container, and gives it the terminal.
func (b *box) register(ctx context.Context, spec sandbox.ContainerSpec) error {
	if !spec.OCI.Process.Terminal {
		return b.control.Create(ctx, spec.ID, nil)
	}
	terminal, err := ownStream(spec.Stdio[0])
	if err != nil {
		return err
	}
	defer terminal.Close()
	return b.control.Create(ctx, spec.ID, terminal)
}

// forget drops a container from the journal and its volumes from the gofer.
// The caller holds acts.
func (b *box) forget(id string) error {
	b.mu.Lock()
	rec := b.state.Containers[id]
	b.mu.Unlock()
	if err := b.releaseVolumes(rec); err != nil {
		return err
	}
	return b.note(func(s *state) { delete(s.Containers, id) })
}

// Start runs the container's first process.
func (c *container) Start(ctx context.Context) error {
	args, files := c.take()
	if args == nil {
		return &errs.Error{Kind: errs.Conflict, Subject: "container " + c.id, Expected: "created", Seen: "started, or deleted",
			Fix: "delete it and add it again"}
	}
	defer closeAll(files)
	if err := c.b.note(func(s *state) {
		if rec := s.Containers[c.id]; rec != nil {
			rec.Started = true
		}
	}); err != nil {
		return err
	}
	if err := c.b.control.Limit(ctx, c.id, c.limits); err != nil {
		return fmt.Errorf("limit container %s: %w", c.id, err)
	}
	if err := c.b.control.Start(ctx, *args, files); err != nil {
		return fmt.Errorf("start container %s: %w", c.id, err)
	}
	c.b.weigh()
	return nil
}

// Wait returns when the first process has ended.
func (c *container) Wait(ctx context.Context) (sandbox.Exit, error) {
	return c.end.wait(ctx, c.b, func(ctx context.Context) (uint32, error) { return c.b.control.Wait(ctx, c.id) })
}

// Signal sends to the first process, or to all.
func (c *container) Signal(ctx context.Context, sig syscall.Signal, all bool) error {
	return c.b.control.Signal(ctx, c.id, 0, int32(sig), all)
}

// Delete kills what runs and forgets the container.
func (c *container) Delete(ctx context.Context) error {
	c.b.acts.Lock()
	defer c.b.acts.Unlock()
	if held, _ := c.b.Find(ctx, c.id); held != c {
		return nil
	}
	_, files := c.take()
	closeAll(files)
	if !c.b.gone() && !c.b.proc.Ended() {
		if err := c.b.control.Destroy(ctx, c.id); err != nil && !errors.Is(err, errs.NotFound) && !c.b.proc.Ended() {
			return fmt.Errorf("delete container %s: %w", c.id, err)
		}
	}
	c.b.mu.Lock()
	delete(c.b.containers, c.id)
	c.b.mu.Unlock()
	if c.b.gone() {
		return nil
	}
	return c.b.forget(c.id)
}

// take gives what Start needs, once.
func (c *container) take() (*control.StartArgs, []*os.File) {
	c.b.mu.Lock()
	defer c.b.mu.Unlock()
	args, files := c.start, c.files
	c.start, c.files = nil, nil
	return args, files
}

// waiter asks the Sentry once for the end of a process and keeps the answer,
// however many callers come, go and come again.
type waiter struct {
	mu    sync.Mutex
	asked *answer // guarded by mu; nil when the last asking failed
}

type answer struct {
	done chan struct{}
	exit sandbox.Exit
	err  error
}

func (w *waiter) wait(ctx context.Context, b *box, ask func(context.Context) (uint32, error)) (sandbox.Exit, error) {
	w.mu.Lock()
	a := w.asked
	if a == nil {
		a = &answer{done: make(chan struct{})}
		w.asked = a
		go w.ask(context.WithoutCancel(ctx), a, b, ask)
	}
	w.mu.Unlock()
	select {
	case <-a.done:
		return a.exit, a.err
	case <-ctx.Done():
		return sandbox.Exit{}, context.Cause(ctx)
	}
}

// ask ends with the process, or with the sandbox at the latest: a dead Sentry
// closes its connections.
func (w *waiter) ask(ctx context.Context, a *answer, b *box, ask func(context.Context) (uint32, error)) {
	defer close(a.done)
	status, err := ask(ctx)
	a.exit.At = time.Now()
	switch {
	case err == nil:
		a.exit.Code = code(status)
	case errors.Is(err, errs.Unavailable):
		// The pod's kernel is gone, by Destroy or for want of memory; what
		// ran in it was killed.
		<-b.proc.Done()
		a.exit.Code = 128 + int(unix.SIGKILL)
	default:
		a.err = err
		w.mu.Lock()
		w.asked = nil // whoever asks next asks again: it may have been started by then
		w.mu.Unlock()
	}
}

// code turns a wait status into an exit code.
func code(status uint32) int {
	ws := syscall.WaitStatus(status)
	if ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return ws.ExitStatus()
}

// Exec starts another process.
func (c *container) Exec(ctx context.Context, p sandbox.ProcessSpec) (sandbox.Process, error) {
	args, files, err := c.execArgs(p)
	if err != nil {
		return nil, err
	}
	defer closeAll(files)
	pid, err := c.b.control.Exec(ctx, args, files)
	if err != nil {
		return nil, fmt.Errorf("exec in container %s: %w", c.id, err)
	}
	return &added{c: c, pid: pid}, nil
}

// added is a process that Exec started.
type added struct {
	c   *container
	pid int32
	end waiter
}

func (p *added) PID() int { return int(p.pid) }

func (p *added) Wait(ctx context.Context) (sandbox.Exit, error) {
	return p.end.wait(ctx, p.c.b, func(ctx context.Context) (uint32, error) {
		return p.c.b.control.WaitPID(ctx, p.c.id, p.pid)
	})
}

func (p *added) Signal(ctx context.Context, sig syscall.Signal) error {
	return p.c.b.control.Signal(ctx, p.c.id, p.pid, int32(sig), false)
}
