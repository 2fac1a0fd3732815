// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/tls"
	"encoding/binary"
	"net"
)

// sessionHead of an encoded session: version, kind, suite, time of making; the
// secret follows, with a length byte (tls.SessionState).
const sessionHead = 2 + 1 + 2 + 8

// session takes the secret of a TLS 1.2 session: crypto/tls does not log it
// when the session is resumed.
func (k *keys) session(ss *tls.SessionState) {
	b, err := ss.Bytes()
	if err != nil {
		return
	}
	defer clear(b)
	if len(b) <= sessionHead || binary.BigEndian.Uint16(b) != tls.VersionTLS12 {
		return
	}
	n := sessionHead + 1 + int(b[sessionHead])
	if n <= len(b) {
		clear(k.resumed)
		k.resumed = append([]byte(nil), b[sessionHead+1:n]...)
	}
}

// tap has sessions pass by session, whoever keeps them.
func (k *keys) tap(cfg *tls.Config) {
	if !k.tickets {
		return
	}
	if !k.server {
		cfg.ClientSessionCache = tapped{cfg.ClientSessionCache, k}
		return
	}
	open := cfg.UnwrapSession
	if open == nil {
		open = cfg.DecryptTicket
	}
	cfg.UnwrapSession = func(ticket []byte, st tls.ConnectionState) (*tls.SessionState, error) {
		ss, err := open(ticket, st)
		if ss != nil {
			k.session(ss)
		}
		return ss, err
	}
}

type tapped struct {
	tls.ClientSessionCache
	k *keys
}

func (t tapped) Get(key string) (*tls.ClientSessionState, bool) {
	cs, ok := t.ClientSessionCache.Get(key)
	if ok && cs != nil {
		if _, ss, err := cs.ResumptionState(); err == nil && ss != nil {
			t.k.session(ss)
		}
	}
	return cs, ok
}

// ticketFeed lets a client's crypto/tls read the tickets that a TLS 1.3
// server sends behind the handshake, so that the session can be resumed: it
// holds the secret that they need, and gives it to nobody. What it is fed are
// the first records under the application key, from number zero, as it
// expects them.
type ticketFeed struct {
	conn *tls.Conn
	h    *handshake
}

// errFed ends a reading for now: crypto/tls remembers errors that are not
// temporary, and would read no second ticket.
var errFed net.Error = fed{}

type fed struct{}

func (fed) Error() string   { return "no more records yet" }
func (fed) Timeout() bool   { return true }
func (fed) Temporary() bool { return true }

// Ticket runs on the loop. crypto/tls reads the one record, finds no data in
// it, and is told that there is no more.
func (f *ticketFeed) Ticket(rec []byte) {
	if f.conn == nil {
		return
	}
	f.h.mu.Lock()
	f.h.in, f.h.left, f.h.end = append(f.h.in[:0], rec...), 0, errFed
	f.h.fed = true
	f.h.mu.Unlock()
	var b [1]byte
	f.conn.Read(b[:])
}

// Done lets go of crypto/tls's connection.
func (f *ticketFeed) Done() { f.conn, f.h = nil, nil }
