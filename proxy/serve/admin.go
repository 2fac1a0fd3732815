// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/exchange"
)

// Admin serves the admin interface on a unix socket at path, readable and
// writable by its owner alone, until ctx ends. It is the way to look into a
// proxy, and to tell it to go: whoever may open it may do both.
func (s *Server) Admin(ctx context.Context, path string) error {
	ln, err := listenAdmin(path, s.heir.in != nil)
	if err != nil {
		return err
	}
	defer removeAdmin(path, identity(path))
	srv := &http.Server{Handler: s.adminMux(), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() {
		late, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		if srv.Shutdown(late) != nil {
			srv.Close()
		}
	})
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve admin socket: %w", err)
	}
	return nil
}

// listenAdmin listens on path. A socket that a dead process left is replaced;
// one that answers is not, unless it is the predecessor's.
func listenAdmin(path string, succeed bool) (net.Listener, error) {
	if succeed {
		return replaceAdmin(path)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode()&os.ModeSocket == 0 {
			return nil, &errs.Error{Kind: errs.Exists, Subject: "admin socket " + path, Expected: "a socket or nothing"}
		}
		if c, err := net.Dial("unix", path); err == nil {
			c.Close()
			return nil, &errs.Error{Kind: errs.Exists, Subject: "admin socket " + path, Expected: "no other proxy", Seen: "one that answers"}
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	old := unix.Umask(0o177)
	ln, err := net.Listen("unix", path)
	unix.Umask(old)
	if err != nil {
		return nil, fmt.Errorf("open admin socket: %w", err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false) // the name may be a successor's by then
	return ln, nil
}

func (s *Server) adminMux() *http.ServeMux {
	m := http.NewServeMux()
	get := func(path, what string, f func(http.ResponseWriter, *http.Request)) {
		m.HandleFunc("GET "+path, f)
		s.help = append(s.help, path+": "+what)
	}
	get("/ready", "LIVE, or 503 before the first configuration and while draining", s.adminReady)
	get("/server_info", "version, state and uptime", s.adminInfo)
	get("/config_dump", "the configuration in force, without secrets", s.adminConfig)
	get("/stats", "counters; ?format=prometheus or json, ?filter= a part of the name", s.adminStats)
	get("/clusters", "hosts, their health and counters", s.adminClusters)
	get("/listeners", "listeners and their addresses", s.adminListeners)
	m.HandleFunc("POST /drain", func(w http.ResponseWriter, _ *http.Request) { s.stop(); fmt.Fprintln(w, "OK") })
	m.HandleFunc("POST /reopen_logs", func(w http.ResponseWriter, _ *http.Request) { s.reopenLogs(); fmt.Fprintln(w, "OK") })
	s.help = append(s.help, "POST /drain: end idle connections, then the others with their request, then the process", "POST /reopen_logs: open access logs again after a rotation",
		"/debug/pprof/: profiles of the process")
	m.HandleFunc("GET /debug/pprof/", pprof.Index)
	m.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	m.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	m.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, strings.Join(s.help, "\n")) })
	return m
}

func (s *Server) reopenLogs() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.files {
		f.Reopen()
	}
}

func (s *Server) adminReady(w http.ResponseWriter, _ *http.Request) {
	state := s.state()
	if state != "LIVE" {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	fmt.Fprintln(w, state)
}

func (s *Server) state() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopping.Load():
		return "DRAINING"
	case s.cfg == nil:
		return "INITIALIZING"
	}
	return "LIVE"
}

func (s *Server) adminInfo(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	version := s.version
	s.mu.Unlock()
	writeJSON(w, map[string]any{"version": "redoubt-proxy", "state": s.state(), "uptime": time.Since(s.began).Round(time.Second).String(), "pid": os.Getpid(),
		"loops": len(s.loops), "configuration": version})
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		fmt.Fprintf(w, "\n%v\n", err)
	}
}

func (s *Server) adminConfig(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	cfg := s.cfg
	s.mu.Unlock()
	writeJSON(w, cfg)
}

func (s *Server) adminListeners(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range sorted(s.listeners) {
		fmt.Fprintf(w, "%s::%s\n", name, s.listeners[name].addr)
	}
}

func (s *Server) adminClusters(w http.ResponseWriter, _ *http.Request) {
	dir := *s.clusters.Load()
	for _, name := range sorted(dir) {
		cl := dir[name]
		for _, h := range cl.Set.Hosts() {
			health := "healthy"
			if !h.Healthy() {
				health = "unhealthy"
			}
			p := name + "::" + h.Name + "::"
			fmt.Fprintf(w, "%shealth_flags::%s\n%scx_active::%d\n%srq_active::%d\n%srq_total::%d\n%srq_error::%d\n", p, health, p, h.Conns.Load(), p, h.Active.Load(), p, h.Requests.Load(), p, h.Errors.Load())
		}
	}
}

