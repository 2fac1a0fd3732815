// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/core/sandbox"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	"github.com/containerd/typeurl/v2"
	imagespec "github.com/opencontainers/image-spec/specs-go/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// controller is containerd's sandbox controller (Sandbox API v1), in-process.
type controller struct {
	pods    *pods
	address string // of the task service
}

var _ sandbox.Controller = (*controller)(nil)

// taskVersion 3 tells containerd that the task service speaks the Sandbox
// API, so that it starts no shim binary.
const taskVersion = 3

func (c *controller) Create(_ context.Context, info sandbox.Sandbox, opts ...sandbox.CreateOpt) error {
	var o sandbox.CreateOptions
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return err
		}
	}
	if o.Options == nil {
		return fmt.Errorf("sandbox %s has no pod configuration: %w", info.ID, errdefs.ErrInvalidArgument)
	}
	var cfg cri.PodSandboxConfig
	if err := typeurl.UnmarshalTo(o.Options, &cfg); err != nil {
		return fmt.Errorf("decode pod configuration: %w", err)
	}
	return native(c.pods.create(info.ID, cfg.GetMetadata().GetUid()))
}

func (c *controller) Start(ctx context.Context, id string) (sandbox.ControllerInstance, error) {
	p, err := c.pods.get(id)
	if err == nil {
		err = c.pods.boot(ctx, p)
	}
	if err != nil {
		c.pods.mu.Lock()
		delete(c.pods.byID, id)
		c.pods.mu.Unlock()
		return sandbox.ControllerInstance{}, native(err)
	}
	return sandbox.ControllerInstance{SandboxID: id, Pid: uint32(p.info().PID), CreatedAt: p.Created, Address: c.address, Version: taskVersion}, nil
}

func (c *controller) Platform(context.Context, string) (imagespec.Platform, error) {
	return platforms.DefaultSpec(), nil
}

// Stop ends the sandbox with all that runs in it; containers had their grace
// before, from whoever asks.
func (c *controller) Stop(ctx context.Context, id string, _ ...sandbox.StopOpt) error {
	p, err := c.pods.get(id)
	if err != nil {
		return nil
	}
	p.mu.Lock()
	sb := p.sb
	p.mu.Unlock()
	if sb == nil {
		return nil
	}
	if err := sb.Destroy(ctx); err != nil {
		return native(err)
	}
	select {
	case <-p.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *controller) Wait(ctx context.Context, id string) (sandbox.ExitStatus, error) {
	p, err := c.pods.get(id)
	if err != nil {
		return sandbox.ExitStatus{}, native(err)
	}
	select {
	case <-p.done:
		p.mu.Lock()
		defer p.mu.Unlock()
		return sandbox.ExitStatus{ExitedAt: p.exited}, nil
	case <-ctx.Done():
		return sandbox.ExitStatus{}, ctx.Err()
	}
}

func (c *controller) Status(_ context.Context, id string, _ bool) (sandbox.ControllerStatus, error) {
	p, err := c.pods.get(id)
	if err != nil {
		// Asked for a sandbox that is gone, containerd wants its end, not an error.
		return sandbox.ControllerStatus{SandboxID: id, ExitedAt: time.Now()}, nil
	}
	state := cri.PodSandboxState_SANDBOX_READY.String()
	if !p.running() {
		state = cri.PodSandboxState_SANDBOX_NOTREADY.String()
	}
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	return sandbox.ControllerStatus{SandboxID: id, Pid: uint32(p.info().PID), State: state, CreatedAt: p.Created, ExitedAt: exited, Address: c.address, Version: taskVersion}, nil
}

func (c *controller) Shutdown(ctx context.Context, id string) error {
	return native(c.pods.destroy(ctx, id))
}

func (c *controller) Metrics(context.Context, string) (*types.Metric, error) {
	return nil, fmt.Errorf("sandbox metrics: %w", errdefs.ErrNotImplemented)
}

// Update is asked when labels or annotations of a sandbox change: nothing of
// ours depends on them.
func (c *controller) Update(context.Context, string, sandbox.Sandbox, ...string) error { return nil }
