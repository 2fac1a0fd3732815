// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"

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
			stdio := [3]*os.File{os.Stdin, os.Stdout, os.Stderr}
			if in.Terminal {
				t, err := openTerminal()
				if err != nil {
					return err
				}
				defer t.close()
				stdio = t.replicas()
			}
			code, err := a.client().Exec(cmd.Context(), in, stdio)
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
