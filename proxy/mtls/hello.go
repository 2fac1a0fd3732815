// SPDX-License-Identifier: Apache-2.0

package mtls

import (
	"golang.org/x/crypto/cryptobyte"

	"redoubt.dev/proxy/engine"
)

// HelloWhole tells that b holds the whole first record of a TLS connection, or
// that what it holds is none: with a post-quantum key share a ClientHello
// takes more than one packet.
func HelloWhole(b []byte) bool {
	if len(b) < engine.HeaderLen {
		return false
	}
	n := int(b[3])<<8 | int(b[4])
	return n > engine.MaxCipher || len(b) >= engine.HeaderLen+n
}

// OffersMesh tells whether the TLS ClientHello at the start of b names one of
// the proxies' application protocols. What is not whole, or not understood,
// does not: on a port that takes both, it is left to the application.
func OffersMesh(b []byte) bool {
	s := cryptobyte.String(b)
	var kind uint8
	var version uint16
	var rec, body, sid, suites, comp, exts cryptobyte.String
	if !s.ReadUint8(&kind) || kind != 22 || !s.ReadUint16(&version) || !s.ReadUint16LengthPrefixed(&rec) {
		return false
	}
	if !rec.ReadUint8(&kind) || kind != 1 || !rec.ReadUint24LengthPrefixed(&body) ||
		!body.Skip(2+32) || !body.ReadUint8LengthPrefixed(&sid) || !body.ReadUint16LengthPrefixed(&suites) ||
		!body.ReadUint8LengthPrefixed(&comp) || !body.ReadUint16LengthPrefixed(&exts) {
		return false
	}
	for !exts.Empty() {
		var id uint16
		var data, list, name cryptobyte.String
		if !exts.ReadUint16(&id) || !exts.ReadUint16LengthPrefixed(&data) {
			return false
		}
		if id != 16 { // application_layer_protocol_negotiation
			continue
		}
		if !data.ReadUint16LengthPrefixed(&list) {
			return false
		}
		for !list.Empty() {
			if !list.ReadUint8LengthPrefixed(&name) {
				return false
			}
			if string(name) == ProtoStream || string(name) == ProtoOpaque {
				return true
			}
		}
	}
	return false
}
