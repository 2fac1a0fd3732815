// SPDX-License-Identifier: Apache-2.0

package secure

import (
	"crypto/sha256"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// Deps are what a Server or Client is built with. The zero value is useful.
type Deps struct {
	Now   func() time.Time // nil: time.Now
	Watch *Watcher         // sees files change; nil: they are read once
	// Told is told why what is in force was not replaced, or not wholly, from
	// any goroutine; nil: nobody is. The error names files and secrets, never
	// their content.
	Told func(error)
}

// material is what is in force: an immutable value.
type material struct {
	leaves []*leaf
	trust  *trust // nil: no peer is asked
	ready  bool   // every secret has come
	gen    uint64 // counts replacements

	exact, wild map[string][]*leaf // by name, and by suffix behind "*"
}

// source keeps the material of one Server or Client current: what it is told
// by name, and what files say.
type source struct {
	d      Deps
	policy config.OCSPPolicy
	now    atomic.Pointer[material]
	unsub  func()

	mu         sync.Mutex
	certs      []*entry
	base       *config.Validation // of the configuration; may be nil
	secret     string             // name of the validation that is to come; "" for none
	validation *config.Validation // base with what came; nil while that has not
	trust      *trust
	closed     bool
}

// entry is one certificate of the configuration.
type entry struct {
	name string       // SDS name; "" for none
	conf *config.Cert // nil until it has come
	leaf *leaf        // the last good one
}

func newSource(c *config.CommonTLS, policy config.OCSPPolicy, d Deps) (*source, error) {
	if d.Now == nil {
		d.Now = time.Now
	}
	if d.Told == nil {
		d.Told = func(error) {}
	}
	s := &source{d: d, policy: policy, base: c.Validation, secret: c.ValidationSecret}
	for _, x := range c.Certs {
		s.certs = append(s.certs, &entry{name: x.Name, conf: x})
	}
	for _, name := range c.CertSecrets {
		if !slices.ContainsFunc(s.certs, func(e *entry) bool { return e.name == name }) {
			s.certs = append(s.certs, &entry{name: name})
		}
	}
	if s.secret == "" || believes(s.base) {
		s.validation = s.base
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchLocked() // before the first reading, so that no change is missed
	if err := s.loadLocked(true); err != nil {
		s.closeLocked()
		return nil, err
	}
	return s, nil
}

// believes tells that a validation can stand alone.
func believes(v *config.Validation) bool {
	return v != nil && (len(v.CAs) > 0 || v.CAFile != "" || len(v.SPIFFE) > 0 || len(v.Pins) > 0 || len(v.Hashes) > 0 || v.AllowEmpty)
}

// loadLocked reads everything anew and puts it in force. At first, any error
// is the end; later, the last good stays and the rest goes on.
func (s *source) loadLocked(first bool) error {
	var all []error
	for _, e := range s.certs {
		if e.conf == nil {
			continue
		}
		if err := s.loadCert(e, first); err != nil {
			all = append(all, err)
		}
	}
	if s.validation != nil {
		t, err := newTrust(s.validation)
		switch {
		case err != nil:
			all = append(all, err)
		case s.trust == nil || s.trust.digest != t.digest:
			s.trust = t
		}
	}
	err := errors.Join(all...)
	if first && err != nil {
		return err
	}
	s.publishLocked()
	return err
}

// loadCert replaces e's leaf by what its configuration says now. A staple that
// is wrong keeps the last good certificate in its place where the policy
// wants staples: most likely the rest of the change is on its way.
func (s *source) loadCert(e *entry, first bool) error {
	l, staple, err := load(e.conf)
	if err != nil {
		return err
	}
	if staple != nil && (first || s.policy != config.OCSPLenient || l.must) {
		return staple
	}
	if !l.same(e.leaf) {
		e.leaf = l
	}
	return staple
}

// publishLocked makes the material of what there is, if it has changed.
func (s *source) publishLocked() {
	was := s.now.Load()
	m := &material{trust: s.trust, ready: s.trust != nil || s.secret == "" && s.base == nil, exact: map[string][]*leaf{}, wild: map[string][]*leaf{}}
	for _, e := range s.certs {
		if e.leaf == nil {
			m.ready = false
			continue
		}
		m.leaves = append(m.leaves, e.leaf)
	}
	if was != nil {
		if was.ready == m.ready && was.trust == m.trust && slices.Equal(was.leaves, m.leaves) {
			return
		}
		m.gen = was.gen + 1
	}
	// ECDSA before RSA where both have a name: it costs the server a tenth.
	order := slices.Clone(m.leaves)
	slices.SortStableFunc(order, func(a, b *leaf) int {
		switch {
		case a.ecdsa() == b.ecdsa():
			return 0
		case a.ecdsa():
			return -1
		}
		return 1
	})
	for _, l := range order {
		for _, n := range l.names {
			if suffix, ok := strings.CutPrefix(n, "*"); ok {
				m.wild[suffix] = append(m.wild[suffix], l)
			} else {
				m.exact[n] = append(m.exact[n], l)
			}
		}
	}
	s.now.Store(m)
}

// find gives the certificates for a server name, lower case, in the order in
// which they are tried.
func (m *material) find(sni string, scan bool) []*leaf {
	if l := m.exact[sni]; l != nil && sni != "" {
		return l
	}
	if i := strings.IndexByte(sni, '.'); i > 0 {
		if l := m.wild[sni[i:]]; l != nil {
			return l
		}
	}
	if sni == "" || scan || len(m.leaves) == 0 {
		return m.leaves
	}
	return m.leaves[:1]
}

// reload is called when a file has changed.
func (s *source) reload() {
	s.mu.Lock()
	err := s.loadLocked(false)
	s.mu.Unlock()
	if err != nil {
		s.d.Told(err)
	}
}

// update puts a named certificate in force.
func (s *source) update(name string, c *config.Cert) (known bool, err error) {
	if name == "" {
		return false, nil
	}
	s.mu.Lock()
	for _, e := range s.certs {
		if e.name != name {
			continue
		}
		known = true
		next := &entry{name: name, conf: c, leaf: e.leaf}
		if err = s.loadCert(next, false); err == nil || next.leaf != e.leaf {
			*e = *next
		}
	}
	other := s.settleLocked()
	s.mu.Unlock()
	if other != nil {
		s.d.Told(other)
	}
	return known, err
}

// settleLocked watches what there is now, and reads it: a change that came
// while nobody watched would be missed.
func (s *source) settleLocked() error {
	s.watchLocked()
	return s.loadLocked(false)
}

// updateValidation puts the named validation in force, together with what
// the configuration itself says (combined_validation_context).
func (s *source) updateValidation(name string, v *config.Validation) (known bool, err error) {
	if name == "" || name != s.secret {
		return false, nil
	}
	all := combine(s.base, v)
	if _, err := newTrust(all); err != nil {
		return true, err
	}
	s.mu.Lock()
	s.validation = all
	other := s.settleLocked()
	s.mu.Unlock()
	if other != nil {
		s.d.Told(other)
	}
	return true, nil
}

// combine merges as protobuf messages merge: v's scalars win, lists are
// joined.
func combine(base, v *config.Validation) *config.Validation {
	if base == nil {
		return v
	}
	out := *v
	if len(out.CAs) == 0 && out.CAFile == "" {
		out.CAs, out.CAFile = base.CAs, base.CAFile
	}
	if len(out.CRL) == 0 {
		out.CRL = base.CRL
	}
	if len(out.SPIFFE) == 0 {
		out.SPIFFE = base.SPIFFE
	}
	out.SANs = slices.Concat(base.SANs, v.SANs)
	out.Pins = slices.Concat(base.Pins, v.Pins)
	out.Hashes = slices.Concat(base.Hashes, v.Hashes)
	out.AllowEmpty = v.AllowEmpty || base.AllowEmpty
	return &out
}

// watchLocked has the files of everything watched.
func (s *source) watchLocked() {
	var files []string
	for _, e := range s.certs {
		if e.conf != nil {
			files = append(files, e.conf.ChainFile, e.conf.KeyFile, e.conf.OCSPFile)
		}
	}
	if s.validation != nil {
		files = append(files, s.validation.CAFile)
	}
	files = slices.DeleteFunc(files, func(f string) bool { return f == "" })
	s.closeLocked()
	if s.d.Watch != nil && len(files) > 0 && !s.closed {
		s.unsub = s.d.Watch.add(files, s.reload)
	}
}

func (s *source) closeLocked() {
	if s.unsub != nil {
		s.unsub()
		s.unsub = nil
	}
}

func (s *source) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.closeLocked()
}

// errUnready means that a secret has not come yet.
var errUnready = &errs.Error{Kind: errs.Unavailable, Subject: "TLS", Expected: "all secrets to have been delivered", Fix: "see whether the SDS server has them"}

// bind is what a session's ticket is bound to beside the server name: who is
// believed, and whether a client must show itself.
func (m *material) bind(require bool) (sum [sha256.Size]byte) {
	h := sha256.New()
	if m.trust != nil {
		h.Write(m.trust.digest[:])
	}
	if require {
		h.Write([]byte{1})
	}
	h.Sum(sum[:0])
	return sum
}
