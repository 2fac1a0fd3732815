// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"
)

func passportCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "passport POD", Short: "Write what is proven of a running pod", Args: cobra.ExactArgs(1),
		Long:    "passport writes one signed file that joins source, build, signature, admission, sandbox, identity and policy of a running pod. It can be verified without this machine.",
		Example: "  redoubt passport bank/ledger-0 --file ledger.passport\n  redoubt passport root --file root.json\n  redoubt passport verify ledger.passport --root root.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			var out json.RawMessage
			if err := a.client().Call(cmd.Context(), "passport", map[string]string{"pod": args[0]}, &out); err != nil {
				return err
			}
			return write(file, out)
		},
	}
	c.PersistentFlags().StringVar(&file, "file", "-", "`file` to write; - is standard output")
	return c
}

// write puts b into file, or on standard output for "-".
func write(file string, b []byte) error {
	if file == "-" {
		fmt.Println(string(b))
		return nil
	}
	return os.WriteFile(file, b, 0o644)
}
