// SPDX-License-Identifier: Apache-2.0

// Package pod runs one pod from its admission to its end.
//
// Walk: admit (evidence → Permit per image) → edge → SVID → volumes → sandbox
// → init containers → sidecars and containers → probes, restarts → end.
//
// Decide is pure and level-based: given what the manifest wants and what CRI
// reports it says what to do next, so that a node that comes back after a
// kill goes on where the pods are. Worker carries it out.
//
// Begin at Decide, then Worker.Run.
package pod
