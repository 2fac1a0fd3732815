// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// maxControllers bounds control connections: the node's, and that of a node
// which replaces it.
const maxControllers = 4

// control serves the node on the unix socket. Who may write snapshots decides
// everything, so the peer's user is asked of the kernel, besides the socket's
// mode.
func (p *Proxy) control(ctx context.Context) error {
	ln, err := listenUnix(p.cfg.Control, 0o600)
	if err != nil {
		return fmt.Errorf("open control socket: %w", err)
	}
	context.AfterFunc(ctx, func() { ln.Close() })
	slots := make(chan struct{}, maxControllers)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := ln.AcceptUnix()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("accept on control socket: %w", err)
		}
		if uid, err := peerUID(c); err != nil || uid != 0 && uid != os.Getuid() {
			p.log.Warn("control connection refused", "uid", uid, "err", err)
			c.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			p.log.Warn("control connection refused: too many")
			c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-slots }()
			stop := context.AfterFunc(ctx, func() { c.Close() })
			defer stop()
			defer c.Close()
			if err := p.serve(c); err != nil && ctx.Err() == nil {
				p.log.Warn("control connection ended", "err", err)
			}
		})
	}
}

// serve takes snapshots from one connection and answers each.
func (p *Proxy) serve(c io.ReadWriter) error {
	var last uint64
	for {
		f, err := wire.ReadFrame(c)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.Snapshot == nil {
			return &errs.Error{Kind: errs.Invalid, Subject: "control frame", Expected: "a snapshot"}
		}
		ack := &wire.Ack{Version: f.Snapshot.Version}
		if ack.Version <= last {
			err = &errs.Error{Kind: errs.Stale, Subject: "snapshot", Field: "version", Expected: fmt.Sprintf("above %d", last), Seen: fmt.Sprint(ack.Version)}
		} else {
			err = p.Apply(f.Snapshot)
		}
		if err != nil {
			ack.Error = err.Error()
			p.log.Error("snapshot refused; the last good one stays", "version", ack.Version, "err", err)
		} else {
			last = ack.Version
			p.log.Info("snapshot in force", "version", ack.Version, "pods", len(f.Snapshot.Pods), "services", len(f.Snapshot.Services))
		}
		if err := wire.WriteFrame(c, &wire.Frame{Ack: ack}); err != nil {
			return err
		}
	}
}

// listenUnix listens on path. A socket that a dead process left is replaced;
// one that answers is not.
func listenUnix(path string, mode os.FileMode) (*net.UnixListener, error) {
	addr := &net.UnixAddr{Name: path, Net: "unix"}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, &errs.Error{Kind: errs.Exists, Subject: path, Expected: "a socket or nothing"}
		}
		if c, err := net.DialUnix("unix", nil, addr); err == nil {
			c.Close()
			return nil, &errs.Error{Kind: errs.Exists, Subject: path, Expected: "no other proxy", Seen: "one that answers"}
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	// Between bind and chmod the directory's mode protects the socket.
	ln, err := net.ListenUnix("unix", addr)
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, mode); err != nil {
		ln.Close()
		return nil, err
	}
	return ln, nil
}
