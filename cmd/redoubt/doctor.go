// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"redoubt.dev/node/doctor"
)

func doctorCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "doctor", Short: "Say what this machine can and cannot do", Args: cobra.NoArgs,
		Long:    "doctor tries each ability that Redoubt needs, instead of looking at versions, and says what to do about those that are missing. Exit code 1: the node cannot run here.",
		Example: "  redoubt doctor\n  redoubt doctor -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := doctor.Examine(cmd.Context())
			err := a.print(checks, func() {
				w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
				defer w.Flush()
				for _, c := range checks {
					word := "yes"
					if !c.OK {
						word = map[bool]string{true: "NO", false: "no"}[c.Needed]
					}
					fmt.Fprintf(w, "%s\t%s\t%s\n", word, c.Name, c.Detail)
					if !c.OK && c.Fix != "" {
						fmt.Fprintf(w, "\t\t→ %s\n", c.Fix)
					}
				}
			})
			if err != nil {
				return err
			}
			for _, c := range checks {
				if !c.OK && c.Needed {
					return exitCode(1)
				}
			}
			return nil
		},
	}
}
