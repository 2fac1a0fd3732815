// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// Place is where a proxy or a host runs. Empty parts match empty parts only.
type Place struct{ Region, Zone, SubZone string }

// Options are what a Set needs beside the cluster. Zero values work.
type Options struct {
	Here   Place         // where this proxy runs, for zone aware routing
	Local  *Set          // the hosts of the proxy's own kind; nil: no zone aware routing
	Events Events        // nil: nobody listens
	Now    func() int64  // monotonic nanoseconds, the clock that loops use; nil: one of its own
	Rand   func() uint64 // for enforcement and jitter, from many goroutines; nil: the runtime's
	Wake   func()        // called, also on loops, when Sweep has work before the time that it named; must not block; may be nil
}

// Set is the hosts of one cluster. It is safe for concurrent use.
type Set struct {
	c       *config.Cluster
	o       Options
	limits  [2]limits
	outlier *outlier // nil: none
	choices int      // of least request
	bias    float64
	snap    atomic.Pointer[snapshot]
	shared  *shared
	woken   atomic.Bool
	due     chan struct{} // room for one: tells Run of work

	// Guarded by shared.mu.
	nextSweep int64 // of outliers
	nextDest  int64
	localSeen *snapshot // of o.Local, when the snapshot was made
	watchers  map[int]func()
	watcher   int
}

// shared is what outlives a change of the cluster's configuration. Its owner is
// the Set that was made last; older ones only finish their picks.
type shared struct {
	inUse   [2]counters
	ejected atomic.Int64
	total   atomic.Int64

	mu       sync.Mutex // guards what follows and every Host.cut
	owner    *Set
	gen      uint64 // of updates
	built    uint64 // of snapshots
	hosts    []*Host
	places   []*place
	placesAt uint64 // the first snapshot with these places, apart from their hosts
	byKey    map[hostKey]*Host
	drop     uint64
	dirty    bool
	builtAt  int64
	pause    int64 // until the next snapshot may be made
	slowEnd  int64 // when the last slow start ends
	slowAt   int64 // when weights were computed last
	said     []func(Events)
	members  bool // hosts came or went: watchers are to be told

	queueMu sync.Mutex
	queue   []finding

	destMu sync.Mutex
	dest   map[destKey]*Host
}

// place is the hosts of one locality and priority. Its slices are replaced,
// never changed: snapshots refer to them.
type place struct {
	at     Place
	prio   uint32
	weight uint32
	hosts  []*Host
	eps    []*config.Endpoint // as discovery gave them
	exact  bool               // hosts are those of eps, one for one
}

// pauseShare bounds the share of time that goes into snapshots to about a
// tenth, when changes come faster than that; maxPause bounds how long a new
// host then waits for its first request.
const (
	pauseShare = 10
	maxPause   = int64(100 * time.Millisecond)
)

var epoch = time.Now()

func ownClock() int64 { return int64(time.Since(epoch)) }

// New makes the set of c's hosts and takes over from prev, which may be nil:
// counters and hosts that stay go on, and prev no longer changes. While c has
// names that are not resolved, prev's hosts stay until the first Update. c and
// its endpoints must not change after. On an error prev stays in force.
func New(c *config.Cluster, o Options, prev *Set) (*Set, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	if o.Now == nil {
		o.Now = ownClock
	}
	if o.Rand == nil {
		o.Rand = rand.Uint64
	}
	s := &Set{c: c, o: o, outlier: newOutlier(c.Outlier), choices: int(max(2, c.LeastChoices)), bias: c.LeastBias, watchers: map[int]func(){}, due: make(chan struct{}, 1)}
	if s.bias == 0 {
		s.bias = 1
	}
	for i := range s.limits {
		s.limits[i] = limitsOf(&c.Breakers[i])
	}
	if prev != nil {
		s.shared = prev.shared
	} else {
		s.shared = &shared{byKey: map[hostKey]*Host{}, dest: map[destKey]*Host{}}
	}
	sh := s.shared
	sh.mu.Lock()
	defer s.unlock()
	sh.owner = s
	now := o.Now()
	if s.outlier != nil {
		s.nextSweep = now + s.outlier.interval
	}
	s.nextDest = now + destExpiry
	for _, h := range sh.hosts {
		s.adoptLocked(h)
	}
	sh.destMu.Lock()
	for _, h := range sh.dest {
		h.set.Store(s)
	}
	sh.destMu.Unlock()
	if c.Endpoints != nil && !(len(sh.hosts) > 0 && unresolved(c.Endpoints)) {
		s.updateLocked(c.Endpoints, now)
	}
	s.rebuildLocked(now)
	return s, nil
}

