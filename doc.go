// SPDX-License-Identifier: Apache-2.0

// Package redoubt is the root of the house; it holds no code. ARCHITECTURE.md
// is the map, arch_test.go holds the tree to it.
package redoubt
