// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"reflect"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
)

// MaxFilters bounds a chain: which filters saw a request is one word.
const MaxFilters = 64

// Scoped is what a Filter adds whose configuration a route may replace.
type Scoped interface {
	// Scope compiles what route configuration, virtual host, route and
	// weighted cluster say under the filter's name: those that say something,
	// the most specific last. What it gives is found by Context.Override.
	Scope(levels []any) (any, error)
}

// Layered is a Scoped whose levels all count. For others the most specific
// level counts alone, and is compiled once however many routes share it.
type Layered interface{ Layered() }

// Routed is what a Filter adds that reads the route itself, not only what the
// route says under the filter's name.
type Routed interface {
	// ScopeRoute compiles a route for Context.Override; said is what Scope
	// gave for it, or nil. nil is nothing to override.
	ScopeRoute(r *config.Route, said any) (any, error)
}

// Entry is one filter of a chain.
type Entry struct {
	Name   string
	Config any // where it came from: a chain built later takes over a filter whose Config is the same pointer
	Filter Filter
}

// Chain is the filters of an HTTP connection manager, in order. It is
// immutable and shared by all loops.
type Chain struct {
	entries    []Entry
	responders []Responder
	enders     []Ender
}

// NewChain makes a chain of at most MaxFilters filters. Filter i was built for
// slot i.
func NewChain(entries []Entry) (*Chain, error) {
	if len(entries) > MaxFilters {
		return nil, errs.New(errs.TooLarge, "http_filters", "%d filters, at most %d", len(entries), MaxFilters)
	}
	ch := &Chain{entries: entries, responders: make([]Responder, len(entries)), enders: make([]Ender, len(entries))}
	for i, e := range entries {
		ch.responders[i], _ = e.Filter.(Responder)
		ch.enders[i], _ = e.Filter.(Ender)
	}
	return ch, nil
}

// Len is the number of filters, and of slots that a Context needs.
func (ch *Chain) Len() int { return len(ch.entries) }

// Entries gives the filters, not to be changed.
func (ch *Chain) Entries() []Entry { return ch.entries }

// Request shows the request to the filters from the one at from on, until one
// does not answer Next. Context.At says which one that was: after Hold go on
// at At+1 with what Resume said, after NeedBody at At.
func (ch *Chain) Request(c *Context, from int) Verdict {
	for i := from; i < len(ch.entries); i++ {
		c.At = i
		if c.disabled(i) {
			continue
		}
		c.entered |= 1 << i
		if v := ch.entries[i].Filter.Request(c); v != Next {
			return v
		}
	}
	return Next
}

// Response shows the final response's head to all filters that the route does
// not switch off, the last first, whether they saw the request or not.
func (ch *Chain) Response(c *Context) {
	for i := len(ch.entries) - 1; i >= 0; i-- {
		if r := ch.responders[i]; r != nil && !c.disabled(i) {
			r.Response(c)
		}
	}
}

// End tells the filters that saw the request that it is over.
func (ch *Chain) End(c *Context) {
	for i := range ch.entries {
		if e := ch.enders[i]; e != nil && c.entered&(1<<i) != 0 {
			e.End(c)
		}
	}
	c.entered = 0
	clear(c.Slots)
}

// Overrides is what a route configuration says of a chain's filters,
// compiled. It is immutable. The nil Overrides says nothing.
type Overrides struct {
	routes   [][]any // by Route.Index; rows by slot; a nil row says nothing
	weighted map[*config.Weighted][]any
	memo     map[memoKey]any
}

type memoKey struct {
	slot   int
	levels [4]any
}

type off struct{}

