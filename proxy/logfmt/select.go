// SPDX-License-Identifier: Apache-2.0

package logfmt

import (
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// Filter selects what an access log gets. It is immutable. The nil Filter
// selects everything.
type Filter struct {
	match func(c *filter.Context) bool
}

// CompileFilter compiles an access log's filter; nil gives nil.
func CompileFilter(f *config.LogFilter) (*Filter, error) {
	if f == nil {
		return nil, nil
	}
	m, err := selector(f, 0)
	if err != nil {
		return nil, err
	}
	return &Filter{m}, nil
}

// Match tells whether a finished exchange is logged.
func (f *Filter) Match(c *filter.Context) bool { return f == nil || f.match(c) }

func selector(f *config.LogFilter, depth int) (func(*filter.Context) bool, error) {
	if depth > maxDepth {
		return nil, errs.New(errs.TooLarge, "access log filter", "nested more than %d deep", maxDepth)
	}
	switch f.Kind {
	case "status":
		return compare(f, func(c *filter.Context) int64 {
			if c.Resp == nil {
				return 0
			}
			return int64(c.Resp.Status)
		})
	case "duration":
		return compare(f, func(c *filter.Context) int64 { return max(c.Ended-c.Began, 0) / int64(time.Millisecond) })
	case "not_health_check":
		return func(c *filter.Context) bool { return !c.HealthCheck }, nil
	case "fraction":
		return func(c *filter.Context) bool { return filter.Hit(f.Fraction, c.Rand()) }, nil
	case "and", "or":
		return several(f, depth)
	case "header":
		return header(f)
	case "flags":
		return flags(f)
	case "grpc_status":
		return func(c *filter.Context) bool {
			n, ok := grpcCode(c)
			in := false
			for _, code := range f.Codes {
				in = in || ok && uint32(n) == code
			}
			return in != f.Exclude
		}, nil
	}
	return nil, &errs.Error{Kind: errs.Unsupported, Field: "access_log.filter", Seen: f.Kind}
}

func compare(f *config.LogFilter, of func(*filter.Context) int64) (func(*filter.Context) bool, error) {
	v := int64(f.Value)
	switch f.Op {
	case "EQ":
		return func(c *filter.Context) bool { return of(c) == v }, nil
	case "GE":
		return func(c *filter.Context) bool { return of(c) >= v }, nil
	case "LE":
		return func(c *filter.Context) bool { return of(c) <= v }, nil
	case "NE":
		return func(c *filter.Context) bool { return of(c) != v }, nil
	}
	return nil, &errs.Error{Kind: errs.Invalid, Field: "access_log.filter.comparison.op", Expected: "EQ, GE, LE or NE", Seen: f.Op}
}

func several(f *config.LogFilter, depth int) (func(*filter.Context) bool, error) {
	all := make([]func(*filter.Context) bool, len(f.All))
	for i := range f.All {
		var err error
		if all[i], err = selector(f.All[i], depth+1); err != nil {
			return nil, err
		}
	}
	and := f.Kind == "and"
	return func(c *filter.Context) bool {
		for _, m := range all {
			if m(c) != and {
				return !and
			}
		}
		return and
	}, nil
}

func header(f *config.LogFilter) (func(*filter.Context) bool, error) {
	if f.Header == nil {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "access_log.filter.header_filter", Expected: "a header matcher"}
	}
	m, err := filter.CompileField(*f.Header)
	if err != nil {
		return nil, err
	}
	return func(c *filter.Context) bool { return c.Req != nil && m.Match(c.Req) }, nil
}

func flags(f *config.LogFilter) (func(*filter.Context) bool, error) {
	var want filter.Flags
	for _, name := range f.Flags {
		bit, ok := FlagOf(strings.ToUpper(name))
		if !ok {
			return nil, &errs.Error{Kind: errs.Unsupported, Field: "access_log.filter.response_flag_filter", Seen: name}
		}
		want |= bit
	}
	return func(c *filter.Context) bool { // without names: any flag
		if want == 0 {
			return c.Flags != 0
		}
		return c.Flags&want != 0
	}, nil
}
