// SPDX-License-Identifier: Apache-2.0

package router

import (
	"bytes"
	"strings"
	"time"

	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

// Reset says how an attempt ended without a usable response.
type Reset uint8

// The ways.
const (
	NoReset        Reset = iota
	ConnectFailed        // no connection, or it timed out
	RefusedStream        // REFUSED_STREAM, or GOAWAY before it: not processed
	RemoteReset          // the upstream reset the stream or closed the connection
	PerTryTimedOut       // the per-try limit ran out
	Overflow             // a circuit breaker said no
)

// Outcome is how an attempt ended: by a reset, or with a response head.
type Outcome struct {
	Reset   Reset
	Started bool // bytes of the request left (reset-before-request asks)
	Resp    *message.Response
}

// Retry is a retry policy, compiled, with what trusted fields of the request
// changed. Make one with Table.Retry.
type Retry struct {
	Policy *config.Retry // nil: only fields ask for retries
	On     config.RetryOn
	Max    uint32 // retries, not attempts
	codes  []int
	fields []filter.Field
	extra  [maxExtraCodes]uint16
	nextra int
}

// maxExtraCodes bounds x-envoy-retriable-status-codes.
const maxExtraCodes = 16

// Retry gives the policy for c: the route's, or the virtual host's when it has
// none, as x-envoy-retry-on, x-envoy-retry-grpc-on, x-envoy-max-retries and
// x-envoy-retriable-status-codes change it, which are taken off the request.
// Package ingress removed them from requests of strangers. It does not
// allocate.
func (t *Table) Retry(c *filter.Context) Retry {
	var r Retry
	if c.Route != nil && c.Route.To != nil {
		if r.Policy = c.Route.To.Retry; r.Policy == nil {
			r.Policy = c.Route.VHost.Retry
		}
		r.fields = t.of(c.Route).retriable
	}
	if p := r.Policy; p != nil {
		r.On, r.Max, r.codes = p.On, max(p.Num, 1), p.Codes
	}
	for _, name := range [2]string{"x-envoy-retry-on", "x-envoy-retry-grpc-on"} {
		if v, ok := c.Req.Find(name); ok {
			r.On |= RetryOnOf(v)
			if r.Max == 0 {
				r.Max = 1
			}
			c.Req.Remove(name)
		}
	}
	if v, ok := c.Req.Find("x-envoy-max-retries"); ok {
		if n, ok := decimal(v); ok && r.On != 0 {
			r.Max = uint32(min(n, maxRetries))
		}
		c.Req.Remove("x-envoy-max-retries")
	}
	if v, ok := c.Req.Find("x-envoy-retriable-status-codes"); ok {
		r.moreCodes(v)
		c.Req.Remove("x-envoy-retriable-status-codes")
	}
	return r
}

// maxRetries bounds what a field may ask for.
const maxRetries = 100

func (r *Retry) moreCodes(v []byte) {
	for len(v) > 0 && r.nextra < maxExtraCodes {
		one := v
		if i := bytes.IndexByte(v, ','); i >= 0 {
			one, v = v[:i], v[i+1:]
		} else {
			v = nil
		}
		if n, ok := decimal(bytes.TrimSpace(one)); ok && n < 1000 {
			r.extra[r.nextra] = uint16(n)
			r.nextra++
		}
	}
}

var retryNames = map[string]config.RetryOn{
	"5xx": config.Retry5xx, "gateway-error": config.RetryGateway, "reset": config.RetryReset, "reset-before-request": config.RetryResetBeforeRequest,
	"connect-failure": config.RetryConnectFailure, "retriable-4xx": config.RetryRetriable4xx, "refused-stream": config.RetryRefusedStream,
	"retriable-status-codes": config.RetryStatusCodes, "retriable-headers": config.RetryHeaders, "cancelled": config.RetryGRPCCancelled,
	"deadline-exceeded": config.RetryGRPCDeadline, "internal": config.RetryGRPCInternal, "resource-exhausted": config.RetryGRPCExhausted,
	"unavailable": config.RetryGRPCUnavailable,
}

// RetryOnOf reads a list of conditions, passing over unknown ones.
func RetryOnOf[T string | []byte](v T) (on config.RetryOn) {
	for i := 0; i < len(v); {
		j := i
		for j < len(v) && v[j] != ',' {
			j++
		}
		from, to := i, j
		for from < to && v[from] == ' ' {
			from++
		}
		for to > from && v[to-1] == ' ' {
			to--
		}
		on |= retryNames[string(v[from:to])]
		i = j + 1
	}
	return on
}

// UnknownRetryOn gives the first condition of a list that is not known; "" for
// none.
func UnknownRetryOn(v string) string {
	for _, name := range strings.Split(v, ",") {
		if name = strings.TrimSpace(name); name != "" && retryNames[name] == 0 {
			return name
		}
	}
	return ""
}

// Retriable tells whether the policy wants another attempt after this outcome,
// when fewer than r.Max retries were made. Whether the budget allows it, and
// whether the request can be sent again, is the caller's to know.
func (r *Retry) Retriable(o Outcome) bool {
	if r.On == 0 {
		return false
	}
	if o.Resp == nil {
		return r.onReset(o)
	}
	if _, over := o.Resp.Find("x-envoy-overloaded"); over {
		return false
	}
	return r.onStatus(o.Resp.Status) || r.onGRPC(&o.Resp.Head) || r.onFields(&o.Resp.Head)
}

// maxWait bounds what Retry-After may ask for.
const maxWait = 300 * time.Second

// After gives how long a response asks to wait before the next attempt, where
// the policy heeds that; 0 where not.
func (r *Retry) After(m *message.Response) time.Duration {
	if r.Policy == nil || !r.Policy.RateLimitedReset {
		return 0
	}
	v, _ := m.Find("retry-after")
	n, _ := decimal(v)
	return min(time.Duration(min(n, 1000))*time.Second, maxWait)
}

func (r *Retry) has(on config.RetryOn) bool { return r.On&on != 0 }

func (r *Retry) onReset(o Outcome) bool {
	switch {
	case o.Reset == NoReset || o.Reset == Overflow:
		return false
	case r.has(config.RetryReset | config.Retry5xx | config.RetryGateway): // a reset would become a 5xx
		return true
	case r.has(config.RetryResetBeforeRequest) && !o.Started:
		return true
	}
	return o.Reset == ConnectFailed && r.has(config.RetryConnectFailure) || o.Reset == RefusedStream && r.has(config.RetryRefusedStream)
}

func (r *Retry) onStatus(s int) bool {
	switch {
	case r.has(config.Retry5xx) && s >= 500 && s < 600:
		return true
	case r.has(config.RetryGateway) && s >= 502 && s <= 504:
		return true
	case r.has(config.RetryRetriable4xx) && s == 409:
		return true
	case !r.has(config.RetryStatusCodes):
		return false
	}
	for _, c := range r.codes {
		if c == s {
			return true
		}
	}
	for _, c := range r.extra[:r.nextra] {
		if int(c) == s {
			return true
		}
	}
	return false
}

const grpcConditions = config.RetryGRPCCancelled | config.RetryGRPCDeadline | config.RetryGRPCInternal | config.RetryGRPCExhausted | config.RetryGRPCUnavailable

func (r *Retry) onGRPC(h *message.Head) bool {
	if !r.has(grpcConditions) {
		return false
	}
	v, ok := h.Find("grpc-status")
	n, number := decimal(v)
	if !ok || !number {
		return false
	}
	switch n {
	case 1:
		return r.has(config.RetryGRPCCancelled)
	case 4:
		return r.has(config.RetryGRPCDeadline)
	case 8:
		return r.has(config.RetryGRPCExhausted)
	case 13:
		return r.has(config.RetryGRPCInternal)
	case 14:
		return r.has(config.RetryGRPCUnavailable)
	}
	return false
}

func (r *Retry) onFields(h *message.Head) bool {
	if !r.has(config.RetryHeaders) {
		return false
	}
	for i := range r.fields {
		if r.fields[i].MatchHead(h) {
			return true
		}
	}
	return false
}

// Backoff gives how long to wait before retry n, from 1 on: a random part of
// an interval that doubles from the base up to the maximum, so that retries of
// many clients do not come at once.
func (r *Retry) Backoff(n int, random uint64) time.Duration {
	base, most := 25*time.Millisecond, time.Duration(0)
	if p := r.Policy; p != nil {
		if p.BackoffBase > 0 {
			base = p.BackoffBase
		}
		most = p.BackoffMax
	}
	if most <= 0 {
		most = 10 * base
	}
	interval := base
	for i := 1; i < n && interval < most; i++ {
		interval *= 2
	}
	interval = min(interval, most)
	return time.Duration(random % uint64(max(interval, 1)))
}
