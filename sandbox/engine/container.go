// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/runtime"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/timestamppb"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// exitLost is the code of a container whose end nobody saw: its sandbox died
// while the node was away.
const exitLost = 255

// containerRecord is the journal entry of a container, written before it is
// made and again when it has ended.
type containerRecord struct {
	ID       string        `json:"id"`
	Pod      string        `json:"pod"`
	Bundle   string        `json:"bundle"`
	Stdio    stdio         `json:"stdio"`
	Process  specs.Process `json:"process"`
	Started  bool          `json:"started"`
	Exit     *sandbox.Exit `json:"exit,omitempty"`
	Hostname string        `json:"hostname,omitempty"`
}

// container is one container; its execs are of this type's process kind.
type container struct {
	containerRecord
	pod  *pod
	spec sandbox.ContainerSpec // of this process's making; empty after adoption but for OCI.Process
	done chan struct{}         // closed after Exit was set, by whoever settled it
	io   *ioSet

	mu    sync.Mutex
	c     sandbox.Container // nil when the sandbox is gone
	execs map[string]*process
}

func (ps *pods) container(id string) (*container, error) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if c, ok := ps.containers[id]; ok {
		return c, nil
	}
	return nil, errs.New(errs.NotFound, "container "+id, "there is none")
}

// add makes a container after Admission has granted it.
func (ps *pods) add(ctx context.Context, id, bundle, rootfs string, io stdio) (*container, error) {
	var oci specs.Spec
	if err := readRecord(filepath.Join(bundle, "config.json"), &oci); err != nil {
		return nil, fmt.Errorf("read OCI spec: %w", err)
	}
	p, err := ps.get(oci.Annotations["io.kubernetes.cri.sandbox-id"])
	if err != nil {
		return nil, err
	}
	name := oci.Annotations["io.kubernetes.cri.container-name"]
	if oci.Process == nil {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "container " + name, Field: "process", Expected: "a process to run", Seen: "none"}
	}
	if err := ps.admit.Container(ctx, p.UID, name, rootfs, oci.Process); err != nil {
		return nil, err
	}
	p.mu.Lock()
	sb := p.sb
	p.mu.Unlock()
	if sb == nil || !p.running() {
		return nil, errs.New(errs.Conflict, "container "+name, "its sandbox does not run")
	}
	if _, err := ps.container(id); err == nil {
		return nil, errs.New(errs.Exists, "container "+id, "it exists already")
	}
	spec, err := translate(&oci, rootfs, p.Volumes)
	if err != nil {
		return nil, err
	}
	spec.ID = id
	set, err := openIO(io)
	if err != nil {
		return nil, err
	}
	defer set.donated()
	spec.Stdio = set.guest

	c := &container{
		containerRecord: containerRecord{ID: id, Pod: p.ID, Bundle: bundle, Stdio: io, Process: *oci.Process},
		pod:             p, spec: spec, done: make(chan struct{}), io: set, execs: map[string]*process{},
	}
	if err := c.save(); err != nil {
		set.close()
		return nil, err
	}
	if c.c, err = sb.Add(ctx, spec); err != nil {
		set.close()
		return nil, errors.Join(err, os.Remove(c.path()))
	}
	c.spec.Stdio = [3]*os.File{}
	ps.mu.Lock()
	ps.containers[id] = c
	ps.mu.Unlock()
	return c, nil
}

func (c *container) path() string { return filepath.Join(c.pod.dir, c.ID+".json") }

func (c *container) save() error {
	c.pod.journal.Lock()
	defer c.pod.journal.Unlock()
	if c.pod.removed {
		return nil
	}
	return writeRecord(c.path(), c.containerRecord)
}

func (ps *pods) startContainer(ctx context.Context, c *container) error {
	if err := c.starting(); err != nil {
		return err
	}
	if err := c.c.Start(ctx); err != nil {
		// It has run nothing. As long as it stood as started, nobody could
		// delete it.
		c.mu.Lock()
		defer c.mu.Unlock()
		c.Started = false
		return errors.Join(err, c.save())
	}
	ps.await(c)
	return nil
}

// starting journals that the container is about to run: after a kill between
// here and Start it is taken for one that ran, never made to run twice.
func (c *container) starting() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Started || c.Exit != nil || c.c == nil {
		return errs.New(errs.Conflict, "container "+c.ID, "it has started before, or its sandbox is gone")
	}
	c.Started = true
	err := c.save()
	c.Started = err == nil
	return err
}

// await waits for the end of a container, journals it and tells containerd.
func (ps *pods) await(c *container) {
	ps.group.Go("container "+c.ID, func(ctx context.Context) error {
		exit, err := c.c.Wait(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			ps.log.Warn("container ended with its sandbox", "container", c.ID, "error", err)
			exit = sandbox.Exit{Code: exitLost, At: time.Now()}
		}
		c.ended(exit, ps)
		return nil
	})
}

