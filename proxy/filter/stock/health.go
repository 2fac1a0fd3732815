// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"sync/atomic"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// health answers health checks itself.
type health struct {
	slot    int
	cfg     *config.HealthFilter
	headers []filter.Field
	deps    filter.Deps
	last    atomic.Pointer[answer] // with CacheTime
}

// answer is what the upstream said of its health last.
type answer struct {
	reply *filter.LocalReply
	until time.Time
}

var (
	healthOK   = &filter.LocalReply{Status: 200, Detail: "health_check_ok"}
	healthFail = &filter.LocalReply{Status: 503, Detail: "health_check_failed", Headers: []config.HeaderAdd{{Name: "x-envoy-immediate-health-check-fail", Value: "true"}}}
	healthLow  = &filter.LocalReply{Status: 503, Detail: "health_check_failed_cluster_unhealthy"}
)

func newHealth(cfg *config.HealthFilter, deps filter.Deps, slot int) (*health, error) {
	hs, err := filter.CompileFields(cfg.Headers)
	switch {
	case err != nil:
		return nil, err
	case len(hs) == 0:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "health_check.headers", Expected: "matchers that tell health checks from other requests"}
	case cfg.PassThrough && cfg.MinHealthy != nil:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "health_check.cluster_min_healthy_percentages", Expected: "not with pass_through_mode"}
	case !cfg.PassThrough && cfg.CacheTime != 0:
		return nil, &errs.Error{Kind: errs.Invalid, Field: "health_check.cache_time", Expected: "only with pass_through_mode"}
	case cfg.MinHealthy != nil && deps.Healthy == nil:
		return nil, &errs.Error{Kind: errs.Unsupported, Field: "health_check.cluster_min_healthy_percentages"}
	case cfg.CacheTime > 0 && deps.Now == nil:
		return nil, errs.New(errs.Internal, "health_check", "no clock")
	}
	return &health{slot: slot, cfg: cfg, headers: hs, deps: deps}, nil
}

func (f *health) Request(c *filter.Context) filter.Verdict {
	if !filter.AllFields(f.headers, c.Req) {
		return filter.Next
	}
	c.HealthCheck = true
	c.Local = f.answer()
	if c.Local == nil {
		return filter.Next
	}
	return filter.Reply
}

func (f *health) answer() *filter.LocalReply {
	if f.deps.Draining != nil && f.deps.Draining() {
		return healthFail
	}
	if f.cfg.PassThrough {
		if a := f.last.Load(); a != nil && f.deps.Now().Before(a.until) {
			return a.reply
		}
		return nil
	}
	for cluster, least := range f.cfg.MinHealthy {
		if share, ok := f.deps.Healthy(cluster); !ok || share < least {
			return healthLow
		}
	}
	return healthOK
}

// Response remembers what the upstream answered.
func (f *health) Response(c *filter.Context) {
	if !c.HealthCheck || c.Local != nil || f.cfg.CacheTime <= 0 {
		return
	}
	f.last.Store(&answer{&filter.LocalReply{Status: c.Resp.Status, Detail: "health_check_cached"}, f.deps.Now().Add(f.cfg.CacheTime)})
}
