// SPDX-License-Identifier: Apache-2.0

package pod

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/base/run"
	"redoubt.dev/sandbox/edge"
	"redoubt.dev/sandbox/engine"
)

// Admitter decides whether a pod may run, and remembers what it may have.
type Admitter interface {
	// Admit gives the pinned reference of each container's image.
	Admit(ctx context.Context, r *Record) (images map[string]string, err error)
	// Grant tells the engine what the pod may have, until Forget.
	Grant(uid string, g engine.PodGrant)
	Forget(uid string)
}

// Network gives a pod its identity and its place in the mesh.
type Network interface {
	// Attach returns when the pod's edge is served under its identity.
	Attach(ctx context.Context, r *Record) error
	Detach(uid string)
}

// Deps is what a Worker works with. All of it is shared by all pods.
type Deps struct {
	Runtime cri.RuntimeServiceClient
	Images  cri.ImageServiceClient
	Exec    func(ctx context.Context, container string, cmd []string) (code int, err error)
	Admit   Admitter
	Network Network
	Lookup  Lookup
	Places  Places
	DNS     netip.Addr
	Node    string // the machine's name
	MaxPids int64
	Log     *slog.Logger
	Changed func() // a status changed; must not block
}

// Worker runs one pod.
type Worker struct {
	deps Deps
	rec  *Record
	log  *slog.Logger
	kick chan struct{} // capacity 1: more kicks than one are one
	stat atomic.Pointer[Status]

	ending atomic.Bool

	mu       sync.Mutex
	verdicts map[string]Verdict // by CRI container ID

	// The rest belongs to Run's goroutine.
	images   map[string]string // pinned, once admitted
	files    *files
	probes   map[string]context.CancelFunc
	sandbox  string // CRI ID, "" for none
	attempts uint32 // sandboxes made
	made     time.Time
	group    *run.Group
}

// New makes a worker; Run starts it.
func New(rec *Record, deps Deps) *Worker {
	w := &Worker{deps: deps, rec: rec, log: deps.Log.With("pod", rec.Name(), "uid", rec.UID), kick: make(chan struct{}, 1), verdicts: map[string]Verdict{}, probes: map[string]context.CancelFunc{}}
	w.stat.Store(&Status{Phase: string(corev1.PodPending)})
	w.ending.Store(rec.Ending)
	return w
}

// Record gives the pod's record; it does not change.
func (w *Worker) Record() *Record { return w.rec }

// Status gives the newest status.
func (w *Worker) Status() Status { return *w.stat.Load() }

