// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"strings"

	"redoubt.dev/node/manifest/internal/tree"
)

func (d *document) trustPolicy(v *trustPolicy) {
	s := &v.Spec
	if len(s.Images) == 0 {
		d.bad("spec.images", "at least one pattern of images", "none", "")
	}
	for i, p := range s.Images {
		d.pattern(tree.Path("spec.images").Index(i), p)
	}
	for i, p := range s.Sources {
		if p == "" || strings.ContainsAny(p, " \t\r\n") {
			d.bad(tree.Path("spec.sources").Index(i), "a pattern of repository URIs", tree.Quote(p), "")
		}
	}
	for i, b := range s.Builders {
		d.uri(tree.Path("spec.builders").Index(i), b)
	}
	if len(s.Signers) == 0 {
		d.bad("spec.signers", "at least one signer", "none", "name who signs: an image that nobody needs to sign may be anybody's")
	}
	for i, g := range s.Signers {
		p := tree.Path("spec.signers").Index(i)
		switch {
		case (g.Identity == "") == (g.PublicKeyPEM == ""):
			d.bad(p, "either identity or publicKey", "", "")
		case g.Identity != "":
			d.uri(p.Field("identity"), g.Identity)
		default:
			d.publicKey(p.Field("publicKey"), g.PublicKeyPEM)
		}
	}
}

// pattern holds to the words of api/policy: host/repository without tag or
// digest, "*" and "**" for components.
func (d *document) pattern(p tree.Path, s string) {
	switch {
	case s == "" || strings.ContainsAny(s, " \t\r\n") || s != strings.ToLower(s):
		d.bad(p, "a pattern of host/repository in lower case", tree.Quote(s), "")
	case strings.Contains(s, "@") || strings.LastIndexByte(s, ':') > strings.IndexByte(s, '/') && strings.Contains(s, "/"):
		d.bad(p, "a pattern of host/repository, without tag or digest", tree.Quote(s), "remove the tag or digest: a policy covers all of a repository")
	case !strings.Contains(s, "/") && s != "**":
		d.bad(p, "a pattern with the registry's host, such as registry.bank.example/**", tree.Quote(s), "write the host before the repository")
	}
	for _, c := range strings.Split(s, "/") {
		if strings.Contains(c, "**") && c != "**" {
			d.bad(p, "'**' as a whole component", tree.Quote(s), "")
		}
	}
}

func (d *document) uri(p tree.Path, s string) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" || u.Host == "" && u.Opaque == "" || strings.Contains(s, "*") {
		d.bad(p, "a whole URI such as spiffe://bank.example/ns/redoubt-system/sa/builder", tree.Quote(s), "")
	}
}

func (d *document) publicKey(p tree.Path, s string) {
	b, rest := pem.Decode([]byte(s))
	if b == nil || len(strings.TrimSpace(string(rest))) > 0 {
		d.bad(p, "one public key in PEM", "", "")
		return
	}
	if _, err := x509.ParsePKIXPublicKey(b.Bytes); err != nil || b.Type != "PUBLIC KEY" {
		// Not what was seen: it may be the private key.
		d.bad(p, "a PKIX public key (PUBLIC KEY)", "", "write the public half, as 'openssl pkey -pubout' gives it")
	}
}
