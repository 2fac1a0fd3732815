// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// chain is a filter chain in service.
type chain struct {
	cfg      *config.FilterChain
	matchAll bool
	tls      *secure.Server
	share    *secure.Share
	http     *exchange.Manager
	weights  weights
	subset   *balance.Subset
	logs     logs
	gate     gate
	conns    atomic.Int64
	count    []*chainCount
}

// chainCount is one worker's.
type chainCount struct {
	Streams, BytesIn, BytesOut, Limited, Denied uint64
	_                                           [24]byte
}

// logs are the access logs of one place.
type logs []*exchange.Log

func (l logs) write(w *worker, c *filter.Context) {
	for _, g := range l {
		g.Write(w.x, c)
	}
}

// weights choose among a TCP proxy's weighted clusters.
type weights struct {
	names []string
	upTo  []uint64
}

func newWeights(ws []config.Weighted) (w weights) {
	sum := uint64(0)
	for i := range ws {
		sum += uint64(ws[i].Weight)
		w.names, w.upTo = append(w.names, ws[i].Cluster), append(w.upTo, sum)
	}
	return w
}

func (w *weights) choose(random uint64) string {
	n := random % max(1, w.upTo[len(w.upTo)-1])
	for i, to := range w.upTo {
		if n < to {
			return w.names[i]
		}
	}
	return w.names[0]
}

// next is a configuration on its way into force.
type next struct {
	s        *Server
	cfg      *config.Config
	dir      exchange.Directory
	duties   map[*exchange.Cluster]*errands
	replaced []*exchange.Cluster
	updates  []func() error // endpoints of clusters that go on
	states   map[*listener]*listening
	opened   []*listener
	problems []error
	local    *balance.Set // of the proxy's own kind; nil: none
	dry      bool         // nothing is opened
}

func (n *next) bad(err error) { n.problems = append(n.problems, err) }

// Apply puts a configuration in force: when it returns nil, every loop works
// by it. On an error nothing has changed. cfg must not change after.
func (s *Server) Apply(cfg *config.Config) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopping.Load() || s.heir.leaving.Load() {
		return errs.New(errs.Unavailable, "proxy", "it is ending")
	}
	n := &next{s: s, cfg: cfg, dir: exchange.Directory{}, states: map[*listener]*listening{}, duties: map[*exchange.Cluster]*errands{}}
	n.clusters()
	n.listeners()
	n.leavers()
	if len(n.problems) > 0 {
		for _, ln := range n.opened {
			unix.Close(ln.fd)
		}
		s.refusals.Add(1)
		return errors.Join(n.problems...)
	}
	n.commit()
	return nil
}

// clusters builds the directory. What has not changed is taken over.
func (n *next) clusters() {
	old := *n.s.clusters.Load()
	own := n.cfg.LocalCluster
	names := slices.Collect(maps.Keys(n.cfg.Clusters))
	if c := n.cfg.Clusters[own]; c != nil { // the others refer to it
		i := slices.Index(names, own)
		names[0], names[i] = names[i], names[0]
	}
	moved := false // the cluster of our own kind is another
	for _, name := range names {
		c, prev := n.cfg.Clusters[name], old[name]
		again := moved && c.ZoneAware
		if prev != nil && prev.Cfg == c && !again {
			n.take(name, prev)
			continue
		}
		if prev != nil && !again && sameButEndpoints(prev.Cfg, c) {
			n.take(name, prev)
			if e := c.Endpoints; e != prev.Endpoints() && resolved(c) {
				n.updates = append(n.updates, func() error { return prev.Update(e) })
			}
			continue
		}
		// A set takes its hosts over from the one before, which nothing may
		// undo: what replaces another is tried here and made at commit.
		cl, e, err := n.cluster(c, nil)
		if err != nil {
			n.bad(fmt.Errorf("cluster %s: %w", name, err))
			continue
		}
		n.take(name, cl)
		moved = moved || name == own && prev != nil
		if prev != nil || n.dry {
			e.discard()
			n.replaced = append(n.replaced, prev)
		} else if e != nil {
			n.duties[cl] = e
		}
	}
}

// take puts a cluster into the directory.
func (n *next) take(name string, cl *exchange.Cluster) {
	n.dir[name] = cl
	if name == n.cfg.LocalCluster {
		n.local = cl.Set
	}
}

// sameButEndpoints tells that only hosts may differ.
func sameButEndpoints(a, b *config.Cluster) bool {
	x, y := *a, *b
	x.Endpoints, y.Endpoints = nil, nil
	return reflect.DeepEqual(&x, &y)
}

// resolved tells that a cluster's endpoints are addresses already.
func resolved(c *config.Cluster) bool {
	return c.Discovery == config.Static || c.Discovery == config.EDS
}