// Kick asks the worker to look again.
func (w *Worker) Kick() {
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// End asks for the end of the pod: grace, then kill, then nothing is left.
func (w *Worker) End() {
	w.ending.Store(true)
	w.Kick()
}

const relist = 5 * time.Second // in case an event was missed

// Run works until ctx ends, which leaves the pod running, or until nothing is
// left of a pod whose end was asked for.
func (w *Worker) Run(ctx context.Context) error {
	w.group = run.New(ctx)
	defer func() {
		w.group.Stop()
		_ = w.group.Wait()
	}()
	backoff := time.Second
	for {
		again, err := w.sync(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if w.Status().Gone {
			return nil
		}
		pause := relist
		if err != nil {
			w.log.Warn("pod does not proceed", "error", err)
			w.report(func(s *Status) { s.Reason = err.Error() })
			pause, backoff = backoff, min(backoff*2, 30*time.Second)
		} else {
			backoff = time.Second
			if !again.IsZero() {
				pause = min(pause, time.Until(again))
			}
		}
		t := time.NewTimer(pause)
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-t.C:
		}
		t.Stop()
	}
}

// report changes the status and tells when it is another.
func (w *Worker) report(f func(*Status)) {
	old := w.stat.Load()
	s := *old
	f(&s)
	w.stat.Store(&s)
	if s.Phase != old.Phase || s.Ready != old.Ready || s.Gone != old.Gone || s.Reason != old.Reason || s.Restarts != old.Restarts {
		w.deps.Changed()
	}
}

// sync looks at the pod once and does what is next.
func (w *Worker) sync(ctx context.Context) (again time.Time, err error) {
	obs, boxes, err := w.observe(ctx)
	if err != nil {
		return again, err
	}
	if w.ending.Load() {
		return again, w.end(ctx, boxes)
	}
	next := Decide(&w.rec.Pod.Spec, obs, time.Now())
	if next.Finish || next.Phase == corev1.PodSucceeded || next.Phase == corev1.PodFailed {
		w.status(obs, next)
		return again, w.finish(ctx, boxes)
	}
	if err := w.prepare(ctx); err != nil {
		return again, err
	}
	if next.Sandbox {
		if t := w.made.Add(Backoff(ContainerState{Attempt: w.attempts, Started: w.made, Ended: w.made})); w.attempts > 1 && time.Now().Before(t) {
			return t, nil
		}
		w.status(obs, next)
		if err := w.renew(ctx, boxes); err != nil {
			return again, err
		}
		return time.Now(), nil
	}
	for name, why := range next.Kill {
		w.log.Warn("end container", "container", name, "reason", why)
		if err := w.stop(ctx, obs.Containers[name].ID); err != nil {
			return again, err
		}
	}
	for _, s := range next.Start {
		if err := w.start(ctx, s); err != nil {
			return again, err
		}
	}
	if len(next.Start)+len(next.Kill) > 0 {
		return time.Now(), nil
	}
	w.probe(ctx, obs)
	w.status(obs, next)
	return next.Again, nil
}

// observe asks CRI for the pod's sandboxes and the latest attempt of each
// container in the newest of them.
func (w *Worker) observe(ctx context.Context) (Observed, []*cri.PodSandbox, error) {
	obs := Observed{Containers: map[string]ContainerState{}, Started: map[string]bool{}, Unhealthy: map[string]bool{}}
	mine := map[string]string{labelUID: w.rec.UID}
	boxes, err := w.deps.Runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: mine}})
	if err != nil {
		return obs, nil, fmt.Errorf("list sandboxes: %w", err)
	}
	var newest *cri.PodSandbox
	for _, b := range boxes.Items {
		if newest == nil || b.CreatedAt > newest.CreatedAt {
			newest = b
		}
	}
	w.sandbox = ""
	if newest == nil {
		return obs, nil, nil
	}
	w.attempts, w.made = newest.Metadata.Attempt+1, time.Unix(0, newest.CreatedAt)
	if newest.State == cri.PodSandboxState_SANDBOX_READY {
		w.sandbox, obs.Sandbox = newest.Id, true
	}
	list, err := w.deps.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: newest.Id, LabelSelector: mine}})
	if err != nil {
		return obs, nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range list.Containers {
		name := c.Labels[labelContainer]
		if old, ok := obs.Containers[name]; ok && old.Attempt > c.Metadata.Attempt {
			continue
		}
		st, err := w.deps.Runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: c.Id})
		if err != nil {
			return obs, nil, fmt.Errorf("container status: %w", err)
		}
		s := st.Status
		cs := ContainerState{ID: c.Id, Attempt: c.Metadata.Attempt, Running: s.State == cri.ContainerState_CONTAINER_RUNNING, Created: s.State == cri.ContainerState_CONTAINER_CREATED, ExitCode: s.ExitCode, Reason: s.Reason}
		if s.StartedAt > 0 {
			cs.Started = time.Unix(0, s.StartedAt)
		}
		if s.FinishedAt > 0 {
			cs.Ended = time.Unix(0, s.FinishedAt)
		}
		obs.Containers[name] = cs
		v := w.verdict(c.Id)
		obs.Started[name], obs.Unhealthy[name] = cs.Running && v.Started, v.Unhealthy
	}
	return obs, boxes.Items, nil
}

func (w *Worker) verdict(id string) Verdict {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.verdicts[id]
}

// prepare does once per process what a pod needs before its sandbox:
// admission, files, grant, identity and edge.
func (w *Worker) prepare(ctx context.Context) error {
	if w.images == nil {
		images, err := w.deps.Admit.Admit(ctx, w.rec)
		if err != nil {
			return err
		}
		w.images = images
	}
	e := edge.At(w.deps.Places.Edges, w.rec.UID, w.rec.Addr)
	if w.files != nil && e.Exists() {
		return nil
	}
	if !e.Exists() {
		if err := errors.Join(e.Destroy(), e.Create()); err != nil {
			return err
		}
	}
	f, err := w.rec.materialise(w.deps.Places, w.deps.Lookup, w.deps.DNS)
	if err != nil {
		return err
	}
	w.deps.Admit.Grant(w.rec.UID, engine.PodGrant{NetNS: e.Inner, Hostname: w.rec.hostname(), Limits: w.rec.limits(w.deps.MaxPids), Volumes: f.grant})
	if err := w.deps.Network.Attach(ctx, w.rec); err != nil {
		return err
	}
	w.files = f
	return nil
}

