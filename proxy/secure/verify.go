// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/proxy/config"
)

// trust is which peers are believed. It is immutable.
type trust struct {
	roots  *x509.CertPool            // nil: pins alone decide
	spiffe map[string]*x509.CertPool // by trust domain; nil: roots
	sans   []sanMatch
	spki   [][sha256.Size]byte
	hashes [][sha256.Size]byte
	crls   []*x509.RevocationList
	allow  bool              // who fails is let in, unvalidated
	digest [sha256.Size]byte // of all of it
}

func badTrust(field, want string, err error) error {
	return &errs.Error{Kind: errs.Invalid, Subject: "validation context", Field: field, Expected: want, Err: err}
}

// newTrust reads a validation context. One that would believe everybody must
// say so.
func newTrust(v *config.Validation) (*trust, error) {
	t := &trust{allow: v.AllowEmpty}
	cas, err := either(v.CAFile, v.CAs)
	if err != nil {
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "validation context", Field: "trusted_ca", Err: err}
	}
	if len(cas) > 0 {
		if t.roots, err = pool(cas); err != nil {
			return nil, badTrust("trusted_ca", "CA certificates in PEM", err)
		}
	}
	for domain, b := range v.SPIFFE {
		if t.spiffe == nil {
			t.spiffe = map[string]*x509.CertPool{}
		}
		if t.spiffe[domain], err = pool(b); err != nil {
			return nil, badTrust("trust_domains "+domain, "CA certificates in PEM", err)
		}
	}
	for i := range v.SANs {
		m, err := newSANMatch(&v.SANs[i])
		if err != nil {
			return nil, badTrust("match_typed_subject_alt_names", "a matcher of a known type", err)
		}
		t.sans = append(t.sans, m)
	}
	if t.spki, err = sums(v.Pins, base64.StdEncoding.DecodeString); err != nil {
		return nil, badTrust("verify_certificate_spki", "a SHA-256 in base64", err)
	}
	if t.hashes, err = sums(v.Hashes, func(s string) ([]byte, error) { return hex.DecodeString(strings.ReplaceAll(s, ":", "")) }); err != nil {
		return nil, badTrust("verify_certificate_hash", "a SHA-256 in hex", err)
	}
	if t.crls, err = parseCRLs(v.CRL); err != nil {
		return nil, badTrust("crl", "revocation lists in PEM, without critical extensions", err)
	}
	chain := t.roots != nil || t.spiffe != nil
	switch {
	case !chain && t.spki == nil && t.hashes == nil && !t.allow:
		return nil, badTrust("trusted_ca", "trusted_ca, or pins: else any peer would be believed", nil)
	case !chain && (t.sans != nil || t.crls != nil) && !t.allow:
		return nil, badTrust("trusted_ca", "a CA beside names or revocation lists: else anybody could claim them", nil)
	}
	t.sum(v, cas)
	return t, nil
}

// sum makes the digest that tickets are bound to.
func (t *trust) sum(v *config.Validation, cas []byte) {
	h := sha256.New()
	part := func(b []byte) { fmt.Fprintf(h, "%d:", len(b)); h.Write(b) }
	part(cas)
	part(v.CRL)
	for _, d := range slices.Sorted(maps.Keys(v.SPIFFE)) {
		part([]byte(d))
		part(v.SPIFFE[d])
	}
	for i := range t.sans {
		part([]byte(fmt.Sprint(v.SANs[i].Type, v.SANs[i].Match.Kind, v.SANs[i].Match.IgnoreCase)))
		part([]byte(v.SANs[i].Match.Value))
		if re := v.SANs[i].Match.Regex; re != nil {
			part([]byte(re.String()))
		}
	}
	part([]byte(fmt.Sprint(t.spki, t.hashes, t.allow)))
	h.Sum(t.digest[:0])
}

func pool(b []byte) (*x509.CertPool, error) {
	p := x509.NewCertPool()
	n := 0
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		p.AddCert(c)
		n++
	}
	if n == 0 {
		return nil, fmt.Errorf("no certificate")
	}
	return p, nil
}

func sums(list []string, decode func(string) ([]byte, error)) (out [][sha256.Size]byte, err error) {
	for _, s := range list {
		b, err := decode(s)
		if err != nil || len(b) != sha256.Size {
			return nil, fmt.Errorf("%q", s)
		}
		out = append(out, [sha256.Size]byte(b))
	}
	return out, nil
}

// expect is what one handshake demands beside the configuration.
type expect struct {
	name string // DNS name or address that the leaf must be for
	uri  string // that the leaf must show
}

// verify holds a chain to the trust. valid is false for a peer that is let in
// all the same, or showed nothing.
func (t *trust) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time, want expect) (valid bool, err error) {
	if len(certs) == 0 {
		return false, nil // whether one was demanded is crypto/tls's to see
	}
	err = t.check(certs, usage, now)
	if err == nil {
		err = want.check(certs[0])
	}
	if err == nil {
		return true, nil
	}
	if t.allow && want.uri == "" { // an identity that is demanded is never waived
		return false, nil
	}
	return false, err
}

