// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/run"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter/trace"
	"redoubt.dev/proxy/secure"
)

// Options are how one server runs. The zero value of a field is the default
// given with it.
type Options struct {
	Loops      int           // event loops, one thread each; 0: one per processor
	Handshakes int           // TLS handshakes under way at once; 0: 4096
	Drain      time.Duration // how long connections may take to end; 0: 10 s
	Here       balance.Place // where the proxy runs, for zone aware routing
	Log        *slog.Logger  // nil: none
	Inherit    *Inheritance  // of the proxy that this one succeeds; nil: none
	Prove      time.Duration // how long a successor must show that it lives; 0: 1 s
}

// Server is one stand-alone proxy. Make it with New, Apply a configuration,
// and Run it once. Apply may be called again at any time.
type Server struct {
	o          Options
	log        *slog.Logger
	loops      []*engine.Loop
	workers    []*worker
	handshakes *secure.Handshaker
	watcher    *secure.Watcher
	caller     *caller
	tracers    map[*config.Tracing]*trace.Tracer // guarded by mu
	maxConns   int64                             // per loop
	faults     atomic.Uint64
	clusters   atomic.Pointer[exchange.Directory]
	began      time.Time
	refusals   atomic.Uint64 // configurations that Apply refused
	sources    atomic.Pointer[func() map[string]uint64]
	stopping   atomic.Bool

	sinks *run.Group // access logs
	parts *run.Group // what ends before the connections
	tasks *run.Group // what clusters need beside the loops
	wake  chan struct{}
	help  []string // of the admin interface
	leave context.CancelCauseFunc

	mu        sync.Mutex // one Apply at a time
	cfg       *config.Config
	listeners map[string]*listener
	files     map[string]*exchange.Sink
	duties    map[*exchange.Cluster]context.CancelFunc
	version   uint64
	leavers   []leaver

	heir heir
}

// worker is one loop's share.
type worker struct {
	s       *Server
	l       *engine.Loop
	x       *exchange.Worker
	n       int
	accepts map[*listener]*acceptor
	udp     map[*listener]*datagrams
	streams stream // ring head
	hello   secure.Hello
	conn    uint64 // connections so far

	sessions atomic.Int64 // of datagrams, each with a descriptor
	draining bool
}

// New makes the loops; it starts nothing.
func New(o Options) (*Server, error) {
	if o.Loops <= 0 {
		o.Loops = runtime.NumCPU()
	}
	if o.Handshakes <= 0 {
		o.Handshakes = 4096
	}
	if o.Drain <= 0 {
		o.Drain = 10 * time.Second
	}
	if o.Prove <= 0 {
		o.Prove = proveTime
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{o: o, log: o.Log, handshakes: secure.NewHandshaker(o.Handshakes), watcher: secure.NewWatcher(), maxConns: maxConns(o.Loops),
		began: time.Now(), wake: make(chan struct{}, 1), listeners: map[string]*listener{}, files: map[string]*exchange.Sink{}, duties: map[*exchange.Cluster]context.CancelFunc{}}
	s.caller, s.tracers = newCaller(s), map[*config.Tracing]*trace.Tracer{}
	s.clusters.Store(&exchange.Directory{})
	s.heir.in = o.Inherit
	s.heir.waiting.Store(o.Inherit != nil)
	shared := &exchange.Shared{Handshakes: s.handshakes}
	for i := range o.Loops {
		l, err := engine.New()
		if err != nil {
			return nil, err
		}
		l.Spin = runtime.GOMAXPROCS(0) > o.Loops
		l.Fault = func(cause any, stack []byte) {
			s.faults.Add(1)
			s.log.Error("a handler failed; its connection is cut", "loop", i, "cause", fmt.Sprint(cause), "stack", string(stack))
		}
		w := &worker{s: s, l: l, n: i, x: exchange.NewWorker(l, shared, i), accepts: map[*listener]*acceptor{}, udp: map[*listener]*datagrams{}}
		w.streams.next, w.streams.prev = &w.streams, &w.streams
		shared.Workers = append(shared.Workers, w.x)
		s.loops = append(s.loops, l)
		s.workers = append(s.workers, w)
	}
	return s, nil
}

// maxConns shares the process's descriptors among the loops and leaves some
// for listeners and logs.
func maxConns(loops int) int64 {
	var lim unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &lim) != nil {
		lim.Cur = 1024
	}
	n := int64(min(lim.Cur, 1<<21))
	return max(64, (n-n/16-64)/int64(loops)/engine.PerConn)
}

