// SPDX-License-Identifier: Apache-2.0

package logfmt

import (
	"crypto/tls"
	"strings"
	"time"

	"redoubt.dev/proxy/filter"
)

var (
	noConn filter.ConnInfo
	noTLS  filter.TLSInfo
)

func connOf(c *filter.Context) *filter.ConnInfo {
	if c.Conn == nil {
		return &noConn
	}
	return c.Conn
}

func tlsOf(c *filter.Context) *filter.TLSInfo {
	if c.Conn == nil || c.Conn.TLS == nil {
		return &noTLS
	}
	return c.Conn.TLS
}

func upstreamTLS(c *filter.Context) *filter.TLSInfo {
	if c.UpstreamTLS == nil {
		return &noTLS
	}
	return c.UpstreamTLS
}

var tlsOps = func() map[string]definition {
	m := map[string]definition{}
	side := func(prefix string, of func(c *filter.Context) *filter.TLSInfo) {
		m[prefix+"_PEER_SUBJECT"] = text(func(c *filter.Context) string { return of(c).PeerSubject })
		m[prefix+"_PEER_ISSUER"] = text(func(c *filter.Context) string { return of(c).PeerIssuer })
		m[prefix+"_LOCAL_SUBJECT"] = text(func(c *filter.Context) string { return of(c).LocalSubject })
		m[prefix+"_TLS_VERSION"] = text(func(c *filter.Context) string { return versionName(of(c).Version) })
		m[prefix+"_TLS_CIPHER"] = text(func(c *filter.Context) string { return cipherName(of(c)) })
		m[prefix+"_PEER_URI_SAN"] = list(func(c *filter.Context) []string { return of(c).PeerURIs })
		m[prefix+"_PEER_DNS_SAN"] = list(func(c *filter.Context) []string { return of(c).PeerDNS })
		m[prefix+"_LOCAL_URI_SAN"] = list(func(c *filter.Context) []string { return of(c).LocalURIs })
	}
	side("DOWNSTREAM", tlsOf)
	side("UPSTREAM", upstreamTLS)
	m["DOWNSTREAM_PEER_SERIAL"] = text(func(c *filter.Context) string { return tlsOf(c).PeerSerial })
	m["DOWNSTREAM_PEER_FINGERPRINT_256"] = text(func(c *filter.Context) string { return tlsOf(c).PeerHash })
	m["DOWNSTREAM_PEER_CERT"] = text(func(c *filter.Context) string { return tlsOf(c).PeerPEM })
	m["DOWNSTREAM_PEER_CERT_V_END"] = definition{eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		t := tlsOf(c)
		if t.NotAfter.IsZero() {
			return dst, false
		}
		return t.NotAfter.UTC().AppendFormat(dst, time.RFC3339), true
	}}
	return m
}()

func list(get func(c *filter.Context) []string) definition {
	return definition{eval: func(dst []byte, c *filter.Context, _ *operator) ([]byte, bool) {
		l := get(c)
		for i, s := range l {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(dst, s...)
		}
		return dst, len(l) > 0
	}}
}

func versionName(v uint16) string {
	switch v {
	case tls.VersionTLS12:
		return "TLSv1.2"
	case tls.VersionTLS13:
		return "TLSv1.3"
	}
	return ""
}

// opensslNames of the TLS 1.2 suites, which Envoy's logs show.
var opensslNames = func() map[uint16]string {
	m := map[uint16]string{}
	for _, s := range tls.CipherSuites() {
		n := strings.TrimPrefix(s.Name, "TLS_")
		if strings.HasPrefix(s.Name, "TLS_ECDHE_") {
			n = strings.NewReplacer("_WITH_", "_", "AES_128", "AES128", "AES_256", "AES256", "_CBC_", "_").Replace(n)
			n = strings.TrimSuffix(n, "_SHA256_")
			if strings.Contains(n, "CHACHA20") {
				n = strings.TrimSuffix(n, "_SHA256")
			}
			n = strings.ReplaceAll(n, "_", "-")
		} else {
			n = "TLS_" + n
		}
		m[s.ID] = n
	}
	return m
}()

func cipherName(t *filter.TLSInfo) string {
	if t.Suite == 0 {
		return ""
	}
	return opensslNames[t.Suite]
}
