// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/mtls"
	"redoubt.dev/proxy/route"
)

// Config is how one proxy runs.
type Config struct {
	Control    string        // path of the unix socket for the node
	Metrics    string        // path of the unix socket for Prometheus; "" for none
	Audit      string        // path of the audit log
	AccessLog  string        // path of the access log; "" for none
	Loops      int           // event loops, one thread each
	Handshakes int           // handshakes under way at once; more are refused
	Drain      time.Duration // how long connections may take to end after SIGTERM
	Snapshot   route.Options
}

// Default is the configuration for a machine with n processors.
func Default(n int) Config {
	return Config{Control: "/run/redoubt/proxy/control.sock", Metrics: "/run/redoubt/proxy/metrics.sock",
		Audit: "/var/lib/redoubt/proxy/audit.log", AccessLog: "/var/lib/redoubt/proxy/access.log",
		Loops: n, Handshakes: 4096, Drain: 10 * time.Second}
}

// Validate reports all problems.
func (c *Config) Validate() error {
	var all []error
	bad := func(field, want, seen string) {
		all = append(all, &errs.Error{Kind: errs.Invalid, Subject: "proxy configuration", Field: field, Expected: want, Seen: seen})
	}
	for field, p := range map[string]string{"control": c.Control, "audit": c.Audit} {
		if !filepath.IsAbs(p) {
			bad(field, "an absolute path", p)
		}
	}
	if c.Loops < 1 || c.Loops > 256 {
		bad("loops", "1 to 256", fmt.Sprint(c.Loops))
	}
	if c.Handshakes < 1 {
		bad("handshakes", "at least 1", fmt.Sprint(c.Handshakes))
	}
	return errors.Join(all...)
}

// Opener opens edges. edge.Netns is one.
type Opener interface {
	Open(p *route.Pod) (flow.Edge, error)
	OpenGateway(at netip.AddrPort) (flow.Edge, error)
}

// Proxy is one data plane. Make it with New, then Run it once.
type Proxy struct {
	cfg    Config
	log    *slog.Logger
	open   Opener
	sh     *flow.Shared
	loops  []*engine.Loop
	audit  *obs.Audit
	faults atomic.Uint64 // panics of handlers

	mu       sync.Mutex // one Apply at a time
	table    *route.Table
	pods     map[string]*podSite
	gateways map[netip.AddrPort]*flow.Site
}

// New opens the logs and makes the loops; it starts nothing.
func New(cfg Config, log *slog.Logger, open Opener) (*Proxy, error) {
	if err := cfg.Validate(); err != nil {
		return nil, err
	}
	audit, err := obs.OpenAudit(cfg.Audit, "proxy", time.Now)
	if err != nil {
		return nil, err
	}
	p := &Proxy{cfg: cfg, log: log, open: open, audit: audit, pods: map[string]*podSite{}, gateways: map[netip.AddrPort]*flow.Site{},
		sh: &flow.Shared{Handshakes: mtls.NewHandshaker(cfg.Handshakes), Audit: flow.NewAuditor(), MaxConns: maxConns(cfg.Loops)}}
	p.sh.SiteConns = p.sh.MaxConns * int64(cfg.Loops) / siteShare
	p.sh.SiteShakes = int64(cfg.Handshakes) / siteShare
	if cfg.AccessLog != "" {
		p.sh.Access = flow.NewAccessLog()
	}
	for i := range cfg.Loops {
		l, err := engine.New()
		if err != nil {
			return nil, errors.Join(err, audit.Close())
		}
		l.Spin = runtime.GOMAXPROCS(0) > cfg.Loops
		l.Fault = func(cause any, stack []byte) {
			p.faults.Add(1)
			p.log.Error("a handler failed; its connection is cut", "loop", i, "cause", fmt.Sprint(cause), "stack", string(stack))
		}
		p.loops = append(p.loops, l)
		p.sh.Workers = append(p.sh.Workers, flow.NewWorker(l, p.sh, i))
	}
	return p, nil
}

// siteShare is the part (one in so many) of connections and handshakes that
// one pod may have: what a taken-over pod exhausts is its own share.
const siteShare = 4

// maxConns shares the process's descriptors among the loops and leaves some
// for listeners, namespaces and logs.
func maxConns(loops int) int64 {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		lim.Cur = 1024
	}
	n := int64(min(lim.Cur, 1<<20))
	return max(64, (n-n/8-64)/int64(loops)/engine.PerConn)
}

// Run serves until ctx ends or a part fails. It returns after connections
// have ended, at most Config.Drain later, and all its goroutines with them.
func (p *Proxy) Run(ctx context.Context) error {
	after := context.WithoutCancel(ctx) // what must outlive the connections
	sinks := run.New(after)
	sinks.Go("audit", func(ctx context.Context) error { return p.sh.Audit.Run(ctx, p.audit) })
	if p.sh.Access != nil {
		f, err := os.OpenFile(p.cfg.AccessLog, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o640)
		if err != nil {
			return fmt.Errorf("open access log: %w", err)
		}
		defer f.Close()
		sinks.Go("access log", func(ctx context.Context) error { return p.sh.Access.Run(ctx, f) })
	}
	loops := run.New(after)
	for i, l := range p.loops {
		loops.Go(fmt.Sprintf("loop %d", i), func(context.Context) error { return l.Run() })
	}
	g := run.New(ctx)
	g.Go("loops", func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return nil
		case <-loops.Context().Done():
			return context.Cause(loops.Context())
		}
	})
	g.Go("control", p.control)
	g.Go("edges", p.reopen)
	g.Go("watchdog", p.watch)
	if p.cfg.Metrics != "" {
		g.Go("metrics", p.metrics)
	}
	err := g.Wait()
	p.drain()
	for _, l := range p.loops {
		l.Stop()
	}
	err = errors.Join(err, loops.Wait())
	p.sh.Handshakes.Close()
	p.closeSites()
	sinks.Stop()
	return errors.Join(err, sinks.Wait(), p.audit.Close())
}

// drain lets connections end, for Config.Drain at most.
func (p *Proxy) drain() {
	p.each(func(w *flow.Worker) { w.Drain() })
	p.stopListening()
	deadline := time.NewTimer(p.cfg.Drain)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		// Connections, not sessions: a finished one still has its last bytes
		// to bring to its peer.
		left := int64(0)
		for _, l := range p.loops {
			left += l.Load()
		}
		if left == 0 {
			return
		}
		select {
		case <-look.C:
		case <-deadline.C:
			p.log.Warn("connections cut at the end of the drain", "open", left)
			return
		}
	}
}

// each runs f on every loop and waits for it.
func (p *Proxy) each(f func(*flow.Worker)) {
	var wg sync.WaitGroup
	for _, w := range p.sh.Workers {
		wg.Add(1)
		if !w.Loop().Post(func() { f(w); wg.Done() }) {
			wg.Done()
		}
	}
	wg.Wait()
}

// How long a loop's turn may take before it is reported, and before the
// process ends: the supervisor's new one serves better than half an old one.
const (
	turnSlow  = 2 * time.Second
	turnStuck = 30 * time.Second
)

// watch looks after the loops.
func (p *Proxy) watch(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for i, l := range p.loops {
			since := l.Beat()
			if since == 0 {
				continue
			}
			switch d := time.Duration(engine.Mono() - since); {
			case d > turnStuck:
				return &errs.Error{Kind: errs.Internal, Subject: fmt.Sprintf("loop %d", i), Expected: "turns of milliseconds", Seen: d.String()}
			case d > turnSlow:
				p.log.Error("loop stands still", "loop", i, "for", d)
			}
		}
	}
}
