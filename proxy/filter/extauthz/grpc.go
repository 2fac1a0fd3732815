// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"bytes"
	"encoding/binary"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// byGRPC asks envoy.service.auth.v3.Authorization. The messages are written
// and read by hand: of their many types two are needed.
type byGRPC struct{ cfg *config.AuthzGRPC }

const method = "/envoy.service.auth.v3.Authorization/Check"

var errTooLong = &errs.Error{Kind: errs.TooLarge, Subject: "authorization service's answer", Expected: "at most 262144 bytes"}

func (a *byGRPC) cluster() string        { return a.cfg.Cluster }
func (a *byGRPC) timeout() time.Duration { return limit(a.cfg.Timeout) }

func (a *byGRPC) describe(f *Filter, c *filter.Context, r *config.ExtAuthzRoute, body []byte) (*http.Request, error) {
	msg := checkRequest(f, c, r, body)
	frame := make([]byte, 5, 5+len(msg))
	binary.BigEndian.PutUint32(frame[1:], uint32(len(msg)))
	frame = append(frame, msg...)
	host := a.cfg.Authority
	if host == "" {
		host = a.cfg.Cluster
	}
	req := &http.Request{Method: "POST", URL: &url.URL{Scheme: "http", Host: host, Path: method}, Host: host, Proto: "HTTP/2.0", ProtoMajor: 2,
		Header: http.Header{
			"Content-Type": {"application/grpc"}, "Te": {"trailers"},
			"Grpc-Timeout": {strconv.FormatInt(max(a.timeout().Milliseconds(), 1), 10) + "m"},
		},
		Body: io.NopCloser(bytes.NewReader(frame)), ContentLength: int64(len(frame))}
	for _, h := range a.cfg.Metadata {
		req.Header.Set(h.Name, h.Value)
	}
	return req, nil
}

// message writers; each appends one field.
func text(dst []byte, n protowire.Number, s string) []byte {
	if s == "" {
		return dst
	}
	return protowire.AppendString(protowire.AppendTag(dst, n, protowire.BytesType), s)
}

func embed(dst []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, n, protowire.BytesType), m)
}

func varint(dst []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, n, protowire.VarintType), v)
}

func entry(dst []byte, n protowire.Number, k, v string) []byte {
	return embed(dst, n, text(text(nil, 1, k), 2, v))
}

// clean makes a proto3 string of bytes that a client chose.
func clean(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	return strings.ToValidUTF8(string(b), "!")
}

// checkRequest describes a request as an AttributeContext.
func checkRequest(f *Filter, c *filter.Context, r *config.ExtAuthzRoute, body []byte) []byte {
	principal, certificate, local := "", "", ""
	if t := c.Conn.TLS; t != nil {
		if t.PeerValidated || t.PeerPresented {
			principal = first(t.PeerURIs, t.PeerDNS, t.PeerSubject)
		}
		local = first(t.LocalURIs, nil, t.LocalSubject)
		if f.cfg.PeerCert {
			certificate = t.PeerPEM
		}
	}
	a := embed(nil, 1, peer(c.Conn.Source, principal, certificate))
	a = embed(a, 2, peer(c.Conn.Local, local, ""))
	at := engine.Wall(c.Began)
	stamp := varint(varint(nil, 1, uint64(at.Unix())), 2, uint64(at.Nanosecond()))
	a = embed(a, 4, embed(embed(nil, 1, stamp), 2, httpRequest(f, c, body)))
	if r != nil {
		for k, v := range r.Context {
			a = entry(a, 10, k, v)
		}
	}
	if f.cfg.TLSSession && c.Conn.TLS != nil {
		a = embed(a, 12, text(nil, 1, c.Conn.TLS.SNI))
	}
	return embed(nil, 1, a)
}

func first(uris, names []string, subject string) string {
	switch {
	case len(uris) > 0:
		return uris[0]
	case len(names) > 0:
		return names[0]
	}
	return subject
}

func peer(at netip.AddrPort, principal, certificate string) []byte {
	var p []byte
	if at.IsValid() {
		socket := varint(text(nil, 2, at.Addr().Unmap().String()), 3, uint64(at.Port()))
		p = embed(p, 1, embed(nil, 1, socket))
	}
	return text(text(p, 4, principal), 5, certificate)
}

func httpRequest(f *Filter, c *filter.Context, body []byte) []byte {
	q := c.Req
	b := text(nil, 1, clean(c.RequestID))
	b = text(b, 2, clean(q.In(q.Method)))
	b = headers(b, f, q)
	b = text(b, 4, clean(q.In(q.Path)))
	b = text(b, 5, clean(q.In(q.Authority)))
	b = text(b, 6, clean(q.In(q.Scheme)))
	b = varint(b, 9, uint64(q.Length)) // -1 when unknown, as two's complement
	b = text(b, 10, q.Proto.String())
	switch {
	case len(body) == 0:
	case f.cfg.Body != nil && f.cfg.Body.Raw:
		b = embed(b, 12, body)
	default:
		b = text(b, 11, clean(body))
	}
	return b
}

