// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"time"

	"redoubt.dev/proxy/handover/wire"
)

// ExportTicketKeys writes the keys of session tickets that s made itself, for
// the process that succeeds this one: its clients' tickets open there. Shared
// keys come to it by its own configuration. The caller wipes what was written.
func (s *Server) ExportTicketKeys(w *wire.Writer) {
	if s.tickets == nil {
		w.U32(0)
		return
	}
	s.tickets.mu.Lock()
	defer s.tickets.mu.Unlock()
	if s.tickets.shared || len(s.tickets.keys) == 0 {
		w.U32(0)
		return
	}
	w.U32(uint32(len(s.tickets.keys)))
	for i := range s.tickets.keys {
		k := &s.tickets.keys[i]
		w.Bytes(k.name[:])
		w.Bytes(k.secret[:])
	}
	w.Wall(s.tickets.next)
}

// ImportTicketKeys reads what ExportTicketKeys wrote and puts it in force,
// unless s has shared keys. A nil s reads only.
func (s *Server) ImportTicketKeys(r *wire.Reader) {
	var keys []ticketKey
	n := r.Count(ticketName + ticketSecret)
	if n == 0 {
		return
	}
	for range n {
		name, secret := r.Bytes(), r.Bytes()
		if len(name) != ticketName || len(secret) != ticketSecret || n > randomKeys {
			r.Bad("ticket key")
			return
		}
		keys = append(keys, ticketKey{[ticketName]byte(name), [ticketSecret]byte(secret)})
	}
	next := r.Wall()
	if r.Err() != nil || s == nil || s.tickets == nil {
		return
	}
	t := s.tickets
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.shared {
		// A timeout that became shorter counts from now.
		if most := time.Now().Add(t.timeout / 2); next.After(most) {
			next = most
		}
		t.keys, t.next = keys, next
	}
}
