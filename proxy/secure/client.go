// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"crypto/x509"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
)

// Target is whom a Client expects at the other end.
type Target struct {
	// Authority is the request's, without port or brackets, for auto_sni and
	// auto_san_validation; "" when there is none.
	Authority string
	// Host tells endpoints apart whose sessions are not to be mixed: its
	// address, or its name.
	Host string
	// Identity is a URI that the peer must show as a subject alternative name
	// beside what the configuration demands; "" for none.
	Identity string
	// ALPN overrides what is offered; nil: what the configuration, or
	// NewClient, says.
	ALPN []string
}

// Client is the client's side of TLS for one cluster. Safe for concurrent
// use.
type Client struct {
	src      *source
	base     *tls.Config // never used itself, never changed
	sni      string
	autoSNI  bool
	autoSAN  bool
	sessions *sessions // nil: none are kept
}

// NewClient makes a Client of t. alpn is what is offered when t names no
// protocols. Files and secrets are as with NewServer. A configuration that
// would believe any server must say so (AllowEmpty).
func NewClient(t *config.ClientTLS, alpn []string, d Deps) (*Client, error) {
	c := &Client{sni: t.SNI, autoSNI: t.AutoSNI, autoSAN: t.AutoSAN}
	var err error
	if c.base, err = params(&t.Common, alpn); err != nil {
		return nil, err
	}
	if t.Common.Validation == nil && t.Common.ValidationSecret == "" {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "TLS", Field: "validation_context", Expected: "one: else any server would be believed", Fix: "add trusted_ca, or spell out trust_chain_verification: ACCEPT_UNTRUSTED"}
	}
	if n := t.MaxSessionKeys; n >= 0 {
		c.sessions = newSessions(max(1, n))
	}
	if c.src, err = newSource(&t.Common, config.OCSPLenient, d); err != nil {
		return nil, err
	}
	return c, nil
}

// Ready tells that all named secrets have come. Until then Start refuses.
func (c *Client) Ready() bool { return c.src.now.Load().ready }

// Update is as Server's.
func (c *Client) Update(name string, cert *config.Cert) (known bool, err error) {
	return c.src.update(name, cert)
}

// UpdateValidation is as Server's. Sessions with servers that the former one
// believed are not resumed.
func (c *Client) UpdateValidation(name string, v *config.Validation) (known bool, err error) {
	return c.src.updateValidation(name, v)
}

// Close stops watching files and forgets sessions.
func (c *Client) Close() {
	c.src.close()
	if c.sessions != nil {
		c.sessions.forget()
	}
}

// Start does the client's side of a handshake on conn, on its loop.
func (c *Client) Start(h *Handshaker, conn *engine.Conn, t Target, o Options, done func(*filter.TLSInfo, error)) {
	m := c.src.now.Load()
	if !m.ready {
		conn.Abort()
		done(nil, errUnready)
		return
	}
	a := &approach{c: c, m: m, now: c.src.d.Now, want: expect{uri: t.Identity}}
	if c.autoSAN {
		if a.want.name = t.Authority; t.Authority == "" {
			conn.Abort()
			done(nil, errNoAuthority)
			return
		}
	}
	h.Client(conn, a.config(&t), o, func(st tls.ConnectionState, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		st.ServerName = a.sni
		done(info(&st, a.shown, a.valid), nil)
	})
}

var errNoAuthority = &errs.Error{Kind: errs.Unproven, Subject: "peer", Field: "auto_san_validation", Expected: "an authority to hold the server to", Seen: "none"}

// approach is one handshake of a Client.
type approach struct {
	c     *Client
	m     *material
	now   func() time.Time
	want  expect
	sni   string
	shown *x509.Certificate
	valid bool
}

func (a *approach) config(t *Target) *tls.Config {
	cfg := a.c.base.Clone()
	a.sni = a.c.sni
	if a.c.autoSNI && t.Authority != "" {
		a.sni = strings.TrimSuffix(strings.ToLower(t.Authority), ".")
		if _, err := netip.ParseAddr(a.sni); err == nil {
			a.sni = "" // RFC 6066, 3: no addresses
		}
	}
	cfg.ServerName = a.sni
	cfg.Time = a.now
	if t.ALPN != nil {
		cfg.NextProtos = t.ALPN
	}
	cfg.InsecureSkipVerify = true // VerifyConnection does it all, by our rules, also for resumed sessions
	cfg.VerifyConnection = a.verify
	cfg.GetClientCertificate = a.choose
	if a.c.sessions == nil {
		cfg.SessionTicketsDisabled = true
		return cfg
	}
	// A session proves what its first handshake proved: it serves no other
	// name, host, identity or trust.
	key := strings.Join([]string{strconv.FormatUint(a.m.gen, 10), a.sni, a.want.name, a.want.uri, t.Host}, "\x00")
	cfg.ClientSessionCache = forHost{a.c.sessions, key}
	return cfg
}

func (a *approach) verify(st tls.ConnectionState) (err error) {
	if a.m.trust == nil {
		return errUnready
	}
	a.valid, err = a.m.trust.verify(st.PeerCertificates, x509.ExtKeyUsageServerAuth, a.now(), a.want)
	return err
}

// choose shows the first certificate that the server says it takes, or else
// the first, so that the refusal is the server's to explain.
func (a *approach) choose(req *tls.CertificateRequestInfo) (*tls.Certificate, error) {
	if len(a.m.leaves) == 0 {
		return &tls.Certificate{}, nil
	}
	pick := a.m.leaves[0]
	for _, l := range a.m.leaves {
		if req.SupportsCertificate(&l.cert) == nil {
			pick = l
			break
		}
	}
	a.shown = pick.cert.Leaf
	return &pick.cert, nil
}
