// SPDX-License-Identifier: Apache-2.0

package run_test

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"redoubt.dev/base/run"
)

var errBroken = errors.New("broken")

func ends(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }

func TestFirstFailureEndsAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context())
		var cause error
		g.Go("good", func(context.Context) error { return nil })
		g.Go("other", func(ctx context.Context) error { <-ctx.Done(); cause = context.Cause(ctx); return errors.New("late") })
		g.Go("bad", func(context.Context) error { return errBroken })
		err := g.Wait()
		if !errors.Is(err, errBroken) || !strings.HasPrefix(err.Error(), "bad: ") {
			t.Errorf("Wait: %v", err)
		}
		if !errors.Is(cause, errBroken) {
			t.Errorf("the others' cause: %v", cause)
		}
		if again := g.Wait(); again != err {
			t.Errorf("Wait again: %v", again)
		}
	})
}

// The context's own error is not a failure, whatever ended the context.
func TestEndIsNoFailure(t *testing.T) {
	stopped := func(ctx context.Context) (context.Context, func()) {
		c, cancel := context.WithCancel(ctx)
		return c, cancel
	}
	for name, make := range map[string]func(context.Context) (context.Context, func()){
		"cancel": stopped,
		"cause": func(ctx context.Context) (context.Context, func()) {
			c, cancel := context.WithCancelCause(ctx)
			return c, func() { cancel(errBroken) }
		},
		"deadline": func(ctx context.Context) (context.Context, func()) {
			c, cancel := context.WithTimeout(ctx, time.Second)
			t.Cleanup(cancel)
			return c, func() {}
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			ctx, end := make(t.Context())
			g := run.New(ctx)
			g.Go("a", ends)
			g.Go("b", func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) })
			synctest.Wait()
			end()
			if err := g.Wait(); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context())
		g.Go("a", ends)
		g.Stop()
		if err := g.Wait(); err != nil {
			t.Errorf("Stop: %v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context())
		g.Go("a", func(context.Context) error { return context.Canceled })
		if err := g.Wait(); !errors.Is(err, context.Canceled) {
			t.Errorf("a task that was canceled by somebody else: %v, want its error", err)
		}
	})
}

func TestGraceNamesWhoStays(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context(), run.Grace(3*time.Second))
		free := make(chan struct{})
		g.Go("deaf", func(context.Context) error { <-free; return nil })
		g.Go("deaf", func(context.Context) error { <-free; return nil })
		g.Go("mute", func(context.Context) error { <-free; return nil })
		g.Go("good", ends)
		g.Go("bad", func(ctx context.Context) error { return errBroken })
		began := time.Now()
		err := g.Wait()
		if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), ": deaf, mute") || time.Since(began) != 3*time.Second {
			t.Errorf("after %s: %v", time.Since(began), err)
		}
		close(free)
		synctest.Wait()
	})
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context(), run.Grace(3*time.Second))
		g.Go("slow", func(ctx context.Context) error {
			<-ctx.Done()
			<-time.After(2 * time.Second)
			return nil
		})
		g.Stop()
		if err := g.Wait(); err != nil {
			t.Errorf("a task that ends in time: %v", err)
		}
	})
}

// A task may start others, also when it is the last one; nothing starts once
// nobody waits.
func TestTasksThatStartTasks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := run.New(t.Context())
		var n atomic.Int32
		var next func(context.Context) error
		next = func(context.Context) error {
			if n.Add(1) < 100 {
				g.Go("next", next)
			}
			return nil
		}
		g.Go("first", next)
		if err := g.Wait(); err != nil || n.Load() != 100 {
			t.Errorf("%d tasks, %v", n.Load(), err)
		}
		g.Go("late", next)
		synctest.Wait()
		if n.Load() != 100 {
			t.Error("a task started after Wait had returned")
		}
	})
}

func TestWaitOfNone(t *testing.T) {
	if err := run.New(t.Context()).Wait(); err != nil {
		t.Error(err)
	}
}

// Go and Wait from everywhere at once: for the race detector.
func TestConcurrent(t *testing.T) {
	g := run.New(t.Context(), run.Grace(time.Minute))
	for range 50 {
		g.Go("outer", func(context.Context) error {
			g.Go("inner", func(context.Context) error { return nil })
			return nil
		})
		go g.Wait() //nolint:errcheck // ended by the one below
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

func TestMain_(t *testing.T) {
	quiet, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer quiet.Close()
	old := os.Stderr
	os.Stderr = quiet
	defer func() { os.Stderr = old }()
	guard := make(chan os.Signal, 1) // so that a signal too many does not end the test
	signal.Notify(guard, syscall.SIGTERM)
	defer signal.Stop(guard)
	for _, c := range []struct {
		name string
		f    func(context.Context) error
		want int
	}{
		{"done", func(context.Context) error { return nil }, 0},
		{"failed", func(context.Context) error { return errBroken }, 1},
		{"canceled by nobody", func(context.Context) error { return context.Canceled }, 1},
		{"asked to end", func(ctx context.Context) error {
			if err := syscall.Kill(os.Getpid(), syscall.SIGTERM); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}, 0},
	} {
		if got := run.Main(c.f); got != c.want {
			t.Errorf("%s: code %d, want %d", c.name, got, c.want)
		}
	}
}
