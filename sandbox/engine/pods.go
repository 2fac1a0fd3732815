// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/sandbox"
)

const criNamespace = "k8s.io"

// pods holds every sandbox and container that the engine made, in memory and
// as a journal below dir: <id>/pod.json, <id>/<container>.json and the
// driver's own <id>/driver.
type pods struct {
	dir    string
	driver sandbox.Driver
	admit  Admission
	log    *slog.Logger
	group  *run.Group // owns the goroutines that wait for ends

	mu         sync.Mutex
	byID       map[string]*pod
	containers map[string]*container
	events     events.Publisher // nil until containerd has loaded
}

func newPods(dir string, d sandbox.Driver, a Admission, log *slog.Logger) *pods {
	return &pods{dir: dir, driver: d, admit: a, log: log, byID: map[string]*pod{}, containers: map[string]*container{}}
}

func (ps *pods) start(g *run.Group) { ps.group = g }

func (ps *pods) publishTo(p events.Publisher) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	ps.events = p
}

// publish tells containerd. Before it has loaded nobody listens, and it will
// ask for the state of every task instead.
func (ps *pods) publish(topic string, e events.Event) {
	ps.mu.Lock()
	p := ps.events
	ps.mu.Unlock()
	if p == nil {
		return
	}
	ctx := namespaces.WithNamespace(ps.group.Context(), criNamespace)
	if err := p.Publish(context.WithoutCancel(ctx), topic, e); err != nil {
		ps.log.Error("publish event", "topic", topic, "error", err)
	}
}

// podRecord is the journal entry of a sandbox, written before it boots.
type podRecord struct {
	ID      string            `json:"id"`
	UID     string            `json:"uid"`
	Spec    sandbox.Spec      `json:"spec"`
	Volumes map[string]Volume `json:"volumes,omitempty"`
	Created time.Time         `json:"created"`
}

// pod is one sandbox.
type pod struct {
	podRecord
	dir  string
	done chan struct{} // closed when the sandbox has ended

	mu     sync.Mutex
	sb     sandbox.Sandbox // nil before start and after shutdown
	exited time.Time

	journal sync.Mutex // held while dir is written or removed; after a container's mu
	removed bool       // dir is gone: a late exit must not come in its way
}

func (p *pod) info() sandbox.Info {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sb == nil {
		return sandbox.Info{}
	}
	return p.sb.Info()
}

func (ps *pods) create(id, uid string) error {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if _, ok := ps.byID[id]; ok {
		return errs.New(errs.Exists, "sandbox "+id, "it exists already")
	}
	ps.byID[id] = &pod{podRecord: podRecord{ID: id, UID: uid, Created: time.Now()}, dir: filepath.Join(ps.dir, id), done: make(chan struct{})}
	return nil
}

func (ps *pods) get(id string) (*pod, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if p, ok := ps.byID[id]; ok {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "sandbox "+id, "there is none")
}

func (ps *pods) byUID(uid string) (*pod, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for _, p := range ps.byID {
		if p.UID == uid && p.running() {
			return p, nil
		}
	}
	return nil, errs.New(errs.NotFound, "pod "+uid, "it has no sandbox")
}

func (p *pod) running() bool {
	select {
	case <-p.done:
		return false
	default:
		return true
	}
}

// boot asks for the grant, journals it and starts the sandbox.
func (ps *pods) boot(ctx context.Context, p *pod) error {
	grant, err := ps.admit.Pod(ctx, p.UID)
	if err != nil {
		return err
	}
	driverDir := filepath.Join(p.dir, "driver")
	if err := mkdir(driverDir); err != nil {
		return err
	}
	p.Volumes = grant.Volumes
	p.Spec = sandbox.Spec{ID: p.ID, Dir: driverDir, NetNS: grant.NetNS, Hostname: grant.Hostname, Cgroup: "/redoubt/pod-" + p.ID[:min(len(p.ID), 32)], Limits: grant.Limits}
	if err := writeRecord(filepath.Join(p.dir, "pod.json"), p.podRecord); err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	sb, err := ps.driver.Create(ctx, p.Spec)
	if err != nil {
		return errors.Join(err, os.RemoveAll(p.dir))
	}
	ps.watch(p, sb)
	return nil
}

