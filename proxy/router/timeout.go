// SPDX-License-Identifier: Apache-2.0

package router

import (
	"strconv"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// Timeouts are an exchange's limits; 0 is none.
type Timeouts struct {
	Total  time.Duration // from the request's end to the response's end
	PerTry time.Duration
}

// defaultTimeout is a route's that says nothing.
const defaultTimeout = 15 * time.Second

// maxTimeout bounds what a field may ask for; a longer one is as good as none.
const maxTimeout = 24 * time.Hour

// Timeouts gives the limits for c: the route's, which grpc-timeout (where the
// route allows it) and x-envoy-upstream-rq-timeout-ms change. The latter are
// taken off the request. Package ingress removed them from requests of
// strangers.
func (r *Retry) Timeouts(c *filter.Context) Timeouts {
	f := c.Route.To
	t := Timeouts{Total: defaultTimeout}
	switch {
	case f.Timeout > 0:
		t.Total = f.Timeout
	case f.Timeout < 0:
		t.Total = 0
	}
	if r.Policy != nil {
		t.PerTry = max(r.Policy.PerTry, 0)
	}
	if f.GRPCMax != nil && filter.IsGRPC(&c.Req.Head) {
		t.Total = grpcTotal(c, f)
	}
	if c.RequestTimeout > 0 {
		t.Total = c.RequestTimeout
	}
	if d, ok := takeMillis(c, "x-envoy-upstream-rq-timeout-ms"); ok {
		t.Total = d
	}
	if d, ok := takeMillis(c, "x-envoy-upstream-rq-per-try-timeout-ms"); ok {
		t.PerTry = d
	}
	if t.Total > 0 && t.PerTry >= t.Total {
		t.PerTry = 0
	}
	return t
}

// grpcTotal is the client's deadline, no later than the route's maximum. A
// client without one has none.
func grpcTotal(c *filter.Context, f *config.Forward) time.Duration {
	v, _ := c.Req.Find("grpc-timeout")
	d, ok := GRPCTimeout(v)
	if !ok {
		d = 0
	}
	if most := *f.GRPCMax; most > 0 && (d == 0 || d > most) {
		return most
	}
	return d
}

// GRPCTimeout reads a grpc-timeout: at most eight digits and a unit.
func GRPCTimeout(v []byte) (time.Duration, bool) {
	if len(v) < 2 || len(v) > 9 {
		return 0, false
	}
	var unit time.Duration
	switch v[len(v)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	n, ok := decimal(v[:len(v)-1])
	if !ok {
		return 0, false
	}
	if n > uint64(maxTimeout/unit) {
		return maxTimeout, true
	}
	return time.Duration(n) * unit, true
}

func takeMillis(c *filter.Context, name string) (time.Duration, bool) {
	v, ok := c.Req.Find(name)
	if !ok {
		return 0, false
	}
	n, ok := decimal(v)
	c.Req.Remove(name)
	return time.Duration(min(n, uint64(maxTimeout/time.Millisecond))) * time.Millisecond, ok
}

// decimal reads a number of digits only, at most 18 of them.
func decimal(v []byte) (n uint64, ok bool) {
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

// Attempt notes on the request, for the upstream, how long the proxy waits and
// which attempt this is, from 1 on.
func (t Timeouts) Attempt(c *filter.Context, n int) {
	var b [20]byte
	wait := t.Total
	if t.PerTry > 0 {
		wait = t.PerTry
	}
	if wait > 0 {
		c.Req.Set("x-envoy-expected-rq-timeout-ms", strconv.AppendInt(b[:0], int64(wait/time.Millisecond), 10))
	}
	if c.Route.VHost.IncludeAttempts {
		c.Req.Set("x-envoy-attempt-count", strconv.AppendInt(b[:0], int64(n), 10))
	}
}
