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
	"fmt"
	"math"

	"golang.org/x/crypto/chacha20poly1305"

	"redoubt.dev/api/errs"
)

// suite is a TLS 1.3 cipher suite. All three are needed: crypto/tls does not
// let them be chosen.
type suite struct {
	hash   crypto.Hash
	keyLen int
	aead   func(key []byte) (cipher.AEAD, error)
	limit  uint64 // records under one key
}

func gcm(key []byte) (cipher.AEAD, error) {
	b, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(b)
}

var suites = map[uint16]suite{
	// RFC 8446, 5.5: about 2^24.5 full records keep AES-GCM's margin.
	tls.TLS_AES_128_GCM_SHA256:       {crypto.SHA256, 16, gcm, 1 << 24},
	tls.TLS_AES_256_GCM_SHA384:       {crypto.SHA384, 32, gcm, 1 << 24},
	tls.TLS_CHACHA20_POLY1305_SHA256: {crypto.SHA256, 32, chacha20poly1305.New, math.MaxInt64},
}

// half is one direction.
type half struct {
	suite  suite
	secret []byte
	aead   cipher.AEAD
	iv     [12]byte
	seq    uint64
	nonce  [12]byte // scratch; here so that it does not escape per call
	ad     [headerLen]byte
}

func (h *half) init(id uint16, secret []byte) error {
	s, ok := suites[id]
	if !ok {
		return &errs.Error{Kind: errs.Unsupported, Field: "cipher suite", Expected: "a TLS 1.3 suite", Seen: fmt.Sprintf("%#04x", id)}
	}
	if len(secret) != s.hash.Size() {
		return &errs.Error{Kind: errs.Invalid, Field: "traffic secret", Expected: fmt.Sprintf("%d bytes", s.hash.Size()), Seen: fmt.Sprintf("%d bytes", len(secret))}
	}
	h.suite = s
	return h.use(append([]byte(nil), secret...))
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

// next gives the nonce of the next record (RFC 8446, 5.3).
func (h *half) next() []byte {
	h.nonce = h.iv
	seq := binary.BigEndian.Uint64(h.nonce[4:]) ^ h.seq
	binary.BigEndian.PutUint64(h.nonce[4:], seq)
	h.seq++
	return h.nonce[:]
}
