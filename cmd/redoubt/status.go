// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"redoubt.dev/node/control"
)

func statusCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show pods, services and what was refused", Args: cobra.NoArgs,
		Example: "  redoubt status\n  redoubt status -o json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st control.Status
			if err := a.client().Call(cmd.Context(), "status", struct{}{}, &st); err != nil {
				return err
			}
			return a.print(st, func() { showStatus(st) })
		},
	}
}

func showStatus(st control.Status) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	fmt.Fprintf(w, "NODE %s\tversion %s\tproxy %d\tsnapshot %d\n", st.Node.TrustDomain, st.Node.Version, st.Node.ProxyPID, st.Node.Snapshot)
	if st.Node.Health != "" {
		fmt.Fprintf(w, "  unwell: %s\n", st.Node.Health)
	}
	for _, s := range st.Sets {
		if s.Error != "" {
			fmt.Fprintf(w, "  %s: files changed but are not in force: %s\n", strings.Join(s.Paths, ", "), s.Error)
		}
	}
	fmt.Fprintln(w, "\nPOD\tPHASE\tREADY\tRESTARTS\tADDRESS\tSANDBOX\tAGE\tREASON")
	for _, p := range st.Pods {
		fmt.Fprintf(w, "%s/%s\t%s\t%v\t%d\t%s\t%s\t%s\t%s\n", p.Namespace, p.Name, p.Phase, p.Ready, p.Restarts, p.Addr, p.Sandbox, time.Since(p.Created).Round(time.Second), p.Reason)
	}
	fmt.Fprintln(w, "\nSERVICE\tTYPE\tADDRESS\tPORTS\tENDPOINTS\tREACH IT AT")
	for _, s := range st.Services {
		fmt.Fprintf(w, "%s/%s\t%s\t%s\t%s\t%d\t%s\n", s.Namespace, s.Name, s.Type, s.VIP, strings.Join(s.Ports, ","), s.Endpoints, strings.Join(s.External, ", "))
	}
	if n := len(st.Denials); n > 0 {
		fmt.Fprintln(w, "\nREFUSED (newest last)")
		for _, d := range st.Denials[max(0, n-5):] {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Time.Format(time.TimeOnly), d.Action, d.Object, d.Reason)
		}
	}
}
