// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/node/manifest/internal/shape"
	"redoubt.dev/node/manifest/internal/tree"
)

// document is one object on its way into a Set.
type document struct {
	src    Source
	file   int       // number of the file, in order of reading
	line   int       // where the object begins
	prefix tree.Path // of an object within a List
	key    Key       // as far as it is known
	shape  *shape.Result
	errs   *problems
}

// problems gathers what is wrong with all files, up to a bound.
type problems struct {
	list    []problem
	seen    map[string]bool
	dropped int
}

// problem is an error with its place, to be told in the order of reading.
type problem struct {
	file, line int
	err        *errs.Error
}

const maxProblems = 500

func (p *problems) add(file, line int, e *errs.Error) {
	if p.seen == nil {
		p.seen = map[string]bool{}
	}
	text := e.Error()
	switch {
	case p.seen[text]:
	case len(p.list) == maxProblems:
		p.dropped++
	default:
		p.seen[text] = true
		p.list = append(p.list, problem{file, line, e})
	}
}

func (p *problems) count() int { return len(p.list) + p.dropped }

func (p *problems) all() (out []error) {
	slices.SortStableFunc(p.list, func(a, b problem) int {
		return cmp.Or(cmp.Compare(a.file, b.file), cmp.Compare(a.line, b.line), cmp.Compare(a.err.Field, b.err.Field), cmp.Compare(a.err.Error(), b.err.Error()))
	})
	for _, e := range p.list {
		out = append(out, e.err)
	}
	if p.dropped > 0 {
		out = append(out, &errs.Error{Kind: errs.TooLarge, Subject: "manifests", Expected: fmt.Sprintf("at most %d problems", maxProblems), Seen: fmt.Sprintf("%d more", p.dropped)})
	}
	return out
}

// subject names file, line, document and object.
func (d *document) subject(line int) string {
	s := d.src.File
	if line > 0 {
		s = fmt.Sprintf("%s:%d", s, line)
	}
	s = fmt.Sprintf("%s: document %d", s, d.src.Document)
	switch {
	case d.key.Kind != "" && d.key.Name != "":
		s += ": " + d.key.String()
	case d.key.Kind != "":
		s += ": " + d.key.Kind
	}
	return s
}

func (d *document) report(p tree.Problem) {
	path := string(p.Path)
	if d.prefix != "" {
		path = strings.TrimSuffix(string(d.prefix)+"."+path, ".")
	}
	d.errs.add(d.file, p.Line, &errs.Error{Kind: p.Kind, Subject: d.subject(p.Line), Field: path, Expected: p.Expected, Seen: p.Seen, Fix: p.Fix, Err: p.Err})
}

// bad reports what validation found at p, unless the shape of p was wrong
// already: one fault is told once.
func (d *document) bad(p tree.Path, expected, seen, fix string) {
	d.fault(errs.Invalid, p, expected, seen, fix)
}

func (d *document) fault(k errs.Kind, p tree.Path, expected, seen, fix string) {
	if !d.shape.Silenced(p) {
		d.report(tree.Problem{Kind: k, Path: p, Line: d.shape.LineOf(p), Expected: expected, Seen: seen, Fix: fix})
	}
}

// read takes one object from root into set.
func (d *document) read(root *tree.Node, set *Set) {
	d.line = root.Line
	d.name(root)
	k := d.identify(root)
	if k == nil {
		return
	}
	d.shape = shape.Check(root, k.schema, k.table)
	for _, p := range d.shape.Problems {
		d.report(p)
	}
	before := d.errs.count()
	put, err := k.read(d, root.AppendJSON(nil))
	switch {
	case err != nil && len(d.shape.Problems) == 0:
		d.report(tree.Problem{Kind: errs.Invalid, Line: d.line, Expected: "a " + k.name, Err: err})
	case err == nil && len(d.shape.Problems) == 0 && d.errs.count() == before:
		if first, dup := set.sources[d.key]; dup {
			d.report(tree.Problem{Kind: errs.Exists, Path: "metadata.name", Line: d.shape.LineOf("metadata.name"), Expected: "each object once",
				Seen: fmt.Sprintf("also %s, document %d", first.File, first.Document), Fix: "remove one, or give it another name"})
			return
		}
		set.sources[d.key] = d.src
		put(set)
	}
}

// name reads whose problems follow, as far as it can be read.
func (d *document) name(root *tree.Node) {
	word, _ := root.Get("kind").Str()
	k := kinds()[word]
	if k == nil {
		return
	}
	d.key.Kind = k.name
	if n, ok := root.Get("metadata").Get("name").Str(); ok && len(n) <= 253 {
		d.key.Name = strings.Trim(tree.Quote(n), `"`)
	}
	if k.scope == namespaced {
		d.key.Namespace = "default"
	}
	if ns, ok := root.Get("metadata").Get("namespace").Str(); ok && ns != "" && len(ns) <= 63 && k.scope != cluster {
		d.key.Namespace = strings.Trim(tree.Quote(ns), `"`)
	}
}

// identify finds the kind, nil when it is none that may be written.
func (d *document) identify(root *tree.Node) *kind {
	fail := func(k errs.Kind, p tree.Path, expected, seen, fix string) *kind {
		line := d.line
		if n := root.Get(string(p)); n != nil {
			line = n.Line
		}
		d.report(tree.Problem{Kind: k, Path: p, Line: line, Expected: expected, Seen: seen, Fix: fix})
		return nil
	}
	if root.Kind != tree.Map {
		return fail(errs.Invalid, "", "an object with apiVersion, kind and metadata", root.Kind.String(), "")
	}
	name, ok := root.Get("kind").Str()
	version, vok := root.Get("apiVersion").Str()
	if !ok || name == "" {
		return fail(errs.Invalid, "kind", "one of "+strings.Join(kindNames(), ", "), "none", "")
	}
	k := kinds()[name]
	if name == "List" {
		return fail(errs.Unsupported, "kind", "an object", "a List within a List", "put its items into the outer one")
	}
	if k == nil {
		if slices.Contains(elsewhere, name) {
			return fail(errs.Unsupported, "kind", "a kind that has an effect here: "+strings.Join(kindNames(), ", "), tree.Quote(name), "")
		}
		fix := ""
		if near := shape.Nearest(name, append(kindNames(), "List")); near != "" {
			fix = "did you mean " + near + "?"
		}
		return fail(errs.Invalid, "kind", "one of "+strings.Join(kindNames(), ", "), tree.Quote(name), fix)
	}
	if !vok || !slices.Contains(k.versions, version) {
		seen := "none"
		if vok {
			seen = tree.Quote(version)
		}
		return fail(errs.Invalid, "apiVersion", strings.Join(k.versions, " or "), seen, "write apiVersion: "+k.versions[0])
	}
	return k
}
