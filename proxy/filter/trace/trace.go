// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"encoding/binary"
	"sync/atomic"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// Tracer is one tracing configuration. All methods but Run are for loops.
type Tracer struct {
	cfg     *config.Tracing
	call    filter.Caller
	queue   chan []byte // encoded spans; a full queue drops
	dropped atomic.Uint64
	sent    atomic.Uint64
	maxTag  int
}

const (
	queued     = 4096 // spans
	batch      = 512  // spans in one export
	defaultTag = 256  // bytes of a value
)

// New makes a tracer. Its spans go nowhere until Run runs.
func New(cfg *config.Tracing, deps filter.Deps) (*Tracer, error) {
	if cfg.Cluster == "" || deps.Call == nil {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "tracing.provider", Expected: "an OpenTelemetry collector's cluster"}
	}
	t := &Tracer{cfg: cfg, call: deps.Call, queue: make(chan []byte, queued), maxTag: cfg.MaxTag}
	if t.maxTag <= 0 {
		t.maxTag = defaultTag
	}
	return t, nil
}

// Counts gives how many spans were sent and how many were dropped.
func (t *Tracer) Counts() (sent, dropped uint64) { return t.sent.Load(), t.dropped.Load() }

// Parent is what the caller's context said; the zero Parent began a trace.
type Parent struct {
	Span  [8]byte
	Valid bool
}

// Start gives the request its place in a trace: c.TraceParent, c.Sampled, and
// the traceparent that leaves. It runs after package ingress, before routing.
func (t *Tracer) Start(c *filter.Context) (p Parent) {
	v, _ := c.Req.Find("traceparent")
	trace, span, sampled, ok := parse(v)
	if ok {
		p = Parent{span, true}
		copy(c.TraceParent[:16], trace[:])
		c.Sampled = sampled && filter.Hit(&t.cfg.Overall, c.Rand())
	} else {
		c.Req.Remove("tracestate")
		binary.BigEndian.PutUint64(c.TraceParent[:8], c.Rand())
		binary.BigEndian.PutUint64(c.TraceParent[8:16], c.Rand()|1) // not all zero
		c.Sampled = t.sample(c)
	}
	binary.BigEndian.PutUint64(c.TraceParent[16:], c.Rand()|1)
	var b [55]byte
	c.Req.Set("traceparent", appendParent(b[:0], c))
	return p
}

// sample draws as Envoy does: what a client of ours forces or asks for, or a
// random share, and of all that a share.
func (t *Tracer) sample(c *filter.Context) bool {
	_, asked := c.Req.Find("x-client-trace-id")
	_, forced := c.Req.Find("x-envoy-force-trace")
	yes := forced && c.Internal || asked && filter.Hit(&t.cfg.Client, c.Rand()) || filter.Hit(&t.cfg.Random, c.Rand())
	return yes && filter.Hit(&t.cfg.Overall, c.Rand())
}

// parse reads a traceparent (W3C Trace Context, 3.2): later versions may be
// longer, version ff is none.
func parse(v []byte) (trace [16]byte, span [8]byte, sampled, ok bool) {
	if len(v) < 55 || v[2] != '-' || v[35] != '-' || v[52] != '-' || len(v) > 55 && (v[55] != '-' || v[0] == '0' && v[1] == '0') {
		return
	}
	var version, flags [1]byte
	if !unhex(version[:], v[:2]) || version[0] == 0xff || !unhex(trace[:], v[3:35]) || !unhex(span[:], v[36:52]) || !unhex(flags[:], v[53:55]) {
		return
	}
	return trace, span, flags[0]&1 != 0, trace != [16]byte{} && span != [8]byte{}
}

// unhex reads lower case hex only, as the standard says.
func unhex(dst, src []byte) bool {
	for i, c := range src {
		var n byte
		switch {
		case '0' <= c && c <= '9':
			n = c - '0'
		case 'a' <= c && c <= 'f':
			n = c - 'a' + 10
		default:
			return false
		}
		dst[i/2] = dst[i/2]<<4 | n
	}
	return true
}

func appendParent(dst []byte, c *filter.Context) []byte {
	dst = append(dst, "00-"...)
	for i, b := range c.TraceParent {
		if i == 16 {
			dst = append(dst, '-')
		}
		dst = append(dst, "0123456789abcdef"[b>>4], "0123456789abcdef"[b&15])
	}
	if c.Sampled {
		return append(dst, "-01"...)
	}
	return append(dst, "-00"...)
}

// Finish sends the exchange's span on its way, if it is sampled.
func (t *Tracer) Finish(c *filter.Context, p Parent) {
	if !c.Sampled {
		return
	}
	select {
	case t.queue <- t.span(c, p):
	default:
		t.dropped.Add(1)
	}
}
