// SPDX-License-Identifier: Apache-2.0

// Package edge opens the proxy's sockets inside a pod's network namespace:
// the listeners that the pod's packets are steered to, and the sockets that
// carry on under the pod's, or its client's, address.
//
// The node has made the namespace: addresses, routes, and the nftables rules
// that hand every TCP connection to 127.0.0.1:15001 (leaving the pod) or
// 127.0.0.1:15006 (coming in) with its addresses untouched. So the original
// destination is the accepted socket's own address, and nothing needs
// connection tracking.
//
// Invariants:
//   - a thread that enters a namespace leaves it before it does anything else,
//     or the process ends: a socket in the wrong namespace would speak with
//     another pod's rights
//   - a closed edge holds no descriptor; the namespace can go
package edge