// renew removes sandboxes that ended and makes a new one. The edge is made
// anew with it: a sandbox takes the address from its NIC for itself.
func (w *Worker) renew(ctx context.Context, old []*cri.PodSandbox) error {
	if len(old) > 0 {
		if err := w.removeBoxes(ctx, old); err != nil {
			return err
		}
		w.deps.Network.Detach(w.rec.UID)
		e := edge.At(w.deps.Places.Edges, w.rec.UID, w.rec.Addr)
		if err := errors.Join(e.Destroy(), e.Create()); err != nil {
			return err
		}
		if err := w.deps.Network.Attach(ctx, w.rec); err != nil {
			return err
		}
	}
	for name, image := range w.images {
		if _, err := w.deps.Images.PullImage(ctx, &cri.PullImageRequest{Image: &cri.ImageSpec{Image: image}}); err != nil {
			return fmt.Errorf("pull image of container %s: %w", name, err)
		}
	}
	r, err := w.deps.Runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: w.rec.sandboxConfig(w.deps.Places, w.attempts)})
	if err != nil {
		return fmt.Errorf("run sandbox: %w", err)
	}
	w.sandbox = r.PodSandboxId
	w.log.Info("sandbox runs", "sandbox", w.sandbox)
	return nil
}

func (w *Worker) start(ctx context.Context, s Start) error {
	env, err := w.rec.environment(s.Container, w.deps.Lookup, w.deps.Node)
	if err != nil {
		return err
	}
	cfg := w.rec.containerConfig(s.Container, w.images[s.Container.Name], s.Attempt, env, w.files.mounts(s.Container, w.deps.Places))
	made, err := w.deps.Runtime.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: w.sandbox, Config: cfg, SandboxConfig: w.rec.sandboxConfig(w.deps.Places, w.attempts-1)})
	if err != nil {
		return fmt.Errorf("make container %s: %w", s.Container.Name, err)
	}
	if _, err := w.deps.Runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: made.ContainerId}); err != nil {
		_, rerr := w.deps.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: made.ContainerId})
		return errors.Join(fmt.Errorf("start container %s: %w", s.Container.Name, err), rerr)
	}
	w.log.Info("container runs", "container", s.Container.Name, "attempt", s.Attempt, "id", made.ContainerId)
	return w.prune(ctx, s.Container.Name, s.Attempt)
}

// prune removes all attempts before the last but one, whose log may still be
// wanted.
func (w *Worker) prune(ctx context.Context, name string, attempt uint32) error {
	list, err := w.deps.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{PodSandboxId: w.sandbox, LabelSelector: map[string]string{labelUID: w.rec.UID, labelContainer: name}}})
	if err != nil {
		return fmt.Errorf("list attempts: %w", err)
	}
	for _, c := range list.Containers {
		if c.Metadata.Attempt+1 >= attempt {
			continue
		}
		if _, err := w.deps.Runtime.RemoveContainer(ctx, &cri.RemoveContainerRequest{ContainerId: c.Id}); err != nil {
			return fmt.Errorf("remove old attempt: %w", err)
		}
		if err := os.Remove(w.rec.LogPath(w.deps.Places, name, c.Metadata.Attempt)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// probe runs a prober for each running container and stops the others.
func (w *Worker) probe(ctx context.Context, obs Observed) {
	running := map[string]bool{}
	for i := range w.rec.Pod.Spec.InitContainers {
		w.probeOne(ctx, &w.rec.Pod.Spec.InitContainers[i], obs, running)
	}
	for i := range w.rec.Pod.Spec.Containers {
		w.probeOne(ctx, &w.rec.Pod.Spec.Containers[i], obs, running)
	}
	w.unprobe(running)
}

// unprobe stops the probers of all containers that do not run, and forgets
// what they said.
func (w *Worker) unprobe(running map[string]bool) {
	for id, stop := range w.probes {
		if !running[id] {
			stop()
			delete(w.probes, id)
			w.mu.Lock()
			delete(w.verdicts, id)
			w.mu.Unlock()
		}
	}
}

func (w *Worker) probeOne(ctx context.Context, c *corev1.Container, obs Observed, running map[string]bool) {
	st, ok := obs.Containers[c.Name]
	if !ok || !st.Running {
		return
	}
	running[st.ID] = true
	if _, ok := w.probes[st.ID]; ok {
		return
	}
	pctx, cancel := context.WithCancel(ctx)
	w.probes[st.ID] = cancel
	e := edge.At(w.deps.Places.Edges, w.rec.UID, w.rec.Addr)
	p := &prober{c: c, id: st.ID, edge: e, exec: w.deps.Exec, changed: func(v Verdict) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if pctx.Err() != nil {
			return // the attempt is over and its verdict forgotten
		}
		w.verdicts[st.ID] = v
		w.Kick()
	}}
	w.group.Go("probe "+c.Name, func(context.Context) error { return p.run(pctx) })
}

// status publishes what was observed.
func (w *Worker) status(obs Observed, next Next) {
	w.report(func(s *Status) {
		s.Phase, s.Reason, s.Restarts, s.Containers = string(next.Phase), "", 0, nil
		s.Ready = next.Phase == corev1.PodRunning && obs.Sandbox
		spec := &w.rec.Pod.Spec
		for i := range spec.InitContainers {
			w.statusOf(s, &spec.InitContainers[i], obs, sidecar(&spec.InitContainers[i]))
		}
		for i := range spec.Containers {
			w.statusOf(s, &spec.Containers[i], obs, true)
		}
		if s.Restarts += int(max(w.attempts, 1) - 1); next.Phase == corev1.PodSucceeded || next.Phase == corev1.PodFailed {
			s.Ready = false
			for _, c := range obs.Containers {
				if c.Ended.After(s.Ended) {
					s.Ended = c.Ended
				}
			}
		}
	})
}

func (w *Worker) statusOf(s *Status, c *corev1.Container, obs Observed, counts bool) {
	st, made := obs.Containers[c.Name]
	cs := ContainerStatus{Name: c.Name, ID: st.ID, Image: c.Image, State: "waiting", Restarts: int(st.Attempt), ExitCode: st.ExitCode, Reason: st.Reason}
	if pinned := w.images[c.Name]; pinned != "" {
		cs.Image = pinned
	}
	switch {
	case made && st.Running:
		v := w.verdict(st.ID)
		cs.State, cs.Ready = "running", v.Ready
		if v.Reason != "" {
			cs.Reason, s.Reason = v.Reason, c.Name+": "+v.Reason
		}
	case made && st.ended():
		cs.State = "ended"
		if wait := time.Until(st.Ended.Add(Backoff(st))); wait > 0 && counts {
			cs.Reason = fmt.Sprintf("ended with code %d, tried again in %s", st.ExitCode, wait.Round(time.Second))
			s.Reason = c.Name + ": " + cs.Reason
		}
	}
	s.Restarts += cs.Restarts
	s.Ready = s.Ready && (cs.Ready || !counts)
	s.Containers = append(s.Containers, cs)
}

func (w *Worker) grace() int64 {
	if g := w.rec.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return *g
	}
	return 30
}

