// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"redoubt.dev/api/errs"
	"redoubt.dev/sandbox"
)

// tasks is containerd's Task API v3 for all containers of all pods.
type tasks struct{ pods *pods }

var _ taskapi.TTRPCTaskService = (*tasks)(nil)

// process is an exec.
type process struct {
	id   string
	spec sandbox.ProcessSpec
	std  stdio
	done chan struct{}
	exit sandbox.Exit // valid after done

	// Guarded by the container's mu.
	starting bool
	io       *ioSet          // nil before start
	p        sandbox.Process // nil before start
}

func (t *tasks) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if len(r.Rootfs) != 1 {
		return nil, rpc(&errs.Error{Kind: errs.Invalid, Subject: "container " + r.ID, Field: "rootfs", Expected: "one image mount", Seen: fmt.Sprint(len(r.Rootfs))})
	}
	if r.Checkpoint != "" {
		return nil, rpc(errs.New(errs.Unsupported, "container "+r.ID, "restore from a checkpoint"))
	}
	c, err := t.pods.add(ctx, r.ID, r.Bundle, r.Rootfs[0].Source, stdio{r.Stdin, r.Stdout, r.Stderr, r.Terminal})
	if err != nil {
		return nil, rpc(err)
	}
	pid := uint32(c.pod.info().PID)
	t.pods.publish(runtime.TaskCreateEventTopic, &eventsapi.TaskCreate{ContainerID: r.ID, Bundle: r.Bundle, Pid: pid,
		IO: &eventsapi.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}})
	return &taskapi.CreateTaskResponse{Pid: pid}, nil
}

func (t *tasks) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	pid := uint32(c.pod.info().PID)
	if r.ExecID != "" {
		p, err := c.find(r.ExecID)
		if err == nil {
			err = t.startExec(ctx, c, p)
		}
		return &taskapi.StartResponse{Pid: pid}, rpc(err)
	}
	if err := t.pods.startContainer(ctx, c); err != nil {
		return nil, rpc(err)
	}
	t.pods.publish(runtime.TaskStartEventTopic, &eventsapi.TaskStart{ContainerID: r.ID, Pid: pid})
	return &taskapi.StartResponse{Pid: pid}, nil
}

func (t *tasks) startExec(ctx context.Context, c *container, p *process) error {
	c.mu.Lock()
	again := p.starting
	p.starting = true
	c.mu.Unlock()
	if again {
		return errs.New(errs.Conflict, "exec "+p.id, "it has started before")
	}
	set, err := openIO(p.std)
	if err != nil {
		return err
	}
	defer set.donated()
	spec := p.spec
	spec.Stdio = set.guest
	running, err := c.exec(ctx, spec)
	if err != nil {
		set.close()
		return err
	}
	c.mu.Lock()
	p.p, p.io = running, set
	c.mu.Unlock()
	t.pods.group.Go("exec "+p.id, func(ctx context.Context) error {
		exit, err := running.Wait(ctx)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			exit = sandbox.Exit{Code: exitLost, At: time.Now()}
		}
		p.exit = exit
		set.drained()
		close(p.done)
		t.pods.publish(runtime.TaskExitEventTopic, &eventsapi.TaskExit{ContainerID: c.ID, ID: p.id, Pid: uint32(c.pod.info().PID), ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)})
		return nil
	})
	return nil
}

func (c *container) find(exec string) (*process, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.execs[exec]; ok {
		return p, nil
	}
	return nil, errs.New(errs.NotFound, "exec "+exec, "there is none")
}

// started gives what there is of an exec once it has started, nil before.
func (c *container) started(p *process) (sandbox.Process, *ioSet) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return p.p, p.io
}

func (t *tasks) Exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	var oci specs.Process
	if err := typeurl.UnmarshalTo(r.Spec, &oci); err != nil {
		return nil, rpc(&errs.Error{Kind: errs.Invalid, Subject: "exec " + r.ExecID, Field: "spec", Err: err})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.execs[r.ExecID]; ok {
		return nil, rpc(errs.New(errs.Exists, "exec "+r.ExecID, "it exists already"))
	}
	c.execs[r.ExecID] = &process{id: r.ExecID, spec: sandbox.ProcessSpec{OCI: &oci}, std: stdio{r.Stdin, r.Stdout, r.Stderr, r.Terminal}, done: make(chan struct{})}
	return &emptypb.Empty{}, nil
}

func (t *tasks) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	pid := uint32(c.pod.info().PID)
	if r.ExecID != "" {
		p, err := c.find(r.ExecID)
		if err != nil {
			return nil, rpc(err)
		}
		if running, set := c.started(p); running != nil {
			select {
			case <-p.done:
			default:
				return nil, rpc(errs.New(errs.Conflict, "exec "+p.id, "it still runs"))
			}
			set.close()
		}
		c.mu.Lock()
		delete(c.execs, r.ExecID)
		c.mu.Unlock()
		return &taskapi.DeleteResponse{Pid: pid, ExitStatus: uint32(p.exit.Code), ExitedAt: timestamppb.New(p.exit.At)}, nil
	}
	exit, err := t.pods.remove(ctx, c)
	if err != nil {
		return nil, rpc(err)
	}
	t.pods.publish(runtime.TaskDeleteEventTopic, &eventsapi.TaskDelete{ContainerID: r.ID, ID: r.ID, Pid: pid, ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)})
	return &taskapi.DeleteResponse{Pid: pid, ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (t *tasks) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	if r.ExecID != "" {
		p, err := c.find(r.ExecID)
		if err == nil {
			running, _ := c.started(p)
			if running == nil {
				return nil, rpc(errs.New(errs.NotFound, "exec "+r.ExecID, "it does not run"))
			}
			err = running.Signal(ctx, syscall.Signal(r.Signal))
		}
		return &emptypb.Empty{}, rpc(err)
	}
	// One that never started counts as ended: containerd kills it before it
	// deletes it, and would wait for its end.
	c.mu.Lock()
	over := c.Exit != nil || c.c == nil || !c.Started
	c.mu.Unlock()
	if over {
		return nil, rpc(errs.New(errs.NotFound, "container "+r.ID, "it does not run"))
	}
	return &emptypb.Empty{}, rpc(c.c.Signal(ctx, syscall.Signal(r.Signal), r.All))
}

