// SPDX-License-Identifier: Apache-2.0

package sign_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/sign"
	"redoubt.dev/provenance/verify"
)

func domain(t testing.TB, name string) id.TrustDomain {
	t.Helper()
	d, err := id.ParseTrustDomain(name)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func open(t testing.TB, dir string) *sign.Authority {
	t.Helper()
	a, err := sign.Open(dir, domain(t, "bank.example"), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func statement(t testing.TB) bundle.Statement {
	t.Helper()
	st, err := bundle.NewStatement("x", artifact.DigestOf(nil), bundle.Signature, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestFiles(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "keys")
	a := open(t, dir)
	private := 0
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if d.IsDir() {
			if st.Mode().Perm() != 0o700 {
				t.Errorf("%s has mode %s", path, st.Mode())
			}
			return nil
		}
		b, err := os.ReadFile(path)
		if bytes.Contains(b, []byte("PRIVATE")) {
			private++
			if st.Mode().Perm() != 0o600 {
				t.Errorf("%s has mode %s", path, st.Mode())
			}
		}
		return err
	})
	if err != nil || private != 3 {
		t.Errorf("%d private keys, %v; want 3", private, err)
	}
	again := open(t, dir)
	if !bytes.Equal(a.TrustRoot(), again.TrustRoot()) || !bytes.Equal(a.PublicKeyPEM(), again.PublicKeyPEM()) {
		t.Error("opened again, the keys are others")
	}
	if _, err := sign.Open(dir, domain(t, "other.example"), time.Now); !errors.Is(err, errs.Conflict) {
		t.Errorf("another trust domain: %v, want Conflict", err)
	}
}

func TestSpoiled(t *testing.T) {
	t.Parallel()
	for name, spoil := range map[string]func(dir string) error{
		"readable by others": func(d string) error { return os.Chmod(d+"/ca.key", 0o644) },
		"a link": func(d string) error {
			return errors.Join(os.Rename(d+"/tsa.key", d+"/x"), os.Symlink("x", d+"/tsa.key"))
		},
		"no key":     func(d string) error { return os.Remove(d + "/cosign.key") },
		"half a key": func(d string) error { return os.Truncate(d+"/ca.key", 60) },
		"another key": func(d string) error {
			b, err := os.ReadFile(d + "/tsa.key")
			return errors.Join(err, os.WriteFile(d+"/ca.key", b, 0o600))
		},
		"no trust root":  func(d string) error { return os.Remove(d + "/trusted_root.json") },
		"no certificate": func(d string) error { return os.WriteFile(d+"/ca.crt", nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			open(t, dir)
			key, err := os.ReadFile(dir + "/v1/ca.key")
			if err != nil {
				t.Fatal(err)
			}
			if err := spoil(dir + "/v1"); err != nil {
				t.Fatal(err)
			}
			_, err = sign.Open(dir, domain(t, "bank.example"), time.Now)
			if err == nil {
				t.Fatal("opened")
			}
			for _, line := range strings.Split(string(key), "\n")[1:3] {
				if line != "" && strings.Contains(err.Error(), line) {
					t.Errorf("the error tells the key: %v", err)
				}
			}
		})
	}
}

// TestFirstUseAtOnce opens one new folder many times at the same moment: all
// agree on one set of keys.
func TestFirstUseAtOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	roots := make([][]byte, 8)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Go(func() {
			if a, err := sign.Open(dir, domain(t, "bank.example"), time.Now); err != nil {
				t.Error(err)
			} else {
				roots[i] = a.TrustRoot()
			}
		})
	}
	wg.Wait()
	for _, r := range roots {
		if !bytes.Equal(r, roots[0]) {
			t.Fatal("two sets of keys")
		}
	}
	if l, err := os.ReadDir(dir); err != nil || len(l) != 1 {
		t.Errorf("left %v, %v; want one folder", l, err)
	}
}

func TestSign(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	root, err := verify.ParseTrustRoot(a.TrustRoot())
	if err != nil {
		t.Fatal(err)
	}
	who := sign.Builder(a.TrustDomain())
	raw, err := a.Sign(who, statement(t))
	if err != nil {
		t.Fatal(err)
	}
	att, err := verify.Attest(raw, root, time.Now())
	if err != nil || att.Signer != who.String() || time.Since(att.Time).Abs() > 2*time.Second {
		t.Errorf("attested by %s at %s, %v", att.Signer, att.Time, err)
	}
	b, _, err := bundle.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if m, err := b.Marshal(); err != nil || !bytes.Equal(m, raw) {
		t.Errorf("the bundle is not in its canonical form: %v", err)
	}
	leaf, err := x509.ParseCertificate(b.VerificationMaterial.Certificate.RawBytes)
	if err != nil {
		t.Fatal(err)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 10*time.Minute || leaf.IsCA || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageCodeSigning {
		t.Errorf("leaf lives %s, usage %v", life, leaf.ExtKeyUsage)
	}
	other, err := id.Workload(domain(t, "other.example"), "a", "b")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.Sign(other, statement(t)); !errors.Is(err, errs.Denied) {
		t.Errorf("as another trust domain: %v, want Denied", err)
	}
	if _, err := a.Sign(id.ID{}, statement(t)); !errors.Is(err, errs.Denied) {
		t.Errorf("as nobody: %v, want Denied", err)
	}
}

func TestSimpleSign(t *testing.T) {
	t.Parallel()
	a := open(t, t.TempDir())
	payload, sig, err := a.SimpleSign("registry.bank.example/a:1", artifact.DigestOf(nil))
	if err != nil {
		t.Fatal(err)
	}
	want := `{"critical":{"identity":{"docker-reference":"registry.bank.example/a:1"},"image":{"docker-manifest-digest":"` + artifact.DigestOf(nil).String() + `"},"type":"cosign container image signature"},"optional":null}`
	if string(payload) != want {
		t.Errorf("payload %s", payload)
	}
	p, _ := pem.Decode(a.PublicKeyPEM())
	pub, err := x509.ParsePKIXPublicKey(p.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	if !ecdsa.VerifyASN1(pub.(*ecdsa.PublicKey), sum[:], sig) {
		t.Error("the signature does not verify")
	}
}

func BenchmarkSign(b *testing.B) {
	a := open(b, b.TempDir())
	st := statement(b)
	for b.Loop() {
		if _, err := a.Sign(sign.Builder(a.TrustDomain()), st); err != nil {
			b.Fatal(err)
		}
	}
}
