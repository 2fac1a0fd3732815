// SPDX-License-Identifier: Apache-2.0

package xds

import (
	"encoding/base64"
	"math"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
)

// maxNodes bounds what a document expands to: aliases must not turn a small
// file into a large configuration.
const maxNodes = 4 << 20

// maxDepth bounds nesting, of documents and of extensions.
const maxDepth = 100

// decoder turns a tree of YAML or JSON into a message, by the rules of
// protobuf's JSON mapping. Unlike protojson it goes on after a problem and
// says where each one is.
type decoder struct {
	*reader
	nodes int
}

// message fills m, which is empty.
func (d *decoder) message(m protoreflect.Message, n *yaml.Node, p *place, depth int) {
	n = d.resolve(n, p, depth)
	if n == nil {
		return
	}
	switch m.Descriptor().FullName() {
	case "google.protobuf.Any":
		d.any(m.Interface().(*anypb.Any), n, p, depth)
		return
	case "google.protobuf.Duration":
		d.duration(m.Interface().(*durationpb.Duration), n, p)
		return
	case "google.protobuf.Struct":
		d.object(m.Interface().(*structpb.Struct), n, p, depth)
		return
	case "google.protobuf.Value":
		v := d.value(n, p, depth)
		proto.Merge(m.Interface(), v)
		return
	case "google.protobuf.ListValue":
		proto.Merge(m.Interface(), d.value(n, p, depth).GetListValue())
		return
	case "google.protobuf.BoolValue", "google.protobuf.UInt32Value", "google.protobuf.UInt64Value", "google.protobuf.Int32Value",
		"google.protobuf.Int64Value", "google.protobuf.DoubleValue", "google.protobuf.FloatValue", "google.protobuf.StringValue", "google.protobuf.BytesValue":
		fd := m.Descriptor().Fields().ByName("value")
		if v, ok := d.scalar(fd, n, p); ok {
			m.Set(fd, v)
		}
		return
	case "google.protobuf.Timestamp", "google.protobuf.FieldMask":
		d.unsupported(p, "", string(m.Descriptor().FullName()), "leave it out")
		return
	}
	if n.Kind != yaml.MappingNode {
		d.wrong(p, "fields of "+string(m.Descriptor().Name()), kindOf(n), "")
		return
	}
	d.fields(m, n, p, depth, false)
}

// fields decodes the keys of a mapping. skipType passes over "@type".
func (d *decoder) fields(m protoreflect.Message, n *yaml.Node, p *place, depth int, skipType bool) {
	known := m.Descriptor().Fields()
	var seen map[protoreflect.FieldNumber]bool
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		if skipType && key.Value == "@type" {
			continue
		}
		fd := known.ByJSONName(key.Value)
		if fd == nil {
			fd = known.ByTextName(key.Value)
		}
		if fd == nil || key.Kind != yaml.ScalarNode {
			d.wrong(p.field(key.Value), "a field of "+string(m.Descriptor().FullName()), "none of that name", nearest(key.Value, known))
			continue
		}
		at := p.field(string(fd.Name()))
		if seen[fd.Number()] {
			d.wrong(at, "a field once", "twice", "remove one")
			continue
		}
		if seen == nil {
			seen = map[protoreflect.FieldNumber]bool{}
		}
		seen[fd.Number()] = true
		if val.Kind == yaml.ScalarNode && val.Tag == "!!null" && (fd.Message() == nil || fd.Message().FullName() != "google.protobuf.Value") {
			continue // JSON mapping: null is unset
		}
		if one := fd.ContainingOneof(); one != nil && !one.IsSynthetic() {
			if was := m.WhichOneof(one); was != nil {
				d.wrong(at, "one of the alternatives of "+string(one.Name()), string(was.Name())+" as well", "remove one")
				continue
			}
		}
		d.set(m, fd, val, at, depth)
	}
}

