// SPDX-License-Identifier: Apache-2.0

// Package admit decides which pods may run, and holds what each may have.
//
// Walk: Admit (collect evidence → verify → Permit, per image) → Grant (edge,
// limits, volumes) → the engine asks Rootfs, Pod and Container, and gets only
// what the record of an admitted pod holds → Forget.
//
// Invariants:
//   - an image runs by its digest: a tag that moves later changes nothing
//   - no root file system is made of a manifest without a Permit
//   - a container that is not in the admitted manifest, or whose process is
//     another, is refused, whoever asks over CRI
//   - one audit record per decision, written before the decision is acted on
//
// Begin at Admission.Admit.
package admit
