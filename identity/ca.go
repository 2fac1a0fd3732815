// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// rootBackdate lets a peer whose clock is behind accept a fresh root.
	rootBackdate = 5 * time.Minute
	serialBits   = 127
)

// CA is the certificate authority of one trust domain. It is immutable; its
// methods may run concurrently. It prints without its key.
type CA struct {
	td   id.TrustDomain
	now  func() time.Time
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

// Open reads the CA kept in dir, or makes one there on first use. The
// directory must belong to this user alone (mode 0700, made when missing).
// Two processes that open an empty directory at once get the same CA.
//
// Errors: Invalid for a trust domain that no certificate can be bound to,
// Denied for a directory or file that others may read, Conflict for the CA of
// another trust domain, Stale for a root outside its validity.
func Open(dir string, td id.TrustDomain, now func() time.Time) (*CA, error) {
	if err := checkTrustDomain(td); err != nil {
		return nil, err
	}
	b, err := loadOrMake(dir, func() ([]byte, error) { return newRoot(td, now()) })
	if err != nil {
		return nil, fmt.Errorf("open the CA of %s: %w", td.Name(), err)
	}
	ca, err := parse(b, td)
	if err != nil {
		return nil, fmt.Errorf("open the CA of %s: %w", td.Name(), err)
	}
	ca.now = now
	if err := ca.live(now()); err != nil {
		return nil, err
	}
	return ca, nil
}

// TrustDomain is what the CA answers for.
func (ca *CA) TrustDomain() id.TrustDomain { return ca.td }

// Roots gives the DER certificates that peers must trust.
func (ca *CA) Roots() [][]byte { return [][]byte{bytes.Clone(ca.root.Raw)} }

// RootPEM gives the same in PEM, for people and other software.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.root.Raw})
}

// String and GoString keep the key out of every format verb.
func (ca *CA) String() string   { return "CA of " + ca.td.Name() }
func (ca *CA) GoString() string { return ca.String() }

// Format does the same for verbs that would look inside.
func (ca *CA) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(ca.String())) }

func (ca *CA) live(now time.Time) error {
	if now.Before(ca.root.NotBefore) || now.After(ca.root.NotAfter) {
		return &errs.Error{Kind: errs.Stale, Subject: ca.String(),
			Expected: "a time from " + ca.root.NotBefore.UTC().Format(time.RFC3339) + " to " + ca.root.NotAfter.UTC().Format(time.RFC3339),
			Seen:     now.UTC().Format(time.RFC3339), Fix: "set the machine's clock, or replace the CA when it has expired"}
	}
	return nil
}

// checkTrustDomain refuses names that SPIFFE allows but that RFC 5280
// §4.2.1.10 cannot constrain (a URI constraint is a host name, no address), so
// that no root exists without its constraint.
func checkTrustDomain(td id.TrustDomain) error {
	name := td.Name()
	bad := func(want string) error {
		return &errs.Error{Kind: errs.Invalid, Field: "trust domain", Expected: want, Seen: fmt.Sprintf("%q", name)}
	}
	switch {
	case td.IsZero():
		return bad("a name such as bank.example")
	case net.ParseIP(name) != nil:
		return bad("a name, not an address")
	case !hostName(name):
		return bad("labels of 1 to 63 letters, digits and '-', joined by dots")
	}
	return nil
}

func hostName(s string) bool {
	if len(s) > 253 {
		return false
	}
	for label := range bytes.SplitSeq([]byte(s), []byte(".")) {
		if len(label) == 0 || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' ||
			len(bytes.Trim(label, "abcdefghijklmnopqrstuvwxyz0123456789-")) != 0 {
			return false
		}
	}
	return true
}

// newRoot makes a key and a self-signed root, as one PEM text.
func newRoot(td id.TrustDomain, now time.Time) ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{Organization: []string{"Redoubt"}, CommonName: td.Name() + " root " + serial.Text(16)[:8]},
		NotBefore:             now.Add(-rootBackdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true, // leaves only: a stolen leaf cannot become a CA
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		// X509-SVID §4.1: a signing certificate may carry the trust domain's own ID.
		URIs: []*url.URL{td.ID().URL()},
		// Critical: a verifier that cannot hold the constraint must refuse.
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{td.Name()},
		// An SVID carries a URI only. Shutting the other name types out means
		// that this root can never vouch for a web site or an address.
		ExcludedDNSDomains: []string{""},
		ExcludedIPRanges:   []*net.IPNet{{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}, {IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	out := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k})
	return append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...), nil
}

// parse reads what newRoot made and checks that it is a root of td and that
// the key is the root's. Its errors never carry what was read.
func parse(b []byte, td id.TrustDomain) (*CA, error) {
	bad := func(expected string) (*CA, error) {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: keyFile, Expected: expected, Fix: "restore the file from a backup; removing it makes a new CA, which no running peer trusts"}
	}
	kb, rest := pem.Decode(b)
	if kb == nil || kb.Type != "PRIVATE KEY" {
		return bad("a PRIVATE KEY block first")
	}
	cb, rest := pem.Decode(rest)
	if cb == nil || cb.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) != 0 {
		return bad("one CERTIFICATE block after the key, and nothing else")
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return bad("a PKCS #8 key")
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return bad("an ECDSA key on P-256")
	}
	root, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return bad("an X.509 certificate")
	}
	if !key.PublicKey.Equal(root.PublicKey) {
		return bad("the key of the certificate beside it")
	}
	if !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0 || root.CheckSignatureFrom(root) != nil {
		return bad("a self-signed CA certificate")
	}
	if len(root.URIs) != 1 || root.URIs[0].String() != td.IDString() || len(root.PermittedURIDomains) != 1 || root.PermittedURIDomains[0] != td.Name() {
		seen := "none"
		if len(root.URIs) == 1 {
			seen = root.URIs[0].String()
		}
		return nil, &errs.Error{Kind: errs.Conflict, Subject: keyFile, Field: "trust domain", Expected: td.IDString(), Seen: seen, Fix: "start with the trust domain that the state was made for, or with other state"}
	}
	return &CA{td: td, key: key, root: root}, nil
}

// newSerial gives a random serial of at most 127 bits: positive in DER within
// the 20 octets of RFC 5280 §4.1.2.2, and without meaning, so that it tells
// nothing of how many were issued.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), serialBits)
	for {
		n, err := rand.Int(rand.Reader, limit)
		if err != nil {
			return nil, err
		}
		// The upper 7 bits set to zero would make the text of two serials of
		// unlike length; below 64 bits it would no longer be unguessable.
		if n.BitLen() > 64 {
			return n, nil
		}
	}
}
