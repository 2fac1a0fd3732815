// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest/internal/tree"
)

// Table is what has an effect at one place and below it. A nil Table is a leaf.
type Table struct {
	fields map[string]*Table // of an object, or named entries of a dict
	any    *Table            // of every entry of a dict: "*"
	item   *Table            // of a list: "[]"
	values []string          // when set, the only ones allowed
	kind   errs.Kind         // of the refusal of another value
}

// ParseTables reads tables in the form
//
//	[section]
//	field.field[].field.*   @section
//	field                   only a|b     other values have no effect here
//	field                   one of a|b   other values are wrong
//
// with "#" for comments; @section puts all lines of that section, which must
// come before, below the field, and on a line of its own, which must be the
// first, into this section. "" is the empty string, {} the empty object.
func ParseTables(text string) (map[string]*Table, error) {
	out := map[string]*Table{}
	var cur *Table
	for i, l := range strings.Split(text, "\n") {
		l, _, _ = strings.Cut(l, "#")
		l = strings.TrimSpace(l)
		var err error
		switch {
		case l == "":
		case l[0] == '[' && l[len(l)-1] == ']':
			name := l[1 : len(l)-1]
			if out[name] != nil {
				err = fmt.Errorf("section %q again", name)
			}
			cur = new(Table)
			out[name] = cur
		case cur == nil:
			err = fmt.Errorf("a field outside a section")
		default:
			err = cur.line(l, out)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
	}
	return out, nil
}

func (t *Table) line(l string, sections map[string]*Table) error {
	if name, ok := strings.CutPrefix(l, "@"); ok {
		s := sections[name]
		if s == nil {
			return fmt.Errorf("no section %q above", name)
		}
		t.fields = maps.Clone(s.fields)
		return nil
	}
	path, rest, _ := strings.Cut(l, " ")
	rest = strings.TrimSpace(rest)
	for _, step := range strings.Split(strings.ReplaceAll(path, "[]", ".[]"), ".") {
		t = t.step(step)
	}
	if name, ok := strings.CutPrefix(rest, "@"); ok {
		s := sections[name]
		if s == nil {
			return fmt.Errorf("no section %q above", name)
		}
		if t.fields != nil || t.any != nil || t.item != nil {
			return fmt.Errorf("%s has lines of its own", path)
		}
		*t = *s
		return nil
	}
	if v, ok := strings.CutPrefix(rest, "only "); ok {
		t.kind, rest = errs.Unsupported, v
	} else if v, ok := strings.CutPrefix(rest, "one of "); ok {
		t.kind, rest = errs.Invalid, v
	} else if rest != "" {
		return fmt.Errorf("what is %q?", rest)
	}
	if rest != "" {
		t.values = strings.Split(rest, "|")
	}
	return nil
}

func (t *Table) step(s string) *Table {
	next := func(p **Table) *Table {
		if *p == nil {
			*p = new(Table)
		}
		return *p
	}
	switch s {
	case "[]":
		return next(&t.item)
	case "*":
		return next(&t.any)
	}
	if t.fields == nil {
		t.fields = map[string]*Table{}
	}
	f := t.fields[s]
	f = next(&f)
	t.fields[s] = f
	return f
}

// Allows tells whether n's value is among those of the table.
func (t *Table) Allows(n *tree.Node) bool {
	if t == nil || t.values == nil {
		return true
	}
	switch n.Kind {
	case tree.Map:
		return len(n.Fields) == 0 && slices.Contains(t.values, "{}")
	case tree.List:
		return len(n.Items) == 0 && slices.Contains(t.values, "[]")
	case tree.String:
		return slices.Contains(t.values, n.Text) || n.Text == "" && slices.Contains(t.values, `""`)
	}
	return slices.Contains(t.values, n.Text)
}

func (t *Table) entry(name string) (*Table, bool) {
	if t == nil {
		return nil, false
	}
	if e, ok := t.fields[name]; ok {
		return e, true
	}
	return t.any, t.any != nil
}

func (t *Table) names() []string {
	if t == nil {
		return nil
	}
	return sorted(t.fields)
}

// Fits tells where the table and a schema do not match: a path that the schema
// does not know, or one whose end is no scalar. A test holds every table to it.
func (t *Table) Fits(s Schema) error { return t.fits(s, "") }

func (t *Table) fits(s Schema, p tree.Path) error {
	if t == nil {
		t = new(Table)
	}
	switch s.Form() {
	case Object:
		if t.any != nil || t.item != nil || t.fields == nil && t.values == nil {
			return fmt.Errorf("%s is an object: name its fields", p)
		}
		for _, name := range t.names() {
			fs, ok := s.Field(name)
			if !ok {
				return fmt.Errorf("%s is unknown", p.Field(name))
			}
			if err := t.fields[name].fits(fs, p.Field(name)); err != nil {
				return err
			}
		}
	case Dict:
		if t.item != nil || t.fields == nil && t.any == nil {
			return fmt.Errorf("%s is a dictionary: end it in .*", p)
		}
		for _, name := range append(t.names(), "*") {
			if e, ok := t.entry(name); ok {
				if err := e.fits(s.Elem(), p.Field(name)); err != nil {
					return err
				}
			}
		}
	case List:
		if t.fields != nil || t.any != nil || t.item == nil {
			return fmt.Errorf("%s is a list: end it in []", p)
		}
		return t.item.fits(s.Elem(), p+"[]")
	default:
		if t.fields != nil || t.any != nil || t.item != nil {
			return fmt.Errorf("%s is %s, with nothing below", p, s.Form())
		}
	}
	return nil
}
