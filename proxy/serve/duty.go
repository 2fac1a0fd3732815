// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"context"
	"crypto/tls"

	"redoubt.dev/base/run"
	"redoubt.dev/proxy/balance"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/exchange"
	"redoubt.dev/proxy/health"
	"redoubt.dev/proxy/secure"
)

// errands are what a cluster needs beside the loops.
type errands struct {
	check   *health.Checker
	resolve *health.Resolver
	client  *secure.Client // nil in clear
}

// discard gives up errands that will not run.
func (e *errands) discard() {
	if e != nil && e.client != nil {
		e.client.Close()
	}
}

// errands makes them; none of it runs yet. Nil: the cluster needs nothing.
func (n *next) errands(c *config.Cluster, set *balance.Set, client *secure.Client) (e *errands, err error) {
	e = &errands{client: client}
	if len(c.Health) > 0 {
		o := health.Options{}
		if client != nil {
			o.TLS = func(_ *config.Cluster, ep *config.Endpoint) *tls.Config {
				if cfg := client.Config(secure.Target{Host: ep.Addr.String(), Authority: ep.Host, Identity: ep.Identity}); cfg != nil {
					return cfg
				}
				return &tls.Config{MinVersion: tls.VersionTLS13} // trusts nobody we know: the check fails until the secrets come
			}
		}
		if e.check, err = health.New(set, o); err != nil {
			return nil, err
		}
	}
	if c.Discovery == config.StrictDNS || c.Discovery == config.LogicalDNS {
		e.resolve, err = health.NewResolver(set, nil, func(host string, err error) {
			n.s.log.Warn("name does not resolve; the last addresses stay", "cluster", c.Name, "host", host, "err", err)
		})
		if err != nil {
			return nil, err
		}
	}
	if e.check == nil && e.resolve == nil && client == nil {
		return nil, nil
	}
	return e, nil
}

// begin runs a cluster's errands until its configuration is replaced.
func (s *Server) begin(cl *exchange.Cluster, e *errands) {
	ctx, cancel := context.WithCancel(s.tasks.Context())
	s.duties[cl] = func() { cancel(); e.discard() }
	if e.check == nil && e.resolve == nil {
		return
	}
	s.tasks.Go("cluster "+cl.Cfg.Name, func(context.Context) error {
		g := run.New(ctx)
		if e.check != nil {
			g.Go("health", e.check.Run)
		}
		if e.resolve != nil {
			g.Go("names", e.resolve.Run)
		}
		return g.Wait()
	})
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
