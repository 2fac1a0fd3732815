// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
)

// Server is the server's side of TLS for one filter chain. Safe for
// concurrent use.
type Server struct {
	src     *source
	base    *tls.Config // never used itself, never changed
	require bool
	scan    bool
	policy  config.OCSPPolicy
	tickets *ticketer // nil: no sessions
}

// NewServer makes a Server of t. alpn is what is offered when t names no
// protocols. Files are read at once, and an error of theirs is NewServer's;
// secrets that are to come by name (SDS) leave the Server unready until
// Update has brought them.
func NewServer(t *config.ServerTLS, alpn []string, d Deps) (*Server, error) {
	s := &Server{require: t.RequireClientCert, scan: t.FullScanSNI, policy: t.OCSPPolicy}
	var err error
	if s.base, err = params(&t.Common, alpn); err != nil {
		return nil, err
	}
	if len(t.Common.Certs)+len(t.Common.CertSecrets) == 0 {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "TLS", Field: "tls_certificates", Expected: "at least one"}
	}
	if s.require && t.Common.Validation == nil && t.Common.ValidationSecret == "" {
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "TLS", Field: "require_client_certificate", Expected: "a validation context beside it", Fix: "add trusted_ca"}
	}
	if !t.NoSessionTickets {
		if s.tickets, err = newTicketer(t.TicketKeys, t.SessionTimeout); err != nil {
			return nil, err
		}
	}
	if s.src, err = newSource(&t.Common, t.OCSPPolicy, d); err != nil {
		return nil, err
	}
	return s, nil
}

// Ready tells that all named secrets have come. Until then Start refuses.
func (s *Server) Ready() bool { return s.src.now.Load().ready }

// Update puts the certificate that is named name in force, if the
// configuration names it; known tells whether it does. After an error the
// last good one stays.
func (s *Server) Update(name string, cert *config.Cert) (known bool, err error) {
	return s.src.update(name, cert)
}

// UpdateValidation does the same for a validation context. Sessions of
// clients that the former one believed are not resumed.
func (s *Server) UpdateValidation(name string, v *config.Validation) (known bool, err error) {
	return s.src.updateValidation(name, v)
}

// UpdateTicketKeys replaces the keys of session tickets; none means random
// ones. Tickets under keys that are not among them open no session.
func (s *Server) UpdateTicketKeys(keys []config.SecretBytes) error {
	if s.tickets == nil {
		return nil
	}
	return s.tickets.share(keys)
}

// Close stops watching files. Connections and handshakes go on.
func (s *Server) Close() { s.src.close() }

// Start does the server's side of a handshake on c, on c's loop. done is
// called as a Handshaker's Done is, with what the handshake established.
func (s *Server) Start(h *Handshaker, c *engine.Conn, o Options, done func(*filter.TLSInfo, error)) {
	m := s.src.now.Load()
	if !m.ready {
		c.Abort()
		done(nil, errUnready)
		return
	}
	g := &greeting{s: s, m: m, now: s.src.d.Now}
	h.Server(c, g.config(), o, func(st tls.ConnectionState, err error) {
		if err != nil {
			done(nil, err)
			return
		}
		done(info(&st, g.local(&st), g.valid), nil)
	})
}

// greeting is one handshake of a Server.
type greeting struct {
	s     *Server
	m     *material
	now   func() time.Time
	shown *leaf // nil when a session was resumed
	valid bool
	grant grant // of the session that was resumed
}

func (g *greeting) config() *tls.Config {
	c := g.s.base.Clone()
	c.Time = g.now
	c.GetCertificate = g.choose
	c.VerifyConnection = g.verify
	if g.m.trust != nil {
		// The chain is looked at in verify, by our rules, also when a session
		// is resumed.
		c.ClientAuth = tls.RequestClientCert
		if g.s.require {
			c.ClientAuth = tls.RequireAnyClientCert
		}
		c.ClientCAs = g.m.trust.roots
	}
	if c.SessionTicketsDisabled = g.s.tickets == nil; !c.SessionTicketsDisabled {
		c.WrapSession, c.UnwrapSession = g.wrap, g.unwrap
	}
	return c
}

var errNoCert = &errs.Error{Kind: errs.Unavailable, Subject: "TLS", Field: "ocsp_staple_policy", Expected: "a certificate with a current OCSP response", Fix: "refresh the response"}

const extStatusRequest = 5

// choose picks the certificate: of those for the name, the first whose key
// the client's algorithms can use.
func (g *greeting) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	capable := slices.Contains(hello.Extensions, extStatusRequest)
	anyone := *hello
	anyone.ServerName = "" // the name has been looked at
	var first *tls.Certificate
	var firstLeaf *leaf
	for _, l := range g.m.find(strings.ToLower(hello.ServerName), g.s.scan) {
		cert, ok := l.stapled(g.s.policy, capable, g.now())
		if !ok {
			continue
		}
		if anyone.SupportsCertificate(cert) == nil {
			g.shown = l
			return cert, nil
		}
		if first == nil {
			first, firstLeaf = cert, l
		}
	}
	if first == nil {
		return nil, errNoCert
	}
	g.shown = firstLeaf
	return first, nil // crypto/tls says what is wrong, with the right alert
}

func (g *greeting) verify(st tls.ConnectionState) (err error) {
	if g.m.trust == nil {
		return nil
	}
	g.valid, err = g.m.trust.verify(st.PeerCertificates, x509.ExtKeyUsageClientAuth, g.now(), expect{})
	return err
}

// local is the certificate that was shown, or, after a resumption, the one
// that stands for the name now.
func (g *greeting) local(st *tls.ConnectionState) *x509.Certificate {
	l := g.shown
	if l == nil {
		if list := g.m.find(strings.ToLower(st.ServerName), g.s.scan); len(list) > 0 {
			l = list[0]
		}
	}
	if l == nil {
		return nil
	}
	return l.cert.Leaf
}

func (g *greeting) bound(st *tls.ConnectionState) []byte {
	sum := g.m.bind(g.s.require)
	return append(sum[:], strings.ToLower(st.ServerName)...)
}

func (g *greeting) wrap(st tls.ConnectionState, ss *tls.SessionState) ([]byte, error) {
	b, err := ss.Bytes()
	if err != nil {
		return nil, err
	}
	defer clear(b)
	now, w := g.now(), g.grant
	if !st.DidResume || w.proven.IsZero() {
		w = grant{proven: now, until: notAfter(st.PeerCertificates)}
	}
	return g.s.tickets.seal(b, w, now, g.bound(&st))
}

// unwrap gives the session of a ticket, or nil, which leads to a whole
// handshake.
func (g *greeting) unwrap(ticket []byte, st tls.ConnectionState) (*tls.SessionState, error) {
	b, w, ok := g.s.tickets.open(ticket, g.now(), g.bound(&st))
	if !ok {
		return nil, nil
	}
	ss, err := tls.ParseSessionState(b) // keeps parts of b
	if err != nil {
		return nil, nil // of another version of crypto/tls
	}
	g.grant = w
	return ss, nil
}
