// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"time"

	"redoubt.dev/proxy/config"
)

// Ticketer seals and opens tickets for tests.
type Ticketer struct{ t *ticketer }

// NewTicketer makes one with a key of zeros.
func NewTicketer() Ticketer {
	t, err := newTicketer([]config.SecretBytes{make([]byte, 80)}, time.Hour)
	if err != nil {
		panic(err)
	}
	return Ticketer{t}
}

// Seal seals a session that ends at until.
func (t Ticketer) Seal(session []byte, until, now time.Time, bound []byte) []byte {
	b, err := t.t.seal(session, grant{proven: now, until: until}, now, bound)
	if err != nil {
		panic(err)
	}
	return b
}

// Open opens a ticket.
func (t Ticketer) Open(ticket []byte, now time.Time, bound []byte) ([]byte, bool) {
	b, _, ok := t.t.open(ticket, now, bound)
	return b, ok
}
