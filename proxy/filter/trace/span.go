// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
)

// The messages of opentelemetry.proto.trace.v1 are written by hand: of their
// many types few are needed, and a span is encoded once, on its loop.

func embed(dst []byte, n protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(dst, n, protowire.BytesType), m)
}

func text(dst []byte, n protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(dst, n, protowire.BytesType), s)
}

func varint(dst []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(dst, n, protowire.VarintType), v)
}

func fixed(dst []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(dst, n, protowire.Fixed64Type), v)
}

// tag appends a KeyValue as field n.
func tag(dst []byte, n protowire.Number, k, v string) []byte {
	return embed(dst, n, embed(text(nil, 1, k), 2, text(nil, 1, v)))
}

func numberTag(dst []byte, n protowire.Number, k string, v uint64) []byte {
	return embed(dst, n, embed(text(nil, 1, k), 2, varint(nil, 3, v)))
}

const kindServer = 2

// span encodes a Span.
func (t *Tracer) span(c *filter.Context, p Parent) []byte {
	b := make([]byte, 0, 1024)
	b = embed(b, 1, c.TraceParent[:16])
	b = embed(b, 2, c.TraceParent[16:])
	if v, ok := c.Req.Find("tracestate"); ok && utf8.Valid(v) {
		b = embed(b, 3, v)
	}
	if p.Valid {
		b = embed(b, 4, p.Span[:])
	}
	name := "ingress"
	if c.Route != nil && c.Route.Decorator != "" {
		name = c.Route.Decorator
	}
	b = text(b, 5, name)
	b = varint(b, 6, kindServer)
	b = fixed(b, 7, uint64(engine.Wall(c.Began).UnixNano()))
	b = fixed(b, 8, uint64(engine.Wall(max(c.Ended, c.Began)).UnixNano()))
	b = t.attributes(b, c)
	if c.Resp == nil || c.Resp.Status >= 500 {
		b = embed(b, 15, varint(nil, 3, 2)) // STATUS_CODE_ERROR
	}
	return b
}

func (t *Tracer) attributes(b []byte, c *filter.Context) []byte {
	q := c.Req
	b = tag(b, 9, "http.method", t.value(q.In(q.Method)))
	b = tag(b, 9, "http.url", t.value(append(append(append(append([]byte(nil), q.In(q.Scheme)...), "://"...), q.In(q.Authority)...), q.In(q.Path)...)))
	b = tag(b, 9, "http.protocol", q.Proto.String())
	if v, ok := q.Find("user-agent"); ok {
		b = tag(b, 9, "user_agent", t.value(v))
	}
	if len(c.RequestID) > 0 {
		b = tag(b, 9, "guid:x-request-id", t.value(c.RequestID))
	}
	if c.Resp != nil {
		b = numberTag(b, 9, "http.status_code", uint64(c.Resp.Status))
	}
	b = numberTag(b, 9, "request_size", c.BytesIn)
	b = numberTag(b, 9, "response_size", c.BytesOut)
	if c.Cluster != "" {
		b = tag(b, 9, "upstream_cluster", c.Cluster)
	}
	if c.Remote.IsValid() {
		b = tag(b, 9, "peer.address", c.Remote.String())
	}
	for i := range t.cfg.Tags {
		g := &t.cfg.Tags[i]
		v := g.Literal
		if g.RequestHeader != "" {
			v = g.Default
			if h, ok := q.Find(strings.ToLower(g.RequestHeader)); ok {
				v = t.value(h)
			}
		}
		if v != "" {
			b = tag(b, 9, g.Name, v)
		}
	}
	return b
}

// value makes a string that fits, in UTF-8, of bytes that a client chose.
func (t *Tracer) value(v []byte) string {
	if len(v) > t.maxTag {
		v = v[:t.maxTag]
	}
	return strings.ToValidUTF8(string(v), "\uFFFD")
}

// request wraps spans into an ExportTraceServiceRequest.
func (t *Tracer) request(spans [][]byte) []byte {
	size := 0
	for _, s := range spans {
		size += len(s) + 8
	}
	scope := make([]byte, 0, size+64)
	scope = embed(scope, 1, text(nil, 1, "redoubt"))
	for _, s := range spans {
		scope = embed(scope, 2, s)
	}
	name := t.cfg.Service
	if name == "" {
		name = "redoubt-proxy"
	}
	resource := tag(nil, 1, "service.name", name)
	return embed(nil, 1, embed(embed(nil, 1, resource), 2, scope))
}