// watch waits for the end of a sandbox and tells whoever waits for p.done.
func (ps *pods) watch(p *pod, sb sandbox.Sandbox) {
	p.mu.Lock()
	p.sb = sb
	p.mu.Unlock()
	ps.group.Go("sandbox "+p.ID, func(ctx context.Context) error {
		if err := sb.Wait(ctx); err != nil && ctx.Err() != nil {
			return nil
		}
		p.mu.Lock()
		p.exited = time.Now()
		p.mu.Unlock()
		close(p.done)
		return nil
	})
}

// destroy ends a sandbox and forgets it with its containers.
func (ps *pods) destroy(ctx context.Context, id string) error {
	p, err := ps.get(id)
	if err != nil {
		return err
	}
	p.mu.Lock()
	sb := p.sb
	p.mu.Unlock()
	if sb != nil {
		if err := sb.Destroy(ctx); err != nil {
			return err
		}
	}
	if err := p.remove(); err != nil {
		return fmt.Errorf("remove sandbox directory: %w", err)
	}
	for _, c := range ps.forget(p) {
		c.io.close()
		c.mu.Lock()
		started := c.Started
		c.mu.Unlock()
		if !started { // one that runs is settled by await
			c.never(ps)
		}
	}
	return nil
}

// remove removes the pod's part of the journal, for good.
func (p *pod) remove() error {
	p.journal.Lock()
	defer p.journal.Unlock()
	p.removed = true
	return os.RemoveAll(p.dir)
}

// forget drops a pod and gives its containers.
func (ps *pods) forget(p *pod) (cs []*container) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	delete(ps.byID, p.ID)
	for id, c := range ps.containers {
		if c.pod == p {
			delete(ps.containers, id)
			cs = append(cs, c)
		}
	}
	return cs
}

// adopt reads the journal and takes over what still runs. What does not is
// kept as an ended pod, so that containerd learns of its end.
func (ps *pods) adopt(ctx context.Context) error {
	entries, err := os.ReadDir(ps.dir)
	if err != nil {
		return fmt.Errorf("read engine journal: %w", err)
	}
	for _, e := range entries {
		p := &pod{dir: filepath.Join(ps.dir, e.Name()), done: make(chan struct{})}
		if err := readRecord(filepath.Join(p.dir, "pod.json"), &p.podRecord); err != nil {
			ps.log.Warn("drop unreadable sandbox record", "dir", p.dir, "error", err)
			if err := os.RemoveAll(p.dir); err != nil {
				return err
			}
			continue
		}
		sb, err := ps.driver.Adopt(ctx, p.Spec)
		switch {
		case errors.Is(err, errs.NotFound):
			ps.log.Warn("sandbox is gone", "sandbox", p.ID, "pod", p.UID)
			p.exited = time.Now()
			close(p.done)
		case err != nil:
			return fmt.Errorf("adopt sandbox %s: %w", p.ID, err)
		default:
			ps.watch(p, sb)
			ps.log.Info("adopted sandbox", "sandbox", p.ID, "pod", p.UID, "pid", sb.Info().PID)
		}
		ps.mu.Lock()
		ps.byID[p.ID] = p
		ps.mu.Unlock()
		if err := ps.adoptContainers(ctx, p, sb); err != nil {
			return err
		}
	}
	return nil
}

func mkdir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	return nil
}

// writeRecord replaces the file at path in one step, on disk before return.
func writeRecord(path string, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	f, err := os.OpenFile(path+".new", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	return os.Rename(path+".new", path)
}

func readRecord(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}