// adoptLocked makes h count for s, under s's rules.
func (s *Set) adoptLocked(h *Host) {
	h.set.Store(s)
	h.cut.subsets = nil
	if len(s.c.Health) == 0 {
		h.setFlags(0, failedActive|pending|activeWorn)
	}
	if s.outlier == nil {
		s.restoreLocked(h)
	}
	s.changedLocked(h)
}

// check refuses what the tables could not be made of.
func check(c *config.Cluster) error {
	bad := func(field, want string, seen any) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "cluster " + c.Name, Field: field, Expected: want, Seen: fmt.Sprint(seen)}
	}
	least, most := ringBounds(c)
	switch {
	case c.Maglev != 0 && (!isPrime(c.Maglev) || c.Maglev > maxMaglev):
		return bad("maglev_lb_config.table_size", fmt.Sprintf("a prime up to %d", maxMaglev), c.Maglev)
	case least > most || most > ringMax:
		return bad("ring_hash_lb_config", fmt.Sprintf("minimum_ring_size ≤ maximum_ring_size ≤ %d", ringMax), fmt.Sprintf("%d and %d", least, most))
	case c.LeastBias < 0 || math.IsNaN(c.LeastBias):
		return bad("least_request_lb_config.active_request_bias", "a number from 0", c.LeastBias)
	case c.Outlier != nil && c.Outlier.MaxEjection > 0 && c.Outlier.MaxEjection < or(c.Outlier.BaseEjection, 30*time.Second):
		return bad("outlier_detection.max_ejection_time", "at least base_ejection_time", c.Outlier.MaxEjection)
	}
	return checkEndpoints(c.Name, c.Endpoints)
}

// maxPriority is the lowest priority, as in Envoy's API.
const maxPriority = 128

func checkEndpoints(name string, e *config.Endpoints) error {
	if e == nil {
		return nil
	}
	for _, l := range e.Localities {
		if l.Priority > maxPriority {
			return &errs.Error{Kind: errs.Invalid, Subject: "cluster " + name, Field: "endpoints.priority",
				Expected: fmt.Sprintf("0 to %d", maxPriority), Seen: fmt.Sprint(l.Priority)}
		}
	}
	return nil
}

// Cluster is the configuration in force.
func (s *Set) Cluster() *config.Cluster { return s.c }

// Update puts new endpoints in force: what discovery or a resolver said last.
// Endpoints that are not resolved are passed over. e must not change after.
// When updates come faster than snapshots can be made, hosts that came are
// used after Sweep, while hosts that went are left at once.
func (s *Set) Update(e *config.Endpoints) error {
	if err := checkEndpoints(s.c.Name, e); err != nil {
		return err
	}
	s.shared.mu.Lock()
	defer s.unlock()
	if s.shared.owner != s {
		return nil
	}
	now := s.o.Now()
	s.updateLocked(e, now)
	s.settleLocked(now)
	return nil
}

// Hosts gives all hosts, healthy or not. The slice must not be changed.
func (s *Set) Hosts() []*Host {
	if s.c.Discovery != config.OrigDst {
		return s.snap.Load().hosts
	}
	s.shared.destMu.Lock()
	defer s.shared.destMu.Unlock()
	out := make([]*Host, 0, len(s.shared.dest))
	for _, h := range s.shared.dest {
		out = append(out, h)
	}
	return out
}

// Members gives all hosts under the set's lock, so that one who is told by
// Watch sees every host that came, even before the snapshot has it.
func (s *Set) Members() []*Host {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	return s.shared.hosts
}

// Watch has f called after hosts came or went, until the returned function is
// called. f must not block.
func (s *Set) Watch(f func()) (cancel func()) {
	s.shared.mu.Lock()
	defer s.shared.mu.Unlock()
	s.watcher++
	id := s.watcher
	s.watchers[id] = f
	return func() {
		s.shared.mu.Lock()
		defer s.shared.mu.Unlock()
		delete(s.watchers, id)
	}
}

