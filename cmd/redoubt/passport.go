// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"redoubt.dev/base/conf"
	"redoubt.dev/passport"
	"redoubt.dev/provenance/verify"
)

func passportCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "passport POD -o FILE", Short: "Write what is proven of a running pod", Args: cobra.ExactArgs(1),
		Long:    "passport writes one signed file that joins source, build, signature, admission, sandbox, identity and policy of a running pod. It can be verified on another machine, without network.",
		Example: "  redoubt passport bank/ledger-0 -o ledger.passport\n  redoubt passport root -o root.json\n  redoubt passport verify ledger.passport --root root.json",
		RunE: func(cmd *cobra.Command, args []string) error {
			var out json.RawMessage
			if err := a.client().Call(cmd.Context(), "passport", map[string]string{"pod": args[0]}, &out); err != nil {
				return err
			}
			return write(file, out)
		},
	}
	// Not the format of the answer here: a passport has one form.
	c.Flags().StringVarP(&file, "output", "o", "-", "`file` to write; - is standard output")
	c.AddCommand(passportRootCommand(a), passportVerifyCommand(a))
	return c
}

func passportRootCommand(a *app) *cobra.Command {
	var file string
	c := &cobra.Command{
		Use: "root", Short: "Write the trust root that verifies passports of this installation", Args: cobra.NoArgs,
		Example: "  redoubt passport root -o root.json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var out json.RawMessage
			if err := a.client().Call(cmd.Context(), "root", struct{}{}, &out); err != nil {
				return err
			}
			return write(file, out)
		},
	}
	c.Flags().StringVarP(&file, "output", "o", "-", "`file` to write; - is standard output")
	return c
}

func passportVerifyCommand(a *app) *cobra.Command {
	var root string
	c := &cobra.Command{
		Use: "verify FILE --root FILE", Short: "Check a passport, without network and without a node", Args: cobra.ExactArgs(1),
		Long:    "verify needs nothing but the passport and the trust root. Exit code 3: a link fails, and the answer names it.",
		Example: "  redoubt passport verify ledger.passport --root root.json",
		RunE: func(_ *cobra.Command, args []string) error {
			b, err := conf.ReadFile(root, conf.MaxFile)
			if err != nil {
				return err
			}
			trust, err := verify.ParseTrustRoot(b)
			if err != nil {
				return err
			}
			raw, err := conf.ReadFile(args[0], passport.MaxFile)
			if err != nil {
				return err
			}
			report, err := passport.Verify(raw, trust, time.Now())
			var denied *passport.Denied
			if errors.As(err, &denied) && a.output == "json" {
				_ = a.print(denied, nil)
			}
			if err != nil {
				return err
			}
			return a.print(report, func() { showReport(report) })
		},
	}
	c.Flags().StringVar(&root, "root", "", "trust root `file`, from redoubt passport root")
	_ = c.MarkFlagRequired("root")
	return c
}

func showReport(r *passport.Report) {
	fmt.Printf("verified: pod %s/%s on %s\n", r.Instance.Namespace, r.Instance.Pod, r.Instance.Node)
	fmt.Printf("  issued    %s by %s\n", r.IssuedOn.Format(time.RFC3339), r.Issuer)
	for _, c := range r.Containers {
		fmt.Printf("  container %s: %s\n", c.Name, c.Image)
		for _, l := range c.Links {
			fmt.Printf("    %-10s %s  %s\n", l.Name, l.Subject, l.Signer)
		}
	}
	fmt.Printf("  sandbox   %s, %s, binary %s\n", r.Sandbox.Kind, r.Sandbox.Kernel, r.Sandbox.Binary)
	fmt.Printf("  identity  %s, certificate %s\n", r.Identity.ID, r.Identity.Serial)
	fmt.Printf("  policy    %s\n", r.Authorization)
	if !r.Current {
		fmt.Println("  the certificate has expired since: the passport speaks of the past")
	}
}

// write puts b into file, or on standard output for "-".
func write(file string, b []byte) error {
	if file == "-" {
		fmt.Println(string(b))
		return nil
	}
	return os.WriteFile(file, b, 0o644)
}
