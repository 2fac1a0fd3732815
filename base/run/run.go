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
	"os"
	"os/signal"
	"sort"
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
	wg     sync.WaitGroup

	mu    sync.Mutex
	live  map[string]int
	first error
}

// Option changes a Group.
type Option func(*Group)

// Grace bounds how long Wait waits for tasks after the end was asked for;
// zero, the default, means without bound.
func Grace(d time.Duration) Option { return func(g *Group) { g.grace = d } }

// New makes a Group whose tasks end when ctx does.
func New(ctx context.Context, opts ...Option) *Group {
	g := &Group{live: map[string]int{}}
	g.ctx, g.cancel = context.WithCancelCause(ctx)
	for _, o := range opts {
		o(g)
	}
	return g
}

// Context is what the group's tasks are given.
func (g *Group) Context() context.Context { return g.ctx }

// Go starts a task. A nil return ends that task alone; an error that is not
// the context's own ends all.
func (g *Group) Go(name string, f func(context.Context) error) {
	g.mu.Lock()
	g.live[name]++
	g.mu.Unlock()
	g.wg.Go(func() {
		err := f(g.ctx)
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.live[name]--; g.live[name] == 0 {
			delete(g.live, name)
		}
		if err != nil && !(g.ctx.Err() != nil && errors.Is(err, context.Canceled)) && g.first == nil {
			g.first = fmt.Errorf("%s: %w", name, err)
			g.cancel(g.first)
		}
	})
}

// Stop asks all tasks to end.
func (g *Group) Stop() { g.cancel(context.Canceled) }

// Wait returns when all tasks have ended, with the first failure.
func (g *Group) Wait() error {
	done := make(chan struct{})
	go func() { g.wg.Wait(); close(done) }()
	if g.grace > 0 {
		select {
		case <-done:
		case <-g.ctx.Done():
			t := time.NewTimer(g.grace)
			defer t.Stop()
			select {
			case <-done:
			case <-t.C:
				g.mu.Lock()
				defer g.mu.Unlock()
				names := make([]string, 0, len(g.live))
				for n := range g.live {
					names = append(names, n)
				}
				sort.Strings(names)
				return errors.Join(g.first, fmt.Errorf("still running %s after the end was asked for: %s", g.grace, strings.Join(names, ", ")))
			}
		}
	}
	<-done
	g.cancel(nil)
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.first
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
