// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/sandbox"
)

// driver is a small driver in this process: sandboxes outlive the pods that
// made them, as processes outlive a node that is killed.
type driver struct {
	mu     sync.Mutex
	boxes  map[string]*box
	create error
	adopt  error
}

func newDriver() *driver { return &driver{boxes: map[string]*box{}} }

func (d *driver) Kind() string { return "fake" }

func (d *driver) Create(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.create != nil {
		return nil, d.create
	}
	b := &box{containers: map[string]*guest{}, done: make(chan struct{})}
	d.boxes[s.ID] = b
	return b, os.WriteFile(filepath.Join(s.Dir, "state"), nil, 0o600)
}

func (d *driver) Adopt(_ context.Context, s sandbox.Spec) (sandbox.Sandbox, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.adopt != nil {
		return nil, d.adopt
	}
	if b, ok := d.boxes[s.ID]; ok && !b.over() {
		return b, nil
	}
	return nil, errs.New(errs.NotFound, s.ID, "gone")
}

type box struct {
	mu         sync.Mutex
	containers map[string]*guest
	add, start error
	once       sync.Once
	done       chan struct{}
}

func (b *box) over() bool {
	select {
	case <-b.done:
		return true
	default:
		return false
	}
}

func (b *box) Info() sandbox.Info { return sandbox.Info{PID: 42} }

func (b *box) Add(_ context.Context, c sandbox.ContainerSpec) (sandbox.Container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.add != nil {
		return nil, b.add
	}
	g := &guest{box: b, done: make(chan struct{})}
	for i, f := range c.Stdio { // as the contract says: the files are lent for the call
		if f == nil {
			continue
		}
		fd, err := syscall.Dup(int(f.Fd()))
		if err != nil {
			return nil, err
		}
		g.stdio[i] = os.NewFile(uintptr(fd), "stdio")
	}
	b.containers[c.ID] = g
	return g, nil
}

func (b *box) Find(_ context.Context, id string) (sandbox.Container, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if g, ok := b.containers[id]; ok {
		return g, nil
	}
	return nil, errs.New(errs.NotFound, id, "gone")
}

func (b *box) Wait(ctx context.Context) error {
	select {
	case <-b.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (b *box) Destroy(context.Context) error {
	b.once.Do(func() { close(b.done) })
	return nil
}

// guest is a container, and the process of an exec.
type guest struct {
	box     *box
	stdio   [3]*os.File
	mu      sync.Mutex
	code    int
	once    sync.Once
	done    chan struct{}
	deleted bool
	execs   []*guest
}

func (g *guest) end(code int) {
	g.once.Do(func() {
		g.code = code
		for _, f := range g.stdio {
			if f != nil {
				f.Close()
			}
		}
		close(g.done)
	})
}

func (g *guest) Start(context.Context) error { return g.box.start }

func (g *guest) Wait(ctx context.Context) (sandbox.Exit, error) {
	select {
	case <-g.done:
		return sandbox.Exit{Code: g.code, At: time.Unix(1000, 0)}, nil
	case <-g.box.done:
		return sandbox.Exit{}, errs.New(errs.NotFound, "guest", "the sandbox is gone")
	case <-ctx.Done():
		return sandbox.Exit{}, ctx.Err()
	}
}

func (g *guest) kill(sig syscall.Signal) error {
	g.end(128 + int(sig))
	return nil
}

func (g *guest) Signal(_ context.Context, sig syscall.Signal, _ bool) error { return g.kill(sig) }

func (g *guest) Exec(_ context.Context, p sandbox.ProcessSpec) (sandbox.Process, error) {
	if p.OCI != nil && len(p.OCI.Args) > 0 && p.OCI.Args[0] == "missing" {
		return nil, errs.New(errs.NotFound, "missing", "no such file")
	}
	e := &guest{box: g.box, done: make(chan struct{})}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.execs = append(g.execs, e)
	return added{e}, nil
}

func (g *guest) Delete(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.deleted = true
	g.end(137)
	return nil
}

type added struct{ *guest }

func (a added) PID() int                                           { return 2 }
func (a added) Signal(_ context.Context, sig syscall.Signal) error { return a.kill(sig) }

// granting admits all but what it is told to refuse.
type granting struct {
	refuse  error
	volumes map[string]Volume
	mu      sync.Mutex
	asked   []string
}

func (g *granting) note(s string) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, s)
	return g.refuse
}

func (g *granting) Rootfs(_ context.Context, d artifact.Digest) (string, error) {
	return "/images/" + d.Hex()[:8], g.note("rootfs " + d.Hex()[:8])
}

func (g *granting) Pod(_ context.Context, uid string) (PodGrant, error) {
	return PodGrant{Hostname: "h", Volumes: g.volumes}, g.note("pod " + uid)
}

func (g *granting) Container(_ context.Context, uid, name, rootfs string, p *specs.Process) error {
	return g.note("container " + uid + " " + name + " " + rootfs)
}

// engineOf makes the pods of a node that has just started on dir; kill ends it
// as kill -9 would: nothing is ended, nothing is cleaned up.
func engineOf(t *testing.T, dir string, d sandbox.Driver, a Admission) (ps *pods, kill func()) {
	t.Helper()
	ps = newPods(dir, d, a, slog.New(slog.DiscardHandler))
	g := run.New(t.Context())
	ps.start(g)
	kill = func() {
		g.Stop()
		if err := g.Wait(); err != nil {
			t.Error(err)
		}
	}
	t.Cleanup(kill)
	return ps, kill
}

// booted makes a pod with a running sandbox.
func booted(t *testing.T, ps *pods, id string) *pod {
	t.Helper()
	if err := ps.create(id, "uid-"+id); err != nil {
		t.Fatal(err)
	}
	p, err := ps.get(id)
	if err == nil {
		err = ps.boot(t.Context(), p)
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// bundle writes what containerd hands over of a container.
func bundle(t *testing.T, pod, name string, change func(*specs.Spec)) string {
	t.Helper()
	dir := t.TempDir()
	s := &specs.Spec{Process: &specs.Process{Args: []string{"app"}}, Annotations: map[string]string{"io.kubernetes.cri.sandbox-id": pod, "io.kubernetes.cri.container-name": name}}
	if change != nil {
		change(s)
	}
	b, err := json.Marshal(s)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
