// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// maxChain bounds how many certificates of a peer are parsed.
const maxChain = 8

// Peer is a workload that proved its name.
type Peer struct {
	ID     id.ID
	Serial string // lower case hex, as in wire.Snapshot.Revoked
	Leaf   *x509.Certificate
}

// Serial gives a certificate's serial in the form that revocation uses.
func Serial(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// SerialOf gives the serial of an SVID's leaf.
func SerialOf(s wire.SVID) (string, error) {
	if len(s.Chain) == 0 {
		return "", unproven("chain", "at least a leaf", "none", nil)
	}
	c, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return "", unproven("chain", "an X.509 certificate", "", err)
	}
	return Serial(c), nil
}

// Verify checks chain (DER, leaf first) as an X.509-SVID of td at a time,
// against roots (DER), by the rules of the SPIFFE X.509-SVID standard. It is
// pure. Every refusal is errs.Unproven.
func Verify(chain, roots [][]byte, td id.TrustDomain, now time.Time) (Peer, error) {
	leaf, inter, err := parseChain(chain)
	if err != nil {
		return Peer{}, err
	}
	name, err := checkLeaf(leaf, td)
	if err != nil {
		return Peer{}, err
	}
	pool := x509.NewCertPool()
	for _, der := range roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return Peer{}, unproven("roots", "X.509 certificates", "", err)
		}
		pool.AddCert(c)
	}
	// ExtKeyUsageAny: checkLeaf has judged the usages; a peer is client and
	// server in turn, so neither alone may be asked for here.
	_, err = leaf.Verify(x509.VerifyOptions{Roots: pool, Intermediates: inter, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return Peer{}, unproven("chain", "a chain to a root of "+td.Name(), "", err)
	}
	return Peer{ID: name, Serial: Serial(leaf), Leaf: leaf}, nil
}

// VerifySVID does Verify for an SVID that is held, and checks that key, name
// and expiry beside the chain are the leaf's.
func VerifySVID(s wire.SVID, roots [][]byte, td id.TrustDomain, now time.Time) (Peer, error) {
	p, err := Verify(s.Chain, roots, td, now)
	if err != nil {
		return Peer{}, err
	}
	k, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		return Peer{}, unproven("key", "a PKCS #8 key", "", nil) // no cause: it could quote the key
	}
	signer, ok := k.(crypto.Signer)
	if ok {
		pub, eq := signer.Public().(interface{ Equal(crypto.PublicKey) bool })
		ok = eq && pub.Equal(p.Leaf.PublicKey)
	}
	switch {
	case !ok:
		return Peer{}, unproven("key", "the leaf's key", "another", nil)
	case s.ID != p.ID.String():
		return Peer{}, unproven("id", p.ID.String(), fmt.Sprintf("%.256q", s.ID), nil)
	case !s.NotAfter.Equal(p.Leaf.NotAfter):
		return Peer{}, unproven("notAfter", p.Leaf.NotAfter.String(), s.NotAfter.String(), nil)
	}
	return p, nil
}

func parseChain(chain [][]byte) (*x509.Certificate, *x509.CertPool, error) {
	if len(chain) == 0 || len(chain) > maxChain {
		return nil, nil, unproven("chain", fmt.Sprintf("1 to %d certificates", maxChain), fmt.Sprint(len(chain)), nil)
	}
	inter := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, nil, unproven(fmt.Sprintf("chain[%d]", i), "an X.509 certificate", "", err)
		}
		if i == 0 {
			leaf = c
		} else {
			inter.AddCert(c)
		}
	}
	return leaf, inter, nil
}

// checkLeaf holds a leaf to X509-SVID §2 (one URI SAN, a workload's ID), §4.1
// (no CA), §4.3 (key usage) and §4.4 (extended key usage).
func checkLeaf(c *x509.Certificate, td id.TrustDomain) (id.ID, error) {
	if len(c.URIs) != 1 {
		return id.ID{}, unproven("leaf SAN", "exactly one URI", fmt.Sprint(len(c.URIs)), nil)
	}
	name, err := id.Parse(c.URIs[0].String())
	if err != nil {
		return id.ID{}, unproven("leaf SAN", "a SPIFFE ID", "", err)
	}
	const sign = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	switch {
	case name.TrustDomain() != td:
		return id.ID{}, unproven("leaf SAN", "an id of "+td.IDString(), name.String(), nil)
	case name.Path() == "":
		return id.ID{}, unproven("leaf SAN", "the id of a workload", name.String(), nil)
	case c.IsCA:
		return id.ID{}, unproven("leaf basicConstraints", "cA=false", "true", nil)
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0 || c.KeyUsage&sign != 0:
		return id.ID{}, unproven("leaf keyUsage", "digitalSignature and no signing of certificates", fmt.Sprintf("%#x", int(c.KeyUsage)), nil)
	case !hasUsage(c, x509.ExtKeyUsageServerAuth) || !hasUsage(c, x509.ExtKeyUsageClientAuth):
		// The standard allows an absent extension; ours always has it, and what
		// lacks it was not issued by us.
		return id.ID{}, unproven("leaf extKeyUsage", "serverAuth and clientAuth", fmt.Sprint(c.ExtKeyUsage), nil)
	}
	return name, nil
}

func hasUsage(c *x509.Certificate, u x509.ExtKeyUsage) bool { return slices.Contains(c.ExtKeyUsage, u) }

func unproven(field, expected, seen string, err error) error {
	return &errs.Error{Kind: errs.Unproven, Subject: "X.509-SVID", Field: field, Expected: expected, Seen: seen, Err: err}
}
