// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/stock"
)

// gate is what a chain asks of a connection before it takes it.
type gate struct {
	limit  int64
	bucket *stock.Bucket
	rbac   *filter.RBAC
	shadow *filter.RBAC
}

func (g *gate) build(c *config.FilterChain, was *chain) (err error) {
	g.limit = c.ConnLimit
	if c.RateLimit != nil {
		if was != nil && was.cfg.RateLimit != nil && *was.cfg.RateLimit == *c.RateLimit {
			g.bucket = was.gate.bucket // what was spent stays spent
		} else if g.bucket, err = stock.NewBucket(*c.RateLimit); err != nil {
			return err
		}
	}
	if c.RBAC == nil {
		return nil
	}
	if g.rbac, err = filter.CompileRBAC(c.RBAC); err != nil {
		return err
	}
	if c.RBAC.Shadow != nil {
		g.shadow, err = filter.CompileRBAC(c.RBAC.Shadow)
	}
	return err
}

// admit tells whether the chain has room for another connection.
func (ch *chain) admit(w *worker) bool {
	g := &ch.gate
	if g.limit > 0 && ch.conns.Load() >= g.limit || g.bucket != nil && !g.bucket.Take(engine.Mono()) {
		ch.count[w.n].Limited++
		return false
	}
	return true
}

// authorise tells whether the peer, which has proven what it can, may connect.
func (ch *chain) authorise(w *worker, info *filter.ConnInfo) bool {
	g := &ch.gate
	if g.rbac == nil {
		return true
	}
	c := filter.Context{Conn: info, Remote: info.Source.Addr()}
	ok, policy := g.rbac.Allow(&c)
	if !ok {
		ch.count[w.n].Denied++
		w.s.log.Info("connection denied", "listener", info.Listener, "peer", info.Peer, "policy", policy)
	}
	return ok
}
