// SPDX-License-Identifier: Apache-2.0

package logfmt

import (
	"strconv"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/filter"
)

// Default is the format of access logs that name none.
const Default = `[%START_TIME%] "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" ` +
	`%RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% ` +
	`%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" ` +
	`"%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%UPSTREAM_HOST%"` + "\n"

const (
	maxFormat = 64 << 10 // bytes of a format's text
	maxOps    = 512
	maxDepth  = 8 // of JSON objects
)

// Format is a compiled format. It is immutable. The nil Format gives nothing.
type Format struct {
	parts  []part
	escape escape
	fields []field // JSON
	omit   bool
}

// part is literal text, or an operator when eval is set.
type part struct {
	text string
	op   *operator
}

// escape says what is done with bytes of a value that could be mistaken for
// the format's own.
type escape uint8

const (
	escapeText escape = iota
	escapeJSON
	escapeValue
)

// field is one key of a JSON format.
type field struct {
	key    string // quoted, with colon
	parts  []part
	number bool // one operator that gives a number: not quoted
	object []field
}

// Compile compiles a text format; "" means Default. Values are escaped as
// nginx does: quotes, backslashes and all bytes that are not printable ASCII
// become \xHH. What has no value is "-".
func Compile(text string) (*Format, error) {
	if text == "" {
		text = Default
	}
	parts, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts}, nil
}

// CompileValue compiles the value of a header that is added. Bytes that may
// not stand in a field value become "_"; what has no value is nothing.
func CompileValue(text string) (*Format, error) {
	for i := 0; i < len(text); i++ {
		if c := text[i]; c < ' ' && c != '\t' || c == 0x7f {
			return nil, &errs.Error{Kind: errs.Invalid, Field: "header.value", Expected: "no control characters", Seen: strconv.Quote(text)}
		}
	}
	parts, err := parse(text)
	if err != nil {
		return nil, err
	}
	return &Format{parts: parts, escape: escapeValue}, nil
}

// CompileJSON compiles a JSON format. A field that is one operator with a
// number for a value gives a number; what has no value gives null, or no key
// when omit is set.
func CompileJSON(fields []config.JSONField, omit bool) (*Format, error) {
	fs, err := jsonFields(fields, 0)
	if err != nil {
		return nil, err
	}
	return &Format{fields: fs, escape: escapeJSON, omit: omit}, nil
}

// Of compiles the format of an access log.
func Of(l *config.AccessLog) (*Format, error) {
	if l.JSON != nil {
		return CompileJSON(l.JSON, l.OmitEmpty)
	}
	f, err := Compile(l.Format)
	if err == nil {
		f.omit = l.OmitEmpty
	}
	return f, err
}

