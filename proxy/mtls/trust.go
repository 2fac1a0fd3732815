// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

const maxChain = 8 // certificates a peer may send; SPIRE's deepest documented chain is 4

// Trust is what a peer's SVID is verified against. It is immutable.
type Trust struct {
	domain id.TrustDomain
	roots  *x509.CertPool
	Now    func() time.Time // for tests of expiry; never nil
}

// NewTrust reads the trust domain and its DER roots, at least one.
func NewTrust(domain string, roots [][]byte) (*Trust, error) {
	td, err := id.ParseTrustDomain(domain)
	if err != nil {
		return nil, err
	}
	if len(roots) == 0 {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "roots", Expected: "at least one CA certificate", Seen: "none"}
	}
	pool := x509.NewCertPool()
	for i, der := range roots {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return nil, &errs.Error{Kind: errs.Invalid, Field: fmt.Sprintf("roots[%d]", i), Expected: "a DER certificate", Err: err}
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return nil, &errs.Error{Kind: errs.Invalid, Field: fmt.Sprintf("roots[%d]", i), Expected: "a CA certificate", Seen: "a leaf"}
		}
		pool.AddCert(c)
	}
	return &Trust{domain: td, roots: pool, Now: time.Now}, nil
}

// Peer is who the other side proved to be.
type Peer struct {
	ID       string // SPIFFE ID
	Serial   string // of its certificate, lower case hex
	NotAfter time.Time
	Proto    string // the agreed ALPN protocol, "" for none
}

// verify holds a chain to the X.509-SVID rules (SPIFFE X.509-SVID,
// sections 4 and 5).
func (t *Trust) verify(certs []*x509.Certificate, usage x509.ExtKeyUsage) (Peer, error) {
	if len(certs) == 0 || len(certs) > maxChain {
		return Peer{}, &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: "chain", Expected: fmt.Sprintf("1 to %d certificates", maxChain), Seen: fmt.Sprint(len(certs))}
	}
	who, err := leafID(certs[0])
	if err != nil {
		return Peer{}, err
	}
	if who.TrustDomain() != t.domain {
		return Peer{}, &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: "trust domain", Expected: t.domain.Name(), Seen: who.TrustDomain().Name()}
	}
	between := x509.NewCertPool()
	for _, c := range certs[1:] {
		between.AddCert(c)
	}
	if _, err := certs[0].Verify(x509.VerifyOptions{
		Roots: t.roots, Intermediates: between, CurrentTime: t.Now(), KeyUsages: []x509.ExtKeyUsage{usage},
	}); err != nil {
		return Peer{}, &errs.Error{Kind: errs.Unproven, Subject: "peer " + who.String(), Field: "chain", Expected: "a valid SVID of this trust domain", Err: err}
	}
	return Peer{ID: who.String(), Serial: serial(certs[0]), NotAfter: certs[0].NotAfter}, nil
}

func leafID(c *x509.Certificate) (id.ID, error) {
	bad := func(field, want, seen string) (id.ID, error) {
		return id.ID{}, &errs.Error{Kind: errs.Unproven, Subject: "X.509-SVID", Field: field, Expected: want, Seen: seen}
	}
	switch {
	case len(c.URIs) != 1:
		return bad("URI SAN", "exactly one", fmt.Sprint(len(c.URIs)))
	case c.IsCA:
		return bad("basic constraints", "a leaf", "a CA")
	case c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return bad("key usage", "digitalSignature", "none")
	case c.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		return bad("key usage", "neither keyCertSign nor cRLSign", "one of them")
	}
	who, err := id.Parse(c.URIs[0].String())
	if err != nil {
		return id.ID{}, err
	}
	if who.Path() == "" {
		return bad("URI SAN", "an ID with a path", who.String())
	}
	return who, nil
}

func serial(c *x509.Certificate) string { return fmt.Sprintf("%x", c.SerialNumber) }

// Identity is an SVID ready to be shown. It is immutable.
type Identity struct {
	ID       string
	Serial   string
	NotAfter time.Time
	cert     tls.Certificate
}