func sorted[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// stat is one counter or gauge.
type stat struct {
	name  string
	value uint64
}

func (s *Server) adminStats(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	stats := s.stats()
	if f := q.Get("filter"); f != "" {
		stats = slices.DeleteFunc(stats, func(t stat) bool { return !strings.Contains(t.name, f) })
	}
	switch q.Get("format") {
	case "json":
		out := make([]map[string]any, len(stats))
		for i, t := range stats {
			out[i] = map[string]any{"name": t.name, "value": t.value}
		}
		writeJSON(w, map[string]any{"stats": out})
	case "prometheus":
		s.prometheus(w)
	default:
		for _, t := range stats {
			fmt.Fprintf(w, "%s: %d\n", t.name, t.value)
		}
	}
}

// stats gathers all counters, by Envoy's names where it has the same.
func (s *Server) stats() (out []stat) {
	add := func(name string, v uint64) { out = append(out, stat{name, v}) }
	g := s.gather()
	add("server.live", 1)
	add("server.uptime", uint64(time.Since(s.began)/time.Second))
	add("server.version", g.version)
	add("server.handler_faults", s.faults.Load())
	add("server.total_connections", g.open)
	updates := s.updates()
	for _, k := range sorted(updates) {
		add("configuration."+k, updates[k])
	}
	for _, name := range sorted(g.listeners) {
		c := g.listeners[name]
		p := "listener." + name + "."
		add(p+"downstream_cx_total", c.Conns)
		add(p+"downstream_cx_overflow", c.Shed)
		add(p+"no_filter_chain_match", c.NoChain)
		add(p+"downstream_cx_refused", c.Refused)
		add(p+"ssl.connection_error", c.Unshaken)
	}
	for _, name := range sorted(g.managers) {
		c := g.managers[name]
		p := "http." + name + "."
		add(p+"downstream_cx_total", c.Conns)
		add(p+"downstream_rq_total", c.Requests)
		add(p+"downstream_rq_active", c.Active)
		add(p+"downstream_cx_protocol_error", c.Malformed)
		add(p+"downstream_cx_rx_bytes_total", c.BytesIn)
		add(p+"downstream_cx_tx_bytes_total", c.BytesOut)
		for i := 1; i < 6; i++ {
			add(fmt.Sprintf("%sdownstream_rq_%dxx", p, i), c.Status[i])
		}
		addTime(add, p+"downstream_rq_time_us", &c.Time)
	}
	for _, name := range sorted(g.tcp) {
		c := g.tcp[name]
		p := "tcp." + name + "."
		add(p+"downstream_cx_total", c.Streams)
		add(p+"downstream_cx_rx_bytes_total", c.BytesIn)
		add(p+"downstream_cx_tx_bytes_total", c.BytesOut)
		add(p+"downstream_cx_limited", c.Limited)
		add(p+"downstream_cx_denied", c.Denied)
	}
	for _, name := range sorted(g.clusters) {
		c := g.clusters[name]
		p := "cluster." + name + "."
		add(p+"upstream_rq_total", c.Requests)
		add(p+"upstream_cx_total", c.Dials)
		add(p+"upstream_cx_connect_fail", c.DialFailed)
		add(p+"upstream_rq_pending_failure_eject", c.ConnectFailed)
		add(p+"upstream_rq_rx_reset", c.Reset)
		add(p+"upstream_rq_retry", c.Retries)
		add(p+"upstream_rq_replayed", c.Replays)
		add(p+"upstream_rq_per_try_timeout", c.TryTimeouts)
		add(p+"upstream_cx_moved", c.Moved)
		add(p+"upstream_cx_none_healthy", c.NoHost)
		add(p+"upstream_rq_pending_overflow", c.Overflow)
		for i := 1; i < 6; i++ {
			add(fmt.Sprintf("%supstream_rq_%dxx", p, i), c.Status[i])
		}
		addTime(add, p+"upstream_rq_time_us", &c.Time)
	}
	for _, path := range sorted(g.dropped) {
		add("access_log."+path+".dropped", g.dropped[path])
	}
	for _, k := range sorted(g.routes) {
		add("route."+k+".rq_total", g.routes[k])
	}
	for _, k := range sorted(g.peers) {
		add("identity."+k+".rq_total", g.peers[k])
	}
	return out
}

func addTime(add func(string, uint64), name string, h *exchange.Histogram) {
	n := uint64(0)
	for _, b := range h.Bucket {
		n += b
	}
	add(name+".count", n)
	add(name+".sum", h.Sum/1000)
}