// Run serves until ctx ends or a part fails. It returns after connections have
// ended, at most Options.Drain later, and all its goroutines with them. ready,
// which may be nil, is called when Apply may be.
func (s *Server) Run(ctx context.Context, ready func(context.Context) error) error {
	after := context.WithoutCancel(ctx) // what must outlive the connections
	ctx, s.leave = context.WithCancelCause(ctx)
	defer s.leave(nil)
	s.sinks = run.New(after)
	s.tasks = run.New(after)
	loops := run.New(after)
	for i, l := range s.loops {
		loops.Go(fmt.Sprintf("loop %d", i), func(context.Context) error { return l.Run() })
	}
	g := run.New(ctx)
	s.parts = g
	g.Go("loops", func(ctx context.Context) error { return first(ctx, loops.Context()) })
	g.Go("logs", func(ctx context.Context) error { return first(ctx, s.sinks.Context()) })
	g.Go("clusters", func(ctx context.Context) error { return first(ctx, s.tasks.Context()) })
	g.Go("sweep", s.sweep)
	g.Go("watchdog", s.watch)
	g.Go("files", s.watcher.Run)
	if ready != nil {
		g.Go("configuration", ready)
	}
	err := g.Wait()
	s.drain()
	s.farewell()
	for _, l := range s.loops {
		l.Stop()
	}
	err = errors.Join(err, loops.Wait())
	s.handshakes.Close()
	s.caller.close()
	s.tasks.Stop()
	err = errors.Join(err, s.tasks.Wait())
	s.closeListeners()
	s.sinks.Stop()
	return errors.Join(err, s.sinks.Wait())
}

// stop has Run end, as a signal would.
func (s *Server) stop() { s.leave(nil) }

// first waits for ctx, or for the cause of a part's end.
func first(ctx, part context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case <-part.Done():
		return context.Cause(part)
	}
}

// each runs f on every loop and waits for it.
func (s *Server) each(f func(*worker)) {
	var wg sync.WaitGroup
	for _, w := range s.workers {
		wg.Add(1)
		if !w.l.Post(func() { defer wg.Done(); f(w) }) {
			wg.Done()
		}
	}
	wg.Wait()
}

// drain lets connections end, for Options.Drain at most.
func (s *Server) drain() {
	s.stopping.Store(true)
	s.each(func(w *worker) {
		w.draining = true
		for ln, a := range w.accepts {
			a.stop()
			delete(w.accepts, ln)
		}
		for ln, d := range w.udp {
			d.stop()
			delete(w.udp, ln)
		}
		w.x.Drain()
	})
	s.hangUp()
	deadline := time.NewTimer(s.o.Drain)
	defer deadline.Stop()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for {
		left := int64(0)
		for _, l := range s.loops {
			left += l.Load()
		}
		if left == 0 {
			break
		}
		select {
		case <-look.C:
			continue
		case <-deadline.C:
			s.log.Warn("connections cut at the end of the drain", "open", left)
		}
		break
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.each(func(w *worker) {
		for _, f := range s.files {
			f.Flush(w.x)
		}
	})
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, ln := range s.listeners {
		if ln.fd >= 0 {
			unix.Close(ln.fd)
		}
		delete(s.listeners, name)
	}
}

// How long a loop's turn may take before it is reported, and before the
// process ends: the supervisor's new one serves better than half an old one.
const (
	turnSlow  = 2 * time.Second
	turnStuck = 30 * time.Second
)

// watch looks after the loops.
func (s *Server) watch(ctx context.Context) error {
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		for i, l := range s.loops {
			since := l.Beat()
			if since == 0 {
				continue
			}
			switch d := time.Duration(engine.Mono() - since); {
			case d > turnStuck:
				return &errs.Error{Kind: errs.Internal, Subject: fmt.Sprintf("loop %d", i), Expected: "turns of milliseconds", Seen: d.String()}
			case d > turnSlow:
				s.log.Error("loop stands still", "loop", i, "for", d)
			}
		}
	}
}

// sweepMost is the longest that clusters are left to themselves.
const sweepMost = time.Second

// sweep has the clusters do what is due: ejections, slow starts, snapshots.
func (s *Server) sweep(ctx context.Context) error {
	t := time.NewTimer(sweepMost)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		case <-s.wake:
		}
		now := engine.Mono()
		next := now + int64(sweepMost)
		for _, cl := range *s.clusters.Load() {
			next = min(next, cl.Set.Sweep(now))
		}
		t.Reset(time.Duration(max(next-engine.Mono(), int64(time.Millisecond))))
	}
}

func (s *Server) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *Server) tlsFailed(a *arrival, err error) {
	a.ln.count[a.w.n].Unshaken++
	s.log.Debug("TLS handshake failed", "listener", a.ln.name, "peer", a.info.Peer, "err", err)
}

// Sources has f tell, from any goroutine, the counters of whatever
// configurations come from; they are shown as configuration.NAME.
func (s *Server) Sources(f func() map[string]uint64) { s.sources.Store(&f) }

// updates counts what became of configurations.
func (s *Server) updates() map[string]uint64 {
	m := map[string]uint64{}
	if f := s.sources.Load(); f != nil {
		m = (*f)()
	}
	s.mu.Lock()
	m["applied"] = s.version
	s.mu.Unlock()
	m["refused"] = s.refusals.Load()
	return m
}

// Go runs f beside the loops until Run ends; the first failure ends Run.
func (s *Server) Go(name string, f func(context.Context) error) { s.parts.Go(name, f) }

// Discard releases what New made of a server that will not Run.
func (s *Server) Discard() {
	for _, l := range s.loops {
		l.Discard()
	}
}