// NewIdentity reads an SVID and checks that its parts belong together. It
// never tells what the key is.
func NewIdentity(s *wire.SVID, t *Trust) (*Identity, error) {
	bad := func(field, want string, err error) (*Identity, error) {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "SVID of " + s.ID, Field: field, Expected: want, Err: err}
	}
	if len(s.Chain) == 0 || len(s.Chain) > maxChain {
		return bad("chain", fmt.Sprintf("1 to %d certificates", maxChain), nil)
	}
	leaf, err := x509.ParseCertificate(s.Chain[0])
	if err != nil {
		return bad("chain[0]", "a DER certificate", err)
	}
	who, err := leafID(leaf)
	if err != nil {
		return bad("chain[0]", "an X.509-SVID", err)
	}
	if who.String() != s.ID || who.TrustDomain() != t.domain {
		return bad("id", "the ID of the leaf certificate, in trust domain "+t.domain.Name(), nil)
	}
	key, err := x509.ParsePKCS8PrivateKey(s.Key)
	if err != nil {
		return bad("key", "a PKCS #8 key", nil) // the cause could quote key bytes
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return bad("key", "a signing key", nil)
	}
	if pub, ok := signer.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(leaf.PublicKey) {
		return bad("key", "the key of the leaf certificate", nil)
	}
	return &Identity{ID: s.ID, Serial: serial(leaf), NotAfter: leaf.NotAfter,
		cert: tls.Certificate{Certificate: s.Chain, PrivateKey: signer, Leaf: leaf}}, nil
}

// Application protocols between proxies. A client that names ProtoOpaque has
// found that the stream is no HTTP, which spares the server waiting for a
// first byte that a server-first protocol never sends. The hint cannot widen
// what is allowed: a stream that is not HTTP matches no rule on methods,
// paths or hosts.
//
// ProtoHTTP2 and ProtoShared are HTTP/2 connections whose streams are the
// requests of one pod to another: of clients that speak HTTP/2, to an
// application that is to see HTTP/2, and of clients that speak HTTP/1, to one
// that is to see HTTP/1. A proxy that does not know them takes one of the
// older names, which the client offers behind.
const (
	ProtoStream = "redoubt/1"
	ProtoOpaque = "redoubt/1-opaque"
	ProtoHTTP2  = "redoubt/2"
	ProtoShared = "redoubt/2-http1"
)

func (t *Trust) config(self *Identity) *tls.Config {
	return &tls.Config{
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		CurvePreferences:            []tls.CurveID{tls.X25519MLKEM768, tls.SecP256r1MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384},
		Certificates:                []tls.Certificate{self.cert},
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		Time:                        t.Now,
	}
}

func (t *Trust) server(self *Identity, peer *Peer) *tls.Config {
	c := t.config(self)
	c.NextProtos = []string{ProtoShared, ProtoHTTP2, ProtoOpaque, ProtoStream, "http/1.1"}
	c.ClientAuth = tls.RequireAnyClientCert // verified below, by the SPIFFE rules
	c.VerifyConnection = func(s tls.ConnectionState) (err error) {
		*peer, err = t.verify(s.PeerCertificates, x509.ExtKeyUsageClientAuth)
		peer.Proto = s.NegotiatedProtocol
		return err
	}
	return c
}

func (t *Trust) client(self *Identity, expect string, protos []string, peer *Peer) *tls.Config {
	c := t.config(self)
	c.NextProtos = protos
	c.InsecureSkipVerify = true // SVIDs carry no host name; VerifyConnection does it all
	c.VerifyConnection = func(s tls.ConnectionState) error {
		p, err := t.verify(s.PeerCertificates, x509.ExtKeyUsageServerAuth)
		if err != nil {
			return err
		}
		if p.ID != expect || expect == "" {
			return &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: "id", Expected: expect, Seen: p.ID}
		}
		p.Proto = s.NegotiatedProtocol
		*peer = p
		return nil
	}
	return c
}