func (n *next) cluster(c *config.Cluster, prev *exchange.Cluster) (*exchange.Cluster, *errands, error) {
	var was *balance.Set
	if prev != nil {
		was = prev.Set
	}
	o := balance.Options{Here: n.s.o.Here, Now: engine.Mono, Wake: n.s.poke, Events: events{n.s}}
	if o.Here == (balance.Place{}) {
		o.Here = balance.Place(n.cfg.Here)
	}
	if c.ZoneAware && c.Name != n.cfg.LocalCluster {
		o.Local = n.local
	}
	set, err := balance.New(c, o, was)
	if err != nil {
		return nil, nil, err
	}
	var client *secure.Client
	var tls exchange.TLS
	if c.TLS != nil {
		if client, err = secure.NewClient(c.TLS, nil, n.s.secureDeps()); err != nil {
			return nil, nil, err
		}
		tls = client
	}
	e, err := n.errands(c, set, client)
	if err != nil {
		return nil, nil, err
	}
	return exchange.NewCluster(c, set, tls, len(n.s.workers), prev), e, nil
}

func (s *Server) secureDeps() secure.Deps {
	return secure.Deps{Watch: s.watcher, Told: func(err error) { s.log.Error("certificate not replaced; the last good one stays", "err", err) }}
}

// listeners compiles all listeners and opens those that are new.
func (n *next) listeners() {
	for name, c := range n.cfg.Listeners {
		ln := n.s.listeners[name]
		var was *listening
		if ln != nil {
			was = ln.state.Load()
			if was.cfg == c && n.sameRoutes(was) {
				continue
			}
			if was.cfg.Addr != c.Addr || (was.cfg.UDP == nil) != (c.UDP == nil) || was.cfg.Transparent != c.Transparent {
				ln = nil // another socket
			}
		}
		st, err := n.listening(c, was)
		if err != nil {
			n.bad(fmt.Errorf("listener %s: %w", name, err))
			continue
		}
		if n.dry {
			continue
		}
		if ln == nil {
			if ln, err = n.s.open(c); err != nil {
				n.bad(err)
				continue
			}
			n.opened = append(n.opened, ln)
		}
		n.states[ln] = st
	}
}

func (s *Server) open(c *config.Listener) (*listener, error) {
	ln := s.inherit(c)
	if ln == nil {
		fd, at, err := bind(c)
		if err != nil {
			return nil, err
		}
		ln = &listener{name: c.Name, fd: fd, addr: at}
	}
	for range s.workers {
		ln.count = append(ln.count, new(listenerCount))
	}
	return ln, nil
}

// sameRoutes tells that no manager's named routes have changed.
func (n *next) sameRoutes(was *listening) bool {
	for _, ch := range was.all() {
		if ch.http == nil || ch.http.Config().RouteName == "" {
			continue
		}
		if r := ch.http.Routing(); r == nil || r.Table.Config() != n.cfg.Routes[ch.http.Config().RouteName] {
			return false
		}
	}
	return true
}

func (st *listening) all() []*chain {
	if st.def == nil {
		return st.chains
	}
	return append(st.chains[:len(st.chains):len(st.chains)], st.def)
}

func (n *next) listening(c *config.Listener, was *listening) (*listening, error) {
	st := &listening{cfg: c, wait: c.Inspect}
	if st.wait <= 0 {
		st.wait = 15 * time.Second
	}
	if len(c.Chains) > maxChains {
		return nil, errs.New(errs.TooLarge, "filter_chains", "%d chains, at most %d", len(c.Chains), maxChains)
	}
	var err error
	logs := c.AccessLogs
	if c.UDP != nil {
		logs = append(logs[:len(logs):len(logs)], c.UDP.AccessLogs...)
	}
	if st.logs, err = n.logs(logs); err != nil {
		return nil, err
	}
	for i, fc := range c.Chains {
		ch, err := n.chain(fc, find(was, fc))
		if err != nil {
			return nil, fmt.Errorf("filter chain %d: %w", i, err)
		}
		st.chains = append(st.chains, ch)
		m := &fc.Match
		st.inspect = st.inspect || len(m.ServerNames)+len(m.ALPN) > 0 || m.TransportProtocol != ""
	}
	if c.Default != nil {
		if st.def, err = n.chain(c.Default, find(was, c.Default)); err != nil {
			return nil, fmt.Errorf("default filter chain: %w", err)
		}
	}
	return st, nil
}

// find gives the chain that fc replaces: the same pointer, or the same name.
func find(was *listening, fc *config.FilterChain) *chain {
	if was == nil {
		return nil
	}
	for _, ch := range was.all() {
		if ch.cfg == fc {
			return ch
		}
	}
	for _, ch := range was.all() {
		if ch.cfg.Name == fc.Name && reflect.DeepEqual(ch.cfg.Match, fc.Match) {
			return ch
		}
	}
	return nil
}

