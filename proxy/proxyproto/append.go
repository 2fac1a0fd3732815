// SPDX-License-Identifier: Apache-2.0

package proxyproto

import (
	"encoding/binary"
	"net/netip"
)

// Append appends h in its version. Version 1 says UNKNOWN of what it has no
// words for. It gives dst unchanged when h cannot be written in version 2:
// one address missing, paths over 108 bytes, TLVs that are malformed or
// exceed MaxLen. A CRC32C TLV among h.TLVs is given the right value.
func Append(dst []byte, h *Header) []byte {
	if h.Version == 1 {
		return append1(dst, h)
	}
	return append2(dst, h)
}

// AppendTLV appends one type-length-value; value has at most 65535 bytes.
func AppendTLV(dst []byte, kind byte, value []byte) []byte {
	dst = append(dst, kind)
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(value)))
	return append(dst, value...)
}

func append1(dst []byte, h *Header) []byte {
	if h.Local || !h.Stream || !h.Source.IsValid() || !h.Dest.IsValid() {
		return append(dst, "PROXY UNKNOWN\r\n"...)
	}
	src, dest, six := same(h)
	if six {
		dst = append(dst, "PROXY TCP6 "...)
	} else {
		dst = append(dst, "PROXY TCP4 "...)
	}
	dst = append(src.AppendTo(dst), ' ')
	dst = append(dest.AppendTo(dst), ' ')
	dst = append(decimal(dst, h.Source.Port()), ' ')
	return append(decimal(dst, h.Dest.Port()), crlf...)
}

// same gives both addresses in one family, without zones.
func same(h *Header) (src, dest netip.Addr, six bool) {
	src, dest = h.Source.Addr().Unmap().WithZone(""), h.Dest.Addr().Unmap().WithZone("")
	if src.Is4() && dest.Is4() {
		return src, dest, false
	}
	return netip.AddrFrom16(src.As16()), netip.AddrFrom16(dest.As16()), true
}

func decimal(dst []byte, n uint16) []byte {
	var b [5]byte
	i := len(b)
	for {
		i--
		b[i] = '0' + byte(n%10)
		if n /= 10; n == 0 {
			return append(dst, b[i:]...)
		}
	}
}

func append2(dst []byte, h *Header) []byte {
	if !wellFormed(h.TLVs, false) {
		return dst
	}
	start := len(dst)
	out := append(dst, signature2...)
	unix := len(h.SourceUnix) > 0 || len(h.DestUnix) > 0
	switch {
	case h.Local:
		return append(out, commandLocal, unspecified, 0, 0)
	case unix:
		if len(h.SourceUnix) > unixLen || len(h.DestUnix) > unixLen {
			return dst
		}
		out = append(out, commandProxy, transport(h, unixStream), 0, 0)
		out = pad(append(out, h.SourceUnix...), unixLen-len(h.SourceUnix))
		out = pad(append(out, h.DestUnix...), unixLen-len(h.DestUnix))
	case !h.Source.IsValid() && !h.Dest.IsValid():
		return append(out, commandProxy, unspecified, 0, 0)
	case !h.Source.IsValid() || !h.Dest.IsValid():
		return dst
	default:
		out = append2Addrs(out, h)
	}
	tlvs := len(out)
	out = append(out, h.TLVs...)
	n := len(out) - start
	if n > MaxLen {
		return dst
	}
	binary.BigEndian.PutUint16(out[start+14:], uint16(n-head2))
	if at := sumAt(out[start:], tlvs-start); at >= 0 {
		binary.BigEndian.PutUint32(out[start+at:], sum(out[start:], at))
	}
	return out
}

func append2Addrs(out []byte, h *Header) []byte {
	src, dest, six := same(h)
	if six {
		out = append(out, commandProxy, transport(h, tcp6), 0, 0)
		a, b := src.As16(), dest.As16()
		out = append(append(out, a[:]...), b[:]...)
	} else {
		out = append(out, commandProxy, transport(h, tcp4), 0, 0)
		a, b := src.As4(), dest.As4()
		out = append(append(out, a[:]...), b[:]...)
	}
	out = binary.BigEndian.AppendUint16(out, h.Source.Port())
	return binary.BigEndian.AppendUint16(out, h.Dest.Port())
}

// transport turns a family's stream into its datagrams if h is those.
func transport(h *Header, family byte) byte {
	if h.Stream {
		return family
	}
	return family + 1
}

func pad(b []byte, n int) []byte {
	var zero [unixLen]byte
	return append(b, zero[:n]...)
}