func (d *decoder) set(m protoreflect.Message, fd protoreflect.FieldDescriptor, n *yaml.Node, p *place, depth int) {
	switch {
	case fd.IsMap():
		d.mapping(m.Mutable(fd).Map(), fd, n, p, depth)
	case fd.IsList():
		d.list(m.Mutable(fd).List(), fd, n, p, depth)
	case fd.Message() != nil:
		d.message(m.Mutable(fd).Message(), n, p, depth+1)
	default:
		if n = d.resolve(n, p, depth); n == nil {
			return
		}
		if v, ok := d.scalar(fd, n, p); ok {
			m.Set(fd, v)
		}
	}
}

func (d *decoder) list(l protoreflect.List, fd protoreflect.FieldDescriptor, n *yaml.Node, p *place, depth int) {
	if n = d.resolve(n, p, depth); n == nil {
		return
	}
	if n.Kind != yaml.SequenceNode {
		d.wrong(p, "a list", kindOf(n), "put it in a list")
		return
	}
	for i, item := range n.Content {
		at := &place{p.up, p.name, "", i}
		if fd.Message() != nil {
			v := l.NewElement()
			d.message(v.Message(), item, at, depth+1)
			l.Append(v)
			continue
		}
		if item = d.resolve(item, at, depth); item == nil {
			return
		}
		if v, ok := d.scalar(fd, item, at); ok {
			l.Append(v)
		}
	}
}

func (d *decoder) mapping(m protoreflect.Map, fd protoreflect.FieldDescriptor, n *yaml.Node, p *place, depth int) {
	if n = d.resolve(n, p, depth); n == nil {
		return
	}
	if n.Kind != yaml.MappingNode || fd.MapKey().Kind() != protoreflect.StringKind {
		d.wrong(p, "a mapping", kindOf(n), "")
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, val := n.Content[i], n.Content[i+1]
		at := &place{p.up, p.name, key.Value, -2}
		k := protoreflect.ValueOfString(key.Value).MapKey()
		if m.Has(k) {
			d.wrong(at, "a key once", "twice", "remove one")
			continue
		}
		if fd.MapValue().Message() != nil {
			v := m.NewValue()
			d.message(v.Message(), val, at, depth+1)
			m.Set(k, v)
			continue
		}
		if val = d.resolve(val, at, depth); val == nil {
			return
		}
		if v, ok := d.scalar(fd.MapValue(), val, at); ok {
			m.Set(k, v)
		}
	}
}

func (d *decoder) any(a *anypb.Any, n *yaml.Node, p *place, depth int) {
	url := ""
	if n.Kind == yaml.MappingNode {
		for i := 0; i+1 < len(n.Content); i += 2 {
			if n.Content[i].Value == "@type" {
				url = n.Content[i+1].Value
			}
		}
	}
	if url == "" {
		d.wrong(p, "an @type", "none", "add \"@type\": type.googleapis.com/…")
		return
	}
	mt, err := protoregistry.GlobalTypes.FindMessageByURL(url)
	if err != nil || !d.supported().has(mt.Descriptor().FullName()) {
		d.unsupported(p, "a type that docs/config.md lists", url, "")
		return
	}
	m := mt.New()
	d.fields(m, n, p, depth, true)
	a.TypeUrl = url
	a.Value, err = proto.MarshalOptions{Deterministic: true}.Marshal(m.Interface())
	if err != nil {
		d.failed(p, "valid UTF-8 and bounded fields", err, "")
	}
	d.unpacked[a] = m.Interface()
}

// isWellKnown tells the types that JSON maps in a way of their own. None of
// them is a supported extension.
func isWellKnown(n protoreflect.FullName) bool { return n.Parent() == "google.protobuf" }