func jsonFields(in []config.JSONField, depth int) ([]field, error) {
	if depth > maxDepth {
		return nil, errs.New(errs.TooLarge, "json_format", "objects are nested more than %d deep", maxDepth)
	}
	out := make([]field, len(in))
	for i, f := range in {
		key := appendJSON([]byte{'"'}, []byte(f.Key))
		out[i].key = string(append(key, '"', ':'))
		var err error
		if f.Object != nil {
			out[i].object, err = jsonFields(f.Object, depth+1)
		} else {
			out[i].parts, err = parse(f.Format)
			for j := range out[i].parts {
				if p := &out[i].parts[j]; p.op == nil {
					p.text = string(appendJSON(nil, []byte(p.text)))
				}
			}
			out[i].number = len(out[i].parts) == 1 && out[i].parts[0].op != nil && out[i].parts[0].op.number
		}
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Literal gives the text of a format without operators.
func (f *Format) Literal() (string, bool) {
	switch {
	case f == nil || f.fields != nil:
		return "", f == nil
	case len(f.parts) == 0:
		return "", true
	}
	return f.parts[0].text, len(f.parts) == 1 && f.parts[0].op == nil
}

// Append appends what the format gives for c. It does not change c, and it
// does not allocate when dst has room.
func (f *Format) Append(dst []byte, c *filter.Context) []byte {
	switch {
	case f == nil:
		return dst
	case f.escape == escapeJSON:
		dst, _ = f.object(dst, c, f.fields)
		return append(dst, '\n')
	}
	dst, _ = f.append(dst, c, f.parts)
	return dst
}

// append gives also whether any operator had a value, or there was none to
// have one.
func (f *Format) append(dst []byte, c *filter.Context, parts []part) ([]byte, bool) {
	some := false
	for i := range parts {
		p := &parts[i]
		if p.op == nil {
			some = true
			dst = append(dst, p.text...)
			continue
		}
		from := len(dst)
		var ok bool
		if dst, ok = p.op.eval(dst, c, p.op); !ok {
			dst = dst[:from]
			if f.escape != escapeValue && !f.omit {
				dst = append(dst, '-')
			}
			continue
		}
		some = true
		if p.op.max > 0 && len(dst)-from > p.op.max {
			dst = dst[:from+p.op.max]
		}
		dst = f.guard(dst, from)
	}
	return dst, some || len(parts) == 0
}

func (f *Format) object(dst []byte, c *filter.Context, fields []field) ([]byte, bool) {
	dst = append(dst, '{')
	empty := true
	for i := range fields {
		e := &fields[i]
		mark := len(dst)
		if !empty {
			dst = append(dst, ',')
		}
		dst = append(dst, e.key...)
		from, ok := len(dst), false
		switch {
		case e.object != nil:
			dst, ok = f.object(dst, c, e.object)
			ok = ok || !f.omit
		case e.number:
			dst, ok = e.parts[0].op.eval(dst, c, e.parts[0].op)
		case len(e.parts) == 1 && e.parts[0].op != nil:
			dst, ok = f.append(append(dst, '"'), c, e.parts)
			dst = append(dst, '"')
		default:
			dst, _ = f.append(append(dst, '"'), c, e.parts)
			dst, ok = append(dst, '"'), true
		}
		if !ok {
			if f.omit {
				dst = dst[:mark]
				continue
			}
			dst = append(dst[:from], "null"...)
		}
		empty = false
	}
	return append(dst, '}'), !empty
}

// parse splits a format into literal text and operators.
func parse(text string) ([]part, error) {
	if len(text) > maxFormat {
		return nil, errs.New(errs.TooLarge, "format", "%d bytes, at most %d", len(text), maxFormat)
	}
	var parts []part
	literal := func(s string) {
		switch n := len(parts); {
		case s == "":
		case n > 0 && parts[n-1].op == nil:
			parts[n-1].text += s
		default:
			parts = append(parts, part{text: s})
		}
	}
	for rest := text; rest != ""; {
		i := strings.IndexByte(rest, '%')
		if i < 0 {
			literal(rest)
			break
		}
		literal(rest[:i])
		rest = rest[i+1:]
		if strings.HasPrefix(rest, "%") {
			literal("%")
			rest = rest[1:]
			continue
		}
		op, n, err := operate(rest)
		if err != nil {
			err.Subject = "format"
			return nil, err
		}
		if parts = append(parts, part{op: op}); len(parts) > maxOps {
			return nil, errs.New(errs.TooLarge, "format", "more than %d operators", maxOps)
		}
		rest = rest[n:]
	}
	return parts, nil
}

// operate reads NAME, NAME(ARG) or NAME(ARG):MAX and the closing %; it gives
// how much of the text that was.
func operate(s string) (*operator, int, *errs.Error) {
	n := 0
	for n < len(s) && (s[n] == '_' || 'A' <= s[n] && s[n] <= 'Z' || '0' <= s[n] && s[n] <= '9') {
		n++
	}
	name, arg, args := s[:n], "", false
	if n < len(s) && s[n] == '(' {
		// An argument, a time's format above all, may hold "%": it ends at ")".
		end := strings.IndexByte(s[n:], ')')
		if end < 0 {
			return nil, 0, malformed(s, "a closing parenthesis")
		}
		arg, args = s[n+1:n+end], true
		n += end + 1
	}
	limit := 0
	if n < len(s) && s[n] == ':' {
		end := strings.IndexByte(s[n:], '%')
		if end < 0 {
			return nil, 0, malformed(s, "a closing %")
		}
		v, err := strconv.ParseUint(s[n+1:n+end], 10, 16)
		if err != nil || v == 0 {
			return nil, 0, malformed(s, "a maximum length from 1 to 65535")
		}
		limit = int(v)
		n += end
	}
	if n >= len(s) || s[n] != '%' || name == "" {
		return nil, 0, malformed(s, "%NAME%, %NAME(ARG)% or %NAME(ARG):MAX%; a percent sign is %%")
	}
	def, ok := operators[name]
	if !ok {
		return nil, 0, &errs.Error{Kind: errs.Unsupported, Field: "%" + name + "%", Fix: "this operator has no source here; remove it"}
	}
	op := &operator{name: name, max: limit, number: def.number && limit == 0, eval: def.eval}
	if args && def.arg == nil {
		return nil, 0, malformed(s, name+" without an argument")
	}
	if def.arg != nil {
		if err := def.arg(op, arg); err != nil {
			return nil, 0, err
		}
	}
	return op, n + 1, nil
}

func malformed(s, want string) *errs.Error {
	if len(s) > 40 {
		s = s[:40] + "…"
	}
	return &errs.Error{Kind: errs.Invalid, Expected: want, Seen: "%" + s}
}
