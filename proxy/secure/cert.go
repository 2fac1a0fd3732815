// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ocsp"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

const (
	maxFile  = 1 << 20 // bytes of a file with certificates or a staple
	maxChain = 10      // certificates of one chain, shown or taken
	minRSA   = 2048    // bits
)

// leaf is a certificate with its key, ready to be shown. It is immutable.
type leaf struct {
	cert  tls.Certificate // without a staple
	names []string        // lower case, exact or "*.suffix"
	must  bool            // the certificate itself demands a staple (RFC 7633)
	raw   [3][]byte       // chain, key's public part, staple as configured: to see a change

	staple     []byte // nil: none configured
	stapleFrom time.Time
	stapleTo   time.Time // zero: the response does not say
}

// stapleSkew is what clocks of responders and ours may differ.
const stapleSkew = 5 * time.Minute

// stapled gives the certificate as it is to be shown at now, with or without
// its staple. ok is false when the policy does not let it be shown.
func (l *leaf) stapled(p config.OCSPPolicy, capable bool, now time.Time) (cert *tls.Certificate, ok bool) {
	c := l.cert
	if !capable {
		return &c, true // a client that does not ask cannot be told
	}
	fresh := l.staple != nil && now.After(l.stapleFrom.Add(-stapleSkew)) && (l.stapleTo.IsZero() || now.Before(l.stapleTo))
	if fresh {
		c.OCSPStaple = l.staple
		return &c, true
	}
	if l.must {
		p = config.OCSPMust
	}
	return &c, p == config.OCSPLenient || p == config.OCSPStrict && l.staple == nil
}

// readFile reads a small file.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	if len(b) > maxFile {
		return nil, &errs.Error{Kind: errs.TooLarge, Subject: name, Expected: fmt.Sprintf("at most %d bytes", maxFile)}
	}
	return b, nil
}

func either(file string, inline []byte) ([]byte, error) {
	if file == "" {
		return inline, nil
	}
	return readFile(file)
}

// subject names a certificate in errors.
func subject(c *config.Cert) string {
	switch {
	case c.Name != "":
		return "certificate " + c.Name
	case c.ChainFile != "":
		return "certificate " + c.ChainFile
	}
	return "certificate"
}

// load reads a certificate and holds its parts to each other. What it says of
// the key never comes from the key's reader, which might quote it. A staple
// that is not right is an error beside the leaf: what follows from it depends
// on the policy.
func load(c *config.Cert) (l *leaf, staple error, err error) {
	who := subject(c)
	chain, err := either(c.ChainFile, c.ChainPEM)
	if err != nil {
		return nil, nil, &errs.Error{Kind: errs.Unavailable, Subject: who, Field: "certificate_chain", Err: err}
	}
	key, err := either(c.KeyFile, c.KeyPEM)
	if err != nil {
		return nil, nil, &errs.Error{Kind: errs.Unavailable, Subject: who, Field: "private_key", Err: err}
	}
	if c.KeyFile != "" {
		defer clear(key)
	}
	certs, err := parseChain(chain)
	if err != nil {
		return nil, nil, &errs.Error{Kind: errs.Invalid, Subject: who, Field: "certificate_chain", Expected: fmt.Sprintf("1 to %d certificates in PEM", maxChain), Err: err}
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, nil, &errs.Error{Kind: errs.Invalid, Subject: who, Field: "private_key", Expected: "an unencrypted key in PEM that belongs to the first certificate of the chain", Fix: "write chain and key together, or swap a symbolic link to both"}
	}
	pair.Leaf = certs[0]
	if k, ok := pair.PrivateKey.(*rsa.PrivateKey); ok && k.N.BitLen() < minRSA {
		return nil, nil, &errs.Error{Kind: errs.Invalid, Subject: who, Field: "private_key", Expected: fmt.Sprintf("RSA of at least %d bits, or ECDSA", minRSA), Seen: fmt.Sprintf("%d bits", k.N.BitLen())}
	}
	l = &leaf{cert: pair, names: namesOf(certs[0]), must: mustStaple(certs[0])}
	l.raw[0] = chain
	l.raw[1], _ = x509.MarshalPKIXPublicKey(pair.PrivateKey.(crypto.Signer).Public())
	if l.raw[2], err = either(c.OCSPFile, c.OCSP); err == nil && len(l.raw[2]) > 0 {
		err = l.readStaple(certs)
	}
	if err != nil {
		staple = &errs.Error{Kind: errs.Invalid, Subject: who, Field: "ocsp_staple", Expected: "a DER response that says good of this certificate", Err: err}
	}
	return l, staple, nil
}

func parseChain(b []byte) (certs []*x509.Certificate, err error) {
	for len(certs) <= maxChain {
		var block *pem.Block
		if block, b = pem.Decode(b); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			continue // some keep parameters, or the key, in the same file
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 || len(certs) > maxChain {
		return nil, fmt.Errorf("%d certificates", len(certs))
	}
	return certs, nil
}

// namesOf are the names that a certificate is chosen by: its DNS names, or its
// common name when there are none.
func namesOf(c *x509.Certificate) []string {
	list := slices.Clone(c.DNSNames)
	if len(list) == 0 && len(c.IPAddresses)+len(c.URIs) == 0 && c.Subject.CommonName != "" {
		list = []string{c.Subject.CommonName}
	}
	for i := range list {
		list[i] = strings.ToLower(list[i])
	}
	return list
}

var oidFeatures = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 24}

const featureStatusRequest = 5

func mustStaple(c *x509.Certificate) bool {
	for _, e := range c.Extensions {
		var features []int
		if e.Id.Equal(oidFeatures) {
			if _, err := asn1.Unmarshal(e.Value, &features); err == nil && slices.Contains(features, featureStatusRequest) {
				return true
			}
		}
	}
	return false
}

var errStaple = errors.New("the response does not say good")

// readStaple takes the response if it is about this certificate, signed by
// its issuer as far as the chain shows one, and good. How long it may be shown
// is looked at when it is (stapled).
func (l *leaf) readStaple(chain []*x509.Certificate) error {
	var issuer *x509.Certificate
	if len(chain) > 1 {
		issuer = chain[1]
	}
	r, err := ocsp.ParseResponseForCert(l.raw[2], chain[0], issuer)
	if err != nil {
		return err
	}
	if r.Status != ocsp.Good {
		return errStaple
	}
	l.staple, l.stapleFrom, l.stapleTo = l.raw[2], r.ThisUpdate, r.NextUpdate
	return nil
}

// same tells that nothing would change.
func (l *leaf) same(o *leaf) bool {
	return o != nil && bytes.Equal(l.raw[0], o.raw[0]) && bytes.Equal(l.raw[1], o.raw[1]) && bytes.Equal(l.staple, o.staple)
}

func (l *leaf) ecdsa() bool {
	_, ok := l.cert.PrivateKey.(*ecdsa.PrivateKey)
	return ok
}
