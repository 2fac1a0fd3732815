// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"

	"redoubt.dev/proxy/config"
)

// tlsRefs are the secrets of a context that come from elsewhere.
type tlsRefs struct {
	certs      []ref
	validation *ref
	tickets    *ref
}

func (t *tlsRefs) all() []ref {
	if t == nil {
		return nil
	}
	list := t.certs
	for _, r := range []*ref{t.validation, t.tickets} {
		if r != nil {
			list = append(list[:len(list):len(list)], *r)
		}
	}
	return list
}

// suites are the cipher suites of TLS 1.2 that may be asked for; others are
// refused. Those of TLS 1.3 are not configurable.
var suites = map[string]uint16{
	"ECDHE-ECDSA-AES128-GCM-SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, "ECDHE-RSA-AES128-GCM-SHA256": tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
	"ECDHE-ECDSA-AES256-GCM-SHA384": tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, "ECDHE-RSA-AES256-GCM-SHA384": tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
	"ECDHE-ECDSA-CHACHA20-POLY1305": tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256, "ECDHE-RSA-CHACHA20-POLY1305": tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
}

var curves = map[string]uint16{"X25519": uint16(tls.X25519), "P-256": uint16(tls.CurveP256), "P-384": uint16(tls.CurveP384), "P-521": uint16(tls.CurveP521), "X25519MLKEM768": uint16(tls.X25519MLKEM768)}

func (c *converter) serverTLS(m *tlsv3.DownstreamTlsContext, p *place) *config.ServerTLS {
	s := &config.ServerTLS{RequireClientCert: m.GetRequireClientCertificate().GetValue(), SessionTimeout: c.duration(m.GetSessionTimeout(), p.field("session_timeout"))}
	refs := c.commonTLS(m.GetCommonTlsContext(), &s.Common, p.field("common_tls_context"))
	if len(s.Common.Certs) == 0 && len(refs.certs) == 0 {
		c.wrong(p.field("common_tls_context"), "tls_certificates or tls_certificate_sds_secret_configs", "none", "")
	}
	if s.RequireClientCert && s.Common.Validation == nil && refs.validation == nil {
		c.wrong(p.field("require_client_certificate"), "a validation_context beside it", "none: any certificate would do", "add trusted_ca")
	}
	switch x := m.GetSessionTicketKeysType().(type) {
	case *tlsv3.DownstreamTlsContext_SessionTicketKeys:
		s.TicketKeys = c.ticketKeys(x.SessionTicketKeys, p.field("session_ticket_keys"))
	case *tlsv3.DownstreamTlsContext_SessionTicketKeysSdsSecretConfig:
		if r, ok := c.secret(x.SessionTicketKeysSdsSecretConfig, p.field("session_ticket_keys_sds_secret_config")); ok {
			refs.tickets = &r
		}
	case *tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption:
		s.NoSessionTickets = x.DisableStatelessSessionResumption
	}
	switch m.GetOcspStaplePolicy() {
	case tlsv3.DownstreamTlsContext_LENIENT_STAPLING:
		s.OCSPPolicy = config.OCSPLenient
	case tlsv3.DownstreamTlsContext_STRICT_STAPLING:
		s.OCSPPolicy = config.OCSPStrict
	case tlsv3.DownstreamTlsContext_MUST_STAPLE:
		s.OCSPPolicy = config.OCSPMust
	default:
		c.unsupported(p.field("ocsp_staple_policy"), "a known policy", m.GetOcspStaplePolicy(), "")
	}
	s.FullScanSNI = m.GetFullScanCertsOnSniMismatch().GetValue()
	c.note(&s.Common, refs)
	return s
}

func (c *converter) clientTLS(m *tlsv3.UpstreamTlsContext, p *place) *config.ClientTLS {
	t := &config.ClientTLS{SNI: m.GetSni()}
	refs := c.commonTLS(m.GetCommonTlsContext(), &t.Common, p.field("common_tls_context"))
	if t.Common.Validation == nil && refs.validation == nil {
		c.wrong(p.field("common_tls_context"), "a validation_context", "none: any server would be believed", "add trusted_ca, or spell out trust_chain_verification: ACCEPT_UNTRUSTED")
	}
	if v := m.GetMaxSessionKeys(); v != nil {
		if t.MaxSessionKeys = c.size(v, 1<<16, p.field("max_session_keys")); v.Value == 0 {
			t.MaxSessionKeys = 0
		}
	}
	c.note(&t.Common, refs)
	return t
}

