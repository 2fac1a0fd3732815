// SPDX-License-Identifier: Apache-2.0

// Package sign is the installation's signing authority: it makes the keys on
// first use, and signs statements with certificates that live ten minutes.
//
// Walk: Open (keys.go, made once) → Sign (a fresh key, a leaf for one SPIFFE
// identity, a DSSE envelope, an RFC 3161 timestamp) → a Sigstore bundle that
// sigstore-go, cosign and provenance/verify accept offline with TrustRoot.
//
// SimpleSign makes the older cosign form, a static key over a "simple
// signing" payload, which is all that Debian 12's skopeo and podman read.
//
// Invariants:
//   - private keys live in one folder, 0700 and 0600, and leave it in no form;
//     no error or String carries one
//   - the key of a leaf is forgotten before Sign returns
//   - the folder holds all keys or none: it is renamed into place (keys.go)
//   - the CA can only sign code, only for URIs of its own trust domain (name
//     constraint), and no further CA
//
// Begin at Authority.Sign. An Authority may be used concurrently.
package sign
