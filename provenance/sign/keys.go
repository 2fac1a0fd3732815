// SPDX-License-Identifier: Apache-2.0

package sign

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/api/id"
	"redoubt.dev/base/conf"
	"redoubt.dev/provenance/internal/disk"
)

// The files of a key folder. The private ones have mode 0600.
const (
	generation = "v1" // the folder that is renamed into place

	caKeyFile   = "ca.key"
	caCertFile  = "ca.crt"
	tsaKeyFile  = "tsa.key"
	tsaCertFile = "tsa.crt" // leaf, then root
	pubKeyFile  = "cosign.pub"
	keyFile     = "cosign.key"
	rootFile    = "trusted_root.json"
)

const (
	rootLife = 10 * 365 * 24 * time.Hour
	// backdate keeps a leaf valid for a verifier and a timestamp that is
	// truncated to whole seconds.
	backdate = time.Minute
)

// create makes all keys in a temporary folder and renames it to dir/v1. When
// another process was faster, its keys are kept and these are dropped.
func create(dir string, td id.TrustDomain, now time.Time) error {
	if err := disk.MkdirAll(dir); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(dir, "new-*") // mode 0700
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp) // gone already when renamed
	if err := writeKeys(tmp, td, now); err != nil {
		return err
	}
	if err := disk.SyncDir(tmp); err != nil {
		return err
	}
	err = os.Rename(tmp, filepath.Join(dir, generation))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, syscall.ENOTEMPTY) {
		return nil
	}
	if err != nil {
		return err
	}
	return disk.SyncDir(dir)
}

// dropHalfMade removes the keys of a first use that was killed long ago;
// younger ones may belong to a process that is at it.
func dropHalfMade(dir string, now time.Time) error {
	half, err := filepath.Glob(filepath.Join(dir, "new-*"))
	if err != nil {
		return err
	}
	for _, h := range half {
		if st, err := os.Lstat(h); err == nil && now.Sub(st.ModTime()) > time.Hour {
			if err := os.RemoveAll(h); err != nil {
				return err
			}
		}
	}
	return nil
}

func writeKeys(dir string, td id.TrustDomain, now time.Time) error {
	put := func(name string, mode fs.FileMode, blocks ...*pem.Block) error {
		var b []byte
		for _, bl := range blocks {
			b = append(b, pem.EncodeToMemory(bl)...)
		}
		return disk.WriteFile(dir, filepath.Join(dir, name), b, mode)
	}
	caKey, ca, err := newCA(td, now)
	if err != nil {
		return err
	}
	tsaKey, tsa, tsaRoot, err := newTSA(td, now)
	if err != nil {
		return err
	}
	static, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	pub, err := x509.MarshalPKIXPublicKey(static.Public())
	if err != nil {
		return err
	}
	root, err := trustedRoot(td, ca, tsa, tsaRoot)
	if err != nil {
		return err
	}
	return errors.Join(
		put(caKeyFile, 0o600, keyBlock(caKey)),
		put(caCertFile, 0o644, certBlock(ca)),
		put(tsaKeyFile, 0o600, keyBlock(tsaKey)),
		put(tsaCertFile, 0o644, certBlock(tsa), certBlock(tsaRoot)),
		put(keyFile, 0o600, keyBlock(static)),
		put(pubKeyFile, 0o644, &pem.Block{Type: "PUBLIC KEY", Bytes: pub}),
		disk.WriteFile(dir, filepath.Join(dir, rootFile), root, 0o644),
	)
}

// newCA makes the self-signed code-signing CA.
func newCA(td id.TrustDomain, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	t := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{td.Name()}, CommonName: "Redoubt code signing CA"},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(rootLife),
		IsCA:                  true,
		BasicConstraintsValid: true,
		MaxPathLenZero:        true,
		KeyUsage:              x509.KeyUsageCertSign,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning},
		// Stolen, this key names nobody of another trust domain.
		PermittedURIDomains:         []string{td.Name()},
		PermittedDNSDomainsCritical: true,
	}
	c, err := issue(t, t, key.Public().(*ecdsa.PublicKey), key)
	return key, c, err
}

