// SPDX-License-Identifier: Apache-2.0

// Package dns answers a pod's name queries from what the mesh knows, and from
// nothing else: there is no forwarder, so no name leaves the machine.
//
// Walk: NewZone once per snapshot → Zone.Answer per query.
//
// Services have an A record of their virtual address, headless ones of each
// ready pod; pods named under a headless service have their own. A known name
// without a record of the type asked is an empty answer, an unknown name in
// the cluster's domain does not exist, and any other name is refused at once,
// which lets resolvers go on instead of waiting.
//
// Invariants: one answer per query, to who asked, of at most the size that
// the query allows; anything but one standard question is refused or dropped;
// a response is never answered.
package dns
