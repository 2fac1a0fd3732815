// SPDX-License-Identifier: Apache-2.0

package none

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
	"redoubt.dev/sandbox/driver/internal/cgroup"
	"redoubt.dev/sandbox/driver/internal/proc"
	"redoubt.dev/sandbox/driver/internal/thread"
	"redoubt.dev/sandbox/driver/internal/tinyelf"
)

// pod is a pausing process, whose namespaces the containers join.
type pod struct {
	d     *Driver
	spec  sandbox.Spec
	group cgroup.Group
	pause *proc.Process

	mu         sync.Mutex
	state      state
	containers map[string]*container
	destroyed  bool

	shells sync.WaitGroup // those that this process has started
}

var (
	_ sandbox.Sandbox = (*pod)(nil)
	_ sandbox.Meter   = (*pod)(nil)
)

// save writes the journal; the caller holds mu or is alone.
func (p *pod) save() error {
	b, err := json.Marshal(p.state)
	if err != nil {
		return err
	}
	tmp := filepath.Join(p.spec.Dir, "."+stateFile)
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(p.spec.Dir, stateFile))
}

func (p *pod) launch() error {
	if err := p.save(); err != nil {
		return err
	}
	if err := p.group.Make(p.spec.Limits); err != nil {
		return err
	}
	if err := os.MkdirAll(p.shared(""), 0o755); err != nil {
		return err
	}
	// One tmpfs for all of the pod's volumes and for what containers write.
	if err := unix.Mount("redoubt-none", p.shared(""), "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount pod's tmpfs: %w", err)
	}
	if err := p.startPause(); err != nil {
		return err
	}
	p.state.Ready = true
	return p.save()
}

func (p *pod) shared(name string) string { return filepath.Join(p.spec.Dir, "run", name) }

// startPause runs the pausing process: a shell first, which waits until the
// process is in the journal, and ends when this one does.
func (p *pod) startPause() error {
	code, err := tinyelf.Pause()
	if err != nil {
		return err
	}
	path := p.shared("pause")
	if err := os.WriteFile(path, code, 0o755); err != nil {
		return err
	}
	gate, open, err := os.Pipe()
	if err != nil {
		return err
	}
	defer gate.Close()
	defer open.Close()
	cmd := exec.Command("/bin/sh", "-c", `read x && exec "$0" `+p.spec.ID, path)
	cmd.Stdin = gate
	cmd.Env = []string{}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	if p.spec.NetNS == "" {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWNET
	}
	if err := p.inNetNS(cmd.Start); err != nil {
		return err
	}
	p.state.Pause = proc.Of(cmd.Process.Pid)
	_ = cmd.Process.Release()
	if p.pause, err = proc.Watch(p.state.Pause); err != nil {
		return err
	}
	if err := p.save(); err != nil {
		return err
	}
	if err := p.group.Join(p.state.Pause.PID); err != nil {
		return err
	}
	if _, err := open.WriteString("go\n"); err != nil {
		return err
	}
	go p.endTogether()
	return nil
}

// inNetNS runs f on a thread in the pod's network namespace.
func (p *pod) inNetNS(f func() error) error {
	if p.spec.NetNS == "" {
		return f()
	}
	ns, err := os.Open(p.spec.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	return thread.InNetNS(ns, f)
}

// endTogether ends the containers with the pausing process, as those of a
// real sandbox end with it.
func (p *pod) endTogether() {
	<-p.pause.Done()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.destroyed {
		return
	}
	for _, c := range p.containers {
		c.kill()
	}
}

func (p *pod) adopt() (err error) {
	if p.state.Boot != proc.BootID() || !p.state.Ready {
		return errors.New("it was never finished, or before the machine restarted")
	}
	if p.pause, err = proc.Watch(p.state.Pause); err != nil {
		return err
	}
	go p.endTogether()
	for id, dir := range p.state.Containers {
		p.containers[id] = &container{p: p, id: id, dir: dir}
	}
	return nil
}

// Info tells what the pod is.
func (p *pod) Info() sandbox.Info {
	var u unix.Utsname
	_ = unix.Uname(&u)
	return sandbox.Info{PID: p.state.Pause.PID, Kernel: "Linux " + unix.ByteSliceToString(u.Release[:]), Binary: "none"}
}

// Find gives a container.
func (p *pod) Find(_ context.Context, id string) (sandbox.Container, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.containers[id]; c != nil {
		return c, nil
	}
	return nil, &errs.Error{Kind: errs.NotFound, Subject: "container " + id}
}

// Wait returns when the pausing process has ended.
func (p *pod) Wait(ctx context.Context) error {
	select {
	case <-p.pause.Done():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Usage is the pod's control group's.
func (p *pod) Usage(context.Context) (sandbox.Usage, error) { return p.group.Usage() }

// Destroy ends all of the pod.
func (p *pod) Destroy(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.destroyed {
		return nil
	}
	for id, dir := range p.state.Containers {
		c := p.containers[id]
		if c == nil {
			c = &container{p: p, id: id, dir: dir}
		}
		if err := c.remove(ctx); err != nil {
			return err
		}
	}
	if p.pause == nil && p.state.Boot == proc.BootID() {
		w, err := proc.Watch(p.state.Pause)
		if err != nil && !errors.Is(err, errs.NotFound) {
			return err
		}
		p.pause = w
	}
	if p.pause != nil {
		if err := p.pause.Kill(); err != nil {
			return err
		}
		<-p.pause.Done()
		p.pause.Close()
	}
	if err := p.group.Remove(ctx); err != nil {
		return err
	}
	p.shells.Wait()
	p.rest(p.spec.Cgroup)
	if err := p.sweep(); err != nil {
		return err
	}
	p.destroyed = true
	return nil
}

// rest removes a control group from the hierarchies that only runc uses.
func (p *pod) rest(group string) {
	dirs, _ := filepath.Glob("/sys/fs/cgroup/*" + group)
	for _, d := range dirs {
		_ = os.Remove(d)
	}
}

// sweep removes mounts and files, the journal last.
func (p *pod) sweep() error {
	if err := unix.Unmount(p.shared(""), unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	for _, name := range []string{"run", "runc", "." + stateFile, stateFile} {
		if err := os.RemoveAll(filepath.Join(p.spec.Dir, name)); err != nil {
			return err
		}
	}
	return nil
}
