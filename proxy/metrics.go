// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"redoubt.dev/proxy/flow"
)

// metrics serves Prometheus and a health check on the unix socket.
func (p *Proxy) metrics(ctx context.Context) error {
	reg := prometheus.NewRegistry()
	reg.MustRegister(p)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 5 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		if p.Version() == 0 {
			http.Error(w, "no snapshot yet", http.StatusServiceUnavailable)
			return
		}
		fmt.Fprintln(w, "ok")
	})
	ln, err := listenUnix(p.cfg.Metrics, 0o660)
	if err != nil {
		return fmt.Errorf("open metrics socket: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	stop := context.AfterFunc(ctx, func() { srv.Close() })
	defer stop()
	if err := srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("redoubt_proxy_"+name, help, labels, nil)
}

var (
	descConns     = desc("connections_total", "Connections accepted.", "side")
	descOpen      = desc("connections_open", "Connections open now, both sides counted.")
	descShed      = desc("connections_shed_total", "Connections refused for want of room.")
	descRequests  = desc("requests_total", "HTTP requests answered.", "class")
	descLatency   = desc("request_seconds", "Time from a request's head to the end of its response.")
	descStreams   = desc("streams_total", "Opaque connections carried to their end.")
	descDenied    = desc("denied_total", "Connections and requests that policy denied.")
	descCut       = desc("cut_total", "Live connections cut by revocation, policy or departure.")
	descMalformed = desc("malformed_total", "Requests refused as malformed.")
	descShakes    = desc("handshakes_total", "mTLS handshakes.", "result")
	descDials     = desc("dials_total", "Connections to backends begun.", "result")
	descUnreach   = desc("unreachable_total", "Connections and requests for which no backend answered.")
	descRetries   = desc("retries_total", "Requests sent again on another connection.")
	descQueries   = desc("dns_queries_total", "Name queries.", "result")
	descLost      = desc("audit_refused_total", "Decisions refused because their record could not be kept.")
	descAuditErrs = desc("audit_errors_total", "Errors of the audit log.")
	descDropped   = desc("access_log_dropped_total", "Lines of the access log dropped.")
	descFaults    = desc("faults_total", "Panics of handlers, each of which cost one connection.")
	descVersion   = desc("snapshot_version", "Version of the snapshot in force.")
)

// Describe implements prometheus.Collector.
func (p *Proxy) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(p, ch) }

// Collect implements prometheus.Collector: each loop hands over a copy of
// its counters.
func (p *Proxy) Collect(ch chan<- prometheus.Metric) {
	copies := make([]flow.Counters, len(p.sh.Workers))
	p.each(func(w *flow.Worker) { copies[w.Index()] = w.Counters() })
	var c flow.Counters
	for i := range copies {
		c.Add(&copies[i])
	}
	count := func(d *prometheus.Desc, n uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	gauge := func(d *prometheus.Desc, v float64) { ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v) }
	for _, k := range []flow.Kind{flow.Outbound, flow.Inbound, flow.Gateway} {
		count(descConns, c.Conns[k], k.String())
	}
	for i := 1; i < len(c.Requests); i++ {
		count(descRequests, c.Requests[i], strconv.Itoa(i)+"xx")
	}
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, ns := range flow.Buckets {
		total += c.Latency[i]
		buckets[float64(ns)/1e9] = total
	}
	total += c.Latency[len(flow.Buckets)]
	ch <- prometheus.MustNewConstHistogram(descLatency, total, float64(c.LatencySum)/1e9, buckets)
	var open int64
	for _, l := range p.loops {
		open += l.Load()
	}
	gauge(descOpen, float64(open))
	gauge(descVersion, float64(p.Version()))
	count(descShed, c.Shed)
	count(descStreams, c.Streams)
	count(descDenied, c.Denied)
	count(descCut, c.Cut)
	count(descMalformed, c.Malformed)
	count(descShakes, c.Handshakes, "ok")
	count(descShakes, c.HandshakeFailed, "failed")
	count(descDials, c.Dials-c.DialFailed, "ok")
	count(descDials, c.DialFailed, "failed")
	count(descUnreach, c.Unreachable)
	count(descRetries, c.Retries)
	count(descQueries, c.Queries, "answered")
	count(descQueries, c.QueriesRefused, "dropped")
	count(descLost, p.sh.Audit.Lost.Load())
	count(descFaults, p.faults.Load())
	count(descAuditErrs, p.sh.Audit.Errs.Load())
	if p.sh.Access != nil {
		count(descDropped, p.sh.Access.Dropped.Load())
	}
}