func (w *Worker) stop(ctx context.Context, id string) error {
	if _, err := w.deps.Runtime.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: id, Timeout: w.grace()}); err != nil {
		return fmt.Errorf("stop container: %w", err)
	}
	return nil
}

// finish frees what a pod holds that has ended by itself; its records and
// logs stay until the pod is removed.
func (w *Worker) finish(ctx context.Context, boxes []*cri.PodSandbox) error {
	w.unprobe(nil)
	for _, b := range boxes {
		if b.State == cri.PodSandboxState_SANDBOX_READY {
			if _, err := w.deps.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: b.Id}); err != nil {
				return fmt.Errorf("stop sandbox: %w", err)
			}
		}
	}
	w.deps.Network.Detach(w.rec.UID)
	w.files = nil
	return edge.At(w.deps.Places.Edges, w.rec.UID, w.rec.Addr).Destroy()
}

// end stops the containers with their grace, all at once, and removes all
// that there is of the pod.
func (w *Worker) end(ctx context.Context, boxes []*cri.PodSandbox) error {
	w.report(func(s *Status) { s.Ready = false; s.Reason = "ending" })
	w.unprobe(nil)
	list, err := w.deps.Runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{State: &cri.ContainerStateValue{State: cri.ContainerState_CONTAINER_RUNNING}, LabelSelector: map[string]string{labelUID: w.rec.UID}}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	stops := run.New(ctx)
	for _, c := range list.Containers {
		stops.Go(c.Id, func(ctx context.Context) error { return w.stop(ctx, c.Id) })
	}
	if err := stops.Wait(); err != nil {
		return err
	}
	if err := w.removeBoxes(ctx, boxes); err != nil {
		return err
	}
	w.deps.Network.Detach(w.rec.UID)
	w.deps.Admit.Forget(w.rec.UID)
	if err := errors.Join(
		edge.At(w.deps.Places.Edges, w.rec.UID, w.rec.Addr).Destroy(),
		os.RemoveAll(w.deps.Places.pod(w.rec.UID)),
		os.RemoveAll(w.rec.logs(w.deps.Places)),
	); err != nil {
		return err
	}
	w.report(func(s *Status) { s.Gone = true })
	return nil
}

func (w *Worker) removeBoxes(ctx context.Context, boxes []*cri.PodSandbox) error {
	for _, b := range boxes {
		if _, err := w.deps.Runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: b.Id}); err != nil {
			return fmt.Errorf("stop sandbox: %w", err)
		}
		if _, err := w.deps.Runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: b.Id}); err != nil {
			return fmt.Errorf("remove sandbox: %w", err)
		}
	}
	return nil
}
