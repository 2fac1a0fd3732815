// SPDX-License-Identifier: Apache-2.0

package tree_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"redoubt.dev/node/manifest/internal/tree"
)

var limits = tree.Limits{Documents: 100, Nodes: 10_000, Depth: 32}

// read gives the documents as JSON; a document with problems is "problem".
func read(text string, asJSON bool) (out []string) {
	for d := range tree.Documents([]byte(text), asJSON, limits) {
		if len(d.Problems) > 0 {
			out = append(out, "problem: "+d.Problems[0].Expected)
			continue
		}
		out = append(out, string(d.Root.AppendJSON(nil)))
	}
	return out
}

func TestYAML(t *testing.T) {
	for text, want := range map[string]string{
		"a: b":                             `[{"a":"b"}]`,
		"\xef\xbb\xbfa: b":                 `[{"a":"b"}]`,
		"a: 1\n---\nb: 2":                  `[{"a":1} {"b":2}]`,
		"---\na: 1\n---\n---\n# x\n---\nb": `[{"a":1} "b"]`,
		"--- {a: 1}\n--- {b: 2}\n":         `[{"a":1} {"b":2}]`,
		"%YAML 1.1\n---\na: 1\n":           `[{"a":1}]`,
		"a: |\n  ---\n  x\n":               `[{"a":"---\nx\n"}]`,
		"a: '---'\nb: ---x":                `[{"a":"---","b":"---x"}]`,
		"a: 1\r\n---\r\nb: 2\r\n":          `[{"a":1} {"b":2}]`,
		"a: 1\r---\rb: 2\r":                `[problem: YAML]`,
		"# x\r---\ra: 2\r":                 `[{"a":2}]`,
		"a: 1\n...\n---\nb: 2\n":           `[{"a":1} {"b":2}]`,
		"a: 1\n...\nb: 2\n":                `[problem: YAML]`,
		"a: 0644":                          `[{"a":420}]`,
		"a: [-0, 0, 00, 12]":               `[{"a":[0,0,0,12]}]`,
		"a: 0x10":                          `[problem: a decimal integer, or an octal one as 0644]`,
		"a: 0o10":                          `[problem: a decimal integer, or an octal one as 0644]`,
		"a: 1_000":                         `[problem: a decimal integer, or an octal one as 0644]`,
		"a: 0.10":                          `[{"a":0.10}]`,
		"a: .inf":                          `[problem: a finite number as JSON writes it]`,
		"a: 99999999999999999999":          `[{"a":99999999999999999999}]`,
		"a: [true, False, ~, null, '']":    `[{"a":[true,false,null,null,""]}]`,
		"a: yes":                           `[problem: a value that every YAML reader understands alike]`,
		"a: 'yes'":                         `[{"a":"yes"}]`,
		"yes: a":                           `[problem: a string as key]`,
		"? {a: 1}\n: b":                    `[problem: a string as key]`,
		"1.5: b":                           `[problem: a string as key]`,
		"00: b":                            `[problem: a string as key]`,
		"80: b":                            `[{"80":"b"}]`,
		"a: &x {b: 1}\nc: *x":              `[{"a":{"b":1},"c":{"b":1}}]`,
		"a: 2026-09-01":                    `[{"a":"2026-09-01"}]`,
		"a: \"\\u263a\"":                   `[{"a":"☺"}]`,
		"":                                 `[]`,
		"# x":                              `[]`,
		"~":                                `[null]`,
		"{\"a\": 1} {\"b\": [true, null]}": `[{"a":1} {"b":[true,null]}]`,
		"{\"a\": \"\\ud83d\\ude00\"}":      `[{"a":"😀"}]`,
		"{\"a\": 1e2}\n[1]":                `[{"a":1e2} [1]]`,
		"{\"a\": 1":                        `[problem: JSON]`,
		"{a: 1}":                           `[problem: JSON]`,
	} {
		if got := fmt.Sprint(read(text, false)); got != want {
			t.Errorf("%q: got %s, want %s", text, got, want)
		}
	}
	if got := fmt.Sprint(read("a: b", true)); got != "[problem: JSON]" {
		t.Errorf("YAML as JSON: %s", got)
	}
}