// newTSA makes the timestamping leaf and its root, whose key is forgotten.
func newTSA(td id.TrustDomain, now time.Time) (*ecdsa.PrivateKey, *x509.Certificate, *x509.Certificate, error) {
	rootKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	name := func(cn string) pkix.Name {
		return pkix.Name{Organization: []string{td.Name()}, CommonName: cn}
	}
	rt := &x509.Certificate{
		Subject: name("Redoubt timestamp root"), NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, KeyUsage: x509.KeyUsageCertSign,
	}
	root, err := issue(rt, rt, rootKey.Public().(*ecdsa.PublicKey), rootKey)
	if err != nil {
		return nil, nil, nil, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, nil, err
	}
	// RFC 3161 §2.3: the only extended key usage, and critical.
	eku, err := asn1.Marshal([]asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 8}})
	if err != nil {
		return nil, nil, nil, err
	}
	lt := &x509.Certificate{
		Subject: name("Redoubt timestamp authority"), NotBefore: now.Add(-backdate), NotAfter: now.Add(rootLife),
		BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 37}, Critical: true, Value: eku}},
	}
	leaf, err := issue(lt, root, key.Public().(*ecdsa.PublicKey), rootKey)
	return key, leaf, root, err
}

// issue signs template t by the key of parent, with a fresh 127-bit serial.
func issue(t, parent *x509.Certificate, pub *ecdsa.PublicKey, by *ecdsa.PrivateKey) (*x509.Certificate, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	t.SerialNumber = serial.Add(serial, big.NewInt(1))
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, by)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func keyBlock(k *ecdsa.PrivateKey) *pem.Block {
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		panic("sign: a P-256 key does not encode: " + err.Error())
	}
	return &pem.Block{Type: "PRIVATE KEY", Bytes: der}
}

func certBlock(c *x509.Certificate) *pem.Block {
	return &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}
}

// readKey reads a private key and refuses one that others may read.
func readKey(path string) (*ecdsa.PrivateKey, error) {
	st, err := os.Lstat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() || st.Mode().Perm()&0o077 != 0 {
		return nil, &errs.Error{Kind: errs.Denied, Subject: path, Expected: "a regular file of mode 0600", Seen: st.Mode().String(),
			Fix: "find out who could have read it; then remove the folder so that new keys are made, or chmod 600 it"}
	}
	bl, err := readPEM(path, "PRIVATE KEY", 1)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(bl[0])
	key, ok := k.(*ecdsa.PrivateKey)
	if err != nil || !ok || key.Curve != elliptic.P256() {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "an ECDSA P-256 key in PKCS #8"} // never the cause: it may quote the key
	}
	return key, nil
}

func readCerts(path string, n int) ([]*x509.Certificate, error) {
	bl, err := readPEM(path, "CERTIFICATE", n)
	if err != nil {
		return nil, err
	}
	certs := make([]*x509.Certificate, n)
	for i, b := range bl {
		if certs[i], err = x509.ParseCertificate(b); err != nil {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "an X.509 certificate", Err: err}
		}
	}
	return certs, nil
}

func readPEM(path, kind string, n int) ([][]byte, error) {
	b, err := conf.ReadFile(path, 64<<10)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for {
		var bl *pem.Block
		if bl, b = pem.Decode(b); bl == nil {
			break
		}
		if bl.Type != kind {
			return nil, &errs.Error{Kind: errs.Invalid, Subject: path, Expected: "PEM of " + kind, Seen: bl.Type}
		}
		out = append(out, bl.Bytes)
	}
	if len(out) != n {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: path, Expected: fmt.Sprintf("%d PEM blocks", n), Seen: fmt.Sprint(len(out))}
	}
	return out, nil
}
