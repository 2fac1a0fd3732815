// SPDX-License-Identifier: Apache-2.0

package identity

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"net/url"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
)

// Bounds of an SVID's life. Below MinTTL the whole seconds of X.509 times
// leave no half life to renew in; above MaxTTL a lost key would stay useful
// longer than a day.
const (
	MinTTL = 2 * time.Second
	MaxTTL = 24 * time.Hour
)

// backdate is how far an SVID's life begins before its issue, for peers whose
// clocks are behind.
func backdate(ttl time.Duration) time.Duration { return min(30*time.Second, ttl/4) }

// Record is what admission says of a workload: all that an SVID is made from.
type Record struct {
	UID string // of the pod; names the SVID within an Issuer
	ID  id.ID  // of its service account
}

func (r Record) check(td id.TrustDomain) error {
	bad := func(field, want, seen string) error {
		return &errs.Error{Kind: errs.Invalid, Subject: "admission record", Field: field, Expected: want, Seen: fmt.Sprintf("%.128q", seen)}
	}
	switch {
	case r.UID == "":
		return bad("uid", "the pod's uid", "")
	case r.ID.TrustDomain() != td:
		return bad("id", "an id of "+td.IDString(), r.ID.String())
	case r.ID.Path() == "":
		// X509-SVID §2: an ID without a path names the domain, not a workload.
		return bad("id", "an id with a path", r.ID.String())
	}
	return nil
}

// Issue makes a key pair and an X.509-SVID for the workload of rec, valid for
// ttl from now (less when the root ends sooner). It does no I/O.
func (ca *CA) Issue(rec Record, ttl time.Duration) (wire.SVID, error) {
	if err := rec.check(ca.td); err != nil {
		return wire.SVID{}, err
	}
	if ttl < MinTTL || ttl > MaxTTL {
		return wire.SVID{}, &errs.Error{Kind: errs.Invalid, Field: "ttl", Expected: fmt.Sprintf("%s to %s", MinTTL, MaxTTL), Seen: ttl.String()}
	}
	now := ca.now()
	if err := ca.live(now); err != nil {
		return wire.SVID{}, err
	}
	svid, err := ca.sign(rec, now, ttl)
	if err != nil {
		return wire.SVID{}, fmt.Errorf("issue %s: %w", rec.ID, err)
	}
	return svid, nil
}

func (ca *CA) sign(rec Record, now time.Time, ttl time.Duration) (wire.SVID, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return wire.SVID{}, err
	}
	serial, err := newSerial()
	if err != nil {
		return wire.SVID{}, err
	}
	t := &x509.Certificate{
		SerialNumber: serial,
		// No common name: software that still reads one must find no host there.
		Subject:               pkix.Name{Organization: []string{"Redoubt"}},
		URIs:                  []*url.URL{rec.ID.URL()}, // X509-SVID §2: exactly one
		NotBefore:             later(now.Add(-backdate(ttl)), ca.root.NotBefore),
		NotAfter:              earlier(now.Add(ttl), ca.root.NotAfter),
		BasicConstraintsValid: true,                                                                       // cA=false, §4.1
		KeyUsage:              x509.KeyUsageDigitalSignature,                                              // §4.3; crypto/x509 marks it critical
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}, // §4.4
	}
	der, err := x509.CreateCertificate(rand.Reader, t, ca.root, key.Public(), ca.key)
	if err != nil {
		return wire.SVID{}, err
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return wire.SVID{}, err
	}
	return wire.SVID{ID: rec.ID.String(), Chain: [][]byte{der}, Key: k, NotAfter: t.NotAfter.UTC().Truncate(time.Second)}, nil
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
