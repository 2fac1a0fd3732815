// SPDX-License-Identifier: Apache-2.0

package shape

import (
	"encoding/base64"
	"math"
	"reflect"
	"strings"

	"google.golang.org/protobuf/reflect/protoreflect"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Form is how a value is written.
type Form int

// The forms.
const (
	Object Form = iota // fields that the API names
	Dict               // entries that the user names
	List
	Text
	Time
	Bytes // base64
	Boolean
	Integer
	IntOrText
	Quantity
	Enum
	Float
)

func (f Form) String() string {
	return [...]string{"an object", "an object", "a list", "a string", "a time", "base64 text", "true or false", "an integer",
		"a string or an integer", "a quantity such as 500m or 1Gi", "a word", "a number"}[f]
}

// Schema is what an API knows of one place. Methods that do not fit the Form
// give zero values.
type Schema struct {
	typ   reflect.Type                   // of Go's JSON, or
	field protoreflect.FieldDescriptor   // of a proto field, or
	msg   protoreflect.MessageDescriptor // of a message, or
	named map[string]Schema              // of an object put together by hand
	elem  bool                           // field is repeated or a map: this is one of it
}

// Go gives the schema of a Go type as encoding/json sees it.
func Go(t reflect.Type) Schema {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return Schema{typ: t}
}

// Proto gives the schema of a message as protojson sees it, with the
// lowerCamelCase names alone, as a CustomResourceDefinition has them.
func Proto(m protoreflect.MessageDescriptor) Schema { return Schema{msg: m} }

// Named gives an object of the given fields.
func Named(fields map[string]Schema) Schema { return Schema{named: fields} }

var (
	quantityType = reflect.TypeFor[resource.Quantity]()
	intOrType    = reflect.TypeFor[intstr.IntOrString]()
	timeType     = reflect.TypeFor[metav1.Time]()
	microType    = reflect.TypeFor[metav1.MicroTime]()
	bytesType    = reflect.TypeFor[[]byte]()
)

// Form gives the form.
func (s Schema) Form() Form {
	switch {
	case s.named != nil || s.msg != nil:
		return Object
	case s.field != nil:
		return s.protoForm()
	}
	switch s.typ {
	case quantityType:
		return Quantity
	case intOrType:
		return IntOrText
	case timeType, microType:
		return Time
	case bytesType:
		return Bytes
	}
	switch s.typ.Kind() {
	case reflect.Struct:
		return Object
	case reflect.Map:
		return Dict
	case reflect.Slice:
		return List
	case reflect.Bool:
		return Boolean
	case reflect.String:
		return Text
	case reflect.Float32, reflect.Float64:
		return Float
	}
	return Integer
}

func (s Schema) protoForm() Form {
	switch {
	case s.field.IsMap() && !s.elem:
		return Dict
	case s.field.IsList() && !s.elem:
		return List
	}
	f := s.field
	if f.IsMap() {
		f = f.MapValue()
	}
	switch f.Kind() {
	case protoreflect.MessageKind, protoreflect.GroupKind:
		return Object
	case protoreflect.EnumKind:
		return Enum
	case protoreflect.BoolKind:
		return Boolean
	case protoreflect.StringKind:
		return Text
	case protoreflect.BytesKind:
		return Bytes
	case protoreflect.FloatKind, protoreflect.DoubleKind:
		return Float
	}
	return Integer
}

func (s Schema) message() protoreflect.MessageDescriptor {
	switch {
	case s.msg != nil:
		return s.msg
	case s.field == nil:
		return nil
	case s.field.IsMap():
		return s.field.MapValue().Message()
	}
	return s.field.Message()
}

// Field gives the schema of an Object's field.
func (s Schema) Field(name string) (Schema, bool) {
	if s.named != nil {
		f, ok := s.named[name]
		return f, ok
	}
	if m := s.message(); m != nil {
		// ByJSONName knows no alternatives; the proto's own snake_case name is
		// unknown to the CustomResourceDefinition and so to us.
		f := m.Fields().ByJSONName(name)
		return Schema{field: f}, f != nil
	}
	return goField(s.typ, name)
}

func goField(t reflect.Type, name string) (Schema, bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		tag, opts, _ := strings.Cut(f.Tag.Get("json"), ",")
		switch {
		case tag == name && tag != "" && tag != "-":
			return Go(f.Type), true
		case tag == "" && (f.Anonymous || strings.Contains(opts, "inline")):
			if s, ok := goField(Go(f.Type).typ, name); ok {
				return s, true
			}
		}
	}
	return Schema{}, false
}

// Elem gives the schema of a List's items or a Dict's entries.
func (s Schema) Elem() Schema {
	if s.field != nil {
		return Schema{field: s.field, elem: true}
	}
	return Go(s.typ.Elem())
}

// IntKeys tells whether a Dict's keys are numbers.
func (s Schema) IntKeys() bool {
	return s.field != nil && s.field.IsMap() && s.field.MapKey().Kind() != protoreflect.StringKind
}

// Values gives an Enum's words.
func (s Schema) Values() (out []string) {
	vs := s.field.Enum().Values()
	for i := range vs.Len() {
		out = append(out, string(vs.Get(i).Name()))
	}
	return out
}

// Range gives an Integer's bounds.
func (s Schema) Range() (lo, hi int64) {
	if s.field != nil {
		switch s.field.Kind() {
		case protoreflect.Uint32Kind:
			return 0, math.MaxUint32
		case protoreflect.Int32Kind:
			return math.MinInt32, math.MaxInt32
		}
		return math.MinInt64, math.MaxInt64
	}
	switch s.typ.Kind() {
	case reflect.Int32:
		return math.MinInt32, math.MaxInt32
	case reflect.Uint8, reflect.Uint16, reflect.Uint32:
		return 0, 1<<s.typ.Bits() - 1
	}
	return math.MinInt64, math.MaxInt64
}

func isBase64(s string) bool {
	_, err := base64.StdEncoding.DecodeString(s)
	return err == nil
}

// isQuantity bounds before it parses: a quantity of a megabyte of digits is
// valid to the library and slow.
func isQuantity(s string) bool {
	if len(s) > 64 {
		return false
	}
	_, err := resource.ParseQuantity(s)
	return err == nil
}
