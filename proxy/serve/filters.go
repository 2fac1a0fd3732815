// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/stock"
	"redoubt.dev/proxy/filter/trace"
)

func (s *Server) filterDeps() filter.Deps {
	return filter.Deps{Call: s.caller, Now: time.Now, Healthy: s.healthy, Draining: s.stopping.Load}
}

// healthy gives the share of a cluster's hosts that are healthy, per cent.
func (s *Server) healthy(cluster string) (perCent float64, ok bool) {
	cl := (*s.clusters.Load())[cluster]
	if cl == nil {
		return 0, false
	}
	n, all := 0, cl.Set.Hosts()
	for _, h := range all {
		if h.Healthy() {
			n++
		}
	}
	return 100 * float64(n) / float64(max(1, len(all))), true
}

// filters makes the chain of a manager; prev, which may be nil, lends filters
// that have not changed.
func (s *Server) filters(c *config.HTTPManager, prev *filter.Chain) (*filter.Chain, error) {
	return stock.Chain(c.Filters, s.filterDeps(), prev)
}

// tracer gives the tracer of a tracing configuration; managers with the same
// one share it. Nil: nothing is traced.
func (n *next) tracer(c *config.Tracing) (*trace.Tracer, error) {
	if c == nil {
		return nil, nil
	}
	if t := n.s.tracers[c]; t != nil {
		return t, nil
	}
	t, err := trace.New(c, n.s.filterDeps())
	if err != nil || n.dry {
		return t, err
	}
	n.s.tracers[c] = t
	n.s.tasks.Go("spans to "+c.Cluster, func(ctx context.Context) error { return t.Run(ctx) })
	return t, nil
}