func (n *next) chain(c *config.FilterChain, was *chain) (*chain, error) {
	if was != nil && was.cfg == c {
		return was, n.routing(was.http)
	}
	ch := &chain{cfg: c, matchAll: reflect.DeepEqual(c.Match, config.ChainMatch{})}
	if was != nil {
		ch.count = was.count
	}
	for len(ch.count) < len(n.s.workers) {
		ch.count = append(ch.count, new(chainCount))
	}
	if err := ch.gate.build(c, was); err != nil {
		return nil, err
	}
	if c.TLS != nil {
		var alpn []string
		if c.HTTP != nil {
			alpn = alpnOf(c.HTTP.Codec)
		}
		var err error
		if was != nil && reflect.DeepEqual(was.cfg.TLS, c.TLS) {
			ch.tls, ch.share = was.tls, was.share // tickets and sessions go on
		} else if ch.tls, err = secure.NewServer(c.TLS, alpn, n.s.secureDeps()); err != nil {
			return nil, err
		} else {
			ch.share = secure.NewShare(max(16, n.s.o.Handshakes/2))
		}
	}
	switch {
	case c.HTTP != nil:
		var wasHTTP *exchange.Manager
		if was != nil {
			wasHTTP = was.http
		}
		m, err := n.manager(c.HTTP, wasHTTP)
		if err != nil {
			return nil, err
		}
		m.SetReadLimit(c.ReadLimit)
		ch.http = m
	case c.TCP != nil:
		if len(c.TCP.Weighted) > 0 {
			ch.weights = newWeights(c.TCP.Weighted)
		}
		ch.subset = balance.Match(c.TCP.Subset)
		var err error
		if ch.logs, err = n.logs(c.TCP.AccessLogs); err != nil {
			return nil, err
		}
		if err := n.known(c.TCP.Cluster, c.TCP.Weighted); err != nil {
			return nil, err
		}
	default:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "filters", Expected: "an HTTP connection manager or a TCP proxy"}
	}
	return ch, nil
}

func alpnOf(c config.Codec) []string {
	switch c {
	case config.CodecHTTP1:
		return []string{"http/1.1"}
	case config.CodecHTTP2:
		return []string{"h2"}
	}
	return []string{"h2", "http/1.1"}
}

// known tells that clusters which a file names exist. By xDS they may come
// later.
func (n *next) known(name string, ws []config.Weighted) error {
	for _, w := range ws {
		if _, ok := n.cfg.Clusters[w.Cluster]; !ok && w.Cluster != "" {
			return &errs.Error{Kind: errs.NotFound, Subject: "cluster", Field: "cluster", Seen: w.Cluster, Fix: "define it under static_resources.clusters"}
		}
	}
	if _, ok := n.cfg.Clusters[name]; !ok && name != "" {
		return &errs.Error{Kind: errs.NotFound, Subject: "cluster", Field: "cluster", Seen: name, Fix: "define it under static_resources.clusters"}
	}
	return nil
}

func (n *next) manager(c *config.HTTPManager, was *exchange.Manager) (*exchange.Manager, error) {
	ls, err := n.logs(c.AccessLogs)
	if err != nil {
		return nil, err
	}
	var prev *filter.Chain
	if was != nil {
		prev = was.Chain()
	}
	fc, err := n.s.filters(c, prev)
	if err != nil {
		return nil, err
	}
	tracer, err := n.tracer(c.Tracing)
	if err != nil {
		return nil, err
	}
	m, err := exchange.NewManager(c, fc, &n.s.clusters, ls, tracer, len(n.s.workers), was)
	if err != nil {
		return nil, err
	}
	var r *exchange.Routing
	if was != nil {
		r = was.Routing()
	}
	if r != nil && r.Table.Config() == n.routes(c) && fc == prev {
		m.SetRouting(r)
		return m, nil
	}
	return m, n.routing(m)
}

func (n *next) routes(c *config.HTTPManager) *config.RouteConfig {
	if c.RouteName != "" {
		return n.cfg.Routes[c.RouteName]
	}
	return c.Routes
}

// routing compiles a manager's routes, unless those in force are the same.
func (n *next) routing(m *exchange.Manager) error {
	if m == nil {
		return nil
	}
	rc := n.routes(m.Config())
	was := m.Routing()
	if rc == nil || was != nil && was.Table.Config() == rc {
		return nil
	}
	r, err := exchange.NewRouting(rc, m, len(n.s.workers), was)
	if err != nil {
		return err
	}
	if was == nil {
		m.SetRouting(r)
		return nil
	}
	n.updates = append(n.updates, func() error { m.SetRouting(r); return nil })
	return nil
}

// logs compiles access logs; sinks are opened at commit.
func (n *next) logs(cs []*config.AccessLog) (out logs, err error) {
	for _, c := range cs {
		f := n.s.files[c.Path]
		if f == nil {
			xs := make([]*exchange.Worker, len(n.s.workers))
			for i, w := range n.s.workers {
				xs[i] = w.x
			}
			f = exchange.NewSink(c.Path, xs)
			if !n.dry {
				if err := f.Try(); err != nil {
					return nil, err
				}
				n.s.sinks.Go("access log "+c.Path, f.Run)
			}
			n.s.files[c.Path] = f
		}
		g, err := exchange.NewLog(c, f)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
	}
	return out, nil
}
