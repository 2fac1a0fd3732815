// SPDX-License-Identifier: Apache-2.0

// Package children starts the node's data plane process and keeps it fed.
//
// The proxy outlives the node: it is started in a session of its own and
// found again by its control socket, so that a node that is killed leaves
// traffic flowing under the last snapshot. Snapshots go to it in order; Push
// replaces one that was not sent yet.
//
// Begin at Proxy.Run.
package children