// headers writes the fields as a map: those of one name are one list.
func headers(b []byte, f *Filter, q *message.Request) []byte {
	for _, p := range [...]string{":method", ":path", ":authority", ":scheme"} {
		if v := filter.Pseudo(q, p); len(v) > 0 && f.passes([]byte(p), true) {
			b = entry(b, 3, p, clean(v))
		}
	}
	for i := range q.Fields {
		fl := &q.Fields[i]
		if fl.Drop {
			continue
		}
		name := strings.ToLower(string(q.In(fl.Name)))
		if q.Index(name, 0) != i || !f.passes([]byte(name), true) {
			continue
		}
		v := bytes.Clone(q.In(fl.Value))
		for j := q.Index(name, i+1); j >= 0; j = q.Index(name, j+1) {
			v = append(append(v, ','), q.In(q.Fields[j].Value)...)
		}
		b = entry(b, 3, name, clean(v))
	}
	return b
}

func (a *byGRPC) read(resp *http.Response) (*answer, error) {
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return nil, err
	}
	status := resp.Trailer.Get("Grpc-Status")
	if status == "" {
		status = resp.Header.Get("Grpc-Status") // trailers only
	}
	switch {
	case resp.StatusCode != 200 || status != "0":
		return nil, &errs.Error{Kind: errs.Unavailable, Subject: "authorization service", Expected: "status 200 and grpc-status 0", Seen: strconv.Itoa(resp.StatusCode) + " and " + status}
	case len(b) > maxAnswer:
		return nil, errTooLong
	case len(b) < 5 || b[0] != 0 || int(binary.BigEndian.Uint32(b[1:])) != len(b)-5:
		return nil, errMalformed
	}
	return parseAnswer(b[5:])
}

var errMalformed = &errs.Error{Kind: errs.Invalid, Subject: "authorization service's answer", Expected: "one envoy.service.auth.v3.CheckResponse"}

// fields calls f for each field of a message; varints come as v, strings and
// messages as b.
func fields(m []byte, f func(n protowire.Number, v uint64, b []byte) error) error {
	for len(m) > 0 {
		num, typ, n := protowire.ConsumeTag(m)
		if n < 0 {
			return errMalformed
		}
		m = m[n:]
		var v uint64
		var b []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(m)
		case protowire.BytesType:
			b, n = protowire.ConsumeBytes(m)
		default:
			n = protowire.ConsumeFieldValue(num, typ, m)
			num = 0
		}
		if n < 0 {
			return errMalformed
		}
		m = m[n:]
		if err := f(num, v, b); err != nil {
			return err
		}
	}
	return nil
}

// parseAnswer reads a CheckResponse.
func parseAnswer(m []byte) (*answer, error) {
	var code uint64
	var denied, ok []byte
	hasDenied := false
	err := fields(m, func(n protowire.Number, _ uint64, b []byte) error {
		switch n {
		case 1:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				if n == 1 {
					code = v
				}
				return nil
			})
		case 2:
			denied, hasDenied = append(denied, b...), true
		case 3:
			ok = append(ok, b...)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	a := &answer{allow: code == 0 && !hasDenied} // both at once is no clear yes
	if a.allow {
		return a, a.parseOK(ok)
	}
	return a, a.parseDenied(denied)
}

func (a *answer) parseOK(m []byte) error {
	return fields(m, func(n protowire.Number, _ uint64, b []byte) error {
		switch n {
		case 2:
			p, err := option(b)
			if err != nil {
				return err
			}
			if p.action == config.AppendOrAdd {
				a.add = append(a.add, p)
			} else {
				a.set = append(a.set, p)
			}
		case 5:
			a.remove = append(a.remove, strings.ToLower(string(b)))
		case 6:
			p, err := option(b)
			if err != nil {
				return err
			}
			a.response = append(a.response, p)
		case 7, 8: // query_parameters_to_set and _to_remove
			return &errs.Error{Kind: errs.Unsupported, Subject: "authorization service's answer", Field: "ok_response.query_parameters"}
		}
		return nil
	})
}

func (a *answer) parseDenied(m []byte) error {
	status := uint64(403)
	var body []byte
	var hs []pair
	err := fields(m, func(n protowire.Number, _ uint64, b []byte) error {
		switch n {
		case 1:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				if n == 1 {
					status = v
				}
				return nil
			})
		case 2:
			p, err := option(b)
			hs = append(hs, p)
			return err
		case 3:
			body = bytes.Clone(b)
		}
		return nil
	})
	a.denied = denial(int(min(status, 1000)), body, hs)
	return err
}

// option reads a HeaderValueOption. Without append and append_action it sets.
func option(m []byte) (pair, error) {
	p := pair{action: config.OverwriteOrAdd}
	var appends bool
	err := fields(m, func(n protowire.Number, v uint64, b []byte) error {
		switch n {
		case 1:
			return fields(b, func(n protowire.Number, _ uint64, b []byte) error {
				switch n {
				case 1:
					p.name = strings.ToLower(string(b))
				case 2, 3:
					p.value = string(b)
				}
				return nil
			})
		case 2:
			return fields(b, func(n protowire.Number, v uint64, _ []byte) error {
				appends = appends || n == 1 && v != 0
				return nil
			})
		case 3:
			if v == 1 {
				p.action = config.AddIfAbsent
			} else if v == 3 {
				p.action = config.OverwriteIfExists
			}
		}
		return nil
	})
	if appends {
		p.action = config.AppendOrAdd
	}
	return p, err
}