func (d *decoder) duration(v *durationpb.Duration, n *yaml.Node, p *place) {
	bad := func() {
		d.wrong(p, "a duration in seconds, such as 5s or 0.25s", n.Value, "")
	}
	s, ok := strings.CutSuffix(n.Value, "s")
	if n.Kind != yaml.ScalarNode || !ok || s == "" {
		bad()
		return
	}
	neg := s[0] == '-'
	whole, frac, dot := strings.Cut(strings.TrimPrefix(s, "-"), ".")
	secs, err := strconv.ParseUint(whole, 10, 63)
	if err != nil || secs > 315576000000 || len(frac) > 9 || dot && frac == "" || whole[0] == '+' {
		bad()
		return
	}
	nanos := uint64(0)
	if frac != "" {
		if nanos, err = strconv.ParseUint(frac+strings.Repeat("0", 9-len(frac)), 10, 32); err != nil || frac[0] == '+' {
			bad()
			return
		}
	}
	v.Seconds, v.Nanos = int64(secs), int32(nanos)
	if neg {
		v.Seconds, v.Nanos = -v.Seconds, -v.Nanos
	}
}

func (d *decoder) object(s *structpb.Struct, n *yaml.Node, p *place, depth int) {
	if n.Kind != yaml.MappingNode {
		d.wrong(p, "a mapping", kindOf(n), "")
		return
	}
	s.Fields = make(map[string]*structpb.Value, len(n.Content)/2)
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i].Value
		at := p.field(key)
		if _, dup := s.Fields[key]; dup {
			d.wrong(at, "a key once", "twice", "remove one")
			continue
		}
		if val := d.resolve(n.Content[i+1], at, depth+1); val != nil {
			s.Fields[key] = d.value(val, at, depth+1)
		}
	}
}

func (d *decoder) value(n *yaml.Node, p *place, depth int) *structpb.Value {
	switch n.Kind {
	case yaml.MappingNode:
		s := &structpb.Struct{}
		d.object(s, n, p, depth)
		return structpb.NewStructValue(s)
	case yaml.SequenceNode:
		l := &structpb.ListValue{}
		for i, item := range n.Content {
			at := p.item("", i)
			if item = d.resolve(item, at, depth+1); item != nil {
				l.Values = append(l.Values, d.value(item, at, depth+1))
			}
		}
		return structpb.NewListValue(l)
	}
	switch n.Tag {
	case "!!null":
		return structpb.NewNullValue()
	case "!!bool":
		return structpb.NewBoolValue(n.Value == "true")
	case "!!int", "!!float":
		if f, err := strconv.ParseFloat(n.Value, 64); err == nil && !math.IsInf(f, 0) && !math.IsNaN(f) {
			return structpb.NewNumberValue(f)
		}
		d.wrong(p, "a number", n.Value, "")
	}
	return structpb.NewStringValue(n.Value)
}

func (d *decoder) scalar(fd protoreflect.FieldDescriptor, n *yaml.Node, p *place) (v protoreflect.Value, ok bool) {
	if n.Kind != yaml.ScalarNode {
		d.wrong(p, kindName(fd), kindOf(n), "")
		return v, false
	}
	if expected := "a value of kind " + fd.Kind().String(); fd.Kind() != protoreflect.EnumKind {
		v, ok = scalarOf(fd.Kind(), n)
		if !ok {
			if k := kindName(fd); k != "" {
				expected = k
			}
			fix := ""
			if fd.Kind() == protoreflect.StringKind {
				fix = "put it in quotes"
			}
			seen := n.Value
			if fd.Kind() == protoreflect.BytesKind || strings.HasPrefix(string(fd.Name()), "inline_") {
				seen = "another value" // which may be a key
			}
			d.wrong(p, expected, seen, fix)
		}
		return v, ok
	}
	values := fd.Enum().Values()
	if n.Tag == "!!int" {
		if i, err := strconv.ParseInt(n.Value, 10, 32); err == nil && values.ByNumber(protoreflect.EnumNumber(i)) != nil {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(i)), true
		}
	} else if e := values.ByName(protoreflect.Name(n.Value)); e != nil {
		return protoreflect.ValueOfEnum(e.Number()), true
	}
	names := make([]string, 0, values.Len())
	for i := range min(values.Len(), 12) {
		names = append(names, string(values.Get(i).Name()))
	}
	d.wrong(p, "one of "+strings.Join(names, ", "), n.Value, "")
	return v, false
}

