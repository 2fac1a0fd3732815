// SPDX-License-Identifier: Apache-2.0

package exchange

// Pools are their loops' own, so that a request stays on its thread. A loop
// that has no connection at rest takes one from a loop that has, before it
// dials: clients that come to another loop than before find the connections
// that are there, and a host sees as many as are needed, not times the loops.

// steal asks the other loops, one after the other, for a connection at rest.
func (p *pool) steal() {
	p.stealing = true
	p.ask(1)
}

func (p *pool) ask(i int) {
	ws := p.w.sh.Workers
	if i == len(ws) || p.host.Idle.Load() == 0 {
		p.stealing = false
		p.dialAsNeeded()
		p.prune()
		return
	}
	o, key := ws[(p.w.n+i)%len(ws)], p.key()
	asked := o.l.Post(func() {
		c := o.give(key)
		if !p.w.l.Post(func() { p.got(c, i) }) && c != nil {
			c.c.Drop()
			p.open++
			p.closed(c.high)
		}
	})
	if !asked {
		p.ask(i + 1)
	}
}

// give takes the connection off this loop that rested last.
func (w *Worker) give(key poolKey) *h1client {
	p := w.pools[key]
	if p == nil || len(p.idle) == 0 || p.retired {
		return nil
	}
	c := p.idle[len(p.idle)-1]
	if c.c.Dead() || c.old() || !c.c.Leave() {
		return nil
	}
	p.forget(c)
	p.open--
	c.resting = false
	w.l.StopTimer(&c.t)
	p.prune()
	return c
}

// got has what another loop gave serve who waits.
func (p *pool) got(c *h1client, i int) {
	if c == nil {
		p.ask(i + 1)
		return
	}
	p.stealing = false
	p.open++
	c.p = p
	if err := p.w.l.Join(c.c, c); err != nil {
		p.closed(c.high)
		p.dialAsNeeded()
		return
	}
	p.cl.count(p.w).Moved++
	p.ready1(c)
	p.dialAsNeeded()
}
