// SPDX-License-Identifier: Apache-2.0

package shape_test

import (
	"reflect"
	"strings"
	"testing"

	"redoubt.dev/node/manifest/internal/shape"
	"redoubt.dev/node/manifest/internal/tree"
)

type thing struct {
	Name  string            `json:"name"`
	Count int32             `json:"count"`
	Tags  map[string]string `json:"tags"`
	Parts []part            `json:"parts"`
	Inner `json:",inline"`
	Other string `json:"other"`
}

type part struct {
	Kind string `json:"kind"`
	On   *bool  `json:"on"`
}

// Inner shows that inlined fields are found.
type Inner struct {
	Deep string `json:"deep"`
}

var schema = shape.Go(reflect.TypeFor[thing]())

func TestParseTables(t *testing.T) {
	for text, want := range map[string]string{
		"[a]\nname\ncount\ntags.*\nparts[].kind one of x|y\nparts[].on only true\ndeep": "",
		"[p]\nkind\n[a]\nparts[] @p # a comment\n# another":                             "",
		"[p]\nname\n[a]\n@p\ndeep":                                                      "",
		"name":                                                                          "outside a section",
		"[a]\n[a]":                                                                      "again",
		"[a]\nparts[] @p":                                                               "no section",
		"[a]\n@p":                                                                       "no section",
		"[p]\nkind\n[a]\nparts[].on\nparts[] @p":                                        "lines of its own",
		"[a]\nname maybe x":                                                             "what is",
		"[a]\nnmae":                                                                     "nmae is unknown",
		"[a]\nparts":                                                                    "end it in []",
		"[a]\ntags":                                                                     "end it in .*",
		"[a]\nparts[]":                                                                  "name its fields",
		"[a]\nname.x":                                                                   "nothing below",
		"[a]\nname[]":                                                                   "nothing below",
	} {
		tables, err := shape.ParseTables(text)
		if err == nil {
			err = tables["a"].Fits(schema)
		}
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestCheck(t *testing.T) {
	tables, err := shape.ParseTables("[a]\nname one of a|\"\"\ncount\ntags.x\ntags.y\nparts[].kind\nparts[].on only true\ndeep")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]string{
		"name: a\ncount: 5\ntags: {x: z}\nparts: [{kind: k, on: true}]\ndeep: d": "",
		"name: ''":                         "",
		"name: null\nother: null":          "",
		"name: b":                          `1 invalid name: a or "" seen "b"`,
		"count: 4294967296":                "1 invalid count: an integer from -2147483648 to 2147483647 seen an integer",
		"count: '5'":                       "1 invalid count: an integer seen a string",
		"name: 5":                          "1 invalid name: a string seen an integer",
		"other: x":                         `1 unsupported other: a field that has an effect here seen "other"`,
		"nothing: null":                    `1 invalid nothing: a known field seen "nothing"`,
		"tags: {z: a}":                     `1 unsupported tags["z"]: one of x, y seen `,
		"tags: {x: null}":                  "1 invalid tags.x: a string seen null",
		"tags: [a]":                        "1 invalid tags: an object seen a list",
		"parts:\n- kind: a\n- on: false":   "3 unsupported parts[1].on: true seen false",
		"parts: [5]":                       "1 invalid parts[0]: an object seen an integer",
		"parts: {}":                        "1 invalid parts: a list seen an object",
		"[]":                               "1 invalid : an object seen a list",
		"deep: {a: b}\nDeep: x\nname: [a]": "1 invalid deep: a string seen an object; 2 invalid Deep: a known field seen \"Deep\"; 3 invalid name: a string seen a list",
	} {
		for d := range tree.Documents([]byte(text), false, tree.Limits{Documents: 1, Nodes: 1000, Depth: 10}) {
			var got []string
			for _, p := range shape.Check(d.Root, schema, tables["a"]).Problems {
				got = append(got, strings.Join([]string{string(rune('0' + p.Line)), string(p.Kind), string(p.Path) + ":", p.Expected, "seen", p.Seen}, " "))
			}
			if g := strings.Join(got, "; "); g != want {
				t.Errorf("%q:\n%s, want\n%s", text, g, want)
			}
		}
	}
}

func TestSilenced(t *testing.T) {
	r := &shape.Result{Dropped: map[tree.Path]bool{"spec.a": true, "spec.list[1].x": true}}
	for p, want := range map[tree.Path]bool{
		"spec.a": true, "spec.a.b": true, "spec.a[0]": true, "spec": true, "spec.ab": false, "spec.list": true,
		"spec.list[1]": true, "spec.list[1].x": true, "spec.list[1].y": false, "spec.list[10].x": false, "other": false,
	} {
		if got := r.Silenced(p); got != want {
			t.Errorf("%s: %v", p, got)
		}
	}
}

func TestNearest(t *testing.T) {
	known := []string{"containers", "initContainers", "replicas", "env", "image"}
	for word, want := range map[string]string{
		"container": "containers", "replcias": "replicas", "Env": "env", "evn": "env", "imge": "image", "initcontainers": "initContainers",
		"x": "", "": "", "selector": "", strings.Repeat("a", 1000): "",
	} {
		if got := shape.Nearest(word, known); got != want {
			t.Errorf("%.20q: %q, want %q", word, got, want)
		}
	}
}
