// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"crypto/tls"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/secure"
)

// Deadline bounds one handshake, from its first byte to its last.
const Deadline = secure.Deadline

// ErrBusy means that too many handshakes are under way.
var ErrBusy = secure.ErrBusy

// Handshaker runs the mesh's handshakes for all loops. Close waits for them.
type Handshaker struct{ *secure.Handshaker }

// NewHandshaker allows limit handshakes at once, of which as many compute as
// there are processors.
func NewHandshaker(limit int) *Handshaker { return &Handshaker{secure.NewHandshaker(limit)} }

// Done is called on the connection's loop when its handshake has ended. After
// nil the connection is secure and the caller must set its handler; after an
// error it is closed. It is not called when the caller closes the connection
// itself.
type Done func(Peer, error)

// what a refused peer should have shown
var opts = secure.Options{Expected: "TLS 1.3 with an X.509-SVID on both sides"}

// Server names the client of c. Bytes that were read from c already are used.
func (s *Handshaker) Server(c *engine.Conn, self *Identity, t *Trust, done Done) {
	peer := new(Peer)
	s.Handshaker.Server(c, t.server(self, peer), opts, named(peer, done))
}

// Client names the server of c, which must be expect, and offers protos.
func (s *Handshaker) Client(c *engine.Conn, self *Identity, t *Trust, expect string, protos []string, done Done) {
	peer := new(Peer)
	s.Handshaker.Client(c, t.client(self, expect, protos, peer), opts, named(peer, done))
}

// named gives out the peer only when the handshake has succeeded.
func named(peer *Peer, done Done) secure.Done {
	return func(_ tls.ConnectionState, err error) {
		if err != nil {
			done(Peer{}, err)
			return
		}
		done(*peer, nil)
	}
}
