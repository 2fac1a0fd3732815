// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/wire"
)

// Authority signs SVIDs. *CA is one.
type Authority interface {
	Issue(Record, time.Duration) (wire.SVID, error)
}

// Issuer holds the SVIDs of all admitted workloads and renews them. Methods
// may run concurrently.
type Issuer struct {
	ca      Authority
	ttl     time.Duration
	now     func() time.Time
	changed chan struct{} // capacity 1: a change that was not yet seen covers the next
	kick    chan struct{} // capacity 1: wakes Run when a slot came or went

	mu    sync.Mutex
	slots map[string]*held
}

// held is one workload's slot. Its SVID is replaced, never changed.
type held struct {
	rec  Record
	svid wire.SVID
	slot slot
	err  error // of the last renewal; nil when it went well
}

// NewIssuer makes an Issuer whose SVIDs live for ttl.
func NewIssuer(ca Authority, ttl time.Duration, now func() time.Time) *Issuer {
	return &Issuer{ca: ca, ttl: ttl, now: now, slots: map[string]*held{},
		changed: make(chan struct{}, 1), kick: make(chan struct{}, 1)}
}

// Admit gives the workload of rec an SVID and keeps it renewed until Forget.
// Admitting the same record again gives the SVID that is live. The same UID
// with another ID is errs.Conflict: a pod's name does not change.
func (i *Issuer) Admit(rec Record) (wire.SVID, error) {
	if s, ok, err := i.live(rec); ok || err != nil {
		return s, err
	}
	now := i.now()
	svid, err := i.ca.Issue(rec, i.ttl)
	if err != nil {
		return wire.SVID{}, err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.slots[rec.UID]; h != nil && h.rec != rec {
		return wire.SVID{}, conflict(rec, h.rec) // another caller was faster
	}
	i.slots[rec.UID] = &held{rec: rec, svid: svid, slot: i.slotOf(svid, now)}
	signal(i.changed)
	signal(i.kick)
	return svid, nil
}

func (i *Issuer) live(rec Record) (wire.SVID, bool, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	h := i.slots[rec.UID]
	switch {
	case h == nil:
		return wire.SVID{}, false, nil
	case h.rec != rec:
		return wire.SVID{}, false, conflict(rec, h.rec)
	}
	return h.svid, i.now().Before(h.svid.NotAfter), nil
}

func conflict(rec, old Record) error {
	return &errs.Error{Kind: errs.Conflict, Subject: "workload " + rec.UID, Field: "id", Expected: old.ID.String(), Seen: rec.ID.String(), Fix: "forget the workload before admitting it under another identity"}
}

// Forget drops the workload; its SVID leaves the next snapshot. Forgetting
// what is not held does nothing.
func (i *Issuer) Forget(uid string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if _, ok := i.slots[uid]; ok {
		delete(i.slots, uid)
		signal(i.changed)
		signal(i.kick)
	}
}

// SVIDs gives the unexpired SVIDs by UID. The map is the caller's.
func (i *Issuer) SVIDs() map[string]wire.SVID {
	i.mu.Lock()
	defer i.mu.Unlock()
	now := i.now()
	out := make(map[string]wire.SVID, len(i.slots))
	for uid, h := range i.slots {
		if now.Before(h.svid.NotAfter) {
			out[uid] = h.svid
		}
	}
	return out
}

// Changed receives after SVIDs would give something new. Changes coalesce: one
// receive may stand for many. It has one reader and is never closed.
func (i *Issuer) Changed() <-chan struct{} { return i.changed }

// Health is nil when every live SVID was renewed in time, else what failed.
func (i *Issuer) Health() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var all []error
	for _, uid := range slices.Sorted(maps.Keys(i.slots)) {
		if h := i.slots[uid]; h.err != nil {
			all = append(all, fmt.Errorf("renew the SVID of %s (%s), valid until %s: %w", uid, h.rec.ID, h.svid.NotAfter.Format(time.RFC3339), h.err))
		}
	}
	return errors.Join(all...)
}

// Run renews until ctx ends. A renewal that fails does not end it: the SVID
// stays until it expires, Health tells, and it is tried again.
func (i *Issuer) Run(ctx context.Context) error {
	t := time.NewTimer(0)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-i.kick:
		case <-t.C:
		}
		t.Reset(i.round())
	}
}

// round does what the plan says and gives the time until the next one.
func (i *Issuer) round() time.Duration {
	now := i.now()
	due, expired, _ := plan(i.view(), now)
	for _, uid := range due {
		i.renew(uid)
	}
	i.tell(expired, now)
	now = i.now()
	_, _, wake := plan(i.view(), now)
	return wake.Sub(now)
}

func (i *Issuer) view() map[string]slot {
	i.mu.Lock()
	defer i.mu.Unlock()
	out := make(map[string]slot, len(i.slots))
	for uid, h := range i.slots {
		out[uid] = h.slot
	}
	return out
}

// tell makes known that SVIDs left the snapshot because they expired.
func (i *Issuer) tell(expired []string, now time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, uid := range expired {
		if h := i.slots[uid]; h != nil && !now.Before(h.svid.NotAfter) {
			h.slot.Told = true
			signal(i.changed)
		}
	}
}

func (i *Issuer) slotOf(s wire.SVID, now time.Time) slot {
	return slot{NotBefore: now.Add(-backdate(i.ttl)), Issued: now, NotAfter: s.NotAfter}
}

func (i *Issuer) renew(uid string) {
	i.mu.Lock()
	h := i.slots[uid]
	i.mu.Unlock()
	if h == nil {
		return
	}
	now := i.now()
	svid, err := i.ca.Issue(h.rec, i.ttl)
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.slots[uid] != h {
		return // forgotten or replaced meanwhile: what was signed is dropped unseen
	}
	if err != nil {
		h.err = err
		h.slot.Failures++
		h.slot.Tried = now
		return
	}
	h.svid, h.err, h.slot = svid, nil, i.slotOf(svid, now)
	signal(i.changed)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
