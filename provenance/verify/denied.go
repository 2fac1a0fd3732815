// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"strings"

	"redoubt.dev/api/errs"
)

// The links of the chain, as they stand in Denied, Permit and passports.
const (
	LinkImage      = "image"      // the bytes are the image that was named
	LinkPolicy     = "policy"     // a policy covers the image
	LinkSignature  = "signature"  // an accepted signer signed it
	LinkProvenance = "provenance" // an accepted builder says how it was built
	LinkSource     = "source"     // from an accepted repository
	LinkSBOM       = "sbom"       // a signed bill of materials is there
)

// Denied says why an image may not run. Its kind is errs.Unproven when
// evidence is absent or does not verify, errs.Denied when the evidence is
// sound and policy says no.
type Denied struct {
	Kind     errs.Kind `json:"kind"`
	Image    string    `json:"image"`
	Link     string    `json:"link"`             // the first link that failed
	Policy   string    `json:"policy,omitempty"` // namespace/name of the policy that was not met
	Expected string    `json:"expected"`
	Seen     string    `json:"seen"`
	Fix      string    `json:"fix,omitempty"`
	Causes   []string  `json:"causes,omitempty"` // why evidence at hand did not count
}

func (d *Denied) Error() string {
	var b strings.Builder
	b.WriteString(d.Image + ": " + string(d.Kind) + ": link " + d.Link)
	if d.Policy != "" {
		b.WriteString(", policy " + d.Policy)
	}
	b.WriteString(": expected " + d.Expected + ", seen " + d.Seen)
	if len(d.Causes) > 0 {
		b.WriteString(" (" + strings.Join(d.Causes, "; ") + ")")
	}
	if d.Fix != "" {
		b.WriteString("; fix: " + d.Fix)
	}
	return b.String()
}

// Unwrap gives the kind, so that errors.Is and errs.KindOf see it.
func (d *Denied) Unwrap() error { return d.Kind }

// Detail gives d to programs that get it over HTTP.
func (d *Denied) Detail() any { return d }
