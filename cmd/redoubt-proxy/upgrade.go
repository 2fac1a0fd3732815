// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/handover"
	"redoubt.dev/proxy/serve"
)

// upgrade says how one process follows another.
type upgrade struct{ socket, allow string }

// join asks the process that serves, if there is one, to let this one succeed
// it. nil: there is none.
func (u upgrade) join(log *slog.Logger) (*serve.Inheritance, error) {
	if u.socket == "" {
		return nil, nil
	}
	p, f, err := handover.Join(u.socket, 30*time.Second)
	if errors.Is(err, handover.ErrNobody) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("take over from the serving proxy: %w", err)
	}
	in, err := serve.Inherit(p, f)
	if err != nil {
		p.Close()
		return nil, err
	}
	engine.Continue(in.Base())
	log.Info("succeeding the serving proxy", "pid", p.Peer.PID)
	return in, nil
}

// life is what a server does beside serving, from its first configuration on.
type life struct {
	s       *serve.Server
	up      upgrade
	in      *serve.Inheritance
	log     *slog.Logger
	admin   string
	drain   time.Duration
	dynamic bool
	once    sync.Once
	open    sync.Once
}

func (l *life) openAdmin() {
	if l.admin == "" {
		return
	}
	l.open.Do(func() {
		l.s.Go("admin", func(ctx context.Context) error { return l.s.Admin(ctx, l.admin) })
	})
}

// begin is called with each configuration in force.
func (l *life) begin() {
	l.once.Do(func() {
		if l.up.socket != "" {
			l.s.Go("upgrade", l.run)
		}
	})
}

// run takes over, if there is a predecessor, and then lets successors in.
func (l *life) run(ctx context.Context) error {
	var k *handover.Keeper
	take := func() (err error) {
		l.openAdmin()
		k, err = handover.Listen(l.up.socket, l.up.allow, l.log)
		return err
	}
	if l.in == nil {
		if err := take(); err != nil {
			return err
		}
	} else {
		if err := l.s.TakeOver(ctx, l.dynamic, take); err != nil {
			return err
		}
		l.s.Go("farewell", func(ctx context.Context) error { l.s.Bye(ctx, l.drain+time.Minute); return nil })
	}
	return k.Run(ctx, l.s.HandOver)
}
