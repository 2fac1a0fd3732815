// SPDX-License-Identifier: Apache-2.0

package proxyproto

import "net/netip"

// Bounds of a header.
const (
	// MaxV1 is the longest line of version 1, CR LF included.
	MaxV1 = 107
	// MaxLen bounds a header of version 2 that is taken; the specification
	// lets receivers bound it, and asks senders to stay below one packet.
	MaxLen = 4 << 10
)

// Found is what Parse made of the bytes.
type Found uint8

// The outcomes.
const (
	More      Found = iota // as far as it goes it is a header; more bytes are needed
	Absent                 // the bytes do not begin with a header
	Malformed              // they do, and it is not valid; the connection must be dropped
	Complete               // a header
)

// Header is one PROXY header.
type Header struct {
	Version int  // 1 or 2
	Local   bool // the proxy's own connection, such as a health check: addresses are to be ignored
	Stream  bool // TCP or UNIX stream; false: datagram or unspecified
	// Source and Dest are zero when the family is unspecified or UNIX.
	Source, Dest netip.AddrPort
	// SourceUnix and DestUnix are paths without trailing NULs, valid as long
	// as the bytes that were parsed; nil when the family is not UNIX.
	SourceUnix, DestUnix []byte
	// TLVs are the type-length-values of version 2, walked and well formed,
	// valid as long as the bytes that were parsed.
	TLVs []byte
}
