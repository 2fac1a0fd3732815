// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"

	"github.com/spf13/cobra"

	"redoubt.dev/node/control"
)

func logsCommand(a *app) *cobra.Command {
	in := control.Logs{}
	c := &cobra.Command{
		Use: "logs POD", Short: "Show what a container wrote", Args: cobra.ExactArgs(1),
		Example: "  redoubt logs -f bank/ledger-0\n  redoubt logs teller -c teller --tail 20",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Pod = args[0]
			body, err := a.client().Stream(cmd.Context(), "logs", in)
			if err != nil {
				return err
			}
			defer body.Close()
			_, err = io.Copy(os.Stdout, body)
			if cmd.Context().Err() != nil {
				return nil
			}
			return err
		},
	}
	c.Flags().StringVarP(&in.Container, "container", "c", "", "`name` of the container; the first when not given")
	c.Flags().BoolVarP(&in.Follow, "follow", "f", false, "go on until the container ends")
	c.Flags().BoolVarP(&in.Previous, "previous", "p", false, "show the attempt before the newest")
	c.Flags().IntVar(&in.Tail, "tail", -1, "show only the last `lines`")
	return c
}
