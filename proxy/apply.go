// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"net/netip"
	"time"

	"redoubt.dev/api/wire"
	"redoubt.dev/proxy/flow"
	"redoubt.dev/proxy/route"
)

// podSite is a pod's site; site is nil while its edge cannot be opened.
type podSite struct {
	site *flow.Site
	pod  *route.Pod
}

// Apply puts a snapshot in force: when it returns nil, every loop works by it
// and every live connection was held to it. On an error the last one stays in
// force.
func (p *Proxy) Apply(s *wire.Snapshot) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	t, err := route.Compile(s, p.table, p.cfg.Snapshot)
	if err != nil {
		return err
	}
	var added, retired []*flow.Site
	for uid, ps := range p.pods {
		now := t.Pods[uid]
		if now == nil || now.Addr != ps.pod.Addr || now.NetNS != ps.pod.NetNS {
			delete(p.pods, uid)
			if ps.site != nil {
				ps.site.Retire()
				retired = append(retired, ps.site)
			}
		}
	}
	for at, site := range p.gateways {
		if t.Gateways[at] == nil {
			delete(p.gateways, at)
			site.Retire()
			retired = append(retired, site)
		}
	}
	for uid, pod := range t.Pods {
		ps := p.pods[uid]
		if ps == nil {
			ps = &podSite{}
			p.pods[uid] = ps
		}
		ps.pod = pod
		if ps.site != nil {
			ps.site.SetPod(pod)
		} else if site := p.openPod(ps); site != nil {
			added = append(added, site)
		}
	}
	for at, g := range t.Gateways {
		if site := p.gateways[at]; site != nil {
			site.SetGateway(g)
		} else if site := p.openGateway(at, g); site != nil {
			added = append(added, site)
		}
	}
	p.table = t
	p.enforce(added, retired)
	return nil
}

// enforce brings the loops in line and closes what is gone.
func (p *Proxy) enforce(added, retired []*flow.Site) {
	p.each(func(w *flow.Worker) {
		for _, s := range retired {
			w.Remove(s)
		}
		for _, s := range added {
			if err := w.Add(s); err != nil {
				p.log.Error("cannot accept at an edge", "err", err)
			}
		}
		w.Review()
	})
	for _, s := range retired {
		if err := s.Close(); err != nil {
			p.log.Warn("close an edge", "err", err)
		}
	}
}

// openPod opens a pod's edge. An edge that cannot be opened leaves its pod
// without network, which is the safe side, and must not keep a revocation in
// the same snapshot from the others.
func (p *Proxy) openPod(ps *podSite) *flow.Site {
	e, err := p.open.Open(ps.pod)
	if err != nil {
		p.log.Error("pod has no edge; it will be tried again", "pod", ps.pod.Namespace+"/"+ps.pod.Name, "err", err)
		return nil
	}
	ps.site = flow.NewPodSite(e, ps.pod)
	return ps.site
}

func (p *Proxy) openGateway(at netip.AddrPort, g *route.Gateway) *flow.Site {
	e, err := p.open.OpenGateway(at)
	if err != nil {
		p.log.Error("gateway has no listener; it will be tried again", "listen", at, "err", err)
		return nil
	}
	s := flow.NewGatewaySite(e, g)
	p.gateways[at] = s
	return s
}

// reopenEvery is how often edges that could not be opened are tried again.
const reopenEvery = time.Second

// reopen tries again what could not be opened.
func (p *Proxy) reopen(ctx context.Context) error {
	t := time.NewTicker(reopenEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
		p.mu.Lock()
		var added []*flow.Site
		for _, ps := range p.pods {
			if ps.site == nil {
				if s := p.openPod(ps); s != nil {
					added = append(added, s)
				}
			}
		}
		if p.table != nil {
			for at, g := range p.table.Gateways {
				if p.gateways[at] == nil {
					if s := p.openGateway(at, g); s != nil {
						added = append(added, s)
					}
				}
			}
		}
		if len(added) > 0 {
			p.enforce(added, nil)
		}
		p.mu.Unlock()
	}
}

// stopListening refuses new connections while those under way end: a refusal
// is an answer, waiting in the backlog of one who leaves is none.
func (p *Proxy) stopListening() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ps := range p.pods {
		if ps.site != nil {
			ps.site.StopListening()
		}
	}
	for _, s := range p.gateways {
		s.StopListening()
	}
}

// closeSites closes every edge, after the loops have ended.
func (p *Proxy) closeSites() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, ps := range p.pods {
		if ps.site != nil {
			ps.site.Close()
		}
	}
	for _, s := range p.gateways {
		s.Close()
	}
	clear(p.pods)
	clear(p.gateways)
}

// Version is the version of the snapshot in force; 0 before the first.
func (p *Proxy) Version() uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.table == nil {
		return 0
	}
	return p.table.Version
}