func unproven(field, want string, err error) error {
	return &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: field, Expected: want, Err: err}
}

func (t *trust) check(certs []*x509.Certificate, usage x509.ExtKeyUsage, now time.Time) error {
	if len(certs) > maxChain {
		return unproven("chain", fmt.Sprintf("at most %d certificates", maxChain), nil)
	}
	roots, err := t.rootsFor(certs[0])
	if err != nil {
		return err
	}
	if roots != nil {
		between := x509.NewCertPool()
		for _, c := range certs[1:] {
			between.AddCert(c)
		}
		chains, err := certs[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{usage}})
		if err != nil {
			return unproven("chain", "a valid chain to a trusted CA", err)
		}
		if err := t.notRevoked(chains, now); err != nil {
			return err
		}
	} else if now.Before(certs[0].NotBefore) || now.After(certs[0].NotAfter) {
		return unproven("chain", "a certificate that is valid now", nil)
	}
	if !t.pinned(certs[0]) {
		return unproven("certificate", "one that is pinned", nil)
	}
	for i := range t.sans {
		if t.sans[i].matches(certs[0]) {
			return nil
		}
	}
	if len(t.sans) > 0 {
		return unproven("subject alternative names", "one that matches", nil)
	}
	return nil
}

// rootsFor are the roots that a leaf must lead to; nil: pins alone decide.
func (t *trust) rootsFor(c *x509.Certificate) (*x509.CertPool, error) {
	if t.spiffe == nil {
		if t.roots == nil && t.allow && t.spki == nil && t.hashes == nil {
			return nil, unproven("chain", "a trusted CA to be configured", nil)
		}
		return t.roots, nil
	}
	if len(c.URIs) != 1 || c.IsCA {
		return nil, unproven("URI SAN", "exactly one, in a leaf", nil)
	}
	who, err := id.Parse(c.URIs[0].String())
	if err != nil {
		return nil, unproven("URI SAN", "a SPIFFE ID", err)
	}
	if p := t.spiffe[who.TrustDomain().Name()]; p != nil {
		return p, nil
	}
	return nil, &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: "trust domain", Expected: "a trusted one", Seen: who.TrustDomain().Name()}
}

func (t *trust) pinned(c *x509.Certificate) bool {
	if t.spki == nil && t.hashes == nil {
		return true
	}
	return slices.Contains(t.hashes, sha256.Sum256(c.Raw)) || slices.Contains(t.spki, sha256.Sum256(c.RawSubjectPublicKeyInfo))
}

func (w expect) check(c *x509.Certificate) error {
	if w.name != "" {
		if err := c.VerifyHostname(w.name); err != nil {
			return unproven("subject alternative names", "one for "+w.name, err)
		}
	}
	if w.uri != "" {
		for _, u := range c.URIs {
			if u.String() == w.uri {
				return nil
			}
		}
		return unproven("URI SAN", w.uri, nil)
	}
	return nil
}

func parseCRLs(b []byte) (list []*x509.RevocationList, err error) {
	if len(b) == 0 {
		return nil, nil
	}
	for {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		l, err := x509.ParseRevocationList(block.Bytes)
		if err != nil {
			return nil, err
		}
		for _, e := range l.Extensions {
			if e.Critical {
				return nil, fmt.Errorf("critical extension %s", e.Id) // a list of a part, or of others: its silence proves nothing
			}
		}
		list = append(list, l)
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("no list")
	}
	return list, nil
}

// notRevoked wants one chain of which every certificate but the root is
// covered by a current list of its issuer that does not name it (RFC 5280,
// 6.3).
func (t *trust) notRevoked(chains [][]*x509.Certificate, now time.Time) (err error) {
	if t.crls == nil {
		return nil
	}
	for _, chain := range chains {
		if err = t.chainNotRevoked(chain, now); err == nil {
			return nil
		}
	}
	return err
}

func (t *trust) chainNotRevoked(chain []*x509.Certificate, now time.Time) error {
	for i, c := range chain[:len(chain)-1] {
		covered := false
		for _, l := range t.crls {
			if !bytes.Equal(l.RawIssuer, c.RawIssuer) || l.CheckSignatureFrom(chain[i+1]) != nil {
				continue
			}
			for _, e := range l.RevokedCertificateEntries {
				if e.SerialNumber.Cmp(c.SerialNumber) == 0 {
					return unproven("certificate", "one that is not revoked", nil)
				}
			}
			covered = covered || now.After(l.ThisUpdate) && (l.NextUpdate.IsZero() || now.Before(l.NextUpdate))
		}
		if !covered {
			return unproven("certificate", "a current revocation list of its issuer", nil)
		}
	}
	return nil
}

// notAfter is when the first of the certificates ends.
func notAfter(certs []*x509.Certificate) (t time.Time) {
	for _, c := range certs {
		if t.IsZero() || c.NotAfter.Before(t) {
			t = c.NotAfter
		}
	}
	return t
}
