// SPDX-License-Identifier: Apache-2.0

package proxyproto

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

var (
	signature1 = []byte("PROXY ")
	signature2 = []byte("\r\n\r\n\x00\r\nQUIT\n")
	crlf       = []byte("\r\n")
)

const (
	head2   = 16 // signature, version and command, family, length
	unixLen = 108

	commandLocal = 0x20
	commandProxy = 0x21

	// Families with their transports; no others exist (2.2).
	unspecified = 0x00
	tcp4        = 0x11
	udp4        = 0x12
	tcp6        = 0x21
	udp6        = 0x22
	unixStream  = 0x31
	unixDgram   = 0x32
)

// Types of TLVs whose content has a form (2.2.1 and after).
const (
	TypeALPN      = 0x01
	TypeAuthority = 0x02
	TypeCRC32C    = 0x03
	TypeNoop      = 0x04
	TypeUniqueID  = 0x05
	TypeSSL       = 0x20
	TypeNetNS     = 0x30

	sslHead     = 1 + 4 // client, verify
	maxUniqueID = 128
)

// Parse reads the header at the start of b. n is its length after Complete,
// and 0 otherwise.
func Parse(b []byte) (h Header, n int, f Found) {
	switch {
	case begins(b, signature2):
		if len(b) < len(signature2) {
			return h, 0, More
		}
		return parse2(b)
	case begins(b, signature1):
		if len(b) < len(signature1) {
			return h, 0, More
		}
		return parse1(b)
	}
	return h, 0, Absent
}

// begins tells that b and sig are equal as far as both go.
func begins(b, sig []byte) bool {
	n := min(len(b), len(sig))
	return bytes.Equal(b[:n], sig[:n])
}

// parse1 reads a line of version 1 (2.1).
func parse1(b []byte) (h Header, n int, f Found) {
	line := b[:min(len(b), MaxV1)]
	end := bytes.IndexByte(line, '\n')
	if end < 0 {
		// A CR that no LF follows is not waited upon.
		if i := bytes.IndexByte(line, '\r'); len(line) == MaxV1 || i >= 0 && i < len(line)-1 {
			return h, 0, Malformed
		}
		return h, 0, More
	}
	n = end + 1
	line, ok := bytes.CutSuffix(line[:n], crlf)
	if !ok || bytes.IndexByte(line, '\r') >= 0 {
		return h, 0, Malformed
	}
	h.Version = 1
	line = line[len(signature1):]
	if rest, ok := bytes.CutPrefix(line, []byte("UNKNOWN")); ok {
		if len(rest) > 0 && rest[0] != ' ' {
			return Header{}, 0, Malformed
		}
		return h, n, Complete // the rest of the line is ignored
	}
	h.Stream = true
	var part [5][]byte
	for i := range part {
		var more bool
		part[i], line, more = bytes.Cut(line, []byte{' '})
		if more != (i < len(part)-1) {
			return Header{}, 0, Malformed
		}
	}
	six := string(part[0]) == "TCP6"
	if !six && string(part[0]) != "TCP4" {
		return Header{}, 0, Malformed
	}
	var ok1, ok2 bool
	h.Source, ok1 = addr1(part[1], part[3], six)
	h.Dest, ok2 = addr1(part[2], part[4], six)
	if !ok1 || !ok2 {
		return Header{}, 0, Malformed
	}
	return h, n, Complete
}

func addr1(host, port []byte, six bool) (netip.AddrPort, bool) {
	a, err := netip.ParseAddr(string(host))
	if err != nil || a.Is6() != six || a.Zone() != "" {
		return netip.AddrPort{}, false
	}
	p := 0
	for _, c := range port {
		if c < '0' || c > '9' || len(port) > 5 {
			return netip.AddrPort{}, false
		}
		p = p*10 + int(c-'0')
	}
	if len(port) == 0 || p > 0xffff || port[0] == '0' && len(port) > 1 {
		return netip.AddrPort{}, false
	}
	return netip.AddrPortFrom(a.Unmap(), uint16(p)), true
}

