// SPDX-License-Identifier: Apache-2.0

//lint:file-ignore SA1019 fields that the API deprecates are read, or refused by name

package xds

import (
	_ "embed"
	"strconv"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"
)

// supportedText lists, one message a line, the fields that the converters
// read: "full.Name: field field". It is the whole truth about what is
// supported; docs/config.md is checked against it.
//
//go:embed supported.txt
var supportedText string

// support maps messages to the fields that are honoured.
type support map[protoreflect.FullName]map[protoreflect.Name]bool

func (s support) has(m protoreflect.FullName) bool { _, ok := s[m]; return ok }

var loadSupport = sync.OnceValue(func() support {
	s := support{}
	for line := range strings.Lines(supportedText) {
		name, fields, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok || strings.HasPrefix(name, "#") {
			continue
		}
		set := map[protoreflect.Name]bool{}
		for f := range strings.FieldsSeq(fields) {
			set[protoreflect.Name(f)] = true
		}
		s[protoreflect.FullName(name)] = set
	}
	return s
})

// reader is one file or resource on its way: its problems, and the
// extensions that were unpacked once.
type reader struct {
	problems
	unpacked map[*anypb.Any]proto.Message
}

func newReader(subject string) *reader {
	return &reader{problems: problems{subject: subject}, unpacked: map[*anypb.Any]proto.Message{}}
}

func (r *reader) supported() support { return loadSupport() }

// unpack gives the message inside a; nil, with a problem, when its type is
// not supported.
func (r *reader) unpack(a *anypb.Any, p *place) proto.Message {
	if a == nil {
		r.wrong(p, "a typed_config", "none", "add one with an @type")
		return nil
	}
	if m, ok := r.unpacked[a]; ok {
		return m
	}
	var m proto.Message
	if name := a.MessageName(); !r.supported().has(name) {
		r.unsupported(p, "a type that docs/config.md lists", a.GetTypeUrl(), "")
	} else if got, err := a.UnmarshalNew(); err != nil {
		r.failed(p, "a "+string(name), err, "")
	} else {
		m = got
	}
	r.unpacked[a] = m
	return m
}

// strict reports every field of m that is set and has no effect here, and
// what the API's own rules refuse, through all extensions.
func (r *reader) strict(m protoreflect.Message, p *place) {
	r.strictTree(m, p, 0)
	r.rules(m.Interface(), p)
}

func (r *reader) strictTree(m protoreflect.Message, p *place, depth int) {
	if depth > maxDepth {
		r.wrong(p, "nesting of at most "+strconv.Itoa(maxDepth), "more", "")
		return
	}
	d := m.Descriptor()
	if isWellKnown(d.FullName()) {
		if a, ok := m.Interface().(*anypb.Any); ok {
			if in := r.unpack(a, p); in != nil {
				r.strictTree(in.ProtoReflect(), p, depth+1)
				r.rules(in, p)
			}
		}
		return // Duration, Struct and the wrappers are values
	}
	fields, known := r.supported()[d.FullName()]
	if len(m.GetUnknown()) > 0 {
		r.unsupported(p, "fields of the API version this proxy knows", "unknown fields in "+string(d.FullName()), "")
	}
	m.Range(func(fd protoreflect.FieldDescriptor, v protoreflect.Value) bool {
		name := string(fd.Name())
		if !known || !fields[fd.Name()] {
			r.unsupported(p.field(name), "a field of "+string(d.FullName())+" that has effect here", name, "remove it; docs/config.md lists those that have")
			return true
		}
		switch {
		case fd.Message() == nil:
		case fd.IsMap():
			if fd.MapValue().Message() != nil {
				v.Map().Range(func(k protoreflect.MapKey, v protoreflect.Value) bool {
					r.strictTree(v.Message(), p.entry(name, k.String()), depth+1)
					return true
				})
			}
		case fd.IsList():
			l := v.List()
			for i := range l.Len() {
				r.strictTree(l.Get(i).Message(), p.item(name, i), depth+1)
			}
		default:
			r.strictTree(v.Message(), p.field(name), depth+1)
		}
		return true
	})
}

// violation is what code generated for the API's validation rules reports.
type violation interface {
	error
	Field() string
	Reason() string
	Cause() error
}

// rules runs the API's own validation rules over m, without what its
// extensions hold.
func (r *reader) rules(m proto.Message, p *place) {
	v, ok := m.(interface{ ValidateAll() error })
	if !ok {
		return
	}
	if err := v.ValidateAll(); err != nil {
		r.violations(err, m.ProtoReflect().Descriptor(), p)
	}
}

func (r *reader) violations(err error, d protoreflect.MessageDescriptor, p *place) {
	if multi, ok := err.(interface{ AllErrors() []error }); ok {
		for _, e := range multi.AllErrors() {
			r.violations(e, d, p)
		}
		return
	}
	v, ok := err.(violation)
	if !ok {
		r.failed(p, "", err, "")
		return
	}
	name, index, _ := strings.Cut(strings.TrimSuffix(v.Field(), "]"), "[")
	at, next := p.field(name), protoreflect.MessageDescriptor(nil)
	if fd := goField(d, name); fd != nil {
		at, next = p.field(string(fd.Name())), fd.Message()
		if i, err := strconv.Atoi(index); err == nil && fd.IsList() {
			at = p.item(string(fd.Name()), i)
		} else if index != "" {
			at = p.entry(string(fd.Name()), index)
			if fd.IsMap() {
				next = fd.MapValue().Message()
			}
		}
	} else if one := goOneof(d, name); one != "" {
		at = p.field(one)
	}
	if c := v.Cause(); c != nil && next != nil {
		r.violations(c, next, at)
		return
	}
	r.wrong(at, rule(v.Reason()), nil, "")
}

// rule makes an expectation of a generated reason.
func rule(reason string) string {
	for _, r := range [...][2]string{{"value is required", "a value"}, {"value must be ", ""}, {"value must contain ", ""}, {"value length must be ", "a length of "}} {
		if rest, ok := strings.CutPrefix(reason, r[0]); ok {
			return r[1] + rest
		}
	}
	return reason
}

// goField finds a field by the name that generated Go code has for it.
func goField(d protoreflect.MessageDescriptor, name string) protoreflect.FieldDescriptor {
	want := fold(name)
	for i := range d.Fields().Len() {
		if fd := d.Fields().Get(i); fold(string(fd.Name())) == want {
			return fd
		}
	}
	return nil
}

func goOneof(d protoreflect.MessageDescriptor, name string) string {
	want := fold(name)
	for i := range d.Oneofs().Len() {
		if o := d.Oneofs().Get(i); fold(string(o.Name())) == want {
			return string(o.Name())
		}
	}
	return ""
}

func fold(s string) string { return strings.ToLower(strings.ReplaceAll(s, "_", "")) }
