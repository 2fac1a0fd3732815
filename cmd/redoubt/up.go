// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

func upCommand(a *app) *cobra.Command {
	var detach, noWait bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "up DIR|FILE…", Short: "Run the manifests, and go on as they change",
		Long:    "up checks the manifests, starts the node when none runs, and shows progress until all pods are ready. In the foreground it then waits, and takes down what it brought up when it is interrupted. Changed files take effect by themselves.",
		Example: "  redoubt up examples/bank/deploy\n  redoubt up -d app.yaml policies/",
		Args:    cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.up(cmd.Context(), args, detach, noWait, timeout)
		},
	}
	c.Flags().BoolVarP(&detach, "detach", "d", false, "return when all is ready, and leave it running")
	c.Flags().BoolVar(&noWait, "no-wait", false, "with -d: return when the manifests are accepted")
	c.Flags().DurationVar(&timeout, "timeout", 5*time.Minute, "how long to wait until all is ready")
	return c
}

func absolute(paths []string) (out []string, err error) {
	for _, p := range paths {
		p, err := filepath.Abs(p)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(p); err != nil {
			return nil, &errs.Error{Kind: errs.NotFound, Subject: p, Err: err}
		}
		out = append(out, p)
	}
	return out, nil
}

func (a *app) up(ctx context.Context, args []string, detach, noWait bool, timeout time.Duration) error {
	paths, err := absolute(args)
	if err != nil {
		return err
	}
	if _, err := a.ensureNode(ctx); err != nil {
		return err
	}
	var ed control.Upped
	if err := a.client().Call(ctx, "up", control.Up{Paths: paths}, &ed); err != nil {
		return err
	}
	a.say("accepted %d objects as %s", len(ed.Objects), ed.Set)
	if detach && noWait {
		return a.print(ed, func() {})
	}
	st, err := a.await(ctx, timeout)
	if ctx.Err() == nil {
		if err != nil {
			return err
		}
		if err := a.print(st, func() { showStatus(st) }); err != nil || detach {
			return err
		}
		a.say("running; interrupt to take it down")
		<-ctx.Done()
	} else if detach {
		return ctx.Err()
	}
	a.say("taking %s down …", ed.Set)
	dctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Minute)
	defer cancel()
	return a.client().Call(dctx, "down", control.Down{Paths: paths}, nil)
}

// say tells a person what goes on; it is silent for programs.
func (a *app) say(format string, args ...any) {
	if a.output == "text" {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

// await shows progress until all is ready.
func (a *app) await(ctx context.Context, timeout time.Duration) (st control.Status, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("not ready in "+timeout.String()))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	shown := map[string]string{}
	for {
		if err := a.client().Call(ctx, "status", struct{}{}, &st); err != nil {
			if ctx.Err() != nil {
				return st, late(ctx, st)
			}
			return st, err
		}
		for _, p := range st.Pods {
			line := fmt.Sprintf("%s/%s: %s", p.Namespace, p.Name, phase(p))
			if p.Reason != "" {
				line += ": " + p.Reason
			}
			if shown[p.UID] != line {
				a.say("  %s", line)
				shown[p.UID] = line
			}
		}
		if st.Ready {
			return st, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return st, late(ctx, st)
		}
	}
}

// late says what was not ready when ctx ended.
func late(ctx context.Context, st control.Status) error {
	return &errs.Error{Kind: errs.Unavailable, Subject: "pods", Expected: "that all are ready", Seen: notReady(st), Fix: "see redoubt status and redoubt logs", Err: context.Cause(ctx)}
}

func phase(p control.Pod) string {
	if p.Ready {
		return "ready"
	}
	return p.Phase
}

func notReady(st control.Status) string {
	out := ""
	for _, p := range st.Pods {
		if !p.Ready {
			out += fmt.Sprintf("%s/%s (%s) ", p.Namespace, p.Name, p.Reason)
		}
	}
	return out
}
