// SPDX-License-Identifier: Apache-2.0

package health

import (
	"time"

	"redoubt.dev/proxy/config"
)

// ServingStatus reads an answer by gRPC.
var ServingStatus = servingStatus

// Judge is the thresholds' core, in strings: "good", "lost", "bad".
type Judge struct{ j judge }

// Weigh takes an answer in.
func (j *Judge) Weigh(v string, c *config.HealthCheck) (healthy, changed bool) {
	changed = j.j.weigh(map[string]verdict{"good": good, "lost": lost, "bad": bad}[v], c)
	return j.j.healthy, changed
}

// Wait gives the time to the next check.
func (j *Judge) Wait(c *config.HealthCheck, changed, traffic bool, random uint64) time.Duration {
	return j.j.wait(c, changed, traffic, random)
}