func scalarOf(kind protoreflect.Kind, n *yaml.Node) (v protoreflect.Value, ok bool) {
	var err error
	number := n.Tag == "!!int" || n.Tag == "!!float" || n.Tag == "!!str"
	switch kind {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(n.Value == "true"), n.Tag == "!!bool" && (n.Value == "true" || n.Value == "false")
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(n.Value), n.Tag == "!!str" || n.Tag == "!!timestamp"
	case protoreflect.BytesKind:
		s := strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(n.Value), "=")
		b, err := base64.RawStdEncoding.DecodeString(s)
		return protoreflect.ValueOfBytes(b), err == nil && n.Tag == "!!str"
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		i, err := strconv.ParseInt(n.Value, 10, 32)
		return protoreflect.ValueOfInt32(int32(i)), number && err == nil
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		i, err := strconv.ParseInt(n.Value, 10, 64)
		return protoreflect.ValueOfInt64(i), number && err == nil
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		i, err := strconv.ParseUint(n.Value, 10, 32)
		return protoreflect.ValueOfUint32(uint32(i)), number && err == nil
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		i, err := strconv.ParseUint(n.Value, 10, 64)
		return protoreflect.ValueOfUint64(i), number && err == nil
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		var f float64
		f, err = strconv.ParseFloat(n.Value, 64)
		ok = number && err == nil && !math.IsNaN(f) && !math.IsInf(f, 0)
		if kind == protoreflect.FloatKind {
			return protoreflect.ValueOfFloat32(float32(f)), ok
		}
		return protoreflect.ValueOfFloat64(f), ok
	}
	return v, false
}

// resolve follows an alias and counts; nil when a bound was met.
func (d *decoder) resolve(n *yaml.Node, p *place, depth int) *yaml.Node {
	for n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	d.nodes++
	if d.nodes > maxNodes || depth > maxDepth {
		if d.nodes != math.MaxInt {
			d.wrong(p, "at most "+strconv.Itoa(maxNodes)+" values, nested at most "+strconv.Itoa(maxDepth)+" deep", "more", "split the file")
		}
		d.nodes = math.MaxInt - 1 // ends the whole file
		return nil
	}
	return n
}

func kindOf(n *yaml.Node) string {
	switch n.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	}
	return "a single value" // which may be a key that stands in the wrong place
}

func kindName(fd protoreflect.FieldDescriptor) string {
	switch fd.Kind() {
	case protoreflect.BoolKind:
		return "true or false"
	case protoreflect.StringKind:
		return "a string"
	case protoreflect.BytesKind:
		return "base64"
	case protoreflect.EnumKind:
		return "a name of " + string(fd.Enum().Name())
	case protoreflect.DoubleKind, protoreflect.FloatKind:
		return "a number"
	case protoreflect.Uint32Kind, protoreflect.Uint64Kind, protoreflect.Fixed32Kind, protoreflect.Fixed64Kind:
		return "a whole number from 0 on that fits " + fd.Kind().String()
	}
	return "a whole number that fits " + fd.Kind().String()
}

// nearest names the known field that a typing mistake may have meant.
func nearest(key string, known protoreflect.FieldDescriptors) string {
	best, name := 3, ""
	for i := range known.Len() {
		s := string(known.Get(i).Name())
		if n := distance(key, s, best); n < best {
			best, name = n, s
		}
	}
	if name == "" {
		return "remove it"
	}
	return "write " + name
}

// distance is the edit distance of a and b, or limit when it is not less.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 64 {
		return limit
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
