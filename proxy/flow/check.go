// SPDX-License-Identifier: Apache-2.0

package flow

import (
	"fmt"

	"redoubt.dev/proxy/exchange"
)

// Check holds a worker's accounts to each other. It is meant for tests and
// runs on the loop.
func (w *Worker) Check() error {
	sessions := map[*Site]int{}
	using := map[*load]int{}
	for e := w.sessions.next; e != &w.sessions; e = e.next {
		sessions[e.site]++
		if u := e.up; u != nil {
			if u.owner != e || u.state == gone {
				return fmt.Errorf("session in phase %d holds an upstream in state %d", e.phase, u.state)
			}
			using[u.load]++
		}
		if e.phase == exchanges && e.http != nil {
			e.http.Each(func(x *exchange.Stream) {
				if cl := x.Cluster(); cl != nil {
					using[cl.Owner.(*dest).load]++
				}
			})
		}
		if e.phase == over || !e.down.Alive() {
			return fmt.Errorf("session in phase %d is listed", e.phase)
		}
	}
	for k, d := range w.dests {
		if d.gone || d.destKey != k || d.cl.Owner != d {
			return fmt.Errorf("a destination is listed that is gone")
		}
	}
	for a, l := range w.loads {
		if l.active != using[l] {
			return fmt.Errorf("backend %s: %d counted, %d in use", a, l.active, using[l])
		}
	}
	return nil
}

// Left tells what the site's accounts hold.
func (s *Site) Left() (conns, shakes, queued int64) {
	return s.conns.Load(), s.shakes.Load(), s.queued.Load()
}
