// SPDX-License-Identifier: Apache-2.0

// Package policy holds the words of Redoubt's own policy kinds, group
// redoubt.dev/v1alpha1. It decides nothing; provenance/verify does.
package policy

// TrustPolicy says who must have signed and built an image before it may run.
// An image that no policy covers does not run. When several policies cover an
// image, each of them must be met.
type TrustPolicy struct {
	Name      string          `json:"name"`
	Namespace string          `json:"namespace"` // the namespace it guards; "" guards all
	Spec      TrustPolicySpec `json:"spec"`
}

// TrustPolicySpec is the body of a TrustPolicy.
type TrustPolicySpec struct {
	// Images are patterns of host/repository; "*" stands for any run of
	// characters within one path component, "**" for any number of
	// components. At least one is required.
	Images []string `json:"images"`
	// Signers lists who may have signed; one of them must have. At least one
	// is required.
	Signers []Signer `json:"signers"`
	// Builders lists builder identities of which one must have made the SLSA
	// provenance, e.g. "spiffe://bank.example/ns/redoubt-system/sa/builder".
	// Empty means that provenance is not required; it is checked when present.
	Builders []string `json:"builders,omitempty"`
	// Sources are patterns, as in Images, of source repository URIs of which
	// one must be the provenance's. Empty means any.
	Sources []string `json:"sources,omitempty"`
	// RequireSBOM demands a signed SPDX SBOM of the image.
	RequireSBOM bool `json:"requireSBOM,omitempty"`
}

// Signer is one accepted signer. Either Identity, or PublicKeyPEM, is set.
type Signer struct {
	// Identity is the URI SAN of the signing certificate, compared whole,
	// never by pattern; the certificate must chain to the installation's CA.
	Identity string `json:"identity,omitempty"`
	// PublicKeyPEM is a PKIX public key of a signer outside the installation.
	PublicKeyPEM string `json:"publicKey,omitempty"`
}