// parse2 reads a header of version 2 (2.2) whose signature is there.
func parse2(b []byte) (h Header, n int, f Found) {
	if len(b) > 12 && b[12] != commandLocal && b[12] != commandProxy {
		return h, 0, Malformed
	}
	if len(b) > 13 && b[12] == commandProxy && addrLen(b[13]) < 0 {
		return h, 0, Malformed
	}
	if len(b) < head2 {
		return h, 0, More
	}
	local, family := b[12] == commandLocal, b[13]
	n = head2 + int(binary.BigEndian.Uint16(b[14:]))
	if n > MaxLen || !local && n < head2+addrLen(family) {
		return h, 0, Malformed
	}
	if len(b) < n {
		return h, 0, More
	}
	h.Version, h.Local = 2, local
	if local || family == unspecified {
		return h, n, Complete // what stands there has no meaning
	}
	body := b[head2:n]
	h.TLVs = body[addrLen(family):]
	h.Stream = family&0x0f == 1
	switch family {
	case tcp4, udp4:
		h.Source = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body)), binary.BigEndian.Uint16(body[8:]))
		h.Dest = netip.AddrPortFrom(netip.AddrFrom4([4]byte(body[4:])), binary.BigEndian.Uint16(body[10:]))
	case tcp6, udp6:
		// Unmapped: a rule on an IPv4 address must see it however it is written.
		h.Source = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body)).Unmap(), binary.BigEndian.Uint16(body[32:]))
		h.Dest = netip.AddrPortFrom(netip.AddrFrom16([16]byte(body[16:])).Unmap(), binary.BigEndian.Uint16(body[34:]))
	default:
		h.SourceUnix = bytes.TrimRight(body[:unixLen], "\x00")
		h.DestUnix = bytes.TrimRight(body[unixLen:2*unixLen], "\x00")
	}
	if !wellFormed(h.TLVs, false) || !checksum(b[:n], n-len(h.TLVs)) {
		return Header{}, 0, Malformed
	}
	return h, n, Complete
}

// addrLen is the length of a family's addresses; -1 for a family that does
// not exist.
func addrLen(family byte) int {
	switch family {
	case unspecified:
		return 0
	case tcp4, udp4:
		return 12
	case tcp6, udp6:
		return 36
	case unixStream, unixDgram:
		return 2 * unixLen
	}
	return -1
}

// Next cuts the first TLV off a well formed list. ok is false at its end.
func Next(tlvs []byte) (kind byte, value, rest []byte, ok bool) {
	if len(tlvs) < 3 {
		return 0, nil, nil, false
	}
	n := 3 + int(binary.BigEndian.Uint16(tlvs[1:]))
	if n > len(tlvs) {
		return 0, nil, nil, false
	}
	return tlvs[0], tlvs[3:n], tlvs[n:], true
}

// wellFormed walks a list of TLVs, and the list inside the SSL one.
func wellFormed(tlvs []byte, inside bool) bool {
	sums := 0
	for len(tlvs) > 0 {
		kind, v, rest, ok := Next(tlvs)
		if !ok {
			return false
		}
		if !inside {
			switch kind {
			case TypeCRC32C:
				if sums++; sums > 1 || len(v) != 4 {
					return false
				}
			case TypeUniqueID:
				if len(v) > maxUniqueID {
					return false
				}
			case TypeSSL:
				if len(v) < sslHead || !wellFormed(v[sslHead:], true) {
					return false
				}
			}
		}
		tlvs = rest
	}
	return true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum verifies the CRC32C TLV, if there is one, over the whole header
// with the sum's own bytes as zero (2.2.3).
func checksum(b []byte, tlvs int) bool {
	at := sumAt(b, tlvs)
	return at < 0 || binary.BigEndian.Uint32(b[at:]) == sum(b, at)
}

// sumAt finds the value of the CRC32C TLV; -1 when there is none.
func sumAt(b []byte, tlvs int) int {
	for rest := b[tlvs:]; ; {
		kind, v, next, ok := Next(rest)
		if !ok {
			return -1
		}
		if kind == TypeCRC32C {
			return len(b) - len(next) - len(v)
		}
		rest = next
	}
}

func sum(b []byte, at int) uint32 {
	var zero [4]byte
	c := crc32.Update(0, castagnoli, b[:at])
	c = crc32.Update(c, castagnoli, zero[:])
	return crc32.Update(c, castagnoli, b[at+4:])
}
