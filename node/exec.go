// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net"
	"os"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/node/control"
	"redoubt.dev/sandbox"
)

// serveExec answers redoubt exec: a request with three descriptors, which
// become the process's own. No byte of its input or output passes the node.
func (n *Node) serveExec(ctx context.Context, l *net.UnixListener) error {
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	g := run.New(ctx)
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			g.Stop()
			werr := g.Wait()
			if ctx.Err() != nil {
				return nil
			}
			return errors.Join(err, werr)
		}
		g.Go("exec", func(ctx context.Context) error {
			defer c.Close()
			out := control.Exited{}
			code, err := n.execOne(ctx, c)
			if out.Code = code; err != nil {
				out.Error = control.Wire(err)
			}
			_ = json.NewEncoder(c).Encode(out) // the client is gone: nobody to tell
			return nil
		})
	}
}

func (n *Node) execOne(ctx context.Context, c *net.UnixConn) (int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) }) // a client that says nothing holds nothing up
	defer stop()
	buf, oob := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(3*4))
	size, oobn, flags, _, err := c.ReadMsgUnix(buf, oob)
	if err != nil {
		return 0, err
	}
	stdio, err := descriptors(oob[:oobn])
	defer func() {
		for _, f := range stdio {
			if f != nil {
				f.Close()
			}
		}
	}()
	var e control.Exec
	if err == nil && flags&unix.MSG_CTRUNC == 0 {
		err = strictly(bytes.NewReader(buf[:size]), &e)
	}
	if err != nil || len(e.Command) == 0 {
		return 0, &errs.Error{Kind: errs.Invalid, Subject: "exec", Expected: "one request with a command and three descriptors", Err: err}
	}
	id, subject, err := n.running(ctx, e.Pod, e.Container)
	if err != nil {
		return 0, err
	}
	// What is run inside a bank's pod is on record before it runs.
	if err := n.audit.Write(obs.Record{Action: "exec", Subject: "redoubt exec", Object: subject, Decision: obs.Permit, Reason: "asked on the node's own socket"}); err != nil {
		return 0, err
	}
	p, err := n.process(ctx, id, e.Command, e.Terminal, stdio)
	if err != nil {
		return 0, err
	}
	// The client leaves, or the node does: the process ends. One that has ended
	// gets no signal: its number may be another's by now.
	var ended atomic.Bool
	left := make(chan struct{})
	go func() {
		defer close(left)
		if _, _ = c.Read(buf[:1]); !ended.Load() {
			_ = p.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
		}
	}()
	exit, err := p.Wait(ctx)
	ended.Store(err == nil)
	_ = c.SetReadDeadline(time.Unix(1, 0))
	<-left
	return exit.Code, err
}

func descriptors(oob []byte) (out [3]*os.File, err error) {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return out, err
	}
	var fds []int
	for i := range msgs {
		more, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return out, err
		}
		fds = append(fds, more...)
	}
	for i, fd := range fds {
		if i < 3 {
			out[i] = os.NewFile(uintptr(fd), "stdio")
		} else {
			unix.Close(fd)
		}
	}
	if len(fds) != 3 {
		return out, errors.New("three descriptors are needed")
	}
	return out, nil
}

// running gives the CRI ID of a running container.
func (n *Node) running(ctx context.Context, podName, name string) (id, subject string, err error) {
	var ferr error
	err = n.ask(ctx, func(w *world) {
		p, err := w.find(podName)
		if err != nil {
			ferr = err
			return
		}
		c, err := container(p, name)
		if err == nil && c.State != "running" {
			err = &errs.Error{Kind: errs.Conflict, Subject: "container " + c.Name + " of pod " + p.Record().Name(), Expected: "that it runs", Seen: c.State + " " + c.Reason}
		}
		id, subject, ferr = c.ID, p.Record().Name()+"/"+c.Name, err
	})
	return id, subject, errors.Join(err, ferr)
}

// process starts a command with the environment, user and directory of the
// container's own process.
func (n *Node) process(ctx context.Context, id string, command []string, terminal bool, stdio [3]*os.File) (sandbox.Process, error) {
	spec, err := n.engine.Spec(id)
	if err != nil {
		return nil, err
	}
	oci := *spec.OCI.Process
	oci.Args, oci.Terminal, oci.CommandLine = slices.Clone(command), terminal, ""
	return n.engine.Exec(ctx, id, sandbox.ProcessSpec{OCI: &oci, Stdio: stdio})
}

// probeExec runs a probe's command and gives its exit code.
func (n *Node) probeExec(ctx context.Context, id string, command []string) (int, error) {
	p, err := n.process(ctx, id, command, false, [3]*os.File{})
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait(ctx)
	if err != nil {
		_ = p.Signal(context.WithoutCancel(ctx), syscall.SIGKILL)
	}
	return exit.Code, err
}
