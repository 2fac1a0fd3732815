// SPDX-License-Identifier: Apache-2.0

package record

import (
	"crypto"
	"crypto/hmac"
	"crypto/tls"
	"fmt"

	"redoubt.dev/api/errs"
)

// Sizes of what TLS 1.2 derives keys from (RFC 5246, 8.1 and 7.4.1.2).
const (
	masterLen = 48
	randomLen = 32
)

// Keys12 derives both directions' keys of a TLS 1.2 connection from its
// master secret (RFC 5246, 6.3): read and write as this side, the client or
// the server, uses them, for Params. The caller wipes them.
func Keys12(id uint16, client bool, master, clientRandom, serverRandom []byte) (read, write []byte, err error) {
	s, err := find(tls.VersionTLS12, id)
	if err != nil {
		return nil, nil, err
	}
	if len(master) != masterLen || len(clientRandom) != randomLen || len(serverRandom) != randomLen {
		return nil, nil, &errs.Error{Kind: errs.Invalid, Field: "master secret", Expected: fmt.Sprintf("%d bytes and two randoms of %d", masterLen, randomLen)}
	}
	seed := append(append(make([]byte, 0, 2*randomLen), serverRandom...), clientRandom...)
	block := prf(s.hash, master, "key expansion", seed, 2*(s.keyLen+s.ivLen))
	defer clear(block)
	// client key, server key, client IV, server IV; an AEAD has no MAC keys
	part := func(i int) []byte {
		b := append(make([]byte, 0, s.secretLen()), block[i*s.keyLen:][:s.keyLen]...)
		return append(b, block[2*s.keyLen+i*s.ivLen:][:s.ivLen]...)
	}
	if client {
		return part(1), part(0), nil
	}
	return part(0), part(1), nil
}

// prf is P_hash of RFC 5246, section 5.
func prf(h crypto.Hash, secret []byte, label string, seed []byte, n int) []byte {
	seed = append([]byte(label), seed...)
	mac := hmac.New(h.New, secret)
	mac.Write(seed)
	a := mac.Sum(nil)
	out := make([]byte, 0, n+h.Size())
	for len(out) < n {
		mac.Reset()
		mac.Write(a)
		mac.Write(seed)
		out = mac.Sum(out)
		mac.Reset()
		mac.Write(a)
		a = mac.Sum(a[:0])
	}
	clear(out[n:cap(out)])
	return out[:n]
}
