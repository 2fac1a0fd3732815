// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/url"
	"strings"

	"redoubt.dev/proxy/filter"
)

// info says what a handshake established. local may be nil.
func info(st *tls.ConnectionState, local *x509.Certificate, valid bool) *filter.TLSInfo {
	i := &filter.TLSInfo{Version: st.Version, Suite: st.CipherSuite, SNI: strings.ToLower(st.ServerName), ALPN: st.NegotiatedProtocol, Resumed: st.DidResume}
	if local != nil {
		i.LocalURIs, i.LocalSubject = uris(local), local.Subject.String()
	}
	if len(st.PeerCertificates) == 0 {
		return i
	}
	c := st.PeerCertificates[0]
	sum := sha256.Sum256(c.Raw)
	i.PeerPresented, i.PeerValidated = true, valid
	i.PeerURIs, i.PeerDNS = uris(c), c.DNSNames
	i.PeerSubject, i.PeerIssuer = c.Subject.String(), c.Issuer.String()
	i.PeerSerial = fmt.Sprintf("%x", c.SerialNumber)
	i.PeerHash = hex.EncodeToString(sum[:])
	i.PeerPEM = escape(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
	i.NotAfter = c.NotAfter
	return i
}

func uris(c *x509.Certificate) (list []string) {
	for _, u := range c.URIs {
		list = append(list, u.String())
	}
	return list
}

// escape is what x-forwarded-client-cert wants: all that is special as %XX,
// the space too.
func escape(b []byte) string { return strings.ReplaceAll(url.QueryEscape(string(b)), "+", "%20") }