// note remembers the secrets of a context, if it needs any.
func (c *converter) note(t *config.CommonTLS, r *tlsRefs) {
	if len(r.all()) > 0 {
		c.tls[t] = r
	}
}

func (c *converter) commonTLS(m *tlsv3.CommonTlsContext, t *config.CommonTLS, p *place) *tlsRefs {
	refs := &tlsRefs{}
	c.tlsParams(m.GetTlsParams(), t, p.field("tls_params"))
	t.ALPN = m.GetAlpnProtocols()
	for i, s := range t.ALPN {
		if len(s) == 0 || len(s) > 255 {
			c.wrong(p.item("alpn_protocols", i), "1 to 255 bytes", s, "")
		}
	}
	for i, cert := range m.GetTlsCertificates() {
		t.Certs = append(t.Certs, c.cert(cert, "", p.item("tls_certificates", i)))
	}
	for i, s := range m.GetTlsCertificateSdsSecretConfigs() {
		if r, ok := c.secret(s, p.item("tls_certificate_sds_secret_configs", i)); ok {
			refs.certs = append(refs.certs, r)
			t.CertSecrets = append(t.CertSecrets, r.name)
		}
	}
	switch x := m.GetValidationContextType().(type) {
	case *tlsv3.CommonTlsContext_ValidationContext:
		t.Validation = c.validation(x.ValidationContext, p.field("validation_context"), true)
	case *tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig:
		c.validationSecret(x.ValidationContextSdsSecretConfig, t, refs, p.field("validation_context_sds_secret_config"))
	case *tlsv3.CommonTlsContext_CombinedValidationContext:
		at := p.field("combined_validation_context")
		t.Validation = c.validation(x.CombinedValidationContext.GetDefaultValidationContext(), at.field("default_validation_context"), false)
		c.validationSecret(x.CombinedValidationContext.GetValidationContextSdsSecretConfig(), t, refs, at.field("validation_context_sds_secret_config"))
	}
	return refs
}

func (c *converter) validationSecret(m *tlsv3.SdsSecretConfig, t *config.CommonTLS, refs *tlsRefs, p *place) {
	if r, ok := c.secret(m, p); ok {
		refs.validation, t.ValidationSecret = &r, r.name
	}
}

// secret is where a secret comes from; without a source it is one of the
// bootstrap's.
func (c *converter) secret(m *tlsv3.SdsSecretConfig, p *place) (ref, bool) {
	if m.GetName() == "" {
		c.wrong(p.field("name"), "a secret's name", "", "")
		return ref{}, false
	}
	if m.GetSdsConfig() == nil {
		if !c.boot.secretNames[m.GetName()] {
			c.wrong(p.field("name"), "a secret of static_resources, or an sds_config", m.GetName(), "define it there")
			return ref{}, false
		}
		return ref{name: m.GetName()}, true
	}
	s, wait, ok := c.source(m.GetSdsConfig(), p.field("sds_config"))
	return ref{s, m.GetName(), wait}, ok
}

func (c *converter) tlsParams(m *tlsv3.TlsParameters, t *config.CommonTLS, p *place) {
	version := func(v tlsv3.TlsParameters_TlsProtocol, at *place) uint16 {
		got, ok := tlsVersions[int32(v)]
		if !ok {
			c.unsupported(at, "TLSv1_2 or TLSv1_3", v, "set TLSv1_2: older versions are broken (RFC 8996)")
		}
		return got
	}
	t.MinVersion = version(m.GetTlsMinimumProtocolVersion(), p.field("tls_minimum_protocol_version"))
	t.MaxVersion = version(m.GetTlsMaximumProtocolVersion(), p.field("tls_maximum_protocol_version"))
	if t.MaxVersion != 0 && t.MinVersion > t.MaxVersion {
		c.wrong(p.field("tls_maximum_protocol_version"), "no less than the minimum", m.GetTlsMaximumProtocolVersion(), "")
	}
	for i, group := range m.GetCipherSuites() {
		// "[A|B]" prefers both alike; which wins is the other side's choice.
		for s := range strings.SplitSeq(strings.Trim(group, "[]"), "|") {
			id, ok := suites[s]
			if !ok {
				c.unsupported(p.item("cipher_suites", i), "ECDHE with AES-GCM or ChaCha20-Poly1305, by OpenSSL's names", s, "remove it")
				continue
			}
			t.CipherSuites = append(t.CipherSuites, id)
		}
	}
	for i, s := range m.GetEcdhCurves() {
		id, ok := curves[s]
		if !ok {
			c.unsupported(p.item("ecdh_curves", i), "X25519MLKEM768, X25519, P-256, P-384 or P-521", s, "remove it")
			continue
		}
		t.Curves = append(t.Curves, id)
	}
}

