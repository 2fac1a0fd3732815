// SPDX-License-Identifier: Apache-2.0

package ingress

import (
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// clientCert settles x-forwarded-client-cert.
func (r *Rules) clientCert(c *filter.Context) {
	how := r.m.ForwardClientCert
	if how == config.CertAlwaysForwardOnly {
		return
	}
	t := c.Conn.TLS
	mutual := t != nil && t.PeerPresented
	if how == config.CertSanitize || !mutual {
		c.Req.RemoveKnown(message.ClientCert)
		return
	}
	if how == config.CertForwardOnly {
		return
	}
	h := &c.Req.Head
	from := len(h.Buf)
	if how == config.CertAppendForward {
		for i := range h.Fields { // the lines are one list
			if f := &h.Fields[i]; f.Known == message.ClientCert && !f.Drop {
				h.Buf = append(append(h.Buf, h.In(f.Value)...), ',')
			}
		}
	}
	h.Buf = appendElement(h.Buf, t, r.m.CertDetails)
	v := message.Span{From: int32(from), To: int32(len(h.Buf))}
	h.RemoveKnown(message.ClientCert)
	h.Fields = append(h.Fields, message.Field{Name: h.PutString("x-forwarded-client-cert"), Value: v, Known: message.ClientCert})
}

func appendElement(dst []byte, t *filter.TLSInfo, d config.CertDetails) []byte {
	for _, u := range t.LocalURIs {
		dst = append(appendToken(append(dst, "By="...), u), ';')
	}
	dst = append(append(dst, "Hash="...), t.PeerHash...)
	if d.Cert && t.PeerPEM != "" {
		dst = append(appendQuoted(append(dst, `;Cert="`...), t.PeerPEM), '"')
	}
	if d.Subject {
		dst = append(appendQuoted(append(dst, `;Subject="`...), t.PeerSubject), '"')
	}
	if d.URI {
		if len(t.PeerURIs) == 0 {
			dst = append(dst, ";URI="...)
		}
		for _, u := range t.PeerURIs {
			dst = appendToken(append(dst, ";URI="...), u)
		}
	}
	if d.DNS {
		for _, n := range t.PeerDNS {
			dst = appendToken(append(dst, ";DNS="...), n)
		}
	}
	return dst
}

// appendToken appends a value that stands unquoted, quoting it when it could
// otherwise pass for further elements.
func appendToken(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == ',' || c == ';' || c == '=' || c == '"' || c <= ' ' || c == 0x7f:
			return append(appendQuoted(append(dst, '"'), s), '"')
		}
	}
	return append(dst, s...)
}

// appendQuoted appends the inside of a quoted string. What may not stand in a
// field value is replaced: names in certificates are the client's choice.
func appendQuoted(dst []byte, s string) []byte {
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case !message.IsValue(c) || c == '\t':
			dst = append(dst, '_')
		default:
			dst = append(dst, c)
		}
	}
	return dst
}
