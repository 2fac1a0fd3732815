// SPDX-License-Identifier: Apache-2.0

// Command redoubt-node is all of Redoubt on one machine. redoubt up starts it.
//
// Exit codes: 0 it went down as asked, 1 it failed, 2 wrong usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"redoubt.dev/base/conf"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/base/sys"
	"redoubt.dev/node"
)

// Threads that enter a pod's namespaces are thrown away afterwards, which the
// process's first thread cannot be: it belongs to main alone, or /proc/self
// would one day show another network namespace.
func init() { runtime.LockOSThread() }

func main() {
	fs := flag.NewFlagSet("redoubt-node", flag.ContinueOnError)
	file := fs.String("config", "/etc/redoubt/node.yaml", "configuration `file`; it need not exist")
	root := fs.String("root", "", "`directory` of what lasts, instead of the configured one")
	state := fs.String("state", "", "`directory` of sockets and of what lives as long as the machine runs")
	listen := fs.String("registry-listen", "", "loopback `address:port` of the registry")
	ttl := fs.Duration("svid-ttl", 0, "life of workloads' certificates")
	check := fs.Bool("check", false, "say what is wrong with the configuration, and end")
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), "redoubt-node runs pods on this machine until it gets SIGTERM; pods run on without it.\n\nExample:\n  redoubt-node -config /etc/redoubt/node.yaml\n\nFlags:\n")
		fs.PrintDefaults()
	}
	if err := fs.Parse(os.Args[1:]); err != nil {
		os.Exit(2)
	}
	if fs.NArg() > 0 {
		fs.Usage()
		os.Exit(2)
	}
	cfg := node.Default()
	if err := conf.Load(*file, &cfg); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if err := override(&cfg, *root, *state, *listen, *ttl); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if err := cfg.Validate(); err != nil || *check {
		if err != nil {
			fmt.Fprintln(os.Stderr, "error:", err)
			os.Exit(2)
		}
		return
	}
	os.Exit(run.Main(func(ctx context.Context) error {
		if err := sys.KeepDescriptors(); err != nil {
			return err
		}
		n, err := node.New(cfg, obs.Logger(os.Stderr, "node", slog.LevelInfo))
		if err != nil {
			return err
		}
		return n.Run(ctx)
	}))
}

func override(cfg *node.Config, root, state, listen string, ttl time.Duration) (err error) {
	if root != "" {
		cfg.Root = root
	}
	if state != "" {
		cfg.State = state
	}
	if listen != "" {
		if cfg.RegistryListen, err = netip.ParseAddrPort(listen); err != nil {
			return err
		}
	}
	if ttl != 0 {
		cfg.SVIDTTL = node.Duration(ttl)
	}
	self, err := os.Executable()
	cfg.Binaries = filepath.Dir(self)
	return err
}
