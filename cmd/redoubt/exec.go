// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"redoubt.dev/node/control"
)

func execCommand(a *app) *cobra.Command {
	in := control.Exec{}
	c := &cobra.Command{
		Use: "exec POD -- COMMAND [ARG…]", Short: "Run a command in a container", Args: cobra.MinimumNArgs(2),
		Long:    "exec runs a command in a running container, with this terminal's input and output, and ends with its exit code. It is on the audit log.",
		Example: "  redoubt exec bank/ledger-0 -- uname -a\n  redoubt exec -t shell -- /bin/sh",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Pod, in.Command = args[0], args[1:]
			var code int
			var err error
			if in.Terminal {
				t, terr := openTerminal()
				if terr != nil {
					return terr
				}
				code, err = a.client().Exec(cmd.Context(), in, t.replicas())
				t.close()
			} else {
				code, err = a.execPiped(cmd.Context(), in)
			}
			if err == nil && code != 0 {
				err = exitCode(code)
			}
			return err
		},
	}
	c.Flags().StringVarP(&in.Container, "container", "c", "", "`name` of the container; the first when not given")
	c.Flags().BoolVarP(&in.Terminal, "terminal", "t", false, "give the command a terminal")
	c.Flags().SetInterspersed(true)
	return c
}

// drainTime is how long output is awaited after the command has ended: a
// process that it left behind may hold the pipe.
const drainTime = time.Second

// execPiped gives the command pipes for output. A file cannot be handed over:
// the sandbox would write from its own offset, over what is there.
func (a *app) execPiped(ctx context.Context, in control.Exec) (int, error) {
	stdio := [3]*os.File{os.Stdin, nil, nil}
	done := make(chan error, 2)
	for i, to := range []*os.File{os.Stdout, os.Stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			return 0, err
		}
		defer r.Close()
		stdio[i+1] = w
		go func() {
			_, err := io.Copy(to, r)
			done <- err
		}()
	}
	code, err := a.client().Exec(ctx, in, stdio)
	stdio[1].Close()
	stdio[2].Close()
	late := time.After(drainTime)
	for range 2 {
		select {
		case cerr := <-done:
			err = errors.Join(err, cerr)
		case <-late:
			return code, err
		}
	}
	return code, err
}
