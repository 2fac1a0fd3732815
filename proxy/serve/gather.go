// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"maps"
	"net/http"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"redoubt.dev/proxy/exchange"
)

// gathered is a copy of all counters at one moment.
type gathered struct {
	version, open uint64
	listeners     map[string]*listenerCount
	managers      map[string]*exchange.ManagerCount
	tcp           map[string]*chainCount
	clusters      map[string]*exchange.ClusterCount
	dropped       map[string]uint64
	routes        map[string]uint64
	peers         map[string]uint64
}

func at[T any](m map[string]*T, name string) *T {
	if m[name] == nil {
		m[name] = new(T)
	}
	return m[name]
}

// gather has each loop hand over its counters.
func (s *Server) gather() *gathered {
	s.mu.Lock()
	g := &gathered{version: s.version, listeners: map[string]*listenerCount{}, managers: map[string]*exchange.ManagerCount{}, tcp: map[string]*chainCount{},
		clusters: map[string]*exchange.ClusterCount{}, dropped: map[string]uint64{}, routes: map[string]uint64{}, peers: map[string]uint64{}}
	listeners := maps.Clone(s.listeners)
	for path, f := range s.files {
		g.dropped[path] = f.Dropped.Load()
	}
	s.mu.Unlock()
	for _, l := range s.loops {
		g.open += uint64(l.Load())
	}
	dir := *s.clusters.Load()
	// One loop after the other: what they add to is shared.
	for _, w := range s.workers {
		done := make(chan struct{})
		if !w.l.Post(func() { defer close(done); g.take(w, listeners, dir) }) {
			close(done)
		}
		<-done
	}
	s.heir.merge(g)
	return g
}

func (g *gathered) take(w *worker, listeners map[string]*listener, dir exchange.Directory) {
	seen := map[*exchange.Manager]bool{}
	for name, ln := range listeners {
		c, o := at(g.listeners, name), ln.count[w.n]
		c.Conns += o.Conns
		c.Shed += o.Shed
		c.NoChain += o.NoChain
		c.Refused += o.Refused
		c.Unshaken += o.Unshaken
		for _, ch := range ln.state.Load().all() {
			if m := ch.http; m != nil && !seen[m] {
				seen[m] = true
				n := m.Counts(w.x)
				at(g.managers, m.Config().StatPrefix).Add(&n)
				m.EachRoute(w.x, func(route string, c *exchange.RouteCount) { g.routes[m.Config().StatPrefix+"."+route] += c.Requests })
			}
			if t := ch.cfg.TCP; t != nil {
				c, o := at(g.tcp, t.StatPrefix), ch.count[w.n]
				c.Streams += o.Streams
				c.BytesIn += o.BytesIn
				c.BytesOut += o.BytesOut
				c.Limited += o.Limited
				c.Denied += o.Denied
			}
		}
	}
	for name, cl := range dir {
		n := cl.Counts(w.x)
		if s := cl.Cfg.AltStat; s != "" {
			name = s
		}
		at(g.clusters, name).Add(&n)
	}
	w.x.EachPeer(func(id string, c *exchange.PeerCount) { g.peers[id] += c.Requests })
}

// prometheus writes the counters in Prometheus' text format.
func (s *Server) prometheus(w http.ResponseWriter) {
	reg := prometheus.NewPedanticRegistry()
	if err := reg.Register(&collector{s}); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	promhttp.HandlerFor(reg, promhttp.HandlerOpts{}).ServeHTTP(w, &http.Request{Header: http.Header{}})
}

// collector is a Server for Prometheus.
type collector struct{ s *Server }

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(c, ch) }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("redoubt_proxy_"+name, help, labels, nil)
}

var (
	descLnConns   = desc("listener_connections_total", "Connections accepted.", "listener")
	descLnRefused = desc("listener_refused_total", "Connections refused: no room, no filter chain, or malformed or without a handshake before a protocol.", "listener", "why")
	descRequests  = desc("http_requests_total", "Requests answered.", "manager", "class")
	descActive    = desc("http_requests_active", "Requests under way.", "manager")
	descSeconds   = desc("http_request_seconds", "Time from a request's head to the end of its response.", "manager")
	descUpstream  = desc("cluster_requests_total", "Responses of hosts, the proxy's own included.", "cluster", "class")
	descUpSeconds = desc("cluster_request_seconds", "Time from a request's head sent to the response's head.", "cluster")
	descDials     = desc("cluster_dials_total", "Connections to hosts begun.", "cluster", "result")
	descEvents    = desc("cluster_events_total", "Retries, replays, resets and refusals.", "cluster", "what")
	descStreams   = desc("tcp_streams_total", "TCP connections carried.", "proxy")
	descBytes     = desc("tcp_bytes_total", "Bytes carried.", "proxy", "direction")
	descRoutes    = desc("route_requests_total", "Requests by route.", "route")
	descPeers     = desc("identity_requests_total", "Requests by the client's identity.", "identity")
	descOpen      = desc("connections", "Connections open, both sides.")
	descVersion   = desc("configuration", "Configurations put in force.")
	descUpdates   = desc("configuration_updates_total", "What became of configurations and of what they came from.", "what")
	descDropped   = desc("access_log_dropped_total", "Lines of access logs dropped.", "path")
	descFaults    = desc("faults_total", "Panics of handlers, each of which cost one connection.")
)

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	g := c.s.gather()
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(descOpen, g.open)
	gauge(descVersion, g.version)
	for what, n := range c.s.updates() {
		count(descUpdates, n, what)
	}
	count(descFaults, c.s.faults.Load())
	for name, n := range g.listeners {
		count(descLnConns, n.Conns, name)
		count(descLnRefused, n.Shed, name, "overflow")
		count(descLnRefused, n.NoChain, name, "no filter chain")
		count(descLnRefused, n.Refused, name, "refused")
		count(descLnRefused, n.Unshaken, name, "handshake")
	}
	for name, n := range g.managers {
		for i := 1; i < 6; i++ {
			count(descRequests, n.Status[i], name, strconv.Itoa(i)+"xx")
		}
		gauge(descActive, n.Active, name)
		ch <- histogram(descSeconds, &n.Time, name)
	}
	for name, n := range g.clusters {
		for i := 1; i < 6; i++ {
			count(descUpstream, n.Status[i], name, strconv.Itoa(i)+"xx")
		}
		ch <- histogram(descUpSeconds, &n.Time, name)
		count(descDials, n.Dials-n.DialFailed, name, "ok")
		count(descDials, n.DialFailed, name, "failed")
		for what, v := range map[string]uint64{"retry": n.Retries, "replay": n.Replays, "reset": n.Reset, "try timeout": n.TryTimeouts, "no host": n.NoHost, "overflow": n.Overflow} {
			count(descEvents, v, name, what)
		}
	}
	for name, n := range g.tcp {
		count(descStreams, n.Streams, name)
		count(descBytes, n.BytesIn, name, "in")
		count(descBytes, n.BytesOut, name, "out")
	}
	for name, n := range g.routes {
		count(descRoutes, n, name)
	}
	for name, n := range g.peers {
		count(descPeers, n, name)
	}
	for path, n := range g.dropped {
		count(descDropped, n, path)
	}
}

func histogram(d *prometheus.Desc, h *exchange.Histogram, label string) prometheus.Metric {
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, ns := range exchange.Buckets {
		total += h.Bucket[i]
		buckets[float64(ns)/1e9] = total
	}
	total += h.Bucket[len(exchange.Buckets)]
	return prometheus.MustNewConstHistogram(d, total, float64(h.Sum)/1e9, buckets, label)
}
