// SPDX-License-Identifier: Apache-2.0

package extauthz

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
)

const (
	maxUnderWay = 4096      // checks of one filter; more are errors
	maxAnswer   = 256 << 10 // bytes of an answer's body
	maxBody     = 8 << 20   // of a request that a check may see
	minTimeout  = 200 * time.Millisecond
)

// Filter is the filter.
type Filter struct {
	slot       int
	cfg        *config.ExtAuthz
	call       filter.Caller
	allowed    []filter.Text
	disallowed []filter.Text
	asker      asker
	underWay   atomic.Int64
	onError    *filter.LocalReply

	allowedN, deniedN, errorsN atomic.Uint64
}

// asker describes requests and reads answers, in one protocol.
type asker interface {
	// describe makes the check, on the loop; nothing of c is kept.
	describe(f *Filter, c *filter.Context, r *config.ExtAuthzRoute, body []byte) (*http.Request, error)
	// read understands the answer, off the loop.
	read(resp *http.Response) (*answer, error)
	cluster() string
	timeout() time.Duration
}

// answer is what a service said.
type answer struct {
	allow    bool
	set      []pair // on the request
	add      []pair
	remove   []string
	response []pair // on the response of a request that passed
	denied   *filter.LocalReply
}

type pair struct {
	name, value string
	action      config.AddAction
}

// New makes the filter for a slot of the chain.
func New(cfg *config.ExtAuthz, deps filter.Deps, slot int) (*Filter, error) {
	f := &Filter{slot: slot, cfg: cfg, call: deps.Call}
	if deps.Call == nil {
		return nil, errs.New(errs.Internal, "ext_authz", "no way to call clusters")
	}
	status := 403
	if cfg.StatusOnError != 0 {
		status = cfg.StatusOnError
	}
	f.onError = &filter.LocalReply{Status: status, Detail: "ext_authz_error"}
	if cfg.Body != nil && (cfg.Body.Max == 0 || cfg.Body.Max > maxBody) {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "with_request_body.max_request_bytes", Expected: "1 to 8388608"}
	}
	var err error
	if f.allowed, err = filter.CompileTexts(cfg.AllowedHeaders); err != nil {
		return nil, err
	}
	if f.disallowed, err = filter.CompileTexts(cfg.DisallowedHeaders); err != nil {
		return nil, err
	}
	switch {
	case cfg.HTTP != nil && cfg.GRPC == nil:
		f.asker, err = newHTTP(cfg.HTTP, f.allowed)
	case cfg.GRPC != nil && cfg.HTTP == nil:
		f.asker = &byGRPC{cfg.GRPC}
	default:
		err = &errs.Error{Kind: errs.Invalid, Field: "ext_authz", Expected: "one of http_service and grpc_service"}
	}
	return f, err
}

// Scope takes *config.ExtAuthzRoute.
func (f *Filter) Scope(levels []any) (any, error) {
	r, ok := levels[len(levels)-1].(*config.ExtAuthzRoute)
	if !ok {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "typed_per_filter_config", Expected: "ExtAuthzPerRoute", Seen: fmt.Sprintf("%T", levels[len(levels)-1])}
	}
	return r, nil
}

// Counts gives how many checks allowed, denied, and failed.
func (f *Filter) Counts() (allowed, denied, failed uint64) {
	return f.allowedN.Load(), f.deniedN.Load(), f.errorsN.Load()
}

// check is one question under way.
type check struct {
	over   bool // the request is; of the loop
	cancel context.CancelFunc
	answer *answer
}

// wanting marks a request whose body is being read for the check.
var wanting any = new(int)

var (
	tooLarge = &filter.LocalReply{Status: 413, Body: []byte("Payload Too Large"), Detail: "request_payload_too_large"}
	disabled = &filter.LocalReply{Status: 403, Detail: "ext_authz_denied"}
)

// Request asks.
func (f *Filter) Request(c *filter.Context) filter.Verdict {
	r, _ := c.Override(f.slot).(*config.ExtAuthzRoute)
	if r != nil && r.Off {
		return filter.Next
	}
	if c.Slots[f.slot] == nil {
		if f.cfg.Enabled != nil && !filter.Hit(f.cfg.Enabled, c.Rand()) {
			if f.cfg.DenyAtDisable {
				c.Local = disabled
				c.Flags |= filter.FlagDenied
				return filter.Reply
			}
			return filter.Next
		}
		if v, ok := f.wantBody(c, r); ok {
			return v
		}
	}
	var body []byte
	if c.Slots[f.slot] == wanting {
		body = c.Body
	}
	return f.ask(c, r, body)
}

// wantBody asks the exchange for the body, where a check sees it.
func (f *Filter) wantBody(c *filter.Context, r *config.ExtAuthzRoute) (filter.Verdict, bool) {
	b := f.cfg.Body
	if r != nil && r.Body != nil {
		b = r.Body
	}
	if b == nil || r != nil && r.NoBody || c.Req.Length == message.NoBody || c.Req.Upgrade.Len() > 0 {
		return 0, false
	}
	if !b.Partial && c.Req.Length > int64(b.Max) {
		c.Local = tooLarge
		return filter.Reply, true
	}
	c.Slots[f.slot] = wanting
	c.BufferRequest, c.BufferPartial = int(min(b.Max, maxBody)), b.Partial
	return filter.NeedBody, true
}

