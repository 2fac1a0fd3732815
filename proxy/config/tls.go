// SPDX-License-Identifier: Apache-2.0

package config

import "time"

// ServerTLS is a DownstreamTlsContext.
type ServerTLS struct {
	Common            CommonTLS
	RequireClientCert bool
	NoSessionTickets  bool          // disable_stateless_session_resumption
	TicketKeys        []SecretBytes // 80 bytes each, as Envoy and nginx have them; nil: random, per process
	SessionTimeout    time.Duration // 0: 24 h
	OCSPPolicy        OCSPPolicy
	FullScanSNI       bool
}

// OCSPPolicy says what becomes of a certificate without a fresh staple.
type OCSPPolicy uint8

// The policies, as Envoy names them.
const (
	OCSPLenient OCSPPolicy = iota
	OCSPStrict
	OCSPMust
)

// ClientTLS is an UpstreamTlsContext.
type ClientTLS struct {
	Common  CommonTLS
	SNI     string // "" for none
	AutoSNI bool   // SNI follows the request's authority (upstream_http_protocol_options)
	AutoSAN bool   // the server must prove that name (auto_san_validation)
	// Cache of sessions for resumption; 0: Envoy's default of one per host.
	MaxSessionKeys int
}

// CommonTLS is a CommonTlsContext.
type CommonTLS struct {
	MinVersion, MaxVersion uint16   // crypto/tls versions; 0: TLS 1.2 and 1.3
	CipherSuites           []uint16 // TLS 1.2; nil: ECDHE with AEAD
	Curves                 []uint16 // nil: X25519MLKEM768, X25519, P-256, P-384
	ALPN                   []string // nil: what the chain speaks
	Certs                  []*Cert  // chosen by SNI, then by order
	CertSecrets            []string // SDS names, resolved to Certs when they arrive
	Validation             *Validation
	ValidationSecret       string // SDS name
}

// Cert is one certificate with its key. Files are read again when they change.
type Cert struct {
	Name      string // SDS name, or "" for an inline one
	ChainPEM  []byte
	KeyPEM    SecretBytes
	OCSP      []byte // DER staple; nil for none
	ChainFile string // watched; "" when given inline
	KeyFile   string
	OCSPFile  string
}

// Validation says which peers are believed.
type Validation struct {
	CAs        []byte // PEM
	CAFile     string // watched
	SANs       []SANMatch
	Pins       []string // SHA-256 of SPKI, base64 (verify_certificate_spki)
	Hashes     []string // SHA-256 of the certificate, hex (verify_certificate_hash)
	CRL        []byte   // PEM; nil for none
	AllowEmpty bool     // trust_chain_verification: ACCEPT_UNTRUSTED, spelled out
	SPIFFE     map[string][]byte
}

// SANMatch matches a subject alternative name.
type SANMatch struct {
	Type  string // "DNS", "URI", "EMAIL", "IP"; "" any
	Match StringMatch
}
