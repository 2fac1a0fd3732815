// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"redoubt.dev/api/errs"
)

// maxProblems bounds what one file or resource can report; a wrong file of a
// megabyte must not become an error of ten.
const maxProblems = 100

// maxSeen bounds the text that is quoted from the input.
const maxSeen = 120

// place is a field, as a chain towards the root: most are never printed, so
// the text is made only for those that are.
type place struct {
	up   *place
	name string
	key  string // of a map, when index is -2
	i    int    // of a list; -1: none
}

func (p *place) field(name string) *place       { return &place{p, name, "", -1} }
func (p *place) item(name string, i int) *place { return &place{p, name, "", i} }
func (p *place) entry(name, key string) *place  { return &place{p, name, key, -2} }

func (p *place) String() string {
	if p == nil {
		return ""
	}
	var parts []string
	for ; p != nil; p = p.up {
		s := p.name
		switch p.i {
		case -1:
		case -2:
			s += "[" + p.key + "]"
		default:
			s += "[" + strconv.Itoa(p.i) + "]"
		}
		parts = append(parts, s)
	}
	slices.Reverse(parts)
	var b strings.Builder
	for i, s := range parts {
		if i > 0 && s != "" && s[0] != '[' {
			b.WriteByte('.')
		}
		b.WriteString(s)
	}
	return b.String()
}

type problem struct {
	line int
	*errs.Error
}

// problems collects all that is wrong with one file or resource.
type problems struct {
	subject string
	line    func(path string) int // of a field in the file; nil or 0: not known
	list    []problem
	seen    map[string]bool // fields already reported: one word each
	refused []string        // fields that are not supported: what is in them does not matter
	more    int
}

// below tells that field stands inside one that was refused.
func (ps *problems) below(field string) bool {
	return slices.ContainsFunc(ps.refused, func(r string) bool {
		rest, in := strings.CutPrefix(field, r)
		return in && rest != "" && (rest[0] == '.' || rest[0] == '[')
	})
}

// above tells that something inside field was reported already.
func (ps *problems) above(field string) bool {
	for f := range ps.seen {
		if rest, in := strings.CutPrefix(f, field); in && rest != "" && (rest[0] == '.' || rest[0] == '[') {
			return true
		}
	}
	return false
}

func (ps *problems) add(e *errs.Error) {
	if ps.seen[e.Field] || ps.below(e.Field) {
		return
	}
	if len(ps.list) >= maxProblems {
		ps.more++
		return
	}
	if ps.seen == nil {
		ps.seen = map[string]bool{}
	}
	ps.seen[e.Field] = true
	if e.Kind == errs.Unsupported && e.Field != "" {
		ps.refused = append(ps.refused, e.Field)
	}
	e.Subject = ps.subject
	n := 0
	if ps.line != nil {
		if n = ps.line(e.Field); n > 0 {
			e.Subject += ":" + strconv.Itoa(n)
		}
	}
	ps.list = append(ps.list, problem{n, e})
}

// wrong reports a value that is malformed or out of range.
func (ps *problems) wrong(p *place, expected string, seen any, fix string) {
	ps.add(&errs.Error{Kind: errs.Invalid, Field: p.String(), Expected: expected, Seen: show(seen), Fix: fix})
}

// unsupported reports what is valid in the API and has no effect here.
func (ps *problems) unsupported(p *place, expected string, seen any, fix string) {
	ps.add(&errs.Error{Kind: errs.Unsupported, Field: p.String(), Expected: expected, Seen: show(seen), Fix: fix})
}

// failed reports a value that something else did not take.
func (ps *problems) failed(p *place, expected string, err error, fix string) {
	ps.add(&errs.Error{Kind: errs.Invalid, Field: p.String(), Expected: expected, Err: err, Fix: fix})
}

func (ps *problems) err() error {
	if len(ps.list) == 0 {
		return nil
	}
	// By place: messages are walked in no order of their own.
	slices.SortStableFunc(ps.list, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.line, b.line), cmp.Compare(a.Field, b.Field))
	})
	list := make([]error, 0, len(ps.list)+1)
	for _, p := range ps.list {
		list = append(list, p.Error)
	}
	if ps.more > 0 {
		list = append(list, &errs.Error{Kind: errs.Invalid, Subject: ps.subject, Err: fmt.Errorf("%d problems more", ps.more)})
	}
	return errors.Join(list...)
}

// Problems are the single problems of an error of Load, Parse or a resource.
func Problems(err error) []*errs.Error {
	var list []*errs.Error
	var walk func(error)
	walk = func(err error) {
		if e, ok := err.(*errs.Error); ok {
			list = append(list, e)
			return
		}
		switch e := err.(type) {
		case interface{ Unwrap() []error }:
			for _, c := range e.Unwrap() {
				walk(c)
			}
		case interface{ Unwrap() error }:
			walk(e.Unwrap())
		}
	}
	walk(err)
	return list
}

// show gives a value as it appears in an error: on one line, bounded.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		if v == "" {
			return `""`
		}
		q := strconv.Quote(cut(v))
		return q[1 : len(q)-1]
	}
	return cut(fmt.Sprint(v))
}

func cut(s string) string {
	if len(s) > maxSeen {
		return s[:maxSeen] + "…"
	}
	return s
}
