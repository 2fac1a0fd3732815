// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"net/netip"
	"time"

	"redoubt.dev/proxy/config"
)

// Bounds of on-demand hosts: clients choose the destinations.
const (
	maxDest    = 65536
	destExpiry = int64(5 * time.Second) // unused for one to two of these: forgotten (Envoy's cleanup_interval)
	destCache  = 256                    // of each picker
)

type destKey = netip.AddrPort

// dest finds or makes the host of a destination. The lock is taken for a
// destination that the loop has not seen lately.
func (p *Picker) dest(a *Ask) (*Host, Reason) {
	to := a.Dest
	if od := p.s.c.OriginalDst; od != nil && od.Port != 0 {
		to = netip.AddrPortFrom(to.Addr(), od.Port)
	}
	if !to.Addr().IsValid() || to.Port() == 0 {
		return nil, NoDest
	}
	if p.cache == nil {
		p.cache = make([]*Host, destCache)
	}
	b := to.Addr().As16()
	slot := &p.cache[(uint(b[15])+uint(b[14])*31+uint(b[13])*131+uint(to.Port())*17)%destCache]
	if h := *slot; h != nil && h.Addr == to && h.state.Load()&removed == 0 {
		if !h.used.Load() {
			h.used.Store(true)
		}
		return h, Found
	}
	h := p.s.destination(to)
	if h == nil {
		return nil, TooMany
	}
	*slot = h
	return h, Found
}

func (s *Set) destination(to netip.AddrPort) *Host {
	sh := s.shared
	sh.destMu.Lock()
	defer sh.destMu.Unlock()
	h := sh.dest[to]
	if h == nil {
		if len(sh.dest) >= maxDest {
			return nil
		}
		h = newHost(hostKey{addr: to}, &config.Endpoint{Addr: to})
		h.set.Store(s)
		sh.dest[to] = h
	}
	h.used.Store(true)
	return h
}

// expire forgets destinations that nobody has used since the last time. A pick
// that races with it keeps a host that works, only no longer shared.
func (s *Set) expire() {
	sh := s.shared
	sh.destMu.Lock()
	defer sh.destMu.Unlock()
	for to, h := range sh.dest {
		if !h.used.Swap(false) && h.Active.Load() == 0 && h.Conns.Load() == 0 {
			h.setFlags(removed, 0)
			delete(sh.dest, to)
		}
	}
}
