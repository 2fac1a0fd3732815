// SPDX-License-Identifier: Apache-2.0

// Package provenance answers where an image came from, and stops what cannot
// answer.
//
// The chain, one room each:
//
//	build     source → OCI image, the same digest each time, SLSA provenance, SBOM
//	sign      the installation's CA, timestamp authority and keys → Sigstore bundles
//	registry  images, and evidence as their referrers; a tag moves through a gate
//	verify    evidence + policies + trust root + time → Permit or *Denied; pure
//
// with bundle, manifest and slsa as the words that they share.
//
// This package ties them: Publish pushes a built image with its evidence and
// moves the tag last; Gate asks the verifier before any tag moves; Collect
// gathers what a registry holds of an image, for admission.
//
// Invariants:
//   - nothing that Collect returns is believed; Verify alone decides
//   - evidence is complete in the registry before the tag names the image
//   - a tag does not move back to an older signature (Gate)
//
// Begin at Publish, then Gate.Admit, then verify.Verify.
package provenance
