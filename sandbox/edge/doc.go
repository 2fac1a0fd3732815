// SPDX-License-Identifier: Apache-2.0

// Package edge wires a pod's network so that no packet leaves it without meeting the proxy.
//
// A pod has two network namespaces. INNER holds the NIC that the sandbox
// takes. POD lies between INNER and the node: it holds the proxy's sockets and
// the nftables rules that hand every TCP connection to them (TPROXY), and it
// forwards nothing: with all rules flushed there is still no way through.
//
//	node ── rd<id> ═ eth0 ── POD (proxy's sockets) ── in0 ═ eth0 ── INNER (sandbox)
//
// Walk: Create → (the proxy opens its sockets in POD, the sandbox takes INNER's
// NIC) → Destroy.
//
// Invariants:
//   - what leaves INNER with another source than the pod's address is dropped
//   - only TCP and DNS to the edge leave INNER; all else is dropped
//   - both directions keep real addresses, without connection tracking
//   - the node accepts no connection that comes from a pod's edge
//
// Begin at Create; rules.go holds the tables, host.go the node's own.
package edge
