// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"redoubt.dev/api/errs"
)

// suite is a cipher suite. All three of TLS 1.3 are needed: crypto/tls does
// not let them be chosen. Of TLS 1.2 those with forward secrecy and an AEAD.
type suite struct {
	version  uint16
	hash     crypto.Hash
	keyLen   int
	ivLen    int // the part of the nonce that is secret
	explicit int // the part that each record carries (RFC 5288)
	aead     func(key []byte) (cipher.AEAD, error)
	limit    uint64 // records under one key
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

// gcmLimit: about 2^24.5 full records keep AES-GCM's margin (RFC 8446, 5.5).
// TLS 1.2 cannot change keys; Worn tells when it has come so far.
const gcmLimit = 1 << 24

var (
	gcm128    = suite{tls.VersionTLS12, crypto.SHA256, 16, 4, 8, gcm, gcmLimit}
	gcm256    = suite{tls.VersionTLS12, crypto.SHA384, 32, 4, 8, gcm, gcmLimit}
	chacha12  = suite{tls.VersionTLS12, crypto.SHA256, 32, 12, 0, chacha20poly1305.New, math.MaxInt64}
	errNoRoom = errors.New("sequence number at its end")
)

var suites = map[uint16]suite{
	tls.TLS_AES_128_GCM_SHA256:       {tls.VersionTLS13, crypto.SHA256, 16, 12, 0, gcm, gcmLimit},
	tls.TLS_AES_256_GCM_SHA384:       {tls.VersionTLS13, crypto.SHA384, 32, 12, 0, gcm, gcmLimit},
	tls.TLS_CHACHA20_POLY1305_SHA256: {tls.VersionTLS13, crypto.SHA256, 32, 12, 0, chacha20poly1305.New, math.MaxInt64},

	tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256:       gcm128,
	tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256:         gcm128,
	tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384:       gcm256,
	tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384:         gcm256,
	tls.TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256: chacha12,
	tls.TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256:   chacha12,
}

// find gives the suite of a version.
func find(version, id uint16) (suite, error) {
	s, ok := suites[id]
	if !ok || s.version != version {
		return suite{}, &errs.Error{Kind: errs.Unsupported, Field: "cipher suite", Expected: "an AEAD suite of " + tls.VersionName(version) + " with forward secrecy", Seen: fmt.Sprintf("%#04x", id)}
	}
	return s, nil
}

// secretLen is the length of what one half's keys come from: a traffic secret
// in TLS 1.3, key and IV themselves in TLS 1.2.
func (s *suite) secretLen() int {
	if s.version == tls.VersionTLS13 {
		return s.hash.Size()
	}
	return s.keyLen + s.ivLen
}

// half is one direction.
type half struct {
	suite  suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	seq    uint64
	nonce  [12]byte // scratch; here so that it does not escape per call
	ad     [13]byte
}

func (h *half) init(s suite, secret []byte, seq uint64) error {
	if len(secret) != s.secretLen() {
		return &errs.Error{Kind: errs.Invalid, Field: "traffic secret", Expected: fmt.Sprintf("%d bytes", s.secretLen()), Seen: fmt.Sprintf("%d bytes", len(secret))}
	}
	if seq > math.MaxInt64 {
		return &errs.Error{Kind: errs.Invalid, Field: "sequence number", Err: errNoRoom}
	}
	h.suite = s
	secret = append([]byte(nil), secret...)
	var err error
	if s.version == tls.VersionTLS13 {
		err = h.use(secret)
	} else {
		h.secret = secret
		copy(h.iv[:], secret[s.keyLen:])
		if h.aead, err = s.aead(secret[:s.keyLen]); err != nil {
			err = fmt.Errorf("make record cipher: %w", err)
		}
	}
	h.seq = seq
	return err
}

// use derives key and IV from secret (RFC 8446, 7.3) and begins at zero.
func (h *half) use(secret []byte) error {
	key, err := expand(h.suite.hash, secret, "key", h.suite.keyLen)
	if err != nil {
		return err
	}
	iv, err := expand(h.suite.hash, secret, "iv", len(h.iv))
	if err != nil {
		return err
	}
	if h.aead, err = h.suite.aead(key); err != nil {
		return fmt.Errorf("make record cipher: %w", err)
	}
	copy(h.iv[:], iv)
	clear(key)
	clear(h.secret)
	h.secret, h.seq = secret, 0
	return nil
}

// update moves to the next generation's secret (RFC 8446, 7.2).
func (h *half) update() error {
	next, err := expand(h.suite.hash, h.secret, "traffic upd", h.suite.hash.Size())
	if err != nil {
		return err
	}
	return h.use(next)
}

// expand is HKDF-Expand-Label with an empty context (RFC 8446, 7.1).
func expand(h crypto.Hash, secret []byte, label string, n int) ([]byte, error) {
	info := make([]byte, 0, 4+6+len(label))
	info = binary.BigEndian.AppendUint16(info, uint16(n))
	info = append(info, byte(6+len(label)))
	info = append(append(info, "tls13 "...), label...)
	info = append(info, 0)
	b, err := hkdf.Expand(h.New, secret, string(info), n)
	if err != nil {
		return nil, fmt.Errorf("derive record key: %w", err)
	}
	return b, nil
}

// next gives the nonce of the next record: the sequence number mixed into the
// IV (RFC 8446, 5.3; RFC 7905, 2), or behind it (RFC 5288, 3). The latter
// need only be unique; a counter is.
func (h *half) next() []byte {
	if h.suite.explicit > 0 {
		copy(h.nonce[:4], h.iv[:4])
		binary.BigEndian.PutUint64(h.nonce[4:], h.seq)
	} else {
		h.nonce = h.iv
		seq := binary.BigEndian.Uint64(h.nonce[4:]) ^ h.seq
		binary.BigEndian.PutUint64(h.nonce[4:], seq)
	}
	h.seq++
	return h.nonce[:]
}

// retire forgets the keys as far as that can be done.
func (h *half) retire() {
	clear(h.secret)
	clear(h.iv[:])
	h.secret, h.aead = nil, retired{}
}

// retired is the cipher of a half whose keys are another's now. To seal with
// it would be a fault of ours that repeats nonces.
type retired struct{}

var errRetired = errors.New("record layer was retired")

func (retired) NonceSize() int { return 12 }
func (retired) Overhead() int  { return 16 }
func (retired) Seal(_, _, _, _ []byte) []byte {
	panic("record: sealed after it was retired")
}
func (retired) Open(_, _, _, _ []byte) ([]byte, error) { return nil, errRetired }
