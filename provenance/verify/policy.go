// SPDX-License-Identifier: Apache-2.0

package verify

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/policy"
)

// DefaultPolicy is what an installation demands until its owner says more:
// every image signed by its own builder, with provenance by it.
func DefaultPolicy(td id.TrustDomain) policy.TrustPolicy {
	builder := td.IDString() + "/ns/redoubt-system/sa/builder"
	return policy.TrustPolicy{Name: "default", Spec: policy.TrustPolicySpec{
		Images:   []string{"**"},
		Signers:  []policy.Signer{{Identity: builder}},
		Builders: []string{builder},
	}}
}

// rule is a policy that CheckPolicy has accepted, with its keys read.
type rule struct {
	policy.TrustPolicy
	keys []key
}

func (r rule) name() string {
	if r.Namespace == "" {
		return r.Name
	}
	return r.Namespace + "/" + r.Name
}

// signs reports whether signer may sign under r.
func (r rule) signs(signer string) bool {
	return slices.ContainsFunc(r.Spec.Signers, func(s policy.Signer) bool { return s.Identity != "" && s.Identity == signer }) ||
		slices.ContainsFunc(r.keys, func(k key) bool { return k.name == signer })
}

func (r rule) signers() string {
	var out []string
	for _, s := range r.Spec.Signers {
		if s.Identity != "" {
			out = append(out, s.Identity)
		}
	}
	for _, k := range r.keys {
		out = append(out, k.name)
	}
	return strings.Join(out, " or ")
}

// CheckPolicy says whether p can be enforced; nothing that fails it permits
// an image.
func CheckPolicy(p policy.TrustPolicy) error {
	_, err := newRule(p)
	return err
}

func newRule(p policy.TrustPolicy) (rule, error) {
	r := rule{TrustPolicy: p}
	bad := func(field, expected, seen string) (rule, error) {
		return r, &errs.Error{Kind: errs.Invalid, Subject: "TrustPolicy " + r.name(), Field: field, Expected: expected, Seen: seen}
	}
	if p.Name == "" {
		return bad("metadata.name", "a name", "none")
	}
	if len(p.Spec.Images) == 0 {
		return bad("spec.images", "at least one pattern", "none")
	}
	if len(p.Spec.Signers) == 0 {
		return bad("spec.signers", "at least one signer", "none")
	}
	for i, s := range p.Spec.Images {
		if err := CheckPattern(s); err != nil {
			return bad(fmt.Sprintf("spec.images[%d]", i), "a pattern", err.Error())
		}
	}
	for i, s := range p.Spec.Sources {
		if err := CheckPattern(s); err != nil {
			return bad(fmt.Sprintf("spec.sources[%d]", i), "a pattern", err.Error())
		}
	}
	for i, s := range p.Spec.Signers {
		field := fmt.Sprintf("spec.signers[%d]", i)
		switch {
		case (s.Identity == "") == (s.PublicKeyPEM == ""):
			return bad(field, "either identity or publicKey", "both or none")
		case s.PublicKeyPEM != "":
			k, err := parseKey(s.PublicKeyPEM)
			if err != nil {
				return bad(field+".publicKey", "one PEM public key: ECDSA, Ed25519, or RSA of 2048 bits or more", err.Error())
			}
			r.keys = append(r.keys, k)
		case strings.ContainsAny(s.Identity, "*\n\r\t ") || !strings.Contains(s.Identity, "://"):
			return bad(field+".identity", "one whole URI, no pattern", fmt.Sprintf("%.128q", s.Identity))
		}
	}
	for i, b := range p.Spec.Builders {
		if _, err := id.Parse(b); err != nil {
			return bad(fmt.Sprintf("spec.builders[%d]", i), "a SPIFFE ID", fmt.Sprintf("%.128q", b))
		}
	}
	return r, nil
}

// covering gives the policies that apply to an image in a namespace. One that
// is malformed and might apply is an error: skipped, it would permit.
func covering(pol []policy.TrustPolicy, namespace, name string) ([]rule, error) {
	var out []rule
	for _, p := range pol {
		if p.Namespace != "" && p.Namespace != namespace {
			continue
		}
		r, err := newRule(p)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(p.Spec.Images, func(pat string) bool { return Match(pat, name) }) {
			out = append(out, r)
		}
	}
	return out, nil
}

// PolicyBytes writes policies in the form whose digest a Permit and a
// passport carry.
func PolicyBytes(pol []policy.TrustPolicy) []byte {
	b, err := json.Marshal(pol)
	if err != nil {
		panic("verify: a policy of strings does not encode: " + err.Error())
	}
	return b
}

func bytesOf(rules []rule) ([]byte, artifact.Digest) {
	pol := make([]policy.TrustPolicy, len(rules))
	for i, r := range rules {
		pol[i] = r.TrustPolicy
	}
	b := PolicyBytes(pol)
	return b, artifact.DigestOf(b)
}
