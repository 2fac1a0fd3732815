// SPDX-License-Identifier: Apache-2.0

package message

// Known tells which of the fields that the proxy itself acts on a field is.
type Known uint8

// The known fields.
const (
	Other Known = iota
	Host
	ContentLength
	TransferEncoding
	Connection
	KeepAlive
	ProxyConnection
	TE
	Trailer
	Upgrade
	Expect
	ClientCert    // X-Forwarded-Client-Cert
	ForwardedFor  // X-Forwarded-For
	Authorization // not a connection option's to name
	Cookie        // split and joined between protocols (RFC 9113, 8.2.3)
	ContentType   // not allowed in trailers, as are the two below
	ContentEncoding
	ContentRange
	SetCookie
	HTTP2Settings
)

var known = map[string]Known{
	"host": Host, "content-length": ContentLength, "transfer-encoding": TransferEncoding, "connection": Connection,
	"keep-alive": KeepAlive, "proxy-connection": ProxyConnection, "te": TE, "trailer": Trailer, "upgrade": Upgrade,
	"expect": Expect, "x-forwarded-client-cert": ClientCert, "x-forwarded-for": ForwardedFor,
	"authorization": Authorization, "cookie": Cookie, "content-type": ContentType, "content-encoding": ContentEncoding,
	"content-range": ContentRange, "set-cookie": SetCookie, "http2-settings": HTTP2Settings,
}

// named is a known name, in lower case.
type named struct {
	name string
	k    Known
}

// byLength holds the known names by their length, and by a letter that tells
// those of one length apart: the fourth from the end, or the first of short
// ones. Most names are none of them, and are ruled out by one look.
var byLength = func() (t [32][32]named) {
	for name, k := range known {
		e := &t[len(name)][letter(name)]
		if e.name != "" {
			panic("message: " + name + " and " + e.name + " need another letter")
		}
		*e = named{name, k}
	}
	return
}()

func letter[T string | []byte](name T) int { return int(name[max(0, len(name)-4)] & 31) }

// Lookup finds a known name, in any case.
func Lookup(name []byte) Known {
	if len(name) == 0 || len(name) >= len(byLength) {
		return Other
	}
	if e := &byLength[len(name)][letter(name)]; e.name != "" && EqualFold(name, e.name) {
		return e.k
	}
	return Other
}

// Hop tells that fields of this kind speak of one connection only and are
// never passed on as they came (RFC 9110, 7.6.1).
func (k Known) Hop() bool {
	switch k {
	case Host, ContentLength, TransferEncoding, Connection, KeepAlive, ProxyConnection, TE, Upgrade, HTTP2Settings:
		return true
	}
	return false
}

// TrailerAllowed tells that a field may stand in a trailer: nothing that
// frames, routes or authorises may (RFC 9110, 6.5.1), since a lenient receiver
// would merge it into the head.
func (k Known) TrailerAllowed() bool { return k == Other }

// Lower maps A to Z to lower case.
func Lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c | 0x20
	}
	return c
}

// EqualFold compares b with the lower case s.
func EqualFold(b []byte, s string) bool {
	if len(b) != len(s) {
		return false
	}
	for i := range len(s) {
		if Lower(b[i]) != s[i] {
			return false
		}
	}
	return true
}

var isToken, isValue = func() (token, value [256]bool) {
	for c := range 256 {
		switch {
		case '0' <= c && c <= '9', 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
			token[c] = true
		}
		value[c] = c == '\t' || c >= ' ' && c != 0x7f
	}
	for _, c := range []byte("!#$%&'*+-.^_`|~") {
		token[c] = true
	}
	return
}()

// IsToken tells the characters of a token (RFC 9110, 5.6.2).
func IsToken(c byte) bool { return isToken[c] }

// IsValue tells the characters of a field value (RFC 9110, 5.5), obs-text
// included.
func IsValue(c byte) bool { return isValue[c] }

// ValidName tells that a field name is a token.
func ValidName[T string | []byte](name T) bool {
	for i := 0; i < len(name); i++ {
		if !isToken[name[i]] {
			return false
		}
	}
	return len(name) > 0
}

// ValidValue tells that a field value holds no control character and neither
// begins nor ends with white space.
func ValidValue[T string | []byte](v T) bool {
	for i := 0; i < len(v); i++ {
		if !isValue[v[i]] {
			return false
		}
	}
	return len(v) == 0 || v[0] != ' ' && v[0] != '\t' && v[len(v)-1] != ' ' && v[len(v)-1] != '\t'
}
