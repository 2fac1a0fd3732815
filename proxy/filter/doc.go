// SPDX-License-Identifier: Apache-2.0

// Package filter is what may look at a request and its response on their way
// through a stand-alone proxy, and change or refuse them.
//
// Walk: Chain.Request, filter by filter in the order of the configuration →
// the request leaves → Chain.Response in reverse order → Chain.End.
//
// Invariants:
//   - a filter is immutable and shared by all loops; what belongs to one
//     request is in its Context, in the filter's own slot
//   - a filter never blocks; one that must ask elsewhere answers Hold and
//     calls Context.Resume on the loop, once
//   - a filter that cannot do its work refuses (fails closed), unless its
//     configuration spells out the contrary
//
// Begin at Filter and Context.
package filter
