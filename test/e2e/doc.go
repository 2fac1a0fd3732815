// SPDX-License-Identifier: Apache-2.0

// Package e2e runs the whole of Redoubt, from its binaries, and attacks it.
//
// The tests need root and run in network, mount and process namespaces of
// their own: what they leave when they fail ends with them. They take the
// binaries from ../../bin (make build). Begin at lab_test.go.
package e2e
