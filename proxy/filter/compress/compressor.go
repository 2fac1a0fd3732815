// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bytes"
	"fmt"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// defaultTypes are Envoy's.
var defaultTypes = []string{"application/javascript", "application/json", "application/xhtml+xml", "image/svg+xml", "text/css", "text/html", "text/plain", "text/xml"}

const defaultMin = 30

// Compressor is the filter.
type Compressor struct {
	slot     int
	cfg      *config.Compressor
	encoders *encoders
	types    []string
	reqTypes []string
	rivals   []config.Compression // other compressors of the chain, those before first
	before   int                  // how many of rivals stand before this one
}

// New makes a compressor for a slot of the chain.
func New(cfg *config.Compressor, slot int) (*Compressor, error) {
	e, err := newEncoders(cfg.Library, cfg.Level)
	if err != nil {
		return nil, err
	}
	f := &Compressor{slot: slot, cfg: cfg, encoders: e, types: cfg.ContentTypes, reqTypes: cfg.RequestTypes}
	if f.types == nil {
		f.types = defaultTypes
	}
	if f.reqTypes == nil {
		f.reqTypes = defaultTypes
	}
	return f, nil
}

// Among tells the compressor which others the chain has, in order; itself is
// at place at. It is called once, before the chain is used.
func (f *Compressor) Among(all []config.Compression, at int) {
	f.rivals, f.before = nil, at
	f.rivals = append(append(f.rivals, all[:at]...), all[at+1:]...)
}

// Library is the coding.
func (f *Compressor) Library() config.Compression { return f.cfg.Library }

// Scope takes *config.CompressorRoute.
func (f *Compressor) Scope(levels []any) (any, error) {
	r, ok := levels[len(levels)-1].(*config.CompressorRoute)
	if !ok {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "typed_per_filter_config", Expected: "CompressorPerRoute", Seen: fmt.Sprintf("%T", levels[len(levels)-1])}
	}
	return r, nil
}

// declined marks a request whose client does not take this coding, or likes
// another one better.
var declined, chosen any = new(byte), new(int8)

// Request notes what the client takes, and compresses the request if told to.
func (f *Compressor) Request(c *filter.Context) filter.Verdict {
	r, _ := c.Override(f.slot).(*config.CompressorRoute)
	if r != nil && r.Off {
		return filter.Next
	}
	c.Slots[f.slot] = declined
	if f.wanted(c.Req) {
		c.Slots[f.slot] = chosen
	}
	remove := f.cfg.RemoveAcceptEncoding
	if r != nil && r.RemoveAcceptEncoding != nil {
		remove = *r.RemoveAcceptEncoding
	}
	if remove {
		c.Req.Remove("accept-encoding")
	}
	if f.cfg.Requests && f.compressible(&c.Req.Head, c.Req.Length, f.cfg.RequestMinLength, f.reqTypes) && c.Req.Upgrade.Len() == 0 {
		f.encode(&c.Req.Head)
		c.Req.Length = message.Unknown
		c.RequestBody = filter.Then(c.RequestBody, f.encoders.get())
	}
	return filter.Next
}

// Response compresses it, when client and response allow.
func (f *Compressor) Response(c *filter.Context) {
	r, _ := c.Override(f.slot).(*config.CompressorRoute)
	if f.cfg.ResponseOff || r != nil && r.Off || c.Req == nil {
		return
	}
	resp := c.Resp
	head := string(c.Req.In(c.Req.Method)) == "HEAD"
	if resp.Bodiless(head) || resp.Status == 206 || f.codeOff(resp.Status) ||
		!f.compressible(&resp.Head, resp.Length, f.cfg.MinLength, f.types) {
		return
	}
	vary(&resp.Head) // also when this client takes no compression: a cache must know
	mark := c.Slots[f.slot]
	if mark == declined || mark == nil && !f.wanted(c.Req) {
		return
	}
	weaken(&resp.Head)
	f.encode(&resp.Head)
	resp.Length = message.Unknown
	c.ResponseBody = filter.Then(c.ResponseBody, f.encoders.get())
}

func (f *Compressor) codeOff(status int) bool {
	for _, s := range f.cfg.UncompressibleCodes {
		if s == status {
			return true
		}
	}
	return false
}

func (f *Compressor) encode(h *message.Head) {
	h.Remove("content-length")
	h.Remove("content-encoding")
	h.Remove("accept-ranges") // ranges would be of the other form (RFC 9110, 14.3)
	h.AddString("content-encoding", names[f.cfg.Library])
}

