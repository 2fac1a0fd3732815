// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"strconv"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// fault delays, aborts and slows requests, to see how callers bear it.
type fault struct {
	slot   int
	own    *faultPolicy
	active atomic.Int64
}

type faultPolicy struct {
	cfg     *config.Fault
	headers []filter.Field
	abort   *filter.LocalReply
}

// maxDelay bounds what a request may ask for.
const maxDelay = time.Hour

func newFault(cfg *config.Fault, slot int) (*fault, error) {
	p, err := compileFault(cfg)
	return &fault{slot: slot, own: p}, err
}

func compileFault(cfg *config.Fault) (*faultPolicy, error) {
	p := &faultPolicy{cfg: cfg}
	var err error
	if p.headers, err = filter.CompileFields(cfg.Headers); err != nil {
		return nil, err
	}
	if a := cfg.Abort; a != nil && !a.FromHeader {
		if a.Status == 0 {
			if a.GRPC < 1 || a.GRPC > 16 {
				return nil, &errs.Error{Kind: errs.Invalid, Field: "fault.abort", Expected: "an HTTP status from 200 to 599 or a gRPC status from 1 to 16"}
			}
			p.abort = grpcAbort(a.GRPC)
		} else if a.Status < 200 || a.Status > 599 {
			return nil, &errs.Error{Kind: errs.Invalid, Field: "fault.abort.http_status", Expected: "200 to 599", Seen: strconv.Itoa(a.Status)}
		} else {
			p.abort = httpAbort(a.Status)
		}
	}
	return p, nil
}

func httpAbort(status int) *filter.LocalReply {
	return &filter.LocalReply{Status: status, Body: []byte("fault filter abort"), Detail: "fault_filter_abort"}
}

// grpcAbort answers a gRPC request with the code, and another one with the
// HTTP status that stands for it.
func grpcAbort(code int) *filter.LocalReply {
	r := httpAbort(fromGRPC[code])
	r.GRPC = code
	return r
}

// fromGRPC is google/rpc/code.proto's mapping.
var fromGRPC = [17]int{200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}

// aborts are the replies that a request may ask for.
var aborts = func() (a [600]*filter.LocalReply) {
	for s := 200; s < 600; s++ {
		a[s] = httpAbort(s)
	}
	return
}()

var grpcAborts = func() (a [17]*filter.LocalReply) {
	for i := range a {
		a[i] = grpcAbort(i)
	}
	return
}()

func (f *fault) Scope(levels []any) (any, error) {
	cfg, err := as[*config.Fault](levels)
	if err != nil {
		return nil, err
	}
	return compileFault(cfg)
}

// injected marks a request that counts as an active fault.
type injected struct{}

var isInjected any = &injected{}

func (f *fault) Request(c *filter.Context) filter.Verdict {
	p := f.own
	if o, ok := c.Override(f.slot).(*faultPolicy); ok {
		p = o
	}
	cfg := p.cfg
	if cfg.Cluster != "" && cfg.Cluster != c.Cluster || !filter.AllFields(p.headers, c.Req) {
		return filter.Next
	}
	if r := cfg.Rate; r != nil {
		if kib, ok := rate(c, r); ok && f.take(c, cfg) {
			c.ResponseRate = kib << 10
		}
	}
	if d := cfg.Delay; d != nil {
		if wait, ok := delay(c, d); ok && wait > 0 && f.take(c, cfg) {
			c.Delay = wait
			c.Flags |= filter.FlagDelay
		}
	}
	if a := cfg.Abort; a != nil {
		if reply := abort(c, a, p.abort); reply != nil && f.take(c, cfg) {
			c.Local = reply
			c.Flags |= filter.FlagAbort
			return filter.Reply
		}
	}
	return filter.Next
}

// take counts a request among the active faults, if there is room.
func (f *fault) take(c *filter.Context, cfg *config.Fault) bool {
	if c.Slots[f.slot] != nil {
		return true
	}
	if n := f.active.Add(1); cfg.MaxActive > 0 && n > int64(cfg.MaxActive) {
		f.active.Add(-1)
		return false
	}
	c.Slots[f.slot] = isInjected
	return true
}

func (f *fault) End(c *filter.Context) {
	if c.Slots[f.slot] != nil {
		f.active.Add(-1)
	}
}

// share draws whether a fault happens; a field of the request may lower the
// configured share, not raise it.
func share(c *filter.Context, f config.Fraction, field string) bool {
	if v, ok := c.Req.Find(field); ok && field != "" {
		if n, ok := number(v); ok && n < uint64(f.Num) {
			f.Num = uint32(n)
		}
	}
	return filter.Hit(&f, c.Rand())
}

func delay(c *filter.Context, d *config.FaultDelay) (time.Duration, bool) {
	if !d.FromHeader {
		return d.Fixed, share(c, d.Fraction, "")
	}
	n, ok := numberField(c, "x-envoy-fault-delay-request")
	return min(time.Duration(min(n, uint64(maxDelay/time.Millisecond)))*time.Millisecond, maxDelay), ok && share(c, d.Fraction, "x-envoy-fault-delay-request-percentage")
}

func abort(c *filter.Context, a *config.FaultAbort, fixed *filter.LocalReply) *filter.LocalReply {
	if !a.FromHeader {
		if !share(c, a.Fraction, "") {
			return nil
		}
		return fixed
	}
	reply := (*filter.LocalReply)(nil)
	if n, ok := numberField(c, "x-envoy-fault-abort-request"); ok && n >= 200 && n < 600 {
		reply = aborts[n]
	} else if n, ok := numberField(c, "x-envoy-fault-abort-grpc-request"); ok && n >= 1 && n <= 16 {
		reply = grpcAborts[n]
	}
	if reply == nil || !share(c, a.Fraction, "x-envoy-fault-abort-request-percentage") {
		return nil
	}
	return reply
}

func rate(c *filter.Context, r *config.FaultRate) (uint64, bool) {
	if !r.FromHeader {
		return r.KiBps, share(c, r.Fraction, "")
	}
	n, ok := numberField(c, "x-envoy-fault-throughput-response")
	return min(n, 1<<40), ok && n > 0 && share(c, r.Fraction, "x-envoy-fault-throughput-response-percentage")
}

func numberField(c *filter.Context, name string) (uint64, bool) {
	v, ok := c.Req.Find(name)
	if !ok {
		return 0, false
	}
	return number(v)
}

// number reads digits only, at most 18.
func number(v []byte) (n uint64, ok bool) {
	if len(v) == 0 || len(v) > 18 {
		return 0, false
	}
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	return n, true
}
