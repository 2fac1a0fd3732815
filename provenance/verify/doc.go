// SPDX-License-Identifier: Apache-2.0

// Package verify is the one verifier: may this image run, by these policies?
//
// It is asked by the registry's gate, by admission, by the command line and by
// the auditor, so they cannot disagree. It is a pure function of evidence,
// policies, trust root and time: no network, no files, no clock.
//
// Walk, each step one file and one link of the chain: image.go (the bytes are
// the image that was named) → attest.go (who signed what, when) → policy.go
// (which policies cover the image, and is each of them met?) → a Permit, or a
// *Denied that names the link, what was expected, what was seen and a fix.
//
// Untrusted bytes pass three rooms: provenance/bundle parses, sigstore-go
// verifies signature, certificate and timestamp, this package appraises.
//
// Invariants:
//   - only Verify mints a Permit; the zero Permit opens nothing
//   - an image that no policy covers is denied; so is one under a policy that
//     is malformed
//   - a signature is a statement of the signature's predicate type: an SBOM
//     or a scan result by the same signer signs nothing
//   - names are compared whole; a signer counts only when its certificate has
//     exactly one name
//   - evidence that does not verify counts as absent, never as a reason to
//     permit; why it did not verify is in Denied.Causes
//
// Begin at Verify.
package verify