// compressible judges all but the client's wishes.
func (f *Compressor) compressible(h *message.Head, length int64, least uint32, types []string) bool {
	if least == 0 {
		least = defaultMin
	}
	if length != message.Unknown && length < int64(least) {
		return false
	}
	if v, ok := h.Get(message.ContentEncoding); ok && !message.EqualFold(v, "identity") {
		return false
	}
	if _, ok := h.Get(message.ContentRange); ok {
		return false
	}
	if hasToken(h, "cache-control", "no-transform") {
		return false
	}
	if _, ok := h.Find("etag"); ok && f.cfg.OffWithETag {
		return false
	}
	v, ok := h.Get(message.ContentType)
	if !ok {
		return true
	}
	if i := bytes.IndexByte(v, ';'); i >= 0 {
		v = v[:i]
	}
	v = bytes.TrimSpace(v)
	for _, t := range types {
		if message.EqualFold(v, t) {
			return true
		}
	}
	return false
}

// hasToken tells whether a list of tokens, which may have arguments, has one
// of that name.
func hasToken(h *message.Head, name, token string) bool {
	for i := h.Index(name, 0); i >= 0; i = h.Index(name, i+1) {
		for rest := h.In(h.Fields[i].Value); len(rest) > 0; {
			one := rest
			if j := bytes.IndexByte(rest, ','); j >= 0 {
				one, rest = rest[:j], rest[j+1:]
			} else {
				rest = nil
			}
			if j := bytes.IndexAny(one, ";="); j >= 0 {
				one = one[:j]
			}
			if message.EqualFold(bytes.TrimSpace(one), token) {
				return true
			}
		}
	}
	return false
}

func vary(h *message.Head) {
	if !hasToken(h, "vary", "accept-encoding") && !hasToken(h, "vary", "*") {
		h.AddString("vary", "Accept-Encoding")
	}
}

// weaken makes a strong validator a weak one: the bytes are no longer those
// that it names (RFC 9110, 8.8.1).
func weaken(h *message.Head) {
	i := h.Index("etag", 0)
	if i < 0 {
		return
	}
	v := h.In(h.Fields[i].Value)
	if bytes.HasPrefix(v, []byte("W/")) {
		return
	}
	from := len(h.Buf)
	h.Buf = append(append(h.Buf, "W/"...), v...)
	h.Fields[i].Value = message.Span{From: int32(from), To: int32(len(h.Buf))}
}

// wanted tells whether the client takes this coding, and none of the chain's
// others more gladly; between equals the first of the chain has it, or the one
// that is told to choose first.
func (f *Compressor) wanted(r *message.Request) bool {
	mine := quality(&r.Head, names[f.cfg.Library])
	if mine == 0 {
		return false
	}
	for i, o := range f.rivals {
		theirs := quality(&r.Head, names[o])
		if theirs > mine || theirs == mine && i < f.before && !f.cfg.ChooseFirst {
			return false
		}
	}
	return true
}

// quality reads a coding's weight, in thousandths, from Accept-Encoding (RFC
// 9110, 12.5.3); a coding that is not named has that of "*", or none.
func quality(h *message.Head, coding string) int {
	q, any := -1, 0
	for i := h.Index("accept-encoding", 0); i >= 0; i = h.Index("accept-encoding", i+1) {
		for rest := h.In(h.Fields[i].Value); len(rest) > 0; {
			one := rest
			if j := bytes.IndexByte(rest, ','); j >= 0 {
				one, rest = rest[:j], rest[j+1:]
			} else {
				rest = nil
			}
			name, params, _ := bytes.Cut(one, []byte{';'})
			name = bytes.TrimSpace(name)
			switch {
			case message.EqualFold(name, coding), coding == "gzip" && message.EqualFold(name, "x-gzip"):
				q = max(q, weight(params))
			case len(name) == 1 && name[0] == '*':
				any = weight(params)
			}
		}
	}
	if q < 0 {
		return any
	}
	return q
}

// weight reads "q=0.123" in thousandths; 1000 when there is none, 0 when it is
// malformed.
func weight(params []byte) int {
	p := bytes.TrimSpace(params)
	if len(p) == 0 {
		return 1000
	}
	if len(p) < 3 || p[0]|0x20 != 'q' || p[1] != '=' || len(p) > 7 {
		return 0
	}
	p = p[2:]
	if p[0] != '0' && p[0] != '1' || len(p) > 1 && p[1] != '.' {
		return 0
	}
	q, unit := int(p[0]-'0')*1000, 100
	for i := 2; i < len(p); i++ {
		if p[i] < '0' || p[i] > '9' {
			return 0
		}
		q += int(p[i]-'0') * unit
		unit /= 10
	}
	return min(q, 1000)
}
