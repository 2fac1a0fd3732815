// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/verify"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance/internal/strictjson"
)

// TrustRoot holds whom the verifier believes: a code-signing CA and a
// timestamp authority. The zero TrustRoot believes nobody.
type TrustRoot struct {
	digest   artifact.Digest
	td       id.TrustDomain
	verifier *sigstore.Verifier
}

const maxRoot = 1 << 20

// ParseTrustRoot reads a trusted_root.json of Sigstore's form. The URI of its
// first certificate authority says whose trust domain it is.
func ParseTrustRoot(b []byte) (TrustRoot, error) {
	bad := func(expected string, err error) (TrustRoot, error) {
		return TrustRoot{}, &errs.Error{Kind: errs.Invalid, Subject: "trust root", Expected: expected, Err: err, Fix: "use the trusted_root.json that the installation wrote"}
	}
	if len(b) > maxRoot {
		return bad(fmt.Sprintf("at most %d bytes", maxRoot), nil)
	}
	if err := strictjson.Check(b); err != nil {
		return bad("strict JSON", err)
	}
	tr, err := root.NewTrustedRootFromJSON(b)
	if err != nil {
		return bad("Sigstore's trusted_root.json", err)
	}
	cas := tr.FulcioCertificateAuthorities()
	if len(cas) == 0 || len(tr.TimestampingAuthorities()) == 0 {
		// Without a timestamp, a signature by a certificate that has expired
		// could have been made by whoever found the key later.
		return bad("a certificate authority and a timestamp authority", nil)
	}
	r := TrustRoot{digest: artifact.DigestOf(b)}
	if ca, ok := cas[0].(*root.FulcioCertificateAuthority); ok {
		if r.td, err = id.ParseTrustDomain(ca.URI); err != nil {
			r.td = id.TrustDomain{} // a foreign root: images verify, passports do not
		}
	}
	if r.verifier, err = sigstore.NewVerifier(tr, sigstore.WithSignedTimestamps(1)); err != nil {
		return bad("usable authorities", err)
	}
	return r, nil
}

// TrustDomain is whose root this is; zero for a root of another maker.
func (r TrustRoot) TrustDomain() id.TrustDomain { return r.td }

// Digest names the root, for caches and audit records.
func (r TrustRoot) Digest() artifact.Digest { return r.digest }
