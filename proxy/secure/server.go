// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
)

// Deps are what a Server or Client is built with. The zero value is useful.
type Deps struct {
	Now   func() time.Time // nil: time.Now
	Watch *Watcher         // sees files; nil: they are read once
	// Told is told why what is in force was not replaced, from any goroutine;
	// nil: nobody is. The error names files and secrets, never their content.
	Told func(error)
}

// Server is the server's side of TLS for one filter chain. Safe for
// concurrent use.
type Server struct{}

// NewServer makes a Server of t. alpn is what is offered when t names no
// protocols. Files are read at once, and an error of theirs is NewServer's;
// secrets that are to come by name (SDS) leave the Server unready until
// Update has brought them.
func NewServer(t *config.ServerTLS, alpn []string, d Deps) (*Server, error) {
	return nil, errs.New(errs.Unsupported, "TLS", "not there yet")
}

// Ready tells that all named secrets have come. Until then Start refuses.
func (s *Server) Ready() bool { return false }

// Start does the server's side of a handshake on c, on c's loop. done is
// called as a Handshaker's Done is, with what the handshake established.
func (s *Server) Start(h *Handshaker, c *engine.Conn, o Options, done func(*filter.TLSInfo, error)) {
}

// Update puts the certificate that is named name in force, if the
// configuration names it; known tells whether it does. After an error the
// last good one stays.
func (s *Server) Update(name string, cert *config.Cert) (known bool, err error) { return false, nil }

// UpdateValidation does the same for a validation context. Sessions of
// clients that the former one believed are not resumed.
func (s *Server) UpdateValidation(name string, v *config.Validation) (known bool, err error) {
	return false, nil
}

// Close stops watching files. Connections and handshakes go on.
func (s *Server) Close() {}
