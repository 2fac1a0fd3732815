// SPDX-License-Identifier: Apache-2.0

package record

import "crypto"

// SealForTest seals a record of any inner type.
func SealForTest(c *Conn, kind byte, body []byte) []byte {
	return c.seal(append(make([]byte, headerLen), body...), 0, kind)
}

// KeyUpdateForTest updates the write key, perhaps asking for the same.
func KeyUpdateForTest(c *Conn, ask bool) []byte {
	b := byte(0)
	if ask {
		b = 1
	}
	rec := SealForTest(c, typeHandshake, []byte{msgKeyUpdate, 0, 0, 1, b})
	if err := c.out.update(); err != nil {
		panic(err)
	}
	return rec
}

// LimitForTest lowers the number of records per write key.
func LimitForTest(c *Conn, n uint64) { c.out.suite.limit = n }

// SecretLenForTest is the length of a suite's secrets.
func SecretLenForTest(id uint16) int {
	s := suites[id]
	return s.secretLen()
}

// PRFForTest is TLS 1.2's with SHA-256.
func PRFForTest(secret []byte, label string, seed []byte, n int) []byte {
	return prf(crypto.SHA256, secret, label, seed, n)
}
