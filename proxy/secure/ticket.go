// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"sync"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// Session tickets. A ticket is the name of a key, a salt, and the session
// sealed with AES-256-GCM under a key that HKDF makes of both: a key shared by
// many machines seals any number of tickets without two nonces meeting.
//
// What is sealed beside the session: when the client last proved itself by a
// whole handshake, which bounds how long sessions can renew each other, and
// when the first of its certificates ends. What it is bound to: who was
// believed then, and the server name (source.go, bind).
const (
	ticketName   = 16
	ticketSecret = 64
	ticketSalt   = 32
	ticketHead   = 8 + 8
	// maxTicket: above, a session is not worth its bytes on every hello. A
	// TLS 1.3 ticket has at most 2^16-1.
	maxTicket = 16 << 10

	// defaultTimeout is SessionTimeout's default.
	defaultTimeout = 24 * time.Hour
	// randomKeys are kept: one that seals and two that still open.
	randomKeys = 3
)

type ticketKey struct {
	name   [ticketName]byte
	secret [ticketSecret]byte
}

// ticketer seals and opens tickets, under keys that it is given, or that it
// makes and changes itself.
type ticketer struct {
	timeout time.Duration

	mu     sync.Mutex
	keys   []ticketKey // the first seals
	shared bool        // given; they are not changed here
	next   time.Time   // when the next random one is due
}

func newTicketer(keys []config.SecretBytes, timeout time.Duration) (*ticketer, error) {
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	t := &ticketer{timeout: timeout}
	return t, t.share(keys)
}

// share replaces shared keys.
func (t *ticketer) share(keys []config.SecretBytes) error {
	var list []ticketKey
	for i, b := range keys {
		if len(b) != ticketName+ticketSecret {
			return &errs.Error{Kind: errs.Invalid, Subject: "TLS", Field: fmt.Sprintf("session_ticket_keys[%d]", i), Expected: fmt.Sprintf("%d bytes", ticketName+ticketSecret), Seen: fmt.Sprintf("%d", len(b))}
		}
		list = append(list, ticketKey{[ticketName]byte(b), [ticketSecret]byte(b[ticketName:])})
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.keys, t.shared = list, len(list) > 0
	t.next = time.Time{}
	return nil
}

// sealing gives the key for a new ticket. Random ones change twice per
// timeout, so that a ticket opens as long as it is good.
func (t *ticketer) sealing(now time.Time) ticketKey {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.shared && !now.Before(t.next) {
		var k ticketKey
		rand.Read(k.name[:])
		rand.Read(k.secret[:])
		t.keys = append([]ticketKey{k}, t.keys[:min(len(t.keys), randomKeys-1)]...)
		t.next = now.Add(t.timeout / 2)
	}
	return t.keys[0]
}

func (t *ticketer) opening(name []byte) (k ticketKey, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.keys {
		if bytes.Equal(t.keys[i].name[:], name) {
			return t.keys[i], true
		}
	}
	return k, false
}

func (k *ticketKey) aead(salt []byte) (cipher.AEAD, []byte, error) {
	b, err := hkdf.Key(sha256.New, k.secret[:], salt, "redoubt session ticket 1", 32+12)
	if err != nil {
		return nil, nil, err
	}
	defer clear(b[:32])
	block, err := aes.NewCipher(b[:32])
	if err != nil {
		return nil, nil, err
	}
	a, err := cipher.NewGCM(block)
	return a, b[32:], err
}

// grant is what a ticket holds beside the session.
type grant struct {
	proven time.Time // when the client's last whole handshake was
	until  time.Time // when the first of its certificates ends; zero for none
}

// seal makes a ticket of a session. One that would be too long becomes bytes
// that open nothing: crypto/tls sends a ticket in any case.
func (t *ticketer) seal(session []byte, g grant, now time.Time, bound []byte) ([]byte, error) {
	k := t.sealing(now)
	out := make([]byte, ticketName+ticketSalt, ticketName+ticketSalt+ticketHead+len(session)+16)
	copy(out, k.name[:])
	rand.Read(out[ticketName:])
	if cap(out) > maxTicket {
		rand.Read(out)
		return out, nil
	}
	a, nonce, err := k.aead(out[ticketName:])
	if err != nil {
		return nil, err
	}
	plain := make([]byte, 0, ticketHead+len(session))
	plain = binary.BigEndian.AppendUint64(plain, uint64(g.proven.Unix()))
	var until uint64
	if !g.until.IsZero() {
		until = uint64(g.until.Unix())
	}
	plain = append(binary.BigEndian.AppendUint64(plain, until), session...)
	out = a.Seal(out, nonce, plain, bound)
	clear(plain)
	return out, nil
}

// open gives the session in a ticket, if it is one of ours, for the same
// trust and name, and still good.
func (t *ticketer) open(ticket []byte, now time.Time, bound []byte) (session []byte, g grant, ok bool) {
	if len(ticket) < ticketName+ticketSalt+ticketHead+16 || len(ticket) > maxTicket {
		return nil, g, false
	}
	k, ok := t.opening(ticket[:ticketName])
	if !ok {
		return nil, g, false
	}
	a, nonce, err := k.aead(ticket[ticketName:][:ticketSalt])
	if err != nil {
		return nil, g, false
	}
	plain, err := a.Open(nil, nonce, ticket[ticketName+ticketSalt:], bound)
	if err != nil {
		return nil, g, false
	}
	g.proven = time.Unix(int64(binary.BigEndian.Uint64(plain)), 0)
	if u := binary.BigEndian.Uint64(plain[8:]); u != 0 {
		g.until = time.Unix(int64(u), 0)
	}
	if age := now.Sub(g.proven); age > t.timeout || age < -stapleSkew || !g.until.IsZero() && now.After(g.until) {
		clear(plain)
		return nil, g, false
	}
	return plain[ticketHead:], g, true
}
