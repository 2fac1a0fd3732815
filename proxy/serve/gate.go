// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/secure"
)

// gate is what a chain asks of a connection before it takes it.
type gate struct {
	limit int64
}

func (g *gate) build(c *config.FilterChain) error {
	g.limit = c.ConnLimit
	return nil
}

// admit tells whether the chain takes the connection.
func (ch *chain) admit(w *worker, info *filter.ConnInfo, hello *secure.Hello) bool {
	if ch.gate.limit > 0 && ch.conns.Load() >= ch.gate.limit {
		ch.count[w.n].Limited++
		return false
	}
	return true
}
