// SPDX-License-Identifier: Apache-2.0

// Package tree reads YAML and JSON into one plain tree, strictly and within
// bounds, and knows neither kinds nor fields.
//
// Walk: Documents splits a text → each is parsed (yaml.go, json.go) → a Node
// with the line of everything, or the problems that kept it from being read.
//
// What two readers could understand differently is refused, not guessed: a key
// written twice, a word that was a boolean in YAML 1.1, a merge key, a tag of
// one's own.
package tree

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"redoubt.dev/api/errs"
)

// Kind is what a node is.
type Kind int

// The kinds of node.
const (
	Null Kind = iota
	Bool
	Int
	Float
	String
	Map
	List
)

func (k Kind) String() string {
	return [...]string{"null", "a boolean", "an integer", "a number", "a string", "an object", "a list"}[k]
}

// Node is one value. Text is "true" or "false", a JSON number, or the string.
type Node struct {
	Kind   Kind
	Text   string
	Fields []Field // in the order written
	Items  []*Node
	Line   int
	// Dropped leaves the node out of JSON: it was found wrong, and what was
	// found is to be the only complaint about it.
	Dropped bool
}

// Field is one entry of a Map. Key is the kind that the key was written as:
// String, or Int for an unquoted number in YAML.
type Field struct {
	Name  string
	Key   Kind
	Line  int
	Value *Node
}

// Get gives the value of a field, nil when there is none or n is no Map.
func (n *Node) Get(name string) *Node {
	if n == nil {
		return nil
	}
	for _, f := range n.Fields {
		if f.Name == name {
			return f.Value
		}
	}
	return nil
}

// Str gives a String node's text; ok is false for anything else.
func (n *Node) Str() (s string, ok bool) {
	if n == nil || n.Kind != String {
		return "", false
	}
	return n.Text, true
}

// AppendJSON writes n without what was dropped. A List with a dropped item is
// left out whole, so that the indexes of the others stay true.
func (n *Node) AppendJSON(b []byte) []byte {
	switch n.Kind {
	case Null:
		return append(b, "null"...)
	case Bool, Int, Float:
		return append(b, n.Text...)
	case String:
		s, _ := json.Marshal(n.Text) // a string always encodes
		return append(b, s...)
	case List:
		b = append(b, '[')
		for i, v := range n.Items {
			if i > 0 {
				b = append(b, ',')
			}
			b = v.AppendJSON(b)
		}
		return append(b, ']')
	}
	b = append(b, '{')
	first := true
	for _, f := range n.Fields {
		if f.Value.gone() {
			continue
		}
		if !first {
			b = append(b, ',')
		}
		first = false
		k, _ := json.Marshal(f.Name)
		b = append(append(b, k...), ':')
		b = f.Value.AppendJSON(b)
	}
	return append(b, '}')
}

func (n *Node) gone() bool {
	if n.Dropped {
		return true
	}
	if n.Kind == List {
		for _, v := range n.Items {
			if v.gone() {
				return true
			}
		}
	}
	return false
}

// Path names a node within a document, as Kubernetes does.
type Path string

// Field gives the path of a field of p.
func (p Path) Field(name string) Path {
	if p == "" {
		return Path(name)
	}
	return p + "." + Path(name)
}

// Index gives the path of an item of p.
func (p Path) Index(i int) Path { return p + Path("["+strconv.Itoa(i)+"]") }

// Key gives the path of an entry of p whose name the user chose.
func (p Path) Key(k string) Path { return p + Path("["+Quote(k)+"]") }

// Parent cuts the last step off; "" has none.
func (p Path) Parent() Path {
	s := string(p)
	if strings.HasSuffix(s, `"]`) {
		if i := strings.LastIndex(s, `["`); i >= 0 {
			return Path(s[:i])
		}
	}
	if i := strings.LastIndexAny(s, ".["); i >= 0 {
		return Path(s[:i])
	}
	return ""
}

// Quote makes a user's word fit for an error: bounded and without control
// characters.
func Quote(s string) string {
	const most = 128
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}

// Problem is one thing wrong at one place.
type Problem struct {
	Kind     errs.Kind
	Path     Path
	Line     int
	Expected string
	Seen     string
	Fix      string
	Err      error
}

// Limits bound what one text may hold.
type Limits struct {
	Documents int
	Nodes     int // of all documents, aliases written out
	Depth     int
}

// reader keeps the account of one text.
type reader struct {
	lim      Limits
	nodes    int
	problems []Problem
}

// spend counts one node; false means that the bound was met, which is told once.
func (r *reader) spend(line, depth int, p Path) bool {
	r.nodes++
	switch {
	case r.nodes == r.lim.Nodes+1:
		r.add(Problem{Kind: errs.TooLarge, Path: p, Line: line, Expected: fmt.Sprintf("at most %d values in a file, aliases written out", r.lim.Nodes), Fix: "split the file"})
	case r.nodes > r.lim.Nodes:
	case depth > r.lim.Depth:
		r.add(Problem{Kind: errs.TooLarge, Line: line, Expected: fmt.Sprintf("at most %d levels", r.lim.Depth), Fix: "nest less deeply"})
	default:
		return true
	}
	return false
}

// maxProblems bounds how many are kept of one document; reading goes on, so
// that the document's end is found.
const maxProblems = 100

func (r *reader) add(p Problem) {
	if len(r.problems) < maxProblems {
		r.problems = append(r.problems, p)
	}
}
