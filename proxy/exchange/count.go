// SPDX-License-Identifier: Apache-2.0

package exchange

import "redoubt.dev/proxy/filter"

// Counters are one worker's, plain numbers: only its loop touches them, and
// who wants them asks the loop for a copy.

// Buckets are the upper bounds of duration histograms, in nanoseconds.
var Buckets = [...]int64{100e3, 200e3, 400e3, 800e3, 1600e3, 3200e3, 6400e3, 12800e3, 51200e3, 204800e3, 819200e3, 3276800e3, 13107200e3}

// Histogram counts durations.
type Histogram struct {
	Bucket [len(Buckets) + 1]uint64
	Sum    uint64 // ns
}

func (h *Histogram) observe(ns int64) {
	i := 0
	for i < len(Buckets) && ns > Buckets[i] {
		i++
	}
	h.Bucket[i]++
	h.Sum += uint64(ns)
}

func (h *Histogram) add(o *Histogram) {
	for i := range o.Bucket {
		h.Bucket[i] += o.Bucket[i]
	}
	h.Sum += o.Sum
}

// ManagerCount is what one connection manager has seen.
type ManagerCount struct {
	Conns, Requests, Active, Malformed uint64
	Status                             [6]uint64 // by hundreds; 0 for none
	BytesIn, BytesOut                  uint64
	Time                               Histogram
}

// Add adds o to c.
func (c *ManagerCount) Add(o *ManagerCount) {
	c.Conns += o.Conns
	c.Requests += o.Requests
	c.Active += o.Active
	c.Malformed += o.Malformed
	for i := range o.Status {
		c.Status[i] += o.Status[i]
	}
	c.BytesIn += o.BytesIn
	c.BytesOut += o.BytesOut
	c.Time.add(&o.Time)
}

// ClusterCount is what one cluster has seen.
type ClusterCount struct {
	Requests, Dials, DialFailed, ConnectFailed, Reset, Retries, Replays, TryTimeouts, NoHost, Overflow, Moved uint64
	Status                                                                                                    [6]uint64
	Time                                                                                                      Histogram
}

// Add adds o to c.
func (c *ClusterCount) Add(o *ClusterCount) {
	for _, p := range [...][2]*uint64{{&c.Requests, &o.Requests}, {&c.Dials, &o.Dials}, {&c.DialFailed, &o.DialFailed}, {&c.ConnectFailed, &o.ConnectFailed},
		{&c.Reset, &o.Reset}, {&c.Retries, &o.Retries}, {&c.Replays, &o.Replays}, {&c.TryTimeouts, &o.TryTimeouts}, {&c.NoHost, &o.NoHost}, {&c.Overflow, &o.Overflow}, {&c.Moved, &o.Moved}} {
		*p[0] += *p[1]
	}
	for i := range o.Status {
		c.Status[i] += o.Status[i]
	}
	c.Time.add(&o.Time)
}

// RouteCount is what one route has seen.
type RouteCount struct {
	Requests uint64
	Status   [6]uint64
}

// PeerCount is what one client identity has asked.
type PeerCount struct {
	Requests uint64
	Status   [6]uint64
}

// maxPeers bounds the identities that a loop counts apart; those beyond it
// are counted together.
const maxPeers = 4096

// peer gives the counters of a client identity; nil for a client without one.
func (w *Worker) peer(info *filter.ConnInfo) *PeerCount {
	if info.TLS == nil || !info.TLS.PeerValidated {
		return nil
	}
	id := info.TLS.PeerSubject
	if len(info.TLS.PeerURIs) > 0 {
		id = info.TLS.PeerURIs[0]
	}
	p := w.peers[id]
	if p == nil {
		if len(w.peers) >= maxPeers {
			id = "others"
			if p = w.peers[id]; p != nil {
				return p
			}
		}
		p = new(PeerCount)
		w.peers[id] = p
	}
	return p
}

// EachPeer gives the counters by client identity; call it on the loop.
func (w *Worker) EachPeer(f func(id string, c *PeerCount)) {
	for id, c := range w.peers {
		f(id, c)
	}
}

// EachRoute gives the counters of the routes in force; call it on the loop.
func (m *Manager) EachRoute(w *Worker, f func(route string, c *RouteCount)) {
	r := m.routing.Load()
	if r == nil {
		return
	}
	for _, h := range r.Table.Config().Hosts {
		for _, rt := range h.Routes {
			if rt.Name != "" && rt.Index < len(r.counts[w.n]) {
				f(h.Name+"."+rt.Name, &r.counts[w.n][rt.Index])
			}
		}
	}
}

// Counts copies a worker's counters; call it on the worker's loop.
func (cl *Cluster) Counts(w *Worker) ClusterCount { return *cl.counts[w.n] }
