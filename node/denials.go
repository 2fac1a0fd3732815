// SPDX-License-Identifier: Apache-2.0

package node

import (
	"slices"
	"sync"

	"redoubt.dev/base/obs"
)

// trail is the audit log with the newest denials kept at hand for status.
type trail struct {
	*obs.Audit

	mu      sync.Mutex
	denials []obs.Record // newest last, at most maxDenials
}

const maxDenials = 50

// Write appends to the log; see obs.Audit.
func (t *trail) Write(r obs.Record) error {
	err := t.Audit.Write(r)
	if r.Decision == obs.Deny {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.denials = append(t.denials, r); len(t.denials) > maxDenials {
			t.denials = slices.Delete(t.denials, 0, 1)
		}
	}
	return err
}

func (t *trail) newest() []obs.Record {
	t.mu.Lock()
	defer t.mu.Unlock()
	return slices.Clone(t.denials)
}