func TestDropped(t *testing.T) {
	for d := range tree.Documents([]byte("a: [1, {b: 2, c: 3}, 4]\nd: [[5]]\ne: 6"), false, limits) {
		d.Root.Get("a").Items[1].Get("b").Dropped = true
		d.Root.Get("d").Items[0].Items[0].Dropped = true
		if got := string(d.Root.AppendJSON(nil)); got != `{"a":[1,{"c":3},4],"e":6}` {
			t.Error(got)
		}
		d.Root.Get("a").Items[0].Dropped = true
		if got := string(d.Root.AppendJSON(nil)); got != `{"e":6}` {
			t.Error(got)
		}
	}
}

func TestPath(t *testing.T) {
	p := tree.Path("").Field("a").Index(3).Key(`x["y"].z`).Field("b")
	if p != `a[3]["x[\"y\"].z"].b` {
		t.Error(p)
	}
	for _, want := range []tree.Path{`a[3]["x[\"y\"].z"]`} {
		if p = p.Parent(); p != want {
			t.Errorf("parent %s, want %s", p, want)
		}
	}
	for p != "" {
		if up := p.Parent(); len(up) >= len(p) {
			t.Fatalf("parent of %s is %s", p, up)
		} else {
			p = up
		}
	}
}

func TestLines(t *testing.T) {
	text := "# x\n---\na: 1\nb:\n  c: 2\n---\n\nd: 3\n"
	var got []int
	for d := range tree.Documents([]byte(text), false, limits) {
		for _, f := range d.Root.Fields {
			got = append(got, f.Line)
		}
	}
	if fmt.Sprint(got) != "[3 4 8]" {
		t.Error(got)
	}
	got = nil
	for d := range tree.Documents([]byte("{\n\"a\": 1,\n\"b\":\n 2}\n{\"c\":3}"), true, limits) {
		for _, f := range d.Root.Fields {
			got = append(got, f.Line)
		}
	}
	if fmt.Sprint(got) != "[2 3 5]" {
		t.Error(got)
	}
}

var lone = regexp.MustCompile(`(?m)!([\s,\]}&*"']|$)`)

// FuzzAgainstKubectl: what is taken without a problem means to us what it
// means to the reader that Kubernetes' tools use.
func FuzzAgainstKubectl(f *testing.F) {
	for _, s := range []string{"a: b", "a: [1, 0644, 1.5, true, ~]", "a: &x {b: c}\nd: *x", "80: x", "a: |\n  b\n", "a: 2026-01-01", "a: 1e3", "'a': \"b\\n\"", "? a\n: b", "a: >-\n x\n y\n", "- a\n- b: c", "a: !!str 1", "a: 1:30", "a: =", "<: a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var docs []tree.Document
		for d := range tree.Documents([]byte(s), false, limits) {
			docs = append(docs, d)
		}
		if lone.MatchString(s) {
			t.Skip() // "!" makes a string to them; our parser does not tell of it
		}
		// One document alone: their reader takes the first of several.
		if len(docs) != 1 || docs[0].Root == nil || len(docs[0].Problems) > 0 || docs[0].Number != 1 || strings.HasPrefix(strings.TrimSpace(s), "{") {
			return
		}
		ours := docs[0].Root.AppendJSON(nil)
		if !json.Valid(ours) {
			t.Fatalf("not JSON: %s", ours)
		}
		theirs, err := yaml.YAMLToJSONStrict([]byte(s))
		if err != nil {
			t.Skip() // stricter than we are, in what cannot matter: it is refused there
		}
		if a, b := decode(t, ours), decode(t, theirs); !same(a, b) {
			t.Errorf("%q is %s to us and %s to them", s, ours, theirs)
		}
	})
}

func decode(t *testing.T, b []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// same compares values. A number here and the same text as a string there are
// no danger: the schema takes one of the two and refuses the other.
func same(a, b any) bool {
	switch a := a.(type) {
	case map[string]any:
		m, ok := b.(map[string]any)
		if !ok || len(m) != len(a) {
			return false
		}
		for k, v := range a {
			w, ok := m[k]
			if !ok || !same(v, w) {
				return false
			}
		}
		return true
	case []any:
		l, ok := b.([]any)
		if !ok || len(l) != len(a) {
			return false
		}
		for i := range a {
			if !same(a[i], l[i]) {
				return false
			}
		}
		return true
	case json.Number:
		if s, ok := b.(string); ok {
			return s == a.String()
		}
		n, ok := b.(json.Number)
		if !ok {
			return false
		}
		x, xe := a.Float64()
		y, ye := n.Float64()
		return xe == nil && ye == nil && x == y
	}
	return a == b
}
