// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"slices"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// params are the parts of a tls.Config that do not change.
func params(c *config.CommonTLS, alpn []string) (*tls.Config, error) {
	bad := func(field, want, seen string) (*tls.Config, error) {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "TLS", Field: field, Expected: want, Seen: seen}
	}
	t := &tls.Config{MinVersion: c.MinVersion, MaxVersion: c.MaxVersion, NextProtos: c.ALPN}
	if t.MinVersion == 0 {
		t.MinVersion = tls.VersionTLS12
	}
	if t.MaxVersion == 0 {
		t.MaxVersion = tls.VersionTLS13
	}
	if t.MinVersion < tls.VersionTLS12 || t.MaxVersion > tls.VersionTLS13 || t.MinVersion > t.MaxVersion {
		return bad("tls_minimum_protocol_version", "TLS 1.2 to TLS 1.3", tls.VersionName(t.MinVersion)+" to "+tls.VersionName(t.MaxVersion))
	}
	if t.NextProtos == nil {
		t.NextProtos = alpn
	}
	for _, s := range c.CipherSuites {
		if !slices.Contains(aeadSuites, s) {
			return bad("cipher_suites", "ECDHE with an AEAD", tls.CipherSuiteName(s))
		}
	}
	if t.CipherSuites = c.CipherSuites; t.CipherSuites == nil {
		t.CipherSuites = aeadSuites
	}
	for _, g := range c.Curves {
		if !slices.Contains(knownCurves, tls.CurveID(g)) {
			return bad("ecdh_curves", "X25519MLKEM768, X25519, P-256, P-384 or P-521", tls.CurveID(g).String())
		}
		t.CurvePreferences = append(t.CurvePreferences, tls.CurveID(g))
	}
	if t.CurvePreferences == nil {
		t.CurvePreferences = knownCurves[:4]
	}
	return t, nil
}

var (
	knownCurves = []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.SecP256r1MLKEM768, tls.SecP384r1MLKEM1024}
	aeadSuites  = []uint16{
		tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
		tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
	}
)
