// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"

	"github.com/sigstore/sigstore-go/pkg/root"

	"redoubt.dev/api/id"
)

// trustedRoot writes Sigstore's trusted_root.json with our CA and TSA. The
// CA's URI is the trust domain, so that the file alone says whose it is.
func trustedRoot(td id.TrustDomain, ca, tsa, tsaRoot *x509.Certificate) ([]byte, error) {
	r, err := root.NewTrustedRoot(root.TrustedRootMediaType01,
		[]root.CertificateAuthority{&root.FulcioCertificateAuthority{
			Root: ca, ValidityPeriodStart: ca.NotBefore, ValidityPeriodEnd: ca.NotAfter, URI: td.IDString(),
		}},
		nil,
		[]root.TimestampingAuthority{&root.SigstoreTimestampingAuthority{
			Root: tsaRoot, Leaf: tsa, ValidityPeriodStart: tsa.NotBefore, ValidityPeriodEnd: tsa.NotAfter, URI: td.IDString(),
		}}, nil)
	if err != nil {
		return nil, fmt.Errorf("make trusted root: %w", err)
	}
	b, err := r.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("encode trusted root: %w", err)
	}
	var out bytes.Buffer // protobuf's JSON varies its white space on purpose
	if err := json.Indent(&out, b, "", "  "); err != nil {
		return nil, err
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}