// Checked takes in what active checks think of h now. It may be called with
// the same verdict again.
func (s *Set) Checked(h *Host, healthy, degraded bool, why string) {
	s.shared.mu.Lock()
	defer s.unlock()
	if s.shared.owner != s || h.state.Load()&removed != 0 {
		return
	}
	now := s.o.Now()
	var was uint32
	switch {
	case !healthy:
		was = h.setFlags(failedActive, pending|activeWorn)
	case degraded:
		was = h.setFlags(activeWorn, failedActive|pending)
	default:
		was = h.setFlags(0, failedActive|pending|activeWorn)
	}
	if is := h.state.Load(); (was^is)&(failedActive|pending|activeWorn) != 0 {
		s.changedLocked(h)
		if was&(failedActive|pending) != 0 && healthy {
			s.beginSlowLocked(h, now)
		}
		if was&pending != 0 || (was^is)&failedActive != 0 {
			s.shared.say(func(e Events) { e.Health(h, healthy, why) })
		}
	}
	if healthy && was&failedActive == 0 {
		// A host that answers checks well takes part again, as in Envoy.
		s.restoreLocked(h)
	}
	if !healthy && h.state.Load()&stale != 0 {
		s.dropLocked(h)
	}
	s.settleLocked(now)
}

// Sweep does what is due at now: it books ejections, ends them, looks for
// outliers, raises weights in slow start, forgets unused destinations and makes
// the next snapshot. It gives the time at which it wants to be called again; call
// it then, or after Wake. It belongs off the loops.
func (s *Set) Sweep(now int64) (next int64) {
	s.woken.Store(false)
	sh := s.shared
	sh.mu.Lock()
	defer s.unlock()
	if sh.owner != s {
		return math.MaxInt64
	}
	s.drainLocked()
	next = math.MaxInt64
	if s.outlier != nil {
		if now >= s.nextSweep {
			s.sweepOutliersLocked(now)
			s.nextSweep = now + s.outlier.interval
		}
		next = s.nextSweep
	}
	if s.c.Discovery == config.OrigDst {
		if now >= s.nextDest {
			s.expire()
			s.nextDest = now + destExpiry
		}
		next = min(next, s.nextDest)
	}
	next = min(next, s.sweepSlowLocked(now))
	if s.o.Local != nil && s.o.Local.snap.Load() != s.localSeen {
		sh.dirty = true
	}
	s.settleLocked(now)
	if sh.dirty {
		next = min(next, sh.builtAt+sh.pause)
	}
	return next
}

// drainLocked books what loops found.
func (s *Set) drainLocked() {
	s.shared.queueMu.Lock()
	found := s.shared.queue
	s.shared.queue = nil
	s.shared.queueMu.Unlock()
	for _, f := range found {
		if f.enforced {
			s.bookLocked(f.h, f.now)
		}
		s.shared.say(func(e Events) { e.Ejected(f.h, f.why, f.enforced) })
	}
}

// changedLocked makes the next snapshot look at h again.
func (s *Set) changedLocked(h *Host) {
	h.cut.changed = s.shared.built + 1
	s.shared.dirty = true
}

// settleLocked makes a snapshot if one is needed and may be made now.
func (s *Set) settleLocked(now int64) {
	if !s.shared.dirty {
		return
	}
	if now-s.shared.builtAt >= s.shared.pause {
		s.rebuildLocked(now)
		return
	}
	s.wake()
}

func (s *Set) wake() {
	if s.woken.Swap(true) {
		return
	}
	select {
	case s.due <- struct{}{}:
	default:
	}
	if s.o.Wake != nil {
		s.o.Wake()
	}
}

// Run sweeps whenever it is time, until ctx ends. Who calls it need not call
// Sweep. It needs Options.Now to run at the pace of real time.
func (s *Set) Run(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-timer.C:
		case <-s.due:
		}
		now := s.o.Now()
		timer.Reset(time.Duration(min(s.Sweep(now)-now, int64(time.Hour))))
	}
}

// Counts tells how many hosts there are, how many are healthy, healthy but
// degraded, and not yet checked, and how many outliers are ejected now.
func (s *Set) Counts() (total, healthy, degraded, pending, ejected int) {
	for _, l := range s.snap.Load().whole.counts {
		total, healthy, degraded, pending = total+l.total, healthy+l.healthy, degraded+l.degraded, pending+l.excluded
	}
	return total, healthy, degraded, pending, int(s.shared.ejected.Load())
}

// say queues an event until the lock is given back.
func (sh *shared) say(f func(Events)) { sh.said = append(sh.said, f) }

// unlock gives the lock back and tells what happened under it.
func (s *Set) unlock() {
	said := s.shared.said
	s.shared.said = nil
	var watchers []func()
	if s.shared.members {
		s.shared.members = false
		for _, f := range s.watchers {
			watchers = append(watchers, f)
		}
	}
	s.shared.mu.Unlock()
	if s.o.Events != nil {
		for _, f := range said {
			f(s.o.Events)
		}
	}
	for _, f := range watchers {
		f()
	}
}
