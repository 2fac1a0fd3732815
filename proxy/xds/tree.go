// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
)

// parse decodes a file into m, and keeps its lines for errors.
func (r *reader) parse(data []byte, m proto.Message) {
	root := r.tree(data)
	if root == nil {
		return
	}
	r.line = func(path string) int { return lineOf(root, path) }
	(&decoder{reader: r}).message(m.ProtoReflect(), root, nil, 0)
}

// tree gives the document of a file; nil after a problem.
func (r *reader) tree(data []byte) *yaml.Node {
	if len(data) > MaxFile {
		r.wrong(nil, fmt.Sprintf("at most %d bytes", MaxFile), len(data), "split it")
		return nil
	}
	if !utf8.Valid(data) {
		r.wrong(nil, "UTF-8", "something else", "")
		return nil
	}
	read := yamlTree
	if t := bytes.TrimLeft(data, " \t\r\n"); len(t) > 0 && t[0] == '{' && json.Valid(t) { // else a flow mapping of YAML
		read = jsonTree
	}
	root, err := read(data)
	if err != nil {
		r.failed(nil, "one document of YAML or JSON", err, "")
		return nil
	}
	return root
}

func yamlTree(data []byte) (*yaml.Node, error) {
	d := yaml.NewDecoder(bytes.NewReader(data))
	var doc, second yaml.Node
	if err := d.Decode(&doc); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("it is empty")
		}
		return nil, err
	}
	if err := d.Decode(&second); !errors.Is(err, io.EOF) {
		return nil, errors.New("a second document follows, which would be ignored")
	}
	if len(doc.Content) != 1 {
		return nil, errors.New("it is empty")
	}
	return doc.Content[0], nil
}

// jsonTree reads JSON by its own rules: a YAML parser takes most of it, not
// all escapes.
func jsonTree(data []byte) (*yaml.Node, error) {
	j := &jsonReader{dec: json.NewDecoder(bytes.NewReader(data)), data: data, line: 1}
	j.dec.UseNumber()
	root, err := j.value(0)
	if err != nil {
		return nil, err
	}
	if _, err := j.dec.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the document")
	}
	return root, nil
}

type jsonReader struct {
	dec  *json.Decoder
	data []byte
	at   int64
	line int
}

func (j *jsonReader) token() (json.Token, error) {
	t, err := j.dec.Token()
	if end := j.dec.InputOffset(); end > j.at {
		j.line += bytes.Count(j.data[j.at:end], []byte{'\n'})
		j.at = end
	}
	return t, err
}

func (j *jsonReader) value(depth int) (*yaml.Node, error) {
	t, err := j.token()
	if err != nil {
		return nil, err
	}
	if depth > maxDepth {
		return nil, fmt.Errorf("it nests deeper than %d", maxDepth)
	}
	n := &yaml.Node{Kind: yaml.ScalarNode, Line: j.line}
	switch t := t.(type) {
	case json.Delim:
		n.Kind = yaml.MappingNode
		if t == '[' {
			n.Kind = yaml.SequenceNode
		}
		for j.dec.More() {
			item, err := j.value(depth + 1) // keys too: the decoder holds them to be strings
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, item)
		}
		_, err = j.token()
	case string:
		n.Tag, n.Value = "!!str", t
	case json.Number:
		n.Tag, n.Value = "!!float", t.String()
		if _, err := strconv.ParseInt(n.Value, 10, 64); err == nil {
			n.Tag = "!!int"
		}
	case bool:
		n.Tag, n.Value = "!!bool", strconv.FormatBool(t)
	case nil:
		n.Tag, n.Value = "!!null", "null"
	}
	return n, err
}

// lineOf finds the line of the field at path, or of the nearest one around
// it.
func lineOf(n *yaml.Node, path string) int {
	line := n.Line
	for path != "" {
		name, rest := path, ""
		if i := strings.IndexAny(path, ".["); i >= 0 {
			name, rest = path[:i], path[i:]
		}
		if name != "" {
			if n = child(n, name); n == nil {
				return line
			}
			line = n.Line
		}
		if strings.HasPrefix(rest, "[") {
			end := strings.Index(rest, "].")
			if end < 0 {
				end = len(rest) - 1
			}
			key := rest[1:max(end, 1)]
			rest = rest[min(end+1, len(rest)):]
			if n = element(n, key); n == nil {
				return line
			}
			line = n.Line
		}
		path = strings.TrimPrefix(rest, ".")
	}
	return line
}

func element(n *yaml.Node, key string) *yaml.Node {
	n = target(n)
	if i, err := strconv.Atoi(key); err == nil && n.Kind == yaml.SequenceNode {
		if i < 0 || i >= len(n.Content) {
			return nil
		}
		return n.Content[i]
	}
	return child(n, key)
}

// child finds the value of a key, written either way.
func child(n *yaml.Node, name string) *yaml.Node {
	n = target(n)
	if n.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		if k := n.Content[i].Value; k == name || fold(k) == fold(name) {
			return n.Content[i+1]
		}
	}
	return nil
}

func target(n *yaml.Node) *yaml.Node {
	for range 100 { // an alias of an alias …
		if n.Kind != yaml.AliasNode {
			return n
		}
		n = n.Alias
	}
	return n
}
