// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

func buildCommand(a *app) *cobra.Command {
	in := control.Build{}
	var labels []string
	var rootfs bool
	c := &cobra.Command{
		Use: "build SOURCE -t IMAGE", Short: "Make, sign and publish an image", Args: cobra.ExactArgs(1),
		Long: "build makes an image from a folder that holds a Go main package, from a root file system (a folder with --rootfs, or a tar), signs it with provenance and SBOM as this installation's builder, and publishes it in the node's registry. The same source gives the same digest.",
		Example: "  redoubt build ./examples/bank/ledger -t registry.redoubt.local/bank/ledger:1.0\n" +
			"  redoubt build --rootfs /srv/debian -t registry.redoubt.local/debian:12 --entrypoint /bin/sh",
		RunE: func(cmd *cobra.Command, args []string) error {
			src, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			st, err := os.Stat(src)
			switch {
			case err != nil:
				return &errs.Error{Kind: errs.NotFound, Subject: src, Err: err}
			case !st.IsDir():
				in.Tar = src
			case rootfs:
				in.Directory = src
			default:
				in.Go = src
			}
			in.Labels = map[string]string{}
			for _, l := range labels {
				k, v, ok := strings.Cut(l, "=")
				if !ok {
					return usage("--label takes KEY=VALUE, not %q", l)
				}
				in.Labels[k] = v
			}
			if _, err := a.ensureNode(cmd.Context()); err != nil {
				return err
			}
			var out struct {
				Image   string   `json:"image"`
				Digest  string   `json:"digest"`
				Bundles []string `json:"bundles"`
			}
			err = a.client().Events(cmd.Context(), "build", in, func(e control.Event) { a.say("  %s %s", e.Step, e.Text) }, &out)
			if err != nil {
				return err
			}
			return a.print(out, func() { fmt.Println(out.Image) })
		},
	}
	f := c.Flags()
	f.StringVarP(&in.Tag, "tag", "t", "", "`name` of the image, with its tag")
	f.BoolVar(&rootfs, "rootfs", false, "SOURCE is a root file system, not a Go package")
	f.StringSliceVar(&in.Entrypoint, "entrypoint", nil, "`command` that the image runs")
	f.StringSliceVar(&in.Cmd, "cmd", nil, "its default `arguments`")
	f.StringArrayVar(&in.Env, "env", nil, "`NAME=VALUE` in its environment; for nothing secret")
	f.StringVar(&in.User, "user", "", "`uid[:gid]` that it runs as")
	f.StringVar(&in.WorkingDir, "workdir", "", "`directory` that it starts in")
	f.StringSliceVar(&in.Ports, "port", nil, "`port` that it listens on, such as 8080/tcp")
	f.StringArrayVar(&labels, "label", nil, "`KEY=VALUE` label")
	_ = c.MarkFlagRequired("tag")
	return c
}
