// SPDX-License-Identifier: Apache-2.0

// Package engine is the event loop under the data plane: one loop per core,
// each on a thread of its own, run to completion, no goroutine per
// connection.
//
// Walk: wait → ready → handler → posted → again → timers → flush.
//
// A Conn belongs to the loop that made it; nothing of it may be touched from
// elsewhere. Its bytes are clear to the handler: a record layer, once set by
// StartTLS, seals and opens them on the way. Reading stops when the handler
// does not consume, writing when the peer does not: Send takes what fits and
// an event follows when there is room again. Memory per connection is
// bounded by the limit given to Fill and by OutHigh.
//
// Invariants:
//   - a handler never blocks; slow work runs on goroutines and comes back by Post
//   - a handler that Send left short, or Fill without bytes, will be called again
//   - what Send took is written before the loop waits, batched per turn
//   - an event of a descriptor that was closed in the same batch is dropped (generation)
//   - an idle connection holds no buffer
//
// How a loop waits is the poller, chosen by build: epoll.go on Linux,
// netpoll.go elsewhere and with -tags netpoll, slower, by the poller of Go's
// runtime. Both are edge-triggered for connections, so that nothing else of
// the package knows which it is.
//
// Begin at Loop.Run, then Conn.Fill and Conn.Send. Loop.mu guards posted
// functions, poller.mu (netpoll.go) the queue of events; neither is held
// while another is taken.
package engine
