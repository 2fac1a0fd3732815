// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"iter"
	"regexp"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"

	"redoubt.dev/api/errs"
)

// yamls splits b at its document markers, so that a document that cannot be
// parsed does not hide the problems of those after it. YAML 1.2 §9.1 forbids
// "---" at the start of a line within any content, so the split is exact.
func (r *reader) yamls(b []byte) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		for line := 1; len(b) > 0; {
			n, empty := nextMarker(b)
			var root *Node
			if !empty {
				root = r.yaml(b[:n], line-1)
			}
			if !yield(root) {
				return
			}
			line += bytes.Count(b[:n], []byte("\n"))
			b = b[n:]
		}
	}
}

// nextMarker gives the length of the first document of b, and whether it has
// nothing but its marker and comments. A marker at the very start opens that
// document; comments alone before one make none.
func nextMarker(b []byte) (n int, empty bool) {
	opened, empty := false, true
	for i := 0; i < len(b); {
		end := len(b)
		if j := bytes.IndexByte(b[i:], '\n'); j >= 0 {
			end = i + j + 1
		}
		l := bytes.TrimRight(b[i:end], "\r\n")
		marker := bytes.HasPrefix(l, []byte("---")) && (len(l) == 3 || l[3] == ' ' || l[3] == '\t')
		if marker && opened {
			return i, empty
		}
		t := bytes.TrimSpace(l)
		if marker {
			t = bytes.TrimSpace(l[3:])
		}
		// A carriage return alone breaks lines too: leave such text to the parser.
		content := len(t) > 0 && (t[0] != '#' || bytes.IndexByte(t, '\r') >= 0)
		// A directive belongs to the marker after it.
		directive := !opened && !marker && len(l) > 0 && l[0] == '%'
		opened = opened || marker || content && !directive
		empty = empty && !content
		i = end
	}
	return len(b), empty
}

// yaml parses one document whose first line is number above+1.
func (r *reader) yaml(b []byte, above int) *Node {
	doc, err := parseYAML(b)
	if err != nil {
		r.add(Problem{Kind: errs.Invalid, Line: above + errLine(err), Expected: "YAML", Err: cleanYAML(err)})
		return nil
	}
	if doc == nil || len(doc.Content) != 1 || doc.Content[0].ShortTag() == "!!null" && doc.Content[0].Value == "" {
		return nil
	}
	return r.convert(doc.Content[0], above, 1, "")
}

// parseYAML gives nil for an empty document. The parser is not ours: should
// hostile input make it panic, that is an answer like any other.
func parseYAML(b []byte) (doc *yaml.Node, err error) {
	defer func() {
		if p := recover(); p != nil {
			doc, err = nil, errors.New("the parser gave up")
		}
	}()
	d := yaml.NewDecoder(bytes.NewReader(b))
	doc = new(yaml.Node)
	if err := d.Decode(doc); errors.Is(err, io.EOF) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	if err := d.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document without '---' at the start of a line between them")
	}
	return doc, nil
}

var yamlLine = regexp.MustCompile(`line (\d+): `)

func errLine(err error) int {
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		n, _ := strconv.Atoi(m[1])
		return n
	}
	return 1
}

// cleanYAML drops the parser's own prefix and line, which are given apart.
func cleanYAML(err error) error {
	return errors.New(yamlLine.ReplaceAllString(strings.TrimPrefix(err.Error(), "yaml: "), ""))
}

func (r *reader) convert(y *yaml.Node, above, depth int, p Path) *Node {
	line := y.Line + above
	for y.Kind == yaml.AliasNode {
		y = y.Alias // the decoder refuses an alias that holds itself only when it is decoded; depth does here
	}
	n := &Node{Line: line}
	if !r.spend(line, depth, p) {
		return n
	}
	switch y.Kind {
	case yaml.MappingNode:
		n.Kind = Map
		r.plainTag(y, "!!map", line, p)
		r.mapping(n, y, above, depth, p)
	case yaml.SequenceNode:
		n.Kind = List
		r.plainTag(y, "!!seq", line, p)
		for i, c := range y.Content {
			n.Items = append(n.Items, r.convert(c, above, depth+1, p.Index(i)))
		}
	default:
		r.scalar(n, y, p)
	}
	return n
}

func (r *reader) plainTag(y *yaml.Node, want string, line int, p Path) {
	if t := y.ShortTag(); t != want {
		r.add(Problem{Kind: errs.Invalid, Path: p, Line: line, Expected: "a value without a tag", Seen: Quote(t), Fix: "remove the tag"})
	}
}

