// SPDX-License-Identifier: Apache-2.0

package mtls

import "redoubt.dev/proxy/secure"

// HelloWhole tells that b holds the whole ClientHello of a TLS connection, or
// that what it holds is none: with a post-quantum key share a ClientHello
// takes more than one packet.
func HelloWhole(b []byte) bool {
	var h secure.Hello
	return secure.ParseHello(b, &h) != secure.More
}

// OffersMesh tells whether the TLS ClientHello at the start of b names one of
// the proxies' application protocols. What is not whole, or not understood,
// does not: on a port that takes both, it is left to the application.
func OffersMesh(b []byte) bool {
	var h secure.Hello
	return secure.ParseHello(b, &h) == secure.IsTLS && (h.Offers(ProtoStream) || h.Offers(ProtoOpaque) || h.Offers(ProtoHTTP2) || h.Offers(ProtoShared))
}
