// SPDX-License-Identifier: Apache-2.0

package stock

import (
	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
	"redoubt.dev/proxy/message"
	"redoubt.dev/proxy/router"
)

// mutation changes heads in the order of its configuration; all levels count.
type mutation struct {
	slot     int
	own      mutations
	specific bool
}

type mutations struct{ request, response []change }

// change is one mutation.
type change struct {
	ops   router.Ops
	match *filter.Text
}

func newMutation(cfg *config.HeaderMutation, slot int) (*mutation, error) {
	own, err := compileMutation(cfg)
	return &mutation{slot, own, cfg.MostSpecificWins}, err
}

func compileMutation(cfg *config.HeaderMutation) (m mutations, err error) {
	if m.request, err = compileChanges(cfg.Request); err == nil {
		m.response, err = compileChanges(cfg.Response)
	}
	return m, err
}

func compileChanges(in []config.Mutation) ([]change, error) {
	out := make([]change, len(in))
	for i, m := range in {
		var err error
		switch {
		case m.Remove != "":
			out[i].ops, err = router.CompileOps(nil, []string{m.Remove})
		case m.Add != nil:
			out[i].ops, err = router.CompileOps([]config.HeaderAdd{*m.Add}, nil)
		case m.RemoveOnMatch != nil:
			var t filter.Text
			t, err = filter.CompileText(*m.RemoveOnMatch)
			out[i].match = &t
		default:
			err = &errs.Error{Kind: errs.Invalid, Field: "mutations", Expected: "remove, append or remove_on_match"}
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Layered says that the configurations of all levels apply.
func (f *mutation) Layered() {}

func (f *mutation) Scope(levels []any) (any, error) {
	out := make([]mutations, len(levels))
	for i := range levels {
		cfg, err := as[*config.HeaderMutation](levels[i : i+1])
		if err != nil {
			return nil, err
		}
		at := len(levels) - 1 - i // the most specific first, so that the most general has the last word
		if f.specific {
			at = i
		}
		if out[at], err = compileMutation(cfg); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (f *mutation) Request(c *filter.Context) filter.Verdict {
	apply(f.own.request, &c.Req.Head, c)
	if levels, ok := c.Override(f.slot).([]mutations); ok {
		for i := range levels {
			apply(levels[i].request, &c.Req.Head, c)
		}
	}
	return filter.Next
}

func (f *mutation) Response(c *filter.Context) {
	apply(f.own.response, &c.Resp.Head, c)
	if levels, ok := c.Override(f.slot).([]mutations); ok {
		for i := range levels {
			apply(levels[i].response, &c.Resp.Head, c)
		}
	}
}

func apply(cs []change, h *message.Head, c *filter.Context) {
	for i := range cs {
		if cs[i].match == nil {
			cs[i].ops.Apply(h, c)
			continue
		}
		removeMatching(h, cs[i].match)
	}
}

// removeMatching drops the fields whose names match, in lower case; the
// arena's end serves as scratch.
func removeMatching(h *message.Head, t *filter.Text) {
	for i := range h.Fields {
		f := &h.Fields[i]
		if f.Drop || f.Known.Hop() {
			continue
		}
		from := len(h.Buf)
		for _, b := range h.In(f.Name) {
			h.Buf = append(h.Buf, message.Lower(b))
		}
		f.Drop = t.Match(h.Buf[from:])
		h.Buf = h.Buf[:from]
	}
}