// settle notes how the container ended; false when that is known already.
func (c *container) settle(exit sandbox.Exit, ps *pods) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Exit != nil {
		return false
	}
	c.Exit = &exit
	if err := c.save(); err != nil {
		ps.log.Error("journal exit", "container", c.ID, "error", err)
	}
	return true
}

func (c *container) ended(exit sandbox.Exit, ps *pods) {
	if !c.settle(exit, ps) {
		return
	}
	c.io.drained()
	close(c.done)
	ps.publish(runtime.TaskExitEventTopic, &eventsapi.TaskExit{ContainerID: c.ID, ID: c.ID, Pid: uint32(c.pod.info().PID), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)})
}

func (ps *pods) adoptContainers(ctx context.Context, p *pod, sb sandbox.Sandbox) error {
	files, err := filepath.Glob(filepath.Join(p.dir, "*.json"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if filepath.Base(f) == "pod.json" {
			continue
		}
		c := &container{pod: p, done: make(chan struct{}), io: &ioSet{}, execs: map[string]*process{}}
		if err := readRecord(f, &c.containerRecord); err != nil {
			ps.log.Warn("drop unreadable container record", "file", f, "error", err)
			_ = os.Remove(f)
			continue
		}
		c.spec = sandbox.ContainerSpec{ID: c.ID, OCI: &specs.Spec{Process: &c.Process}}
		if sb != nil {
			if c.c, err = sb.Find(ctx, c.ID); err != nil {
				ps.log.Warn("container is gone", "container", c.ID, "error", err)
				c.c = nil
			}
		}
		switch {
		case c.Exit != nil:
			close(c.done)
		case c.c == nil:
			// On record too: its time must not change with the next node.
			c.settle(sandbox.Exit{Code: exitLost, At: time.Now()}, ps)
			close(c.done)
		case c.Started:
			ps.await(c)
		}
		ps.mu.Lock()
		ps.containers[c.ID] = c
		ps.mu.Unlock()
	}
	return nil
}

func (ps *pods) remove(ctx context.Context, c *container) (sandbox.Exit, error) {
	c.mu.Lock()
	running := c.Started && c.Exit == nil
	c.mu.Unlock()
	if running {
		return sandbox.Exit{}, errs.New(errs.Conflict, "container "+c.ID, "it still runs")
	}
	if c.c != nil && c.pod.running() {
		if err := c.c.Delete(ctx); err != nil && !errors.Is(err, errs.NotFound) {
			return sandbox.Exit{}, err
		}
	}
	c.io.close()
	c.never(ps)
	if err := os.Remove(c.path()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return sandbox.Exit{}, err
	}
	ps.mu.Lock()
	delete(ps.containers, c.ID)
	ps.mu.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	return *c.Exit, nil
}

// never ends a container that was not started: containerd waits for it from
// the moment that it was made.
func (c *container) never(ps *pods) {
	if c.settle(sandbox.Exit{Code: 0, At: time.Now()}, ps) {
		close(c.done)
	}
}

func (c *container) exec(ctx context.Context, spec sandbox.ProcessSpec) (sandbox.Process, error) {
	c.mu.Lock()
	ok := c.Started && c.Exit == nil && c.c != nil
	c.mu.Unlock()
	if !ok {
		return nil, errs.New(errs.Conflict, "container "+c.ID, "it does not run")
	}
	return c.c.Exec(ctx, spec)
}

// translate takes the bind mounts out of an OCI spec and names what each is,
// by the pod's grant. A bind that the grant does not name is refused: it is
// not in the manifest.
func translate(oci *specs.Spec, rootfs string, volumes map[string]Volume) (sandbox.ContainerSpec, error) {
	out := sandbox.ContainerSpec{OCI: oci, Rootfs: rootfs}
	var keep []specs.Mount
	for _, m := range oci.Mounts {
		// By its type, or by an option alone (runtime-spec, config-linux).
		bind := m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
		switch {
		case m.Destination == "/dev/shm" || m.Type == "cgroup" || m.Type == "cgroup2" || m.Type == "mqueue":
			// The guest's kernel has its own.
		case bind:
			source := filepath.Clean(m.Source)
			v, ok := volumes[source]
			if !ok {
				return out, &errs.Error{Kind: errs.Denied, Subject: "container mount " + m.Destination, Field: "source", Expected: "a volume of the admitted manifest", Seen: m.Source}
			}
			mt := sandbox.Mount{Kind: v.Kind, Target: m.Destination, Source: source, SizeBytes: v.SizeBytes, ReadOnly: v.Kind == sandbox.Fixed}
			if v.Kind == sandbox.Shared {
				mt.Source = filepath.Base(source)
			}
			for _, o := range m.Options {
				mt.ReadOnly = mt.ReadOnly || o == "ro" || strings.HasPrefix(o, "rro")
			}
			out.Mounts = append(out.Mounts, mt)
		default:
			keep = append(keep, m)
		}
	}
	spec := *oci
	spec.Mounts = keep
	out.OCI = &spec
	return out, nil
}
