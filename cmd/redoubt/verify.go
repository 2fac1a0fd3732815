// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"redoubt.dev/node/control"
)

func verifyCommand(a *app) *cobra.Command {
	in := control.Verify{}
	c := &cobra.Command{
		Use: "verify IMAGE", Short: "Say whether an image may run, and why", Args: cobra.ExactArgs(1),
		Long:    "verify collects the evidence about an image and asks the same verifier as registry and admission, under the policies in force. The answer is on the audit log. Exit code 3: it may not run.",
		Example: "  redoubt verify registry.redoubt.local/bank/ledger:1.0 -n bank",
		RunE: func(cmd *cobra.Command, args []string) error {
			in.Image = args[0]
			var out struct {
				Image    string           `json:"image"`
				Policies []string         `json:"policies"`
				Signers  []string         `json:"signers"`
				Links    []map[string]any `json:"links"`
			}
			if err := a.client().Call(cmd.Context(), "verify", in, &out); err != nil {
				return err
			}
			return a.print(out, func() {
				fmt.Printf("may run: %s\n  policies: %s\n  signers:  %s\n", out.Image, strings.Join(out.Policies, ", "), strings.Join(out.Signers, ", "))
				for _, l := range out.Links {
					fmt.Printf("  proven:   %v %v\n", l["name"], l["subject"])
				}
			})
		},
	}
	c.Flags().StringVarP(&in.Namespace, "namespace", "n", "default", "`namespace` that it would run in")
	return c
}
