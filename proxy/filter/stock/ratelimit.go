// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"slices"
	"sort"
	"strconv"
	"sync/atomic"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/engine"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/router"
)

// rateLimit bounds requests by buckets.
type rateLimit struct {
	slot int
	own  *limits
}

// limits is one configuration with its buckets.
type limits struct {
	cfg         *config.LocalRateLimit
	bucket      *bucket
	descriptors []descriptor // those with the least rate first
	actions     []action     // rate_limits of the filter's own
	reply       *filter.LocalReply
	onReply     router.Ops
	onPass      router.Ops
	limited     atomic.Uint64
	passed      atomic.Uint64
}

type descriptor struct {
	entries []config.LimitEntry
	bucket  *bucket
}

// scoped is limits where a route has actions.
type scopedLimits struct {
	limits  *limits
	actions []action
}

func newRateLimit(cfg *config.LocalRateLimit, slot int) (*rateLimit, error) {
	l, err := compileLimits(cfg)
	return &rateLimit{slot, l}, err
}

func compileLimits(cfg *config.LocalRateLimit) (*limits, error) {
	l := &limits{cfg: cfg}
	var err error
	if cfg.Bucket != nil {
		if l.bucket, err = newBucket(*cfg.Bucket); err != nil {
			return nil, err
		}
	}
	for _, d := range cfg.Descriptors {
		b, err := newBucket(d.Bucket)
		if err != nil {
			return nil, err
		}
		for _, e := range d.Entries {
			if e.Key == "" || e.Value == "" {
				return nil, &errs.Error{Kind: errs.Unsupported, Field: "descriptors.entries", Expected: "a key and a value", Fix: "one bucket per value is not supported; name the values"}
			}
		}
		b.shadow = d.Shadow
		l.descriptors = append(l.descriptors, descriptor{d.Entries, b})
	}
	sort.SliceStable(l.descriptors, func(i, j int) bool { return l.descriptors[i].bucket.rate() < l.descriptors[j].bucket.rate() })
	if l.actions, err = compileActions(cfg.Limits, cfg.Stage); err != nil {
		return nil, err
	}
	if l.onReply, err = router.CompileOps(cfg.ResponseAdd, nil); err != nil {
		return nil, err
	}
	if l.onPass, err = router.CompileOps(cfg.RequestAdd, nil); err != nil {
		return nil, err
	}
	l.reply = &filter.LocalReply{Status: 429, Body: []byte("local_rate_limited"), Detail: "local_rate_limited"}
	if cfg.Status >= 400 { // like Envoy, a status that is no error means 429
		l.reply.Status = cfg.Status
	}
	if cfg.GRPCExhausted {
		l.reply.GRPC = 8
	}
	return l, nil
}

func (f *rateLimit) Scope(levels []any) (any, error) {
	cfg, err := as[*config.LocalRateLimit](levels)
	if err != nil {
		return nil, err
	}
	return compileLimits(cfg)
}

// ScopeRoute adds what route and virtual host say of descriptors.
func (f *rateLimit) ScopeRoute(r *config.Route, said any) (any, error) {
	l, ok := said.(*limits)
	if !ok {
		l = f.own
	}
	if len(l.actions) > 0 || len(l.descriptors) == 0 { // the filter's own count alone; without buckets none matter
		return said, nil
	}
	var from []config.LimitActions
	if r.To != nil {
		from = append(from, r.To.Limits...)
	}
	switch l.cfg.VirtualHostToo {
	case config.LimitOverride:
		if len(from) == 0 {
			from = append(from, r.VHost.Limits...)
		}
	case config.LimitInclude:
		from = append(from, r.VHost.Limits...)
	}
	actions, err := compileActions(from, l.cfg.Stage)
	if err != nil || len(actions) == 0 {
		return said, err
	}
	return &scopedLimits{l, actions}, nil
}

func (f *rateLimit) find(c *filter.Context) (*limits, []action) {
	switch o := c.Override(f.slot).(type) {
	case *limits:
		return o, o.actions
	case *scopedLimits:
		return o.limits, o.actions
	}
	return f.own, f.own.actions
}

func (f *rateLimit) Request(c *filter.Context) filter.Verdict {
	l, actions := f.find(c)
	if !filter.Hit(&l.cfg.Enabled, c.Rand()) {
		return filter.Next
	}
	b, ok := l.allow(c, actions, engine.Mono())
	if b != nil {
		c.Slots[f.slot] = b
	}
	if ok {
		l.passed.Add(1)
		return filter.Next
	}
	l.limited.Add(1)
	if !filter.Hit(&l.cfg.Enforced, c.Rand()) {
		l.onPass.Apply(&c.Req.Head, c)
		return filter.Next
	}
	c.Flags |= filter.FlagRateLimited
	c.Local = l.reply
	return filter.Reply
}

// allow takes from the buckets of the descriptors that the request has, then
// from the common one; it gives the bucket that decided.
func (l *limits) allow(c *filter.Context, actions []action, now int64) (*bucket, bool) {
	var decided *bucket
	if len(actions) > 0 {
		for i := range l.descriptors {
			d := &l.descriptors[i]
			if !anyAction(actions, c, d.entries) {
				continue
			}
			_, ok := d.bucket.take(now)
			if !ok && !d.bucket.shadow {
				return d.bucket, false
			}
			if decided == nil {
				decided = d.bucket
			}
		}
	}
	if l.bucket == nil || decided != nil && !l.cfg.AlwaysDefault {
		return decided, true
	}
	_, ok := l.bucket.take(now)
	if decided == nil || !ok {
		decided = l.bucket
	}
	return decided, ok
}