func (c *converter) cert(m *tlsv3.TlsCertificate, name string, p *place) *config.Cert {
	chain, key := c.data(m.GetCertificateChain(), p.field("certificate_chain")), c.data(m.GetPrivateKey(), p.field("private_key"))
	x := &config.Cert{Name: name, ChainPEM: chain.bytes, ChainFile: chain.file, KeyPEM: key.bytes, KeyFile: key.file}
	if (chain.file == "") != (key.file == "") {
		c.wrong(p.field("private_key"), "a file beside a file, or inline beside inline", "one of each", "give both alike: a change of one alone could not be taken as one")
	}
	if len(chain.bytes) > 0 && len(key.bytes) > 0 {
		if _, err := tls.X509KeyPair(chain.bytes, key.bytes); err != nil {
			c.failed(p, "a certificate and its private key in PEM", err, "") // the error names no key material
		}
	}
	if m.GetOcspStaple() != nil {
		o := c.data(m.GetOcspStaple(), p.field("ocsp_staple"))
		x.OCSP, x.OCSPFile = o.bytes, o.file
	}
	return x
}

// validation reads a CertificateValidationContext. complete says that nothing
// will be added to it.
func (c *converter) validation(m *tlsv3.CertificateValidationContext, p *place, complete bool) *config.Validation {
	v := &config.Validation{}
	if m.GetTrustedCa() != nil {
		d := c.data(m.GetTrustedCa(), p.field("trusted_ca"))
		v.CAs, v.CAFile = d.bytes, d.file
		if !x509.NewCertPool().AppendCertsFromPEM(d.bytes) {
			c.wrong(p.field("trusted_ca"), "certificates in PEM", "none", "")
		}
	}
	for i, s := range m.GetMatchTypedSubjectAltNames() {
		v.SANs = append(v.SANs, c.typedSAN(s, p.item("match_typed_subject_alt_names", i)))
	}
	for i, s := range m.GetMatchSubjectAltNames() { // deprecated: any type
		v.SANs = append(v.SANs, config.SANMatch{Match: c.stringMatch(s, p.item("match_subject_alt_names", i))})
	}
	for i, s := range m.GetVerifyCertificateSpki() {
		if b, err := base64.StdEncoding.DecodeString(s); err != nil || len(b) != 32 {
			c.wrong(p.item("verify_certificate_spki", i), "a SHA-256 in base64", s, "")
		}
		v.Pins = append(v.Pins, s)
	}
	for i, s := range m.GetVerifyCertificateHash() {
		low := strings.ToLower(strings.ReplaceAll(s, ":", ""))
		if b, err := hex.DecodeString(low); err != nil || len(b) != 32 {
			c.wrong(p.item("verify_certificate_hash", i), "a SHA-256 in hex", s, "")
		}
		v.Hashes = append(v.Hashes, low)
	}
	if m.GetCrl() != nil {
		v.CRL = c.data(m.GetCrl(), p.field("crl")).bytes
		if block, _ := pem.Decode(v.CRL); block == nil {
			c.wrong(p.field("crl"), "a certificate revocation list in PEM", "none", "")
		} else if _, err := x509.ParseRevocationList(block.Bytes); err != nil {
			c.failed(p.field("crl"), "a certificate revocation list in PEM", err, "")
		}
	}
	switch m.GetTrustChainVerification() {
	case tlsv3.CertificateValidationContext_VERIFY_TRUST_CHAIN:
	case tlsv3.CertificateValidationContext_ACCEPT_UNTRUSTED:
		v.AllowEmpty = true
	default:
		c.unsupported(p.field("trust_chain_verification"), "a known way", m.GetTrustChainVerification(), "")
	}
	if e := m.GetCustomValidatorConfig(); e != nil {
		v.SPIFFE = c.spiffe(e, p.field("custom_validator_config"))
	}
	if complete && v.CAs == nil && v.SPIFFE == nil && !v.AllowEmpty && v.Pins == nil && v.Hashes == nil {
		c.wrong(p, "trusted_ca, a custom validator or a pinned certificate", "none of them: any peer would be believed", "add trusted_ca")
	}
	return v
}