func (r *reader) mapping(n *Node, y *yaml.Node, above, depth int, p Path) {
	seen := make(map[string]int, len(y.Content)/2)
	for i := 0; i+1 < len(y.Content); i += 2 {
		k := y.Content[i]
		line := k.Line + above
		for k.Kind == yaml.AliasNode {
			k = k.Alias
		}
		f := Field{Line: line, Key: String, Name: k.Value}
		switch tag := k.ShortTag(); {
		case k.Kind != yaml.ScalarNode:
			r.add(Problem{Kind: errs.Invalid, Path: p, Line: line, Expected: "a string as key", Seen: "an object or list"})
			continue
		case tag == "!!merge":
			r.add(Problem{Kind: errs.Unsupported, Path: p, Line: line, Expected: "keys written out", Seen: "a merge key '<<'", Fix: "write the merged fields out"})
			continue
		case tag == "!!int" && decimal.MatchString(k.Value):
			f.Key = Int
		case tag != "!!str" && tag != "!!timestamp" || old11(k):
			r.add(Problem{Kind: errs.Invalid, Path: p.Key(k.Value), Line: line, Expected: "a string as key", Seen: Quote(k.Value), Fix: "put the key in quotes"})
		}
		if first, dup := seen[f.Name]; dup {
			r.add(Problem{Kind: errs.Invalid, Path: p.Field(f.Name), Line: line, Expected: "each key once", Seen: fmt.Sprintf("again, first on line %d", first), Fix: "keep one of the two"})
			continue
		}
		seen[f.Name] = line
		f.Value = r.convert(y.Content[i+1], above, depth+1, p.Field(f.Name))
		n.Fields = append(n.Fields, f)
	}
}

// decimal has one spelling for each number: "00" and "0" would be two keys to
// us and one to kubectl.
var decimal = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

// The spellings of numbers that YAML 1.1 and 1.2 read alike, and 0644, which
// kubectl reads as everybody means it. Hexadecimal, "0o7", "1_000", "+1" are a
// number to one reader and a string to another.
var plainInt = regexp.MustCompile(`^(-?(0|[1-9][0-9]*)|0[0-7]+)$`)

var jsonNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

func (r *reader) scalar(n *Node, y *yaml.Node, p Path) {
	bad := func(want, fix string) {
		// Not what was seen: it may be a password without quotes.
		n.Dropped = true
		r.add(Problem{Kind: errs.Invalid, Path: p, Line: n.Line, Expected: want, Fix: fix})
	}
	n.Kind, n.Text = String, y.Value
	switch y.ShortTag() {
	case "!!str", "!!timestamp":
		if old11(y) {
			bad("a value that every YAML reader understands alike", "write true or false for a boolean, or put the word in quotes for a string")
		}
	case "!!null":
		n.Kind, n.Text = Null, ""
	case "!!bool":
		var v bool
		if n.Kind = Bool; y.Decode(&v) != nil {
			bad("true or false", "")
		}
		n.Text = strconv.FormatBool(v)
	case "!!int":
		var v int64
		if n.Kind = Int; !plainInt.MatchString(y.Value) {
			bad("a decimal integer, or an octal one as 0644", "put it in quotes if it is a string")
		} else if y.Decode(&v) != nil {
			bad("an integer of 64 bits", "put it in quotes if it is a string")
		}
		n.Text = strconv.FormatInt(v, 10)
	case "!!float":
		// As written, not as a binary fraction: a quantity is decimal.
		if n.Kind = Float; !jsonNumber.MatchString(y.Value) {
			n.Text = "0"
			bad("a finite number as JSON writes it", "put it in quotes if it is a string")
		}
	default:
		bad("a value without a tag", "remove the tag")
	}
}

// old11 tells words that are booleans to readers of YAML 1.1, kubectl among
// them, and strings to those of YAML 1.2.
func old11(y *yaml.Node) bool {
	if y.Style&(yaml.DoubleQuotedStyle|yaml.SingleQuotedStyle|yaml.LiteralStyle|yaml.FoldedStyle|yaml.TaggedStyle) != 0 {
		return false
	}
	switch y.Value {
	case "y", "Y", "yes", "Yes", "YES", "n", "N", "no", "No", "NO", "on", "On", "ON", "off", "Off", "OFF":
		return true
	}
	return false
}
