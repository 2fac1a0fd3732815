// SPDX-License-Identifier: Apache-2.0

// Command redoubt runs applications on this machine under proof, isolation
// and mutual authentication. It is a client of the node, which it starts when
// none runs.
//
// Exit codes: 0 done, 1 failed, 2 wrong usage, 3 denied or not proven,
// 4 not found, 5 a part does not answer, 6 bad input. redoubt exec gives the
// code of its command.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
)

// app is what all verbs share.
type app struct {
	state, root, config string
	output              string
}

func (a *app) client() *control.Client { return control.NewClient(a.state + "/node.sock") }

// print writes v as JSON when that was asked for, else calls text.
func (a *app) print(v any, text func()) error {
	if a.output == "json" {
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	text()
	return nil
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := &app{}
	err := a.run(ctx, os.Args[1:])
	a.explain(err)
	os.Exit(code(err))
}

// run carries out one command line.
func (a *app) run(ctx context.Context, args []string) error {
	c := a.command()
	began := false
	mark(c, &began)
	c.SetArgs(args)
	err := c.ExecuteContext(ctx)
	if err != nil && !began && !errors.As(err, new(wrongUsage)) {
		// Whatever cobra refuses before a verb begins is the command line's fault.
		return usage("%v", err)
	}
	return err
}

// mark notes that a verb has begun its work.
func mark(c *cobra.Command, began *bool) {
	if f := c.RunE; f != nil {
		c.RunE = func(cmd *cobra.Command, args []string) error {
			*began = true
			return f(cmd, args)
		}
	}
	for _, sub := range c.Commands() {
		mark(sub, began)
	}
}

// explain prints an error for a person, or for a program.
func (a *app) explain(err error) {
	switch {
	case err == nil || errors.As(err, new(exitCode)):
	case a.output == "json":
		_ = json.NewEncoder(os.Stderr).Encode(map[string]any{"error": control.Wire(err), "code": code(err)})
	default:
		fmt.Fprintln(os.Stderr, "error:", err)
	}
}

func (a *app) command() *cobra.Command {
	c := &cobra.Command{
		Use: "redoubt", Short: "Run applications under proof, isolation and mutual authentication",
		Long:         "redoubt runs ordinary Kubernetes applications on this machine: nothing starts unproven, every pod has a kernel of its own, every connection is authenticated and authorised.\n\nExit codes: 0 done, 1 failed, 2 wrong usage, 3 denied or not proven, 4 not found, 5 a part does not answer, 6 bad input.",
		SilenceUsage: true, SilenceErrors: true,
		PersistentPreRunE: func(*cobra.Command, []string) error {
			if a.output != "text" && a.output != "json" {
				return usage("-o takes text or json, not %q", a.output)
			}
			return nil
		},
	}
	f := c.PersistentFlags()
	f.StringVar(&a.state, "state", "/run/redoubt", "`directory` of the node's sockets")
	f.StringVar(&a.root, "root", "/var/lib/redoubt", "`directory` of what lasts")
	f.StringVar(&a.config, "config", "/etc/redoubt/node.yaml", "the node's configuration `file`")
	f.StringVarP(&a.output, "output", "o", "text", "`format` of the answer: text or json")
	c.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage("%v", err) })
	c.AddCommand(upCommand(a), downCommand(a), statusCommand(a), logsCommand(a), execCommand(a), buildCommand(a), verifyCommand(a), passportCommand(a), doctorCommand(a))
	return c
}

// exitCode is an error that is only a code: the command has said what there
// was to say.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// wrongUsage is a mistake on the command line.
type wrongUsage struct{ error }

func usage(format string, args ...any) error {
	return wrongUsage{fmt.Errorf(format+"; see --help", args...)}
}

// code turns an error into an exit code. This is the one place.
func code(err error) int {
	var only exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &only):
		return int(only)
	case errors.As(err, new(wrongUsage)):
		return 2
	}
	kinds := []struct {
		kind errs.Kind
		code int
	}{{errs.Denied, 3}, {errs.Unproven, 3}, {errs.NotFound, 4}, {errs.Unavailable, 5}, {errs.Invalid, 6}, {errs.Unsupported, 6}, {errs.TooLarge, 6}}
	for _, k := range kinds {
		if errors.Is(err, k.kind) {
			return k.code
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return 4 // a file that the command line names
	}
	return 1
}
