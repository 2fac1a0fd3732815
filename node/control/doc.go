// SPDX-License-Identifier: Apache-2.0

// Package control is the node's local API: what the redoubt command asks and
// what the node answers, as JSON over HTTP on a unix socket that root alone
// may open.
//
// Begin at Client; the node's side is node/api.go.
package control