// Response tells the client of its bucket.
func (f *rateLimit) Response(c *filter.Context) {
	l, _ := f.find(c)
	if c.Local == l.reply {
		set(&c.Resp.Head, "x-envoy-ratelimited", "true")
		l.onReply.Apply(&c.Resp.Head, c)
	}
	b, ok := c.Slots[f.slot].(*bucket)
	if !ok || !l.cfg.XRateLimit {
		return
	}
	var buf [20]byte
	h := &c.Resp.Head
	h.Set("x-ratelimit-limit", strconv.AppendUint(buf[:0], uint64(b.max), 10))
	h.Set("x-ratelimit-remaining", strconv.AppendUint(buf[:0], uint64(uint32(b.state.Load())), 10))
	h.Set("x-ratelimit-reset", strconv.AppendInt(buf[:0], b.reset(engine.Mono()), 10))
}

// action is one descriptor of requests, compiled.
type action []step

type step struct {
	config.LimitAction
	fields []filter.Field
	params []filter.Param
}

var defaultKeys = map[config.LimitKind]string{
	config.LimitGenericKey: "generic_key", config.LimitRemoteAddress: "remote_address", config.LimitDestinationCluster: "destination_cluster",
	config.LimitHeaderMatch: "header_match", config.LimitQueryMatch: "query_match", config.LimitMaskedRemote: "masked_remote_address",
}

func compileActions(in []config.LimitActions, stage uint32) ([]action, error) {
	var out []action
	for _, l := range in {
		if l.Stage != stage {
			continue
		}
		if l.DisableKey != "" {
			return nil, &errs.Error{Kind: errs.Unsupported, Field: "rate_limits.disable_key", Seen: l.DisableKey}
		}
		a := make(action, len(l.Actions))
		for i, s := range l.Actions {
			if s.Kind > config.LimitMaskedRemote {
				return nil, &errs.Error{Kind: errs.Unsupported, Field: "rate_limits.actions"}
			}
			if s.Key == "" {
				s.Key = defaultKeys[s.Kind]
			}
			if s.PrefixV4 == 0 {
				s.PrefixV4 = 32
			}
			if s.PrefixV6 == 0 {
				s.PrefixV6 = 128
			}
			a[i].LimitAction = s
			var err error
			if a[i].fields, err = filter.CompileFields(s.Headers); err != nil {
				return nil, err
			}
			if a[i].params, err = filter.CompileParams(s.Params); err != nil {
				return nil, err
			}
		}
		out = append(out, a)
	}
	return out, nil
}

func anyAction(as []action, c *filter.Context, entries []config.LimitEntry) bool {
	return slices.ContainsFunc(as, func(a action) bool { return a.makes(c, entries) })
}

// makes tells whether the request's descriptor by this action is exactly these
// entries.
func (a action) makes(c *filter.Context, entries []config.LimitEntry) bool {
	n := 0
	for i := range a {
		s := &a[i]
		var buf [64]byte
		v, ok := s.value(c, buf[:0])
		if !ok {
			if s.Optional {
				continue
			}
			return false
		}
		if n == len(entries) || entries[n].Key != s.Key || entries[n].Value != string(v) {
			return false
		}
		n++
	}
	return n > 0 && n == len(entries)
}

// value gives an entry's value, in scratch when it must be made.
func (s *step) value(c *filter.Context, scratch []byte) (v []byte, ok bool) {
	switch s.Kind {
	case config.LimitRequestHeader:
		if len(s.Header) > 0 && s.Header[0] == ':' {
			v = filter.Pseudo(c.Req, s.Header)
			return v, len(v) > 0
		}
		return c.Req.Find(s.Header)
	case config.LimitQueryParameter:
		v, ok = filter.QueryValue(c.Req.Query(), s.Query)
		return v, ok && len(v) > 0
	case config.LimitRemoteAddress:
		return c.Remote.Unmap().AppendTo(scratch), c.Remote.IsValid()
	case config.LimitMaskedRemote:
		return s.masked(c, scratch)
	case config.LimitDestinationCluster:
		return append(scratch, c.Cluster...), c.Cluster != ""
	case config.LimitHeaderMatch:
		return append(scratch, s.Value...), filter.AllFields(s.fields, c.Req) == s.ExpectMatch
	case config.LimitQueryMatch:
		return append(scratch, s.Value...), filter.AllParams(s.params, c.Req.Query()) == s.ExpectMatch
	}
	return append(scratch, s.Value...), true
}

func (s *step) masked(c *filter.Context, scratch []byte) ([]byte, bool) {
	bits := int(s.PrefixV4)
	if c.Remote.Unmap().Is6() {
		bits = int(s.PrefixV6)
	}
	p, err := c.Remote.Unmap().Prefix(bits)
	if err != nil {
		return nil, false
	}
	return p.AppendTo(scratch), true
}
