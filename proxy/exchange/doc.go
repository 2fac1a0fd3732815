// SPDX-License-Identifier: Apache-2.0

// Package exchange carries HTTP requests and their responses between a client
// and a host of a cluster, whatever HTTP version each side speaks.
//
// Walk: a server side (h1server.go, h2server.go) reads a head → Stream.begin
// → filters → route → Stream.attempt picks a host and a connection (pool.go)
// → a client side (h1client.go, h2client.go) sends the head → Stream.pump
// moves bodies both ways → Stream.finish.
//
// A Stream pulls: it looks at what its source has, gives it to its sink as far
// as that takes it, and is pumped again when either side says that something
// has changed. So a slow side slows the other, and what is held in between is
// bounded by the two connections' buffers.
//
// Invariants:
//   - one response per request, in order, and none that the peer could take
//     for another's; what cannot be completed is cut so that it shows
//   - a request is sent again only when it cannot have been acted on, or when
//     its route says that it may be
//   - an idle connection holds no Stream and no buffer
//   - nothing here blocks, locks, or allocates per request
//
// Everything belongs to one loop, except Shared and Cluster.
//
// Begin at Stream.begin, then Stream.pump.
package exchange
