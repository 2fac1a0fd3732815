// SPDX-License-Identifier: Apache-2.0

// Package identity says who is speaking: it holds the installation's CA and
// gives each admitted workload an X.509-SVID, renewed until it is forgotten.
//
// Walk: Open → NewIssuer → Admit (ca.go, issue.go) → Run renews at half life
// (plan.go decides, issuer.go acts) → SVIDs → Forget. The other side of a
// connection, and the passport, check with Verify (verify.go).
//
// An SVID is issued from the admission record, never from a request of the
// workload: what could ask could also lie. The workload never sees the key.
//
// Invariants:
//   - the CA's key is in one file of mode 0600 and in this process, nowhere else
//   - no leaf names another trust domain: Issue refuses, and the root's name
//     constraint makes every verifier refuse, were Issue ever fooled
//   - an SVID lives at most MaxTTL: what cannot be revoked in time expires
//   - Issuer.SVIDs never holds an expired SVID; a renewal that fails keeps the
//     old one until then and is tried again
//
// Begin at Issuer.Admit. Locks: Issuer.mu only, never held while signing.
package identity
