// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"encoding/binary"

	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// requestID gives the request an x-request-id, a random UUID, unless it has
// one from someone who may name it. One that is longer than maxID is not
// believed: it goes into each log line.
func (r *Rules) requestID(c *filter.Context, edge bool) {
	const name = "x-request-id"
	v, there := c.Req.Find(name)
	if there && len(v) > maxID {
		c.Req.Remove(name)
		there = false
	}
	keep := there && (!edge || r.m.KeepRequestID)
	if !r.m.GenerateRequestID || keep {
		c.RequestID = v
		if !there {
			c.RequestID = nil
		}
		return
	}
	c.Req.Remove(name)
	n := c.Req.PutString(name)
	from := len(c.Req.Buf)
	c.Req.Buf = appendUUID(c.Req.Buf, c.Rand(), c.Rand())
	span := message.Span{From: int32(from), To: int32(len(c.Req.Buf))}
	c.Req.Fields = append(c.Req.Fields, message.Field{Name: n, Value: span})
	c.RequestID = c.Req.In(span)
}

const maxID = 256

// appendUUID appends a version 4 UUID (RFC 9562, 5.4).
func appendUUID(dst []byte, hi, lo uint64) []byte {
	hi = hi&^0xf000 | 0x4000
	lo = lo&^(3<<62) | 2<<62
	var b [16]byte
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	for i, c := range b {
		if i == 4 || i == 6 || i == 8 || i == 10 {
			dst = append(dst, '-')
		}
		dst = append(dst, "0123456789abcdef"[c>>4], "0123456789abcdef"[c&15])
	}
	return dst
}
