// SPDX-License-Identifier: Apache-2.0

package hpack

import "math/bits"

// codeLen is how long the code of each byte is (RFC 7541, appendix B). The
// code is canonical: codes follow from their lengths.
var codeLen = [256]uint8{
	13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
	28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
	6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
	5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
	13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
	15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
	6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
	20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
	24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
	22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
	21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
	26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
	19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
	20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
	26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
}

const (
	longest = 30 // bits of a code; also of the end of string
	quick   = 10 // bits that are looked up at once
)

var huffman = buildCode()

type code struct {
	bits  [256]uint32
	quick [1 << quick]uint16 // symbol<<8 | length; 0: longer
	// Of codes of one length: the first, left-aligned in 32 bits, the first
	// after them, and where their symbols begin.
	first, after [longest + 1]uint64
	start        [longest + 1]int
	symbols      [256]byte
}

func buildCode() *code {
	c := new(code)
	next, n := uint32(0), 0
	for l := 1; l <= longest; l++ {
		next <<= 1
		c.first[l], c.start[l] = uint64(next)<<(32-l), n
		for s := range 256 {
			if int(codeLen[s]) != l {
				continue
			}
			c.bits[s], c.symbols[n] = next, byte(s)
			if l <= quick {
				for i := range 1 << (quick - l) {
					c.quick[int(next)<<(quick-l)|i] = uint16(s)<<8 | uint16(l)
				}
			}
			next++
			n++
		}
		c.after[l] = uint64(next) << (32 - l)
	}
	return c
}

// slow finds a code longer than quick at the top of acc.
func (c *code) slow(acc uint64) (sym byte, length uint) {
	top := acc >> 32
	for l := quick + 1; l <= longest; l++ {
		if top < c.after[l] {
			return c.symbols[c.start[l]+int((top-c.first[l])>>(32-l))], uint(l)
		}
	}
	return 0, 255 // the end of string, which must not stand inside one
}

// appendDecoded decodes src. It fails when src holds the end of string, ends
// inside a code, or is padded by anything but at most seven ones (RFC 7541,
// 5.2).
func appendDecoded(dst, src []byte) ([]byte, bool) {
	var acc uint64 // left-aligned
	var n uint
	for i := 0; ; {
		for n <= 56 && i < len(src) {
			acc |= uint64(src[i]) << (56 - n)
			n += 8
			i++
		}
		e := huffman.quick[acc>>(64-quick)]
		sym, l := byte(e>>8), uint(e&0xff)
		if l == 0 {
			sym, l = huffman.slow(acc)
		}
		if l > n {
			return dst, n < 8 && acc == ^(^uint64(0)>>n)
		}
		dst = append(dst, sym)
		acc <<= l
		n -= l
	}
}

// encodedLen is how many bytes s takes as a Huffman string.
func encodedLen(s []byte) int {
	n := 0
	for _, c := range s {
		n += int(codeLen[c])
	}
	return (n + 7) / 8
}

func appendEncoded(dst, s []byte) []byte {
	var acc uint64
	var n uint
	for _, c := range s {
		l := uint(codeLen[c])
		acc = acc<<l | uint64(huffman.bits[c])
		n += l
		if n >= 32 {
			n -= 32
			v := uint32(acc >> n)
			dst = append(dst, byte(v>>24), byte(v>>16), byte(v>>8), byte(v))
		}
	}
	for n >= 8 {
		n -= 8
		dst = append(dst, byte(acc>>n))
	}
	if n > 0 {
		dst = append(dst, byte(acc<<(8-n))|byte(0xff>>n))
	}
	return dst
}

// hash spreads names and values over buckets. It is no secret: who makes values
// collide gains nothing (probes).
func hash(p []byte, seed uint64) uint64 {
	n := len(p)
	h := seed ^ uint64(n)*0x9e3779b97f4a7c15
	if n < 8 {
		var t uint64
		for _, c := range p {
			t = t<<8 | uint64(c)
		}
		return mix(h ^ t)
	}
	for i := 0; i < n-8; i += 8 {
		h = mix(h ^ le(p[i:]))
	}
	return mix(h ^ le(p[n-8:])) // the last bytes may be taken twice
}

// hasUpper tells whether p holds a letter from A to Z, eight at a time.
func hasUpper(p []byte) bool {
	const low, up = 0x7f7f7f7f7f7f7f7f, 0x8080808080808080
	for len(p) >= 8 {
		w := le(p)
		x := w & low
		// From A on the first sum carries into the top bit, beyond Z the second.
		if (x+(0x80-'A')*0x0101010101010101)&^(x+(0x80-'Z'-1)*0x0101010101010101)&^w&up != 0 {
			return true
		}
		p = p[8:]
	}
	for _, c := range p {
		if 'A' <= c && c <= 'Z' {
			return true
		}
	}
	return false
}

func le(p []byte) uint64 {
	_ = p[7]
	return uint64(p[0]) | uint64(p[1])<<8 | uint64(p[2])<<16 | uint64(p[3])<<24 |
		uint64(p[4])<<32 | uint64(p[5])<<40 | uint64(p[6])<<48 | uint64(p[7])<<56
}

func mix(x uint64) uint64 {
	hi, lo := bits.Mul64(x^0xa0761d6478bd642f, 0xe7037ed1a0b428db)
	return hi ^ lo
}
