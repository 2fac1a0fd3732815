// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"errors"
	"fmt"

	"redoubt.dev/proxy/flow"
)

// ShareForTest lowers what one site may have, before Run.
func (p *Proxy) ShareForTest(n int64) { p.sh.SiteConns = n }

// CheckForTest holds every worker's accounts to each other.
func (p *Proxy) CheckForTest() error {
	errs := make([]error, len(p.sh.Workers))
	p.each(func(w *flow.Worker) { errs[w.Index()] = w.Check() })
	if n := p.faults.Load(); n > 0 {
		errs = append(errs, fmt.Errorf("%d handlers panicked", n))
	}
	return errors.Join(errs...)
}

// LeftForTest sums what the sites' accounts hold.
func (p *Proxy) LeftForTest() (conns, shakes, queued int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ps := range p.pods {
		a, b, c := ps.site.Left()
		conns, shakes, queued = conns+a, shakes+b, queued+c
	}
	return conns, shakes, queued
}

// OpenForTest counts connections on all loops.
func (p *Proxy) OpenForTest() (n int64) {
	for _, l := range p.loops {
		n += l.Load()
	}
	return n
}

// CountersForTest sums what the workers have counted.
func (p *Proxy) CountersForTest() (sum flow.Counters) {
	all := make([]flow.Counters, len(p.sh.Workers))
	p.each(func(w *flow.Worker) { all[w.Index()] = w.Counters() })
	for i := range all {
		sum.Add(&all[i])
	}
	return sum
}
