// SPDX-License-Identifier: Apache-2.0

package identity_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/api/wire"
	"redoubt.dev/identity"
)

func record(t testing.TB, uid, sa string) identity.Record {
	t.Helper()
	v, err := id.Workload(domain(t, "bank.example"), "ledger", sa)
	if err != nil {
		t.Fatal(err)
	}
	return identity.Record{UID: uid, ID: v}
}

func TestIssueMakesASVID(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	svid, err := ca.Issue(record(t, "1", "api"), time.Hour)
	must(t, err)
	c, err := x509.ParseCertificate(svid.Chain[0])
	must(t, err)
	const name = "spiffe://bank.example/ns/ledger/sa/api"
	if len(svid.Chain) != 1 || svid.ID != name || len(c.URIs) != 1 || c.URIs[0].String() != name {
		t.Errorf("names: %s, %v", svid.ID, c.URIs)
	}
	if c.IsCA || !c.BasicConstraintsValid || c.KeyUsage != x509.KeyUsageDigitalSignature || len(c.ExtKeyUsage) != 2 {
		t.Errorf("usages: CA %v, %v, %v", c.IsCA, c.KeyUsage, c.ExtKeyUsage)
	}
	for _, e := range c.Extensions {
		if e.Id.String() == "2.5.29.15" && !e.Critical {
			t.Error("keyUsage is not critical")
		}
	}
	if len(c.DNSNames)+len(c.IPAddresses)+len(c.EmailAddresses) != 0 || c.Subject.CommonName != "" {
		t.Errorf("other names: %v %v %v %q", c.DNSNames, c.IPAddresses, c.EmailAddresses, c.Subject.CommonName)
	}
	if !c.NotBefore.Equal(epoch.Add(-30*time.Second)) || !c.NotAfter.Equal(epoch.Add(time.Hour)) || !svid.NotAfter.Equal(c.NotAfter) {
		t.Errorf("life: %v to %v", c.NotBefore, c.NotAfter)
	}
	if n := c.SerialNumber.BitLen(); n > 127 || n <= 64 {
		t.Errorf("serial of %d bits", n)
	}
	if _, err := identity.VerifySVID(svid, ca.Roots(), ca.TrustDomain(), epoch); err != nil {
		t.Error(err)
	}
}

// TestPeersAgree holds what we issue to another implementation of the standard.
func TestPeersAgree(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	svid, err := ca.Issue(record(t, "1", "api"), time.Hour)
	must(t, err)
	b, _ := pem.Decode(ca.RootPEM())
	root, err := x509.ParseCertificate(b.Bytes)
	must(t, err)
	bundle := x509bundle.FromX509Authorities(ca.TrustDomain(), []*x509.Certificate{root})
	got, _, err := x509svid.ParseAndVerify(svid.Chain, bundle, x509svid.WithTime(epoch))
	if err != nil || got.String() != svid.ID {
		t.Errorf("go-spiffe: %v, %v", got, err)
	}
	if _, err := x509svid.ParseRaw(svid.Chain[0], svid.Key); err != nil {
		t.Errorf("go-spiffe on the pair: %v", err)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	foreign, err := id.Workload(domain(t, "other.example"), "ledger", "api")
	must(t, err)
	for name, c := range map[string]struct {
		rec identity.Record
		ttl time.Duration
	}{
		"no uid":         {identity.Record{ID: record(t, "", "api").ID}, time.Hour},
		"no id":          {identity.Record{UID: "1"}, time.Hour},
		"a foreign id":   {identity.Record{UID: "1", ID: foreign}, time.Hour},
		"the domain":     {identity.Record{UID: "1", ID: domain(t, "bank.example").ID()}, time.Hour},
		"too short":      {record(t, "1", "api"), time.Second},
		"too long":       {record(t, "1", "api"), 25 * time.Hour},
		"a negative ttl": {record(t, "1", "api"), -time.Hour},
	} {
		if s, err := ca.Issue(c.rec, c.ttl); !errors.Is(err, errs.Invalid) || s.ID != "" {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

func TestLeafEndsWithItsRoot(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	end := epoch.Add(10 * 365 * 24 * time.Hour)
	open(t, dir)
	ca, err := identity.Open(dir, domain(t, "bank.example"), at(end.Add(-time.Minute)))
	must(t, err)
	svid, err := ca.Issue(record(t, "1", "api"), time.Hour)
	if err != nil || !svid.NotAfter.Equal(end) {
		t.Errorf("%v, %v; want %v", svid.NotAfter, err, end)
	}
}

func TestSecretsOfAnSVIDDoNotPrint(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	svid, err := ca.Issue(record(t, "1", "api"), time.Hour)
	must(t, err)
	svid.Chain = nil
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		if s := fmt.Sprintf(verb, svid); len(s) > 400 {
			t.Errorf("%s prints %d bytes: %s", verb, len(s), s)
		}
	}
}

// TestMutualTLS shows that two SVIDs talk by crypto/tls, under Verify.
func TestMutualTLS(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	conf := func(sa string, seen *identity.Peer) *tls.Config {
		svid, err := ca.Issue(record(t, sa, sa), time.Hour)
		must(t, err)
		key, err := x509.ParsePKCS8PrivateKey(svid.Key)
		must(t, err)
		return &tls.Config{
			MinVersion:         tls.VersionTLS13,
			Certificates:       []tls.Certificate{{Certificate: svid.Chain, PrivateKey: key.(*ecdsa.PrivateKey)}},
			ClientAuth:         tls.RequireAnyClientCert,
			InsecureSkipVerify: true, // a SPIFFE peer has no host name; Verify below does the rest
			VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) (err error) {
				*seen, err = identity.Verify(raw, ca.Roots(), ca.TrustDomain(), epoch)
				return err
			},
		}
	}
	var client, server identity.Peer
	a, b := net.Pipe()
	defer a.Close()
	done := make(chan error, 1)
	sc, cc := conf("server", &client), conf("client", &server)
	go func() {
		s := tls.Server(b, sc)
		_, err := io.WriteString(s, "x")
		done <- errors.Join(err, s.Close())
	}()
	got, err := io.ReadAll(tls.Client(a, cc))
	if err := errors.Join(err, <-done); err != nil || string(got) != "x" {
		t.Fatalf("%q, %v", got, err)
	}
	if client.ID.Path() != "/ns/ledger/sa/client" || server.ID.Path() != "/ns/ledger/sa/server" {
		t.Errorf("names: %s, %s", client.ID, server.ID)
	}
}

func TestSerialOf(t *testing.T) {
	ca := open(t, filepath.Join(t.TempDir(), "ca"))
	svid, err := ca.Issue(record(t, "1", "api"), time.Hour)
	must(t, err)
	p, err := identity.Verify(svid.Chain, ca.Roots(), ca.TrustDomain(), epoch)
	must(t, err)
	if s, err := identity.SerialOf(svid); err != nil || s != p.Serial || s == "" {
		t.Errorf("%q, %v; want %q", s, err, p.Serial)
	}
	for _, bad := range []wire.SVID{{}, {Chain: [][]byte{{1}}}} {
		if _, err := identity.SerialOf(bad); !errors.Is(err, errs.Unproven) {
			t.Errorf("%v: %v", bad, err)
		}
	}
}

func BenchmarkIssue(b *testing.B) {
	ca := open(b, filepath.Join(b.TempDir(), "ca"))
	rec := record(b, "1", "api")
	for b.Loop() {
		if _, err := ca.Issue(rec, time.Hour); err != nil {
			b.Fatal(err)
		}
	}
}