// Scope compiles rc's PerFilter configurations for this chain; rc was
// validated or compiled before (Route.Index). What old, made for a chain with
// the same filters, compiled from the same pointers is taken over, and with it
// the buckets of rate limits; old may be nil.
func (ch *Chain) Scope(rc *config.RouteConfig, old *Overrides) (*Overrides, error) {
	o := &Overrides{memo: map[memoKey]any{}}
	s := scoping{ch: ch, new: o, old: old}
	for _, h := range rc.Hosts {
		for _, r := range h.Routes {
			row, err := s.row(r, rc.PerFilter, h.PerFilter, r.PerFilter, nil)
			if err != nil {
				return nil, err
			}
			if row != nil {
				for len(o.routes) <= r.Index {
					o.routes = append(o.routes, nil)
				}
				o.routes[r.Index] = row
			}
			if r.To == nil {
				continue
			}
			for i := range r.To.Weighted {
				w := &r.To.Weighted[i]
				if len(w.PerFilter) == 0 {
					continue
				}
				if row, err = s.row(r, rc.PerFilter, h.PerFilter, r.PerFilter, w.PerFilter); err != nil {
					return nil, err
				}
				if o.weighted == nil {
					o.weighted = map[*config.Weighted][]any{}
				}
				o.weighted[w] = row
			}
		}
	}
	return o, nil
}

type scoping struct {
	ch       *Chain
	new, old *Overrides
}

func (s *scoping) row(r *config.Route, maps ...map[string]any) ([]any, error) {
	var row []any
	for slot := range s.ch.entries {
		v, err := s.cell(slot, r, maps)
		if err != nil {
			return nil, err
		}
		if v == nil {
			continue
		}
		if row == nil {
			row = make([]any, len(s.ch.entries))
		}
		row[slot] = v
	}
	return row, nil
}

// cell compiles what is said of one filter at one place; nil is nothing.
func (s *scoping) cell(slot int, r *config.Route, maps []map[string]any) (v any, err error) {
	e := &s.ch.entries[slot]
	var levels [4]any
	n, said, disabled := 0, false, false
	for _, m := range maps {
		c, ok := m[e.Name]
		if !ok {
			continue
		}
		said = true
		if disabled = isNil(c); !disabled {
			levels[n] = c
			n++
		}
	}
	if said && disabled {
		return off{}, nil
	}
	if said {
		if v, err = s.compile(slot, levels, n); err != nil {
			return nil, err
		}
	}
	if f, ok := e.Filter.(Routed); ok {
		return f.ScopeRoute(r, v)
	}
	return v, nil
}

func (s *scoping) compile(slot int, levels [4]any, n int) (any, error) {
	f := s.ch.entries[slot].Filter
	scoped, ok := f.(Scoped)
	if !ok {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: s.ch.entries[slot].Name, Field: "typed_per_filter_config", Fix: "this filter has no configuration of its own per route"}
	}
	if _, all := f.(Layered); !all {
		levels = [4]any{levels[n-1]}
		n = 1
	}
	key := memoKey{slot, levels}
	if v, ok := s.new.memo[key]; ok {
		return v, nil
	}
	if s.old != nil {
		if v, ok := s.old.memo[key]; ok {
			s.new.memo[key] = v
			return v, nil
		}
	}
	v, err := scoped.Scope(levels[:n])
	if err != nil {
		return nil, err
	}
	s.new.memo[key] = v
	return v, nil
}

func isNil(v any) bool {
	if v == nil {
		return true
	}
	r := reflect.ValueOf(v)
	return r.Kind() == reflect.Pointer && r.IsNil()
}

// row finds what is said where the request leads.
func (o *Overrides) row(c *Context) []any {
	if o == nil || c.Route == nil {
		return nil
	}
	if c.Weighted != nil && o.weighted != nil {
		if row, ok := o.weighted[c.Weighted]; ok {
			return row
		}
	}
	if i := c.Route.Index; uint(i) < uint(len(o.routes)) {
		return o.routes[i]
	}
	return nil
}

// Override gives what a filter's Scope made for where the request leads; nil
// when nothing is said there.
func (c *Context) Override(slot int) any {
	if row := c.Overrides.row(c); slot < len(row) {
		return row[slot]
	}
	return nil
}

func (c *Context) disabled(slot int) bool {
	if c.Overrides == nil {
		return false
	}
	_, is := c.Override(slot).(off)
	return is
}

// Holds tells that a filter of the chain may answer Hold, so that
// Context.Resume is needed.
func (ch *Chain) Holds() bool {
	for _, e := range ch.entries {
		if _, ok := e.Config.(*config.ExtAuthz); ok {
			return true
		}
	}
	return false
}
