// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"fmt"
	"slices"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/filter/compress"
	"redoubt.dev/proxy/filter/extauthz"
	"redoubt.dev/proxy/filter/grpcweb"
	"redoubt.dev/proxy/router"
)

// Chain builds the filters of an HTTP connection manager, in order. Filters of
// old, which may be nil, are kept where name and Config are the same and stand
// at the same place. The last one must be the router's.
func Chain(cfgs []*config.HTTPFilter, deps filter.Deps, old *filter.Chain) (*filter.Chain, error) {
	entries := make([]filter.Entry, len(cfgs))
	names := map[string]bool{}
	rivals := codings(len(cfgs), func(i int) any { return cfgs[i].Config })
	sameRivals := old != nil && slices.Equal(rivals, codings(old.Len(), func(i int) any { return old.Entries()[i].Config }))
	compressors := 0
	for i, c := range cfgs {
		if names[c.Name] {
			return nil, &errs.Error{Kind: errs.Exists, Subject: "http filter " + c.Name, Expected: "names that differ, since routes speak of filters by name"}
		}
		names[c.Name] = true
		if _, ok := c.Config.(*config.Compressor); ok {
			compressors++
		}
		if _, last := c.Config.(*config.RouterFilter); last != (i == len(cfgs)-1) {
			return nil, &errs.Error{Kind: errs.Invalid, Field: "http_filters", Expected: "a router filter at the end, and only there", Seen: c.Name}
		}
		entries[i] = filter.Entry{Name: c.Name, Config: c.Config}
		if old != nil && i < old.Len() {
			_, rival := c.Config.(*config.Compressor)
			if e := old.Entries()[i]; e.Name == c.Name && e.Config == c.Config && (!rival || sameRivals) {
				entries[i] = e
				continue
			}
		}
		f, err := build(c.Config, deps, i)
		if err != nil {
			return nil, fmt.Errorf("http filter %s: %w", c.Name, err)
		}
		if z, ok := f.(*compress.Compressor); ok {
			z.Among(rivals, compressors-1)
		}
		entries[i].Filter = f
	}
	if len(entries) == 0 {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "http_filters", Expected: "at least a router filter"}
	}
	return filter.NewChain(entries)
}

// codings lists those of a chain's compressors, in order.
func codings(n int, cfg func(i int) any) (out []config.Compression) {
	for i := range n {
		if z, ok := cfg(i).(*config.Compressor); ok {
			out = append(out, z.Library)
		}
	}
	return out
}

func build(cfg any, deps filter.Deps, slot int) (filter.Filter, error) {
	switch cfg := cfg.(type) {
	case *config.CORS:
		return newCORS(cfg, slot)
	case *config.CSRF:
		return newCSRF(cfg, slot)
	case *config.Buffer:
		return newBuffer(cfg, slot)
	case *config.Fault:
		return newFault(cfg, slot)
	case *config.HeaderMutation:
		return newMutation(cfg, slot)
	case *config.RBACFilter:
		return newRBAC(cfg, slot)
	case *config.HealthFilter:
		return newHealth(cfg, deps, slot)
	case *config.LocalRateLimit:
		return newRateLimit(cfg, slot)
	case *config.Compressor:
		return compress.New(cfg, slot)
	case *config.Decompressor:
		return compress.NewDecompressor(cfg, slot)
	case *config.ExtAuthz:
		return extauthz.New(cfg, deps, slot)
	case *config.GRPCWeb:
		return grpcweb.New(slot), nil
	case *config.RouterFilter:
		return newRouter(cfg)
	}
	return nil, &errs.Error{Kind: errs.Unsupported, Field: "typed_config", Seen: fmt.Sprintf("%T", cfg)}
}

// as gives the most specific of levels, which must be of the filter's type.
func as[T any](levels []any) (T, error) {
	v, ok := levels[len(levels)-1].(T)
	if !ok {
		return v, &errs.Error{Kind: errs.Invalid, Field: "typed_per_filter_config", Expected: fmt.Sprintf("%T", v), Seen: fmt.Sprintf("%T", levels[len(levels)-1])}
	}
	return v, nil
}

// routerFilter refuses what the exchange must not be told, before it is.
type routerFilter struct{ strict []string }

var strictNames = map[string]bool{
	"x-envoy-upstream-rq-timeout-ms": true, "x-envoy-upstream-rq-per-try-timeout-ms": true, "x-envoy-max-retries": true,
	"x-envoy-retry-grpc-on": true, "x-envoy-retry-on": true,
}

var strictReply = &filter.LocalReply{Status: 400, Body: []byte("invalid header"), Detail: "request_headers_failed_strict_check"}

func newRouter(cfg *config.RouterFilter) (filter.Filter, error) {
	for _, n := range cfg.StrictCheck {
		if !strictNames[n] {
			return nil, &errs.Error{Kind: errs.Invalid, Field: "strict_check_headers", Seen: n}
		}
	}
	return &routerFilter{cfg.StrictCheck}, nil
}

func (f *routerFilter) Request(c *filter.Context) filter.Verdict {
	for _, n := range f.strict {
		v, ok := c.Req.Find(n)
		if !ok {
			continue
		}
		if n == "x-envoy-retry-on" || n == "x-envoy-retry-grpc-on" {
			ok = router.UnknownRetryOn(string(v)) == ""
		} else {
			_, ok = number(v)
		}
		if !ok {
			c.Local = strictReply
			return filter.Reply
		}
	}
	return filter.Next
}
