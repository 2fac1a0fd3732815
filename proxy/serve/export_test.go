// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"fmt"

	"redoubt.dev/proxy/balance"
)

// Owing tells what is still counted as under way; "" for nothing.
func (s *Server) Owing() (out string) {
	for name, cl := range *s.clusters.Load() {
		for _, high := range [...]bool{false, true} {
			for r, what := range [...]string{"connections", "pending", "requests", "retries"} {
				if n, _, _ := cl.Set.Used(balance.Resource(r), high); n != 0 && (r != int(balance.Connections) || n < 0) {
					out += fmt.Sprintf("cluster %s: %d %s\n", name, n, what)
				}
			}
		}
		for _, h := range cl.Set.Hosts() {
			if n := h.Active.Load(); n != 0 {
				out += fmt.Sprintf("cluster %s: host %s: %d active\n", name, h.Name, n)
			}
			if h.Conns.Load() < 0 || h.Idle.Load() < 0 {
				out += fmt.Sprintf("cluster %s: host %s: %d connections, %d idle\n", name, h.Name, h.Conns.Load(), h.Idle.Load())
			}
		}
	}
	for name, m := range s.gather().managers {
		if m.Active != 0 {
			out += fmt.Sprintf("manager %s: %d active\n", name, m.Active)
		}
	}
	return out
}

// Held tells what connections are still counted, once all have ended.
func (s *Server) Held() (out string) {
	for name, cl := range *s.clusters.Load() {
		for _, high := range [...]bool{false, true} {
			if n, _, _ := cl.Set.Used(balance.Connections, high); n != 0 {
				out += fmt.Sprintf("cluster %s: %d connections\n", name, n)
			}
		}
		for _, h := range cl.Set.Hosts() {
			if n, idle := h.Conns.Load(), h.Idle.Load(); n != 0 || idle != 0 {
				out += fmt.Sprintf("cluster %s: host %s: %d connections, %d idle\n", name, h.Name, n, idle)
			}
		}
	}
	for i, l := range s.loops {
		if n := l.Load(); n != 0 {
			out += fmt.Sprintf("loop %d: %d connections\n", i, n)
		}
	}
	return out
}

// Count gives one of a cluster's counters, over all loops.
func (s *Server) Count(cluster string) (requests, dials, retries, replays, overflow uint64) {
	c := s.gather().clusters[cluster]
	return c.Requests, c.Dials, c.Retries, c.Replays, c.Overflow
}

// Hosts gives the health of a cluster's hosts by name.
func (s *Server) Hosts(cluster string) map[string]string {
	m := map[string]string{}
	for _, h := range (*s.clusters.Load())[cluster].Set.Hosts() {
		m[h.Name] = h.Health()
	}
	return m
}

// Faults is how many handlers panicked.
func (s *Server) Faults() uint64 { return s.faults.Load() }

// Under tells that a cluster has other than n requests under way on its hosts.
func (s *Server) Under(cluster string, n int64) string {
	sum := int64(0)
	for _, h := range (*s.clusters.Load())[cluster].Set.Hosts() {
		sum += h.Active.Load()
	}
	if sum != n {
		return fmt.Sprintf("%d requests under way, not %d", sum, n)
	}
	return ""
}
