// SPDX-License-Identifier: Apache-2.0

// Package provenancetest makes small real installations for tests: keys, a
// registry with its gate, and images that are built and signed for real.
package provenancetest

import (
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/id"
	"redoubt.dev/api/policy"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/registry"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

// Host is the name of every test registry.
const Host = "registry.bank.example"

// Installation is one trust domain with its keys and its registry.
type Installation struct {
	Domain   id.TrustDomain
	Keys     *sign.Authority
	Root     verify.TrustRoot
	Store    *registry.Store
	Dir      string               // of the registry
	KeyDir   string               // of Keys
	Policies []policy.TrustPolicy // in force at the gate; change it between calls only
	Clock    func() time.Time
}

// New makes an installation of a trust domain in temporary folders, with the
// default policy.
func New(t testing.TB, domain string) *Installation {
	return NewAt(t, domain, Host, time.Now)
}

// NewAt is New with a registry host and a clock.
func NewAt(t testing.TB, domain, host string, clock func() time.Time) *Installation {
	t.Helper()
	td, err := id.ParseTrustDomain(domain)
	if err != nil {
		t.Fatal(err)
	}
	in := &Installation{Domain: td, Dir: t.TempDir(), Clock: clock, Policies: []policy.TrustPolicy{verify.DefaultPolicy(td)}}
	in.KeyDir = t.TempDir()
	if in.Keys, err = sign.Open(in.KeyDir, td, clock); err != nil {
		t.Fatal(err)
	}
	if in.Root, err = verify.ParseTrustRoot(in.Keys.TrustRoot()); err != nil {
		t.Fatal(err)
	}
	in.Store, err = registry.Open(in.Dir, registry.Config{Host: host, Now: clock, Gate: in.gate})
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func (in *Installation) gate(s *registry.Store) registry.Gate {
	return &provenance.Gate{Reader: s, Policies: func(artifact.Ref) []policy.TrustPolicy { return in.Policies }, Root: in.Root, Now: in.Clock}
}

// Ref names an image of the installation's registry.
func (in *Installation) Ref(t testing.TB, name string) artifact.Ref {
	t.Helper()
	r, err := artifact.ParseRef(in.Store.Host() + "/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// Image packs a small root file system that holds text.
func Image(t testing.TB, text string) *build.Result {
	t.Helper()
	dir := t.TempDir()
	write(t, dir+"/etc/motd", text)
	r, err := build.Build(t.Context(), build.Source{RootFS: dir}, build.Options{WorkDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// Publish builds an image that holds text and publishes it as name, which has
// a tag.
func (in *Installation) Publish(t testing.TB, name, text string) provenance.Published {
	t.Helper()
	p, err := provenance.Publish(t.Context(), in.Store, in.Keys, in.Ref(t, name), Image(t, text), in.Clock())
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Evidence collects what the registry holds of name.
func (in *Installation) Evidence(t testing.TB, name string) verify.Evidence {
	t.Helper()
	ev, err := provenance.Collect(t.Context(), in.Store, "", in.Ref(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return ev
}