func (c *converter) spiffe(e *corev3.TypedExtensionConfig, p *place) map[string][]byte {
	in := c.unpack(e.GetTypedConfig(), p.field("typed_config"))
	m, ok := in.(*tlsv3.SPIFFECertValidatorConfig)
	if !ok {
		if in != nil {
			c.slot(p.field("typed_config"), in, "SPIFFECertValidatorConfig")
		}
		return nil
	}
	out := map[string][]byte{}
	for i, d := range m.GetTrustDomains() {
		at := p.field("typed_config").item("trust_domains", i)
		b := c.data(d.GetTrustBundle(), at.field("trust_bundle")).bytes
		if !x509.NewCertPool().AppendCertsFromPEM(b) {
			c.wrong(at.field("trust_bundle"), "certificates in PEM", "none", "")
		}
		if _, twice := out[d.GetName()]; twice {
			c.wrong(at.field("name"), "each trust domain once", d.GetName(), "remove one")
		}
		out[d.GetName()] = b
	}
	if len(out) == 0 {
		c.wrong(p.field("typed_config").field("trust_domains"), "at least one", "none", "")
	}
	return out
}

var sanTypes = map[tlsv3.SubjectAltNameMatcher_SanType]string{
	tlsv3.SubjectAltNameMatcher_DNS: "DNS", tlsv3.SubjectAltNameMatcher_URI: "URI", tlsv3.SubjectAltNameMatcher_EMAIL: "EMAIL", tlsv3.SubjectAltNameMatcher_IP_ADDRESS: "IP",
}

func (c *converter) typedSAN(m *tlsv3.SubjectAltNameMatcher, p *place) config.SANMatch {
	kind, ok := sanTypes[m.GetSanType()]
	if !ok {
		c.unsupported(p.field("san_type"), "DNS, URI, EMAIL or IP_ADDRESS", m.GetSanType(), "")
	}
	return config.SANMatch{Type: kind, Match: c.stringMatch(m.GetMatcher(), p.field("matcher"))}
}

func (c *converter) ticketKeys(m *tlsv3.TlsSessionTicketKeys, p *place) (keys []config.SecretBytes) {
	for i, d := range m.GetKeys() {
		b := c.data(d, p.item("keys", i)).bytes
		if len(b) != 80 {
			c.wrong(p.item("keys", i), "80 bytes", len(b), "openssl rand 80 makes them")
		}
		keys = append(keys, b)
	}
	return keys
}

// secretValue is a Secret's content; one of its parts is set.
type secretValue struct {
	cert       *config.Cert
	validation *config.Validation
	tickets    []config.SecretBytes
	serial     uint64 // orders secrets by age
}

func (c *converter) secretOf(m *tlsv3.Secret, p *place) secretValue {
	switch x := m.GetType().(type) {
	case *tlsv3.Secret_TlsCertificate:
		return secretValue{cert: c.cert(x.TlsCertificate, m.GetName(), p.field("tls_certificate"))}
	case *tlsv3.Secret_ValidationContext:
		return secretValue{validation: c.validation(x.ValidationContext, p.field("validation_context"), true)}
	case *tlsv3.Secret_SessionTicketKeys:
		return secretValue{tickets: c.ticketKeys(x.SessionTicketKeys, p.field("session_ticket_keys"))}
	}
	c.unsupported(p, "tls_certificate, validation_context or session_ticket_keys", "none of them", "")
	return secretValue{}
}
