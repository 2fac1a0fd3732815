// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd/server"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/base/run"
	"redoubt.dev/sandbox"
)

// Engine runs pods. Make one with New; there can be one per process, since
// containerd's plugins are registered per process.
type Engine struct {
	cfg    Config
	driver sandbox.Driver
	admit  Admission
	log    *slog.Logger
	pods   *pods
	conn   *grpc.ClientConn
	ready  chan struct{} // closed when CRI answers
}

// New makes an engine that starts nothing yet.
func New(cfg Config, d sandbox.Driver, a Admission, log *slog.Logger) (*Engine, error) {
	for _, dir := range []string{cfg.Root, cfg.State, filepath.Join(cfg.State, "pods"), filepath.Join(cfg.hostsDir(), "_default")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make engine directory: %w", err)
		}
	}
	hosts := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", cfg.Mirror, cfg.Mirror)
	if err := os.WriteFile(filepath.Join(cfg.hostsDir(), "_default", "hosts.toml"), []byte(hosts), 0o600); err != nil {
		return nil, fmt.Errorf("write registry hosts: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+cfg.Socket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("make CRI client: %w", err)
	}
	e := &Engine{cfg: cfg, driver: d, admit: a, log: log, conn: conn, ready: make(chan struct{})}
	e.pods = newPods(filepath.Join(cfg.State, "pods"), d, a, log)
	return e, nil
}

// Run adopts what runs, serves until ctx ends, and leaves pods running. It may
// be called once.
func (e *Engine) Run(ctx context.Context) error {
	defer e.conn.Close()
	l, err := listen(e.cfg.taskSocket())
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return err
	}
	tasks := &tasks{pods: e.pods}
	taskapi.RegisterTTRPCTaskService(srv, tasks)

	g := run.New(ctx)
	// Before containerd loads: it asks the task service for the tasks it had.
	e.pods.start(g)
	if err := e.pods.adopt(ctx); err != nil {
		g.Stop()
		return errors.Join(err, g.Wait(), l.Close())
	}
	g.Go("task service", func(ctx context.Context) error {
		if err := srv.Serve(context.WithoutCancel(ctx), l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go("containerd", func(ctx context.Context) error {
		defer srv.Close()
		return e.serve(ctx)
	})
	return g.Wait()
}

func (e *Engine) serve(ctx context.Context) error {
	register(e)
	if err := log.SetLevel("warn"); err != nil {
		return err
	}
	cfg := e.cfg.containerd()
	if err := server.CreateTopLevelDirectories(cfg); err != nil {
		return fmt.Errorf("make containerd directories: %w", err)
	}
	srv, err := server.New(context.WithoutCancel(ctx), cfg)
	if err != nil {
		return fmt.Errorf("start containerd: %w", err)
	}
	if err := srv.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("serve containerd: %w", err)
	}
	srv.Wait()
	close(e.ready)
	<-ctx.Done()
	// Not srv.Stop: it would close the shims' connections, which containerd
	// takes for the death of all pods. The process ends soon.
	return nil
}

// Ready waits until CRI answers or ctx ends.
func (e *Engine) Ready(ctx context.Context) error {
	select {
	case <-e.ready:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Runtime and Images are clients of the private CRI socket.
func (e *Engine) Runtime() cri.RuntimeServiceClient { return cri.NewRuntimeServiceClient(e.conn) }

// Images is the client of the CRI image service.
func (e *Engine) Images() cri.ImageServiceClient { return cri.NewImageServiceClient(e.conn) }

// Sandbox tells of the sandbox of a pod; kind NotFound when none runs.
func (e *Engine) Sandbox(uid string) (id string, info sandbox.Info, err error) {
	p, err := e.pods.byUID(uid)
	if err != nil {
		return "", sandbox.Info{}, err
	}
	return p.ID, p.info(), nil
}

// Exec starts a process in a running container, named by its CRI ID.
func (e *Engine) Exec(ctx context.Context, container string, spec sandbox.ProcessSpec) (sandbox.Process, error) {
	c, err := e.pods.container(container)
	if err != nil {
		return nil, err
	}
	return c.exec(ctx, spec)
}

// Spec gives the process that a container was made with; exec starts from it.
func (e *Engine) Spec(container string) (sandbox.ContainerSpec, error) {
	c, err := e.pods.container(container)
	if err != nil {
		return sandbox.ContainerSpec{}, err
	}
	return c.spec, nil
}

func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}
