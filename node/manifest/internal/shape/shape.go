// SPDX-License-Identifier: Apache-2.0

// Package shape holds a document against two things at once: a Schema, which
// says what an API knows and of which type, and a Table, which says what of it
// has an effect here.
//
// A field in neither is unknown; one in the Schema alone is refused by name as
// without effect; one in both must be of its type, and of the values that the
// Table allows. All problems are found in one walk, and what is wrong is
// dropped from the tree, so that what is left decodes.
package shape

import (
	"maps"
	"slices"
	"strconv"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest/internal/tree"
)

// Result is what a Check found.
type Result struct {
	Problems []tree.Problem
	// Lines tells where each path was written.
	Lines map[tree.Path]int
	// Dropped are the paths that Problems complain of, and those that were
	// probably meant: nothing more needs to be said of them.
	Dropped map[tree.Path]bool
}

// LineOf gives the line of p, or of what p would be part of.
func (r *Result) LineOf(p tree.Path) int {
	for ; p != ""; p = p.Parent() {
		if l, ok := r.Lines[p]; ok {
			return l
		}
	}
	return r.Lines[""]
}

// Silenced tells whether p, something above it or something below it was
// complained of.
func (r *Result) Silenced(p tree.Path) bool {
	for q := range r.Dropped {
		if under(p, q) || under(q, p) {
			return true
		}
	}
	return false
}

func under(p, q tree.Path) bool {
	rest, ok := strings.CutPrefix(string(p), string(q))
	return ok && (rest == "" || q == "" || rest[0] == '.' || rest[0] == '[')
}

// Check walks root.
func Check(root *tree.Node, s Schema, t *Table) *Result {
	w := &walk{Result: Result{Lines: map[tree.Path]int{}, Dropped: map[tree.Path]bool{}}}
	w.check(root, s, t, "")
	return &w.Result
}

const maxProblems = 100

type walk struct{ Result }

func (w *walk) bad(n *tree.Node, p tree.Path, kind errs.Kind, expected, seen, fix string) {
	n.Dropped = true
	w.Dropped[p] = true
	if len(w.Problems) < maxProblems {
		w.Problems = append(w.Problems, tree.Problem{Kind: kind, Path: p, Line: n.Line, Expected: expected, Seen: seen, Fix: fix})
	}
}

func (w *walk) check(n *tree.Node, s Schema, t *Table, p tree.Path) {
	w.Lines[p] = n.Line
	if n.Dropped { // its reader has said why
		w.Dropped[p] = true
		return
	}
	form := s.Form()
	if expected, ok := accepts(form, s, n); !ok {
		fix := ""
		switch {
		case n.Kind == tree.Int || n.Kind == tree.Float || n.Kind == tree.Bool:
			if form == Text {
				fix = "put the value in quotes"
			}
		case n.Kind == tree.String && (form == Integer || form == Boolean):
			fix = "write the value without quotes"
		}
		what := n.Kind.String()
		if form == Enum {
			what = seen(n)
		}
		w.bad(n, p, errs.Invalid, expected, what, fix)
		return
	}
	if !t.Allows(n) {
		w.bad(n, p, t.kind, strings.Join(t.values, " or "), seen(n), "")
		return
	}
	switch form {
	case Object:
		w.object(n, s, t, p)
	case Dict:
		for _, f := range n.Fields {
			q := p.Key(f.Name)
			if t.fields[f.Name] != nil {
				q = p.Field(f.Name)
			}
			switch elem, ok := t.entry(f.Name); {
			case f.Key != tree.String && !s.IntKeys():
				w.bad(f.Value, q, errs.Invalid, "a string as key", "an integer", "put the key in quotes")
			case s.IntKeys() && !isDecimal(f.Name):
				w.bad(f.Value, q, errs.Invalid, "a number as key", tree.Quote(f.Name), "")
			case !ok:
				w.bad(f.Value, q, errs.Unsupported, "one of "+strings.Join(t.names(), ", "), "", "remove the entry: it has no effect here")
			case f.Value.Kind == tree.Null:
				w.bad(f.Value, q, errs.Invalid, s.Elem().Form().String(), "null", "")
			default:
				w.check(f.Value, s.Elem(), elem, q)
			}
		}
	case List:
		for i, v := range n.Items {
			w.check(v, s.Elem(), t.item, p.Index(i))
		}
	}
}

func (w *walk) object(n *tree.Node, s Schema, t *Table, p tree.Path) {
	for _, f := range n.Fields {
		q := p.Field(f.Name)
		f.Value.Line = f.Line // a person looks for the field's name
		fs, known := s.Field(f.Name)
		ft, effect := t.fields[f.Name]
		switch {
		case !known:
			fix := ""
			if near := Nearest(f.Name, t.names()); near != "" {
				fix = "did you mean " + tree.Quote(near) + "?"
				w.Dropped[p.Field(near)] = true
			} else if names := t.names(); len(names) <= 12 {
				fix = "known here: " + strings.Join(names, ", ")
			}
			w.bad(f.Value, q, errs.Invalid, "a known field", tree.Quote(f.Name), fix)
		case f.Value.Kind == tree.Null:
			// Kubernetes takes null for absent.
			f.Value.Dropped = true
		case !effect:
			w.bad(f.Value, q, errs.Unsupported, "a field that has an effect here", tree.Quote(f.Name), "remove the field: Redoubt would not act on it")
		default:
			w.check(f.Value, fs, ft, q)
		}
	}
}

func seen(n *tree.Node) string {
	switch n.Kind {
	case tree.String:
		return tree.Quote(n.Text)
	case tree.Bool, tree.Int, tree.Float:
		return n.Text
	}
	return n.Kind.String()
}

// accepts tells whether n has the form, and what would have.
func accepts(f Form, s Schema, n *tree.Node) (expected string, ok bool) {
	switch f {
	case Object, Dict:
		ok = n.Kind == tree.Map
	case List:
		ok = n.Kind == tree.List
	case Text, Time:
		ok = n.Kind == tree.String
	case Bytes:
		ok = n.Kind == tree.String && isBase64(n.Text)
	case Boolean:
		ok = n.Kind == tree.Bool
	case Integer:
		lo, hi := s.Range()
		v, err := strconv.ParseInt(n.Text, 10, 64)
		ok = n.Kind == tree.Int && err == nil && v >= lo && v <= hi
		if n.Kind == tree.Int {
			return "an integer from " + strconv.FormatInt(lo, 10) + " to " + strconv.FormatInt(hi, 10), ok
		}
	case IntOrText:
		v, err := strconv.ParseInt(n.Text, 10, 32)
		ok = n.Kind == tree.String || n.Kind == tree.Int && err == nil && v >= 0
		return "a string, or an integer from 0 to 2147483647", ok
	case Quantity:
		ok = (n.Kind == tree.String || n.Kind == tree.Int || n.Kind == tree.Float) && isQuantity(n.Text)
	case Enum:
		ok = n.Kind == tree.String && slices.Contains(s.Values(), n.Text)
		return "one of " + strings.Join(s.Values(), ", "), ok
	}
	return f.String(), ok
}

// isDecimal takes one spelling of each number: two would be two keys to the
// tree and one to the API.
func isDecimal(s string) bool {
	n, err := strconv.ParseUint(s, 10, 32)
	return err == nil && strconv.FormatUint(n, 10) == s
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
