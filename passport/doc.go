// SPDX-License-Identifier: Apache-2.0

// Package passport says what is proven of one running workload, in one file
// that a stranger can check with nothing else than the installation's trust
// root.
//
// Walk: the node fills Facts (facts.go) → Issue signs an in-toto statement
// about the running instance and packs it with the whole evidence (issue.go) →
// Verify, on another machine and without network, checks the signature and
// then every link by digest, asking provenance/verify again what admission
// asked (verify.go).
//
// The statement's subject is the instance: its name, and the SHA-256 of its
// Instance as JSON, image digests included. Its predicate joins, each by
// digest: source, provenance, signature, SBOM, the policies that admitted the
// image, the image and its EROFS form, sandbox, SVID, authorization policy.
//
// Invariants:
//   - no passport without a Permit of the verifier for each container
//   - evidence stands outside of what is signed, its digests inside: so a
//     changed byte names the link that it breaks
//   - the file has one canonical form; any other byte is refused
//   - a passport says what was true when it was issued; it is no permit
//
// Begin at Issue and Verify.
package passport
