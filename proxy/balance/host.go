// SPDX-License-Identifier: Apache-2.0

package balance

import (
	"net/netip"
	"sync/atomic"
	"time"

	"redoubt.dev/proxy/config"
)

// Host is one endpoint with all that is known of it. It stays the same *Host
// as long as address, name and identity do, also when the cluster's
// configuration changes. Its methods are safe for concurrent use.
type Host struct {
	// First, and close together: what a snapshot of 10,000 hosts reads of each.
	endpoint atomic.Pointer[config.Endpoint]
	state    atomic.Uint32 // flags
	cut      cut

	ID   uint64              // unique in the process, never used again
	Addr netip.AddrPort      // zero for a unix socket: see Endpoint().Pipe
	Name string              // for logs: the address, or the socket's path
	set  atomic.Pointer[Set] // that counts it now
	_    [64]byte            // what follows is written by every loop

	Active   atomic.Int64  // requests under way; kept by Begin and End
	Conns    atomic.Int64  // connections open; kept by who opens them
	Idle     atomic.Int64  // … at rest in the pools of all loops; kept by who pools them
	Requests atomic.Uint64 // begun since the host is known
	Errors   atomic.Uint64 // ended with a 5xx or without an answer
	ewma     ewma
	seen     tally
	used     atomic.Bool // original destination: since the last sweep
}

// Flags of a host.
const (
	failedActive   uint32 = 1 << iota // active checks say no
	pending                           // no active check has come back yet
	ejected                           // outlier
	discoveredBad                     // discovery says unhealthy, draining or timeout
	discoveredWorn                    // discovery says degraded
	activeWorn                        // active checks say degraded
	removed                           // no longer in the cluster
	stale                             // gone from discovery, kept while active checks say yes

	unfit = failedActive | pending | ejected | discoveredBad | removed
	worn  = discoveredWorn | activeWorn
)

// cut is what the control path keeps of a host, guarded by shared.mu.
type cut struct {
	weight  uint32
	place   int32     // in shared.places
	slow    bool      // within the slow start window
	seen    uint64    // the last Update that had it
	changed uint64    // the first snapshot to look at it again
	since   int64     // slow start begins
	subsets []*Subset // of the cluster's selectors; nil: not computed since the metadata changed
	eject   ejection
	key     hostKey
	hashKey string
	maglev  maglevSeed
}

// Outcome is how a request to a host ended: an HTTP status from 100 to 599, or
// one of the words below.
type Outcome uint16

// Outcomes without a status. A TCP proxy reports Connected or one of the
// failures.
const (
	Cancelled      Outcome = iota // by the client, or by us for no fault of the host: counts for nothing
	Connected                     // a connection was made
	ConnectFailed                 // refused, unreachable, or its TLS did not hold
	ConnectTimeout                // or it took too long
	TimedOut                      // no response within the request's time
	ResetByPeer                   // the connection or stream ended early
	Malformed                     // the answer was not the protocol's
)

// Local tells that no status came because something failed between us and the
// host.
func (o Outcome) Local() bool { return o >= ConnectFailed && o <= Malformed }

// status is what Envoy makes of an outcome when local failures are not told
// apart from the host's.
func (o Outcome) status() int {
	switch o {
	case Connected:
		return 200
	case ConnectFailed, ResetByPeer:
		return 503
	case ConnectTimeout, TimedOut:
		return 504
	case Malformed:
		return 502
	}
	return int(o)
}

// Endpoint is what discovery said of the host last. Its Weight, Health and
// Metadata may differ from call to call.
func (h *Host) Endpoint() *config.Endpoint { return h.endpoint.Load() }

// Removed tells that the host has left its cluster: connections to it should
// not be kept.
func (h *Host) Removed() bool { return h.state.Load()&removed != 0 }

// Healthy tells that the host takes requests outside a panic.
func (h *Host) Healthy() bool { return h.state.Load()&unfit == 0 }

// Checked tells whether active checks have spoken of the host, or need not,
// and what they think.
func (h *Host) Checked() (known, healthy bool) {
	state := h.state.Load()
	return state&pending == 0, state&(pending|failedActive) == 0
}

// Health describes the host for the admin's eyes: "healthy", or Envoy's words
// for what speaks against it, separated by slashes.
func (h *Host) Health() string {
	out, state := "", h.state.Load()
	for i, word := range [...]string{"failed_active_hc", "pending_active_hc", "failed_outlier_check", "failed_eds_health",
		"degraded_eds_health", "degraded_active_hc", "removed", "pending_dynamic_removal"} {
		if state&(1<<i) != 0 {
			out += "/" + word
		}
	}
	if out == "" {
		return "healthy"
	}
	return out[1:]
}

// Latency is the decayed peak average of response times.
func (h *Host) Latency(now int64) time.Duration { return time.Duration(h.ewma.at(now)) }

// Begin counts a request that leaves for the host.
func (h *Host) Begin() {
	h.Active.Add(1)
	h.Requests.Add(1)
}

// End counts that a request has ended: with o, after d, at now. It feeds the
// latency average and outlier detection. Each Begin has one End.
func (h *Host) End(o Outcome, d time.Duration, now int64) {
	h.Active.Add(-1)
	h.Report(o, d, now)
}

// Report is End for what was not begun as a request: a TCP connection, or one
// that was made for requests to come.
func (h *Host) Report(o Outcome, d time.Duration, now int64) {
	if o == Cancelled {
		return
	}
	bad := o.Local() || o >= 500
	if bad {
		h.Errors.Add(1)
	}
	if o != Connected { // what a connection takes says nothing of requests
		h.ewma.observe(d, now, bad)
	}
	if s := h.set.Load(); s.outlier != nil {
		s.outlier.report(s, h, o, now)
	}
}

// setFlags changes flags and tells what they were.
func (h *Host) setFlags(set, clear uint32) (was uint32) {
	for {
		was = h.state.Load()
		if h.state.CompareAndSwap(was, was&^clear|set) {
			return was
		}
	}
}
