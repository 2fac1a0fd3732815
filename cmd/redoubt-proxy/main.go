// SPDX-License-Identifier: Apache-2.0

// Command redoubt-proxy is the data plane of one machine.
//
// Example:
//
//	redoubt-proxy -control /run/redoubt/proxy/control.sock -audit /var/lib/redoubt/proxy/audit.log
//
// It serves nothing until the node sends a snapshot on the control socket.
// Exit codes: 0 after SIGTERM or SIGINT, 1 on a failure, 2 on wrong usage.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime"

	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy"
	"redoubt.dev/proxy/edge"
)

// The first thread belongs to main alone: one that enters a pod's namespace
// is thrown away afterwards, which the first cannot be.
func init() { runtime.LockOSThread() }

func main() { os.Exit(run.Main(start)) }

func start(ctx context.Context) error {
	cfg := proxy.Default(runtime.NumCPU())
	var level slog.Level
	flag.StringVar(&cfg.Control, "control", cfg.Control, "unix `socket` for the node")
	flag.StringVar(&cfg.Metrics, "metrics", cfg.Metrics, "unix `socket` for Prometheus; empty for none")
	flag.StringVar(&cfg.Audit, "audit", cfg.Audit, "audit log `file`")
	flag.StringVar(&cfg.AccessLog, "access-log", cfg.AccessLog, "access log `file`; empty for none")
	flag.IntVar(&cfg.Loops, "loops", cfg.Loops, "event loops, one thread each; lower it to leave processors to others")
	flag.TextVar(&level, "log-level", level, "DEBUG, INFO, WARN or ERROR")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), "redoubt-proxy carries the connections of this machine's pods.\n\nExample:\n  redoubt-proxy -control %s -audit %s\n\nFlags:\n", cfg.Control, cfg.Audit)
		flag.PrintDefaults()
	}
	flag.Parse()
	if err := proxy.Confine(); err != nil {
		return err
	}
	runtime.GOMAXPROCS(cfg.Loops + 1) // one processor beside the loops: handshakes, logs, the collector
	ns, err := edge.NewNetns()
	if err != nil {
		return err
	}
	defer ns.Close()
	p, err := proxy.New(cfg, obs.Logger(os.Stderr, "proxy", level), ns)
	if err != nil {
		return err
	}
	return p.Run(ctx)
}
