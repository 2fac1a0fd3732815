// SPDX-License-Identifier: Apache-2.0

// Command redoubt-proxy is a data plane: of one machine's pods, under a node,
// or by itself, as load balancer and gateway.
//
// Examples:
//
//	redoubt-proxy --config proxy.yaml --loops 2
//	redoubt-proxy --config proxy.yaml --upgrade-socket /run/redoubt/upgrade/proxy.sock
//	redoubt-proxy validate proxy.yaml
//	redoubt-proxy -control /run/redoubt/proxy/control.sock -audit /var/lib/redoubt/proxy/audit.log
//
// With --config it serves an Envoy v3 bootstrap. Without, it serves nothing
// until the node sends a snapshot on the control socket. Exit codes: 0 after
// SIGTERM or SIGINT, 1 on a failure, 2 on wrong usage.
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

const usage = `redoubt-proxy carries connections: of this machine's pods, or, with --config,
of whoever it is configured for.

Examples:
  redoubt-proxy --config proxy.yaml --loops 2
  redoubt-proxy validate proxy.yaml
  redoubt-proxy -control %s -audit %s

Flags:
`

func start(ctx context.Context) error {
	cfg := proxy.Default(runtime.NumCPU())
	var level slog.Level
	flag.StringVar(&cfg.Control, "control", cfg.Control, "unix `socket` for the node")
	flag.StringVar(&cfg.Metrics, "metrics", cfg.Metrics, "unix `socket` for Prometheus; empty for none")
	flag.StringVar(&cfg.Audit, "audit", cfg.Audit, "audit log `file`")
	flag.StringVar(&cfg.AccessLog, "access-log", cfg.AccessLog, "access log `file`; empty for none")
	flag.IntVar(&cfg.Loops, "loops", cfg.Loops, "event loops, one thread each; lower it to leave processors to others")
	flag.TextVar(&level, "log-level", level, "DEBUG, INFO, WARN or ERROR")
	path := flag.String("config", "", "Envoy v3 bootstrap `file`, YAML or JSON: stand alone, without a node")
	flag.DurationVar(&cfg.Drain, "drain", cfg.Drain, "how long connections may take to end after SIGTERM")
	var up upgrade
	flag.StringVar(&up.socket, "upgrade-socket", "", "unix `socket` by which a new process takes over from the one that serves; with --config")
	flag.StringVar(&up.allow, "upgrade-allow", "", "`file` of further executables that may take over, one sha256:<hex> a line; the same executable always may")
	flag.Usage = func() {
		fmt.Fprintf(flag.CommandLine.Output(), usage, cfg.Control, cfg.Audit)
		flag.PrintDefaults()
	}
	if len(os.Args) > 1 && os.Args[1] == "validate" {
		if len(os.Args) != 3 {
			fmt.Fprintln(os.Stderr, "usage: redoubt-proxy validate FILE")
			os.Exit(2)
		}
		return validate(os.Args[2])
	}
	flag.Parse()
	if *path != "" {
		return standAlone(ctx, *path, cfg.Loops, cfg.Drain, level, up)
	}
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