func (f *Filter) ask(c *filter.Context, r *config.ExtAuthzRoute, body []byte) filter.Verdict {
	if f.underWay.Add(1) > maxUnderWay {
		f.underWay.Add(-1)
		return f.failed(c)
	}
	req, err := f.asker.describe(f, c, r, body)
	if err != nil { // the client's doing, which failure_mode_allow must not reward
		f.underWay.Add(-1)
		f.errorsN.Add(1)
		c.Local = f.onError
		c.Flags |= filter.FlagDenied
		return filter.Reply
	}
	ctx, cancel := context.WithTimeout(context.Background(), f.asker.timeout()) // no caller waits: End cancels
	k := &check{cancel: cancel}
	c.Slots[f.slot] = k
	post, resume := c.Post, c.Resume
	go func() { // bounded by maxUnderWay and the time limit
		a, err := f.question(req.WithContext(ctx))
		cancel()
		f.underWay.Add(-1)
		post(func() {
			if !k.over {
				resume(f.apply(c, k, a, err))
			}
		})
	}()
	return filter.Hold
}

func (f *Filter) question(req *http.Request) (*answer, error) {
	d, err := f.call.HTTP(f.asker.cluster())
	if err != nil {
		return nil, err
	}
	resp, err := d.Do(req)
	if err != nil {
		return nil, err
	}
	a, err := f.asker.read(resp)
	return a, errors.Join(err, resp.Body.Close())
}

// failed is what becomes of a request that could not be judged.
func (f *Filter) failed(c *filter.Context) filter.Verdict {
	f.errorsN.Add(1)
	if f.cfg.FailOpen {
		if f.cfg.FailOpenHeader {
			c.Req.Set("x-envoy-auth-failure-mode-allowed", []byte("true"))
		}
		return filter.Next
	}
	c.Local = f.onError
	c.Flags |= filter.FlagDenied
	return filter.Reply
}

func (f *Filter) apply(c *filter.Context, k *check, a *answer, err error) filter.Verdict {
	if err != nil {
		return f.failed(c)
	}
	if f.cfg.ValidateMutations && !a.valid() {
		f.errorsN.Add(1)
		c.Local = &filter.LocalReply{Status: 500, Detail: "ext_authz_invalid_mutations"}
		return filter.Reply
	}
	if !a.allow {
		f.deniedN.Add(1)
		c.Local = a.denied
		c.Flags |= filter.FlagDenied
		return filter.Reply
	}
	f.allowedN.Add(1)
	k.answer = a
	for _, name := range a.remove {
		if usable(name, "") {
			c.Req.Remove(name)
		}
	}
	for _, p := range a.set {
		if usable(p.name, p.value) {
			c.Req.Set(p.name, []byte(p.value))
		}
	}
	for _, p := range a.add {
		if usable(p.name, p.value) {
			c.Req.AddString(p.name, p.value)
		}
	}
	if f.cfg.ClearRoute && c.Routes != nil && len(a.set)+len(a.add)+len(a.remove) > 0 {
		c.Route, c.Weighted, c.Cluster = c.Routes.Match(c), nil, ""
	}
	return filter.Next
}

// usable tells whether a field of the service's can stand in a head: not one
// that frames it, nor one that names the host.
func usable(name, value string) bool {
	return message.ValidName(name) && message.ValidValue(value) && !message.Lookup([]byte(name)).Hop()
}

func (a *answer) valid() bool {
	for _, ps := range [][]pair{a.set, a.add, a.response} {
		for _, p := range ps {
			if !usable(p.name, p.value) {
				return false
			}
		}
	}
	for _, n := range a.remove {
		if !usable(n, "") {
			return false
		}
	}
	return true
}

// Response adds what the service wants the client to see.
func (f *Filter) Response(c *filter.Context) {
	k, ok := c.Slots[f.slot].(*check)
	if !ok || k.answer == nil {
		return
	}
	h := &c.Resp.Head
	for _, p := range k.answer.response {
		there := h.Index(p.name, 0) >= 0
		switch {
		case !usable(p.name, p.value):
		case p.action == config.AppendOrAdd, p.action == config.AddIfAbsent && !there:
			h.AddString(p.name, p.value)
		case p.action == config.OverwriteOrAdd, p.action == config.OverwriteIfExists && there:
			h.Set(p.name, []byte(p.value))
		}
	}
}

// End forgets a question that nobody waits for any more.
func (f *Filter) End(c *filter.Context) {
	if k, ok := c.Slots[f.slot].(*check); ok {
		k.over = true
		k.cancel()
	}
}

// passes tells whether a field may be shown to the service.
func (f *Filter) passes(name []byte, all bool) bool {
	return !filter.AnyText(f.disallowed, name) && (all && len(f.allowed) == 0 || filter.AnyText(f.allowed, name))
}

// denial makes the reply to a refused request.
func denial(status int, body []byte, headers []pair) *filter.LocalReply {
	if status < 200 || status > 599 {
		status = 403
	}
	r := &filter.LocalReply{Status: status, Body: body, Detail: "ext_authz_denied"}
	for _, p := range headers {
		if usable(p.name, p.value) {
			r.Headers = append(r.Headers, config.HeaderAdd{Name: strings.ToLower(p.name), Value: p.value, Action: p.action})
		}
	}
	return r
}
