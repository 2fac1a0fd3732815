// SPDX-License-Identifier: Apache-2.0

package exchange

import (
	"sync/atomic"
	"time"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/trace"
	"redoubt.dev/proxy/http2"
	"redoubt.dev/proxy/router"
	"redoubt.dev/proxy/router/ingress"
)

// Routing is the routes in force for a manager. It is immutable.
type Routing struct {
	Table     *router.Table
	Overrides *filter.Overrides
	rules     *ingress.Rules
	subsets   map[any]*balance.Subset // of *config.Forward and *config.Weighted that ask for one
	counts    [][]RouteCount          // by worker, then by Route.Index
}

// NewRouting compiles rc for m. prev, which may be nil, lends what has not
// changed.
func NewRouting(rc *config.RouteConfig, m *Manager, workers int, prev *Routing) (*Routing, error) {
	t, err := router.Compile(rc)
	if err != nil {
		return nil, err
	}
	var old *filter.Overrides
	if prev != nil {
		old = prev.Overrides
	}
	o, err := m.chain.Scope(rc, old)
	if err != nil {
		return nil, err
	}
	r := &Routing{Table: t, Overrides: o, rules: m.rules.With(rc), subsets: map[any]*balance.Subset{}}
	for _, h := range rc.Hosts {
		for _, rt := range h.Routes {
			if rt.To == nil {
				continue
			}
			if len(rt.To.Subset) > 0 {
				r.subsets[rt.To] = balance.Match(rt.To.Subset)
			}
			for i := range rt.To.Weighted {
				if w := &rt.To.Weighted[i]; len(w.Subset) > 0 {
					r.subsets[w] = balance.Match(w.Subset)
				}
			}
		}
	}
	for range workers {
		r.counts = append(r.counts, make([]RouteCount, t.Len()))
	}
	return r, nil
}

// Directory is the clusters in force, by name. It is immutable.
type Directory map[string]*Cluster

// Manager is an HTTP connection manager in service, shared by all loops.
type Manager struct {
	cfg      *config.HTTPManager
	chain    *filter.Chain
	holds    bool          // filters may answer later
	quiet    bool          // no fields of our own on requests
	tracer   *trace.Tracer // nil: nothing is traced
	rules    *ingress.Rules
	routing  atomic.Pointer[Routing]
	clusters *atomic.Pointer[Directory]
	logs     []*Log
	counts   []*ManagerCount
	draining atomic.Bool // its listener goes: connections end with their request
	line     *line

	streamIdle int64
	idle       time.Duration
	headTime   time.Duration
	drainTime  time.Duration
	maxHead    int
	ahead      int // bytes of a body read ahead
	server     []byte
	upgrades   map[string]bool
}

// Defaults of a manager.
const (
	defaultStreamIdle = 5 * time.Minute
	defaultIdle       = time.Hour
	defaultHeadTime   = time.Minute
	defaultDrain      = 5 * time.Second
	defaultMaxHead    = 60 << 10
	forever           = 100 * 365 * 24 * time.Hour
)

// NewManager makes a manager. Routes are set by SetRouting. prev, which may be
// nil, lends its counters.
func NewManager(cfg *config.HTTPManager, chain *filter.Chain, clusters *atomic.Pointer[Directory], logs []*Log, tracer *trace.Tracer, workers int, prev *Manager) (*Manager, error) {
	rules, err := ingress.Compile(cfg)
	if err != nil {
		return nil, err
	}
	or := func(d, def time.Duration) time.Duration {
		if d == 0 {
			return def
		}
		return d
	}
	m := &Manager{cfg: cfg, chain: chain, holds: chain.Holds(), tracer: tracer, rules: rules, clusters: clusters, logs: logs,
		streamIdle: max(0, int64(or(cfg.StreamIdleTimeout, defaultStreamIdle))), idle: or(cfg.IdleTimeout, defaultIdle),
		headTime: or(cfg.HeadTimeout, defaultHeadTime), drainTime: or(cfg.DrainTimeout, defaultDrain), maxHead: defaultMaxHead, ahead: readAhead, upgrades: map[string]bool{}}
	m.line = new(line)
	m.line.newest.Store(m)
	if m.idle < 0 {
		m.idle = forever
	}
	if cfg.MaxHead > 0 {
		m.maxHead = min(cfg.MaxHead, 64<<10)
	}
	for _, f := range cfg.Filters {
		if r, ok := f.Config.(*config.RouterFilter); ok {
			m.quiet = r.NoEnvoyHeaders
		}
	}
	m.server = []byte(cfg.ServerName)
	if len(m.server) == 0 {
		m.server = []byte("redoubt")
	}
	for _, u := range cfg.Upgrades {
		m.upgrades[u] = true
	}
	if prev != nil {
		m.counts = prev.counts
	}
	for len(m.counts) < workers {
		m.counts = append(m.counts, new(ManagerCount))
	}
	return m, nil
}

