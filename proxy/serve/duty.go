// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"

	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/filter"
)

// duty starts what a cluster needs beside the loops: health checks, name
// resolution. False means that it needs nothing.
func (s *Server) duty(context.Context, *exchange.Cluster) bool { return false }

// buildFilters makes the chain of a manager; prev, which may be nil, lends
// filters that have not changed.
func (s *Server) buildFilters(c *config.HTTPManager, prev *filter.Chain) (*filter.Chain, error) {
	if prev != nil && prev.Len() == 0 {
		return prev, nil
	}
	return filter.NewChain(nil)
}

// events tells the log what becomes of hosts.
type events struct{ s *Server }

// Ejected says that a host was found an outlier.
func (e events) Ejected(h *balance.Host, why balance.Cause, enforced bool) {
	e.s.log.Warn("host ejected", "host", h.Name, "cause", why.String(), "enforced", enforced)
}

// Returned says that an ejection is over.
func (e events) Returned(h *balance.Host) { e.s.log.Info("host returns", "host", h.Name) }

// Health says that a health check changed its mind.
func (e events) Health(h *balance.Host, healthy bool, why string) {
	e.s.log.Info("host health changed", "host", h.Name, "healthy", healthy, "why", why)
}
