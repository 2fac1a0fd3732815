// SPDX-License-Identifier: Apache-2.0

package tree

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"

	"redoubt.dev/api/errs"
)

// errStop ends a document whose bound was met.
var errStop = errors.New("stop")

func (r *reader) jsons(b []byte) iter.Seq[*Node] {
	return func(yield func(*Node) bool) {
		d := &jsonReader{r: r, b: b, dec: json.NewDecoder(bytes.NewReader(b)), line: 1}
		d.dec.UseNumber()
		for {
			t, err := d.dec.Token()
			if errors.Is(err, io.EOF) {
				return
			}
			var n *Node
			if err == nil {
				n, err = d.value(t, 1, "")
			}
			if err != nil {
				if !errors.Is(err, errStop) {
					if errors.Is(err, io.EOF) {
						err = io.ErrUnexpectedEOF
					}
					r.add(Problem{Kind: errs.Invalid, Line: d.at(), Expected: "JSON", Err: err})
				}
				yield(nil)
				return
			}
			if !yield(n) {
				return
			}
		}
	}
}

// jsonReader counts lines beside the decoder, which knows offsets only.
type jsonReader struct {
	r    *reader
	b    []byte
	dec  *json.Decoder
	off  int
	line int
}

func (d *jsonReader) at() int {
	if n := int(d.dec.InputOffset()); n > d.off && n <= len(d.b) {
		d.line += bytes.Count(d.b[d.off:n], []byte("\n"))
		d.off = n
	}
	return d.line
}

func (d *jsonReader) value(t json.Token, depth int, p Path) (*Node, error) {
	n := &Node{Line: d.at()}
	if !d.r.spend(n.Line, depth, p) {
		return nil, errStop
	}
	switch t := t.(type) {
	case nil:
	case bool:
		n.Kind, n.Text = Bool, fmt.Sprint(t)
	case string:
		n.Kind, n.Text = String, t
	case json.Number:
		n.Kind, n.Text = Int, t.String()
		if bytes.ContainsAny([]byte(n.Text), ".eE") {
			n.Kind = Float
		}
	case json.Delim:
		if t == '[' {
			n.Kind = List
			return n, d.list(n, depth, p)
		}
		n.Kind = Map
		return n, d.object(n, depth, p)
	}
	return n, nil
}

func (d *jsonReader) list(n *Node, depth int, p Path) error {
	for {
		t, err := d.dec.Token()
		if err != nil || t == json.Delim(']') {
			return err
		}
		v, err := d.value(t, depth+1, p.Index(len(n.Items)))
		if err != nil {
			return err
		}
		n.Items = append(n.Items, v)
	}
}

func (d *jsonReader) object(n *Node, depth int, p Path) error {
	seen := map[string]int{}
	for {
		t, err := d.dec.Token()
		if err != nil || t == json.Delim('}') {
			return err
		}
		f := Field{Name: t.(string), Key: String, Line: d.at()} // the decoder lets only strings through here
		t, err = d.dec.Token()
		if err != nil {
			return err
		}
		if f.Value, err = d.value(t, depth+1, p.Field(f.Name)); err != nil {
			return err
		}
		if first, dup := seen[f.Name]; dup {
			d.r.add(Problem{Kind: errs.Invalid, Path: p.Field(f.Name), Line: f.Line, Expected: "each key once", Seen: fmt.Sprintf("again, first on line %d", first), Fix: "keep one of the two"})
			continue
		}
		seen[f.Name] = f.Line
		n.Fields = append(n.Fields, f)
	}
}
