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

func downCommand(a *app) *cobra.Command {
	var purge bool
	c := &cobra.Command{
		Use: "down [DIR|FILE…]", Short: "End what runs, and the node",
		Long:    "down without arguments ends all pods, the proxy and the node, and leaves no process, mount, namespace, cgroup or socket behind. What applications wrote to claimed volumes, images, keys and the audit log stay until --purge. With the paths of an earlier up it ends those alone.",
		Example: "  redoubt down\n  redoubt down examples/bank/deploy\n  redoubt down --purge",
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			var in control.Down
			for _, p := range args {
				p, err := filepath.Abs(p)
				if err != nil {
					return err
				}
				in.Paths = append(in.Paths, p)
			}
			if purge && len(args) > 0 {
				return usage("--purge is for everything, not for paths")
			}
			err := a.client().Call(ctx, "down", in, nil)
			if errors.Is(err, errs.Unavailable) && len(args) == 0 {
				// A node that was killed leaves pods: only a node can end them.
				if _, serr := os.Stat(a.state); serr == nil {
					if _, err = a.ensureNode(ctx); err == nil {
						err = a.client().Call(ctx, "down", in, nil)
					}
				} else {
					a.say("nothing runs")
					err = nil
				}
			}
			if err != nil {
				return err
			}
			if len(args) > 0 {
				return a.print(struct{}{}, func() { fmt.Println("going down") })
			}
			if err := a.left(ctx); err != nil {
				return err
			}
			if purge {
				if err := a.purge(); err != nil {
					return err
				}
			}
			return a.print(struct{}{}, func() { fmt.Println("down") })
		},
	}
	c.Flags().BoolVar(&purge, "purge", false, "remove volumes, images, keys and the audit log too; they do not come back")
	return c
}

// left waits until the node has removed its sockets, which it does last.
func (a *app) left(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(a.state); errors.Is(err, os.ErrNotExist) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return &errs.Error{Kind: errs.Unavailable, Subject: "node", Expected: "that it leaves", Seen: a.state + " is still there", Fix: "see " + filepath.Join(a.root, "node.log")}
		}
	}
}

// kept is all that a node makes below its root directory.
var kept = []string{"audit", "containerd", "identity", "images", "logs", "node", "node.log", "registry", "signing", "volumes"}

// purge removes what a node made, by name: a root directory that was named by
// mistake loses nothing else.
func (a *app) purge() error {
	for _, name := range kept {
		if err := os.RemoveAll(filepath.Join(a.root, name)); err != nil {
			return err
		}
	}
	if err := os.Remove(a.root); err != nil && !errors.Is(err, os.ErrNotExist) {
		a.say("kept %s: %v", a.root, err)
	}
	return nil
}
