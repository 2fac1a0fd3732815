// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"container/list"
	"crypto/tls"
	"encoding/binary"
	"sync"
)

// maxHosts bounds the hosts whose sessions a Client keeps; the one that was
// used least recently goes first.
const maxHosts = 1024

// sessions keeps a Client's sessions for resumption, a few per host.
type sessions struct {
	per int // sessions per host

	mu    sync.Mutex
	hosts map[string]*list.Element // of *host
	used  list.List                // most recent first
}

type host struct {
	key string
	all []*tls.ClientSessionState // oldest first
}

func newSessions(per int) *sessions {
	return &sessions{per: per, hosts: map[string]*list.Element{}}
}

// get takes out the newest session. One of TLS 1.3 is used once, so that an
// observer cannot tell that two connections are of one client (RFC 8446,
// C.4).
func (s *sessions) get(key string) *tls.ClientSessionState {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.hosts[key]
	if e == nil {
		return nil
	}
	s.used.MoveToFront(e)
	h := e.Value.(*host)
	last := len(h.all) - 1
	cs := h.all[last]
	if once(cs) {
		h.all[last] = nil
		if h.all = h.all[:last]; last == 0 {
			s.dropLocked(e)
		}
	}
	return cs
}

func (s *sessions) put(key string, cs *tls.ClientSessionState) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.hosts[key]
	if cs == nil { // crypto/tls found what it was given of no use
		if e != nil {
			s.dropLocked(e)
		}
		return
	}
	if e == nil {
		e = s.used.PushFront(&host{key: key})
		s.hosts[key] = e
		if len(s.hosts) > maxHosts {
			s.dropLocked(s.used.Back())
		}
	}
	s.used.MoveToFront(e)
	h := e.Value.(*host)
	if h.all = append(h.all, cs); len(h.all) > s.per {
		h.all = append(h.all[:0], h.all[1:]...)
	}
}

func (s *sessions) dropLocked(e *list.Element) {
	delete(s.hosts, e.Value.(*host).key)
	s.used.Remove(e)
}

// forget drops all sessions.
func (s *sessions) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.hosts)
	s.used.Init()
}

// once tells that a session is of TLS 1.3: its encoding begins with the
// version.
func once(cs *tls.ClientSessionState) bool {
	_, ss, err := cs.ResumptionState()
	if err != nil || ss == nil {
		return true
	}
	b, err := ss.Bytes()
	defer clear(b)
	return err != nil || len(b) < 2 || binary.BigEndian.Uint16(b) >= tls.VersionTLS13
}

// forHost is the cache of one handshake: crypto/tls would name the session by
// the server name alone.
type forHost struct {
	s   *sessions
	key string
}

func (f forHost) Get(string) (*tls.ClientSessionState, bool) {
	cs := f.s.get(f.key)
	return cs, cs != nil
}

func (f forHost) Put(_ string, cs *tls.ClientSessionState) { f.s.put(f.key, cs) }
