// SPDX-License-Identifier: Apache-2.0

// Package run is the only supervisor: named tasks that start together, end
// together, and are waited for.
//
// The first task that fails cancels the others with its error as cause. Wait
// returns after every task has ended, or, when a grace is set, at most that
// long after the cancellation, naming the tasks that did not end.
package run

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Group runs named tasks.
type Group struct {
	ctx    context.Context
	cancel context.CancelCauseFunc
	grace  time.Duration

	mu    sync.Mutex
	live  map[string]int // running tasks by name
	idle  chan struct{}  // closed while live is empty
	over  bool           // Wait has seen the end of all tasks
	first error
}

// Option changes a Group.
type Option func(*Group)

// Grace bounds how long Wait waits for tasks after the end was asked for;
// zero, the default, means without bound.
func Grace(d time.Duration) Option { return func(g *Group) { g.grace = d } }

// New makes a Group whose tasks end when ctx does.
func New(ctx context.Context, opts ...Option) *Group {
	g := &Group{live: map[string]int{}, idle: make(chan struct{})}
	close(g.idle)
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	for _, o := range opts {
		o(g)
	}
	return g
}

// Context is what the group's tasks are given.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts a task. A nil return ends that task alone; an error that is not
// the context's own ends all. A task may start others. Once Wait has returned
// nobody would wait for a new task, and Go starts none.
func (g *Group) Go(name string, f func(context.Context) error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.over {
		return
	}
	if len(g.live) == 0 {
		g.idle = make(chan struct{})
	}
	g.live[name]++
	go func() { g.ended(name, f(g.ctx)) }()
}

func (g *Group) ended(name string, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil && !g.ownLocked(err) && g.first == nil {
		g.first = fmt.Errorf("%s: %w", name, err)
		g.cancel(g.first)
	}
	if g.live[name]--; g.live[name] == 0 {
		delete(g.live, name)
	}
	if len(g.live) == 0 {
		close(g.idle)
	}
}

// ownLocked tells whether err only repeats that the group was asked to end.
func (g *Group) ownLocked(err error) bool {
	return g.ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, g.ctx.Err()) || errors.Is(err, context.Cause(g.ctx)))
}

// Stop asks all tasks to end.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait returns when all tasks have ended, with the first failure.
func (g *Group) Wait() error {
	var late <-chan time.Time // nil: without bound
	asked := g.ctx.Done()
	if g.grace <= 0 {
		asked = nil
	}
	for {
		g.mu.Lock()
		idle := g.idle
		if len(g.live) == 0 {
			g.over = true
			defer g.mu.Unlock()
			g.cancel(nil)
			return g.first
		}
		g.mu.Unlock()
		select {
		case <-idle: // unless a task was started since
		case <-asked:
			t := time.NewTimer(g.grace)
			defer t.Stop()
			late, asked = t.C, nil
		case <-late:
			return g.stuck()
		}
	}
}

// stuck names the tasks that did not end within the grace.
func (g *Group) stuck() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	names := slices.Sorted(maps.Keys(g.live))
	if len(names) == 0 {
		return g.first
	}
	return errors.Join(g.first, fmt.Errorf("still running %s after the end was asked for: %s", g.grace, strings.Join(names, ", ")))
}

// Main runs f until it returns or the process is asked to end by SIGINT or
// SIGTERM; a second signal ends the process at once. It gives the exit code: 0, or 1
// after printing the error.
func Main(f func(context.Context) error) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop)
	if err := f(ctx); err != nil && !(ctx.Err() != nil && errors.Is(err, context.Canceled)) {
		fmt.Fprintln(os.Stderr, "error:", err)
		return 1
	}
	return 0
}