func (t *tasks) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	done := c.done
	var p *process
	if r.ExecID != "" {
		if p, err = c.find(r.ExecID); err != nil {
			return nil, rpc(err)
		}
		done = p.done
	}
	select {
	case <-done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	exit := sandbox.Exit{}
	if p != nil {
		exit = p.exit
	} else {
		c.mu.Lock()
		exit = *c.Exit
		c.mu.Unlock()
	}
	return &taskapi.WaitResponse{ExitStatus: uint32(exit.Code), ExitedAt: timestamppb.New(exit.At)}, nil
}

func (t *tasks) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	resp := &taskapi.StateResponse{ID: r.ID, ExecID: r.ExecID, Bundle: c.Bundle, Pid: uint32(c.pod.info().PID), Status: task.Status_CREATED,
		Stdin: c.Stdio.Stdin, Stdout: c.Stdio.Stdout, Stderr: c.Stdio.Stderr, Terminal: c.Stdio.Terminal}
	if r.ExecID != "" {
		p, err := c.find(r.ExecID)
		if err != nil {
			return nil, rpc(err)
		}
		resp.Stdin, resp.Stdout, resp.Stderr, resp.Terminal = p.std.Stdin, p.std.Stdout, p.std.Stderr, p.std.Terminal
		select {
		case <-p.done:
			resp.Status, resp.ExitStatus, resp.ExitedAt = task.Status_STOPPED, uint32(p.exit.Code), timestamppb.New(p.exit.At)
		default:
			if running, _ := c.started(p); running != nil {
				resp.Status = task.Status_RUNNING
			}
		}
		return resp, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.Exit != nil:
		resp.Status, resp.ExitStatus, resp.ExitedAt = task.Status_STOPPED, uint32(c.Exit.Code), timestamppb.New(c.Exit.At)
	case c.Started:
		resp.Status = task.Status_RUNNING
	}
	return resp, nil
}

func (t *tasks) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	return &taskapi.PidsResponse{Processes: []*task.ProcessInfo{{Pid: uint32(c.pod.info().PID)}}}, nil
}

func (t *tasks) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	c, err := t.pods.container(r.ID)
	if err != nil {
		return nil, rpc(err)
	}
	pid := uint32(c.pod.info().PID)
	return &taskapi.ConnectResponse{ShimPid: pid, TaskPid: pid, Version: "3"}, nil
}

func (t *tasks) CloseIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	set, err := t.ioOf(r.ID, r.ExecID)
	if err == nil && r.Stdin {
		set.closeStdin()
	}
	return &emptypb.Empty{}, rpc(err)
}

func (t *tasks) ResizePty(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	set, err := t.ioOf(r.ID, r.ExecID)
	if err == nil {
		err = set.resize(r.Width, r.Height)
	}
	return &emptypb.Empty{}, rpc(err)
}

func (t *tasks) ioOf(id, exec string) (*ioSet, error) {
	c, err := t.pods.container(id)
	if err != nil || exec == "" {
		if err != nil {
			return nil, err
		}
		return c.io, nil
	}
	p, err := c.find(exec)
	if err != nil {
		return nil, err
	}
	_, set := c.started(p)
	if set == nil {
		return nil, errs.New(errs.Conflict, "exec "+exec, "it has not started")
	}
	return set, nil
}

// Shutdown is asked when a task has been deleted; the service serves others.
func (t *tasks) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func (t *tasks) Pause(context.Context, *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return nil, rpc(errs.New(errs.Unsupported, "pause", "not in this version"))
}

func (t *tasks) Resume(context.Context, *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return nil, rpc(errs.New(errs.Unsupported, "resume", "not in this version"))
}

func (t *tasks) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, rpc(errs.New(errs.Unsupported, "checkpoint", "not in this version"))
}

func (t *tasks) Update(context.Context, *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return nil, rpc(errs.New(errs.Unsupported, "update of resources", "limits are the pod's, set when it is made"))
}

func (t *tasks) Stats(context.Context, *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return nil, rpc(errs.New(errs.Unsupported, "container stats", "consumption is counted per pod"))
}

// native gives err containerd's kind; rpc gives it that of ttrpc. This is the
// one place where our kinds become containerd's.
func native(err error) error {
	kinds := map[errs.Kind]error{
		errs.NotFound: errdefs.ErrNotFound, errs.Exists: errdefs.ErrAlreadyExists, errs.Invalid: errdefs.ErrInvalidArgument,
		errs.Denied: errdefs.ErrPermissionDenied, errs.Unproven: errdefs.ErrPermissionDenied, errs.Unsupported: errdefs.ErrNotImplemented,
		errs.Unavailable: errdefs.ErrUnavailable, errs.Conflict: errdefs.ErrFailedPrecondition,
		errs.Stale: errdefs.ErrFailedPrecondition, errs.TooLarge: errdefs.ErrResourceExhausted,
	}
	var typed *errs.Error
	if errors.As(err, &typed) {
		if k, ok := kinds[typed.Kind]; ok {
			return fmt.Errorf("%w: %w", err, k)
		}
	}
	return err
}

func rpc(err error) error {
	if err == nil {
		return nil
	}
	return errgrpc.ToGRPC(native(err))
}