// Config is what the manager was made of.
func (m *Manager) Config() *config.HTTPManager { return m.cfg }

// SetReadLimit bounds what is read ahead of a body on a client's connection;
// 0 is the default. Call it before the manager serves.
func (m *Manager) SetReadLimit(n int) { m.ahead = ahead(n) }

// leastAhead is what parsing needs at least.
const leastAhead = 4 << 10

func ahead(limit int) int {
	if limit == 0 {
		return readAhead
	}
	return min(max(limit, leastAhead), readAhead)
}

// SetRouting puts routes in force for requests that begin from now on.
func (m *Manager) SetRouting(r *Routing) { m.routing.Store(r) }

// Routing gives the routes in force; nil before the first.
func (m *Manager) Routing() *Routing { return m.routing.Load() }

// Chain is the manager's filters.
func (m *Manager) Chain() *filter.Chain { return m.chain }

// Drain has the manager's connections end with their next response, and those
// of the managers that it succeeded. Worker.Depart tells those that are idle.
func (m *Manager) Drain() { m.draining.Store(true) }

func (m *Manager) count(w *Worker) *ManagerCount { return m.counts[w.n] }

// Counts copies a worker's counters; call it on the worker's loop.
func (m *Manager) Counts(w *Worker) ManagerCount { return *m.counts[w.n] }

func (m *Manager) http2(pool *http2.Pool) http2.Options {
	o := options2(&m.cfg.HTTP2)
	o.Pool = pool
	o.AllowConnect = o.AllowConnect || len(m.upgrades) > 0
	o.MaxFields = m.cfg.MaxFields
	if m.cfg.MaxHead > 0 {
		o.MaxList = uint32(m.cfg.MaxHead)
	}
	return o
}

// ended settles the accounts of an exchange.
func (m *Manager) ended(x *Stream) {
	c := m.count(x.w)
	status := 0
	if x.headDone {
		status = x.resp.Status
	}
	class := min(max(status/100, 0), 5)
	took := x.c.Ended - x.c.Began
	if x.shadow {
		x.settle(class)
		return
	}
	c.Active--
	c.Status[class]++
	c.BytesIn += x.c.BytesIn
	c.BytesOut += x.c.BytesOut
	c.Time.observe(took)
	if r := x.routes; r != nil && x.c.Route != nil {
		if n := x.c.Route.Index; uint(n) < uint(len(r.counts[x.w.n])) {
			rc := &r.counts[x.w.n][n]
			rc.Requests++
			rc.Status[class]++
		}
	}
	x.settle(class)
	if p := x.peer; p != nil {
		p.Requests++
		p.Status[class]++
	}
	x.c.Resp = &x.resp
	if !x.headDone {
		x.c.Resp = nil
	}
	if len(x.respT.Fields) > 0 {
		x.c.RespTrailers = &x.respT
	}
	if m.tracer != nil && !x.noFilters {
		m.tracer.Finish(&x.c, x.parent)
	}
	for _, l := range m.logs {
		l.Write(x.w, &x.c)
	}
}

// settle settles the accounts of the cluster.
func (x *Stream) settle(class int) {
	cl := x.cluster
	if cl == nil {
		return
	}
	c := cl.count(x.w)
	c.Status[class]++
	if x.c.UpstreamHead > 0 {
		c.Time.observe(x.c.UpstreamHead - x.c.HeadSent)
	}
	if x.admitted {
		cl.Set.Release(resourceRequests, x.high())
	}
	if x.retrying {
		cl.Set.Release(resourceRetries, x.high())
	}
}
