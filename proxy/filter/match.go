// SPDX-License-Identifier: Apache-2.0

package filter

import (
	"bytes"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"redoubt.dev/api/errs"
	"redoubt.dev/proxy/config"
	"redoubt.dev/proxy/message"
)

// Text is a compiled config.StringMatch. It is immutable.
type Text struct {
	kind  config.StringKind
	value string
	re    *regexp.Regexp
	fold  bool
}

// CompileText compiles a string matcher. A regular expression must match the
// whole string.
func CompileText(m config.StringMatch) (Text, error) {
	t := Text{kind: m.Kind, value: m.Value, fold: m.IgnoreCase && m.Kind != config.MatchRegex}
	if t.fold {
		t.value = strings.ToLower(m.Value)
	}
	if m.Kind == config.MatchRegex {
		if m.Regex == nil {
			return t, &errs.Error{Kind: errs.Invalid, Field: "safe_regex", Expected: "a regular expression"}
		}
		var err error
		t.re, err = Whole(m.Regex)
		return t, err
	}
	if m.Kind > config.MatchRegex {
		return t, &errs.Error{Kind: errs.Unsupported, Field: "string_match", Seen: strconv.Itoa(int(m.Kind))}
	}
	return t, nil
}

// CompileTexts compiles a list.
func CompileTexts(ms []config.StringMatch) ([]Text, error) {
	out := make([]Text, len(ms))
	for i := range ms {
		var err error
		if out[i], err = CompileText(ms[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Whole gives the expression that matches when re matches a whole string.
// Without the group an alternative would escape the anchors.
func Whole(re *regexp.Regexp) (*regexp.Regexp, error) {
	out, err := regexp.Compile(`\A(?:` + re.String() + `)\z`)
	if err != nil {
		return nil, &errs.Error{Kind: errs.Invalid, Field: "regex", Seen: re.String(), Err: err}
	}
	return out, nil
}

// Match tells whether v matches.
func (t *Text) Match(v []byte) bool {
	n := len(t.value)
	switch t.kind {
	case config.MatchPrefix:
		return len(v) >= n && t.equal(v[:n])
	case config.MatchSuffix:
		return len(v) >= n && t.equal(v[len(v)-n:])
	case config.MatchContains:
		return t.contains(v)
	case config.MatchRegex:
		return t.re.Match(v)
	}
	return len(v) == n && t.equal(v)
}

// MatchString is Match for a string that outlives the call.
func (t *Text) MatchString(v string) bool {
	switch {
	case t.kind == config.MatchRegex:
		return t.re.MatchString(v)
	case !t.fold && t.kind == config.MatchExact:
		return v == t.value
	case !t.fold && t.kind == config.MatchPrefix:
		return strings.HasPrefix(v, t.value)
	case !t.fold && t.kind == config.MatchSuffix:
		return strings.HasSuffix(v, t.value)
	}
	return t.Match([]byte(v))
}

func (t *Text) equal(v []byte) bool {
	if t.fold {
		return message.EqualFold(v, t.value)
	}
	return string(v) == t.value
}

func (t *Text) contains(v []byte) bool {
	for i := 0; i+len(t.value) <= len(v); i++ {
		if t.equal(v[i : i+len(t.value)]) {
			return true
		}
	}
	return false
}

// AnyText tells whether one of ts matches v.
func AnyText(ts []Text, v []byte) bool {
	for i := range ts {
		if ts[i].Match(v) {
			return true
		}
	}
	return false
}

// Field is a compiled config.HeaderMatch. It is immutable.
type Field struct {
	name    string
	pseudo  bool
	present *bool // nil: by value
	span    *config.Range
	text    Text
	invert  bool
	missing bool
}

// CompileField compiles a header matcher; one without a kind asks for presence.
func CompileField(m config.HeaderMatch) (Field, error) {
	f := Field{name: strings.ToLower(m.Name), invert: m.Invert, missing: m.MissingIsEmpty, present: m.Present, span: m.Range}
	f.pseudo = strings.HasPrefix(f.name, ":")
	switch {
	case f.name == "" || f.pseudo && !isPseudo(f.name):
		return f, &errs.Error{Kind: errs.Invalid, Field: "header.name", Expected: "a field name, :method, :authority, :path or :scheme", Seen: m.Name}
	case m.String != nil:
		var err error
		if f.text, err = CompileText(*m.String); err != nil {
			return f, err
		}
	case m.Range == nil && m.Present == nil:
		yes := true
		f.present = &yes
	}
	return f, nil
}

// CompileFields compiles a list.
func CompileFields(ms []config.HeaderMatch) ([]Field, error) {
	out := make([]Field, len(ms))
	for i := range ms {
		var err error
		if out[i], err = CompileField(ms[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func isPseudo(name string) bool {
	switch name {
	case ":method", ":authority", ":path", ":scheme":
		return true
	}
	return false
}

// Pseudo gives what a pseudo field's name stands for in r.
func Pseudo(r *message.Request, name string) []byte {
	switch name {
	case ":method":
		return r.In(r.Method)
	case ":authority", "host":
		return r.In(r.Authority)
	case ":path":
		return r.In(r.Path)
	case ":scheme":
		return r.In(r.Scheme)
	}
	return nil
}

// Match tells whether a request matches.
func (f *Field) Match(r *message.Request) bool {
	if f.pseudo || f.name == "host" {
		v := Pseudo(r, f.name)
		return f.judge(v, len(v) > 0)
	}
	return f.MatchHead(&r.Head)
}

// MatchHead tells whether the fields of a head match.
func (f *Field) MatchHead(h *message.Head) bool {
	i := h.Index(f.name, 0)
	if i < 0 {
		return f.judge(nil, false)
	}
	if f.present == nil && h.Index(f.name, i+1) >= 0 {
		return f.several(h, i)
	}
	return f.judge(h.In(h.Fields[i].Value), true)
}

// joined holds values of a field that came on several lines. Such a request
// is rare, so that the memory is shared.
var joined = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// several judges the values of several lines as the one list that they are
// (RFC 9110, 5.3); a matcher that saw only the first could be led astray.
func (f *Field) several(h *message.Head, i int) bool {
	p := joined.Get().(*[]byte)
	b := (*p)[:0]
	for ; i >= 0; i = h.Index(f.name, i+1) {
		if len(b) > 0 {
			b = append(b, ',')
		}
		b = append(b, h.In(h.Fields[i].Value)...)
	}
	ok := f.judge(b, true)
	*p = b
	joined.Put(p)
	return ok
}

func (f *Field) judge(v []byte, there bool) bool {
	if f.present != nil {
		return (there == *f.present) != f.invert
	}
	if !there && !f.missing {
		return false // also when inverted
	}
	if f.span != nil {
		n, ok := integer(bytes.TrimSpace(v))
		return (ok && n >= f.span.From && n < f.span.To) != f.invert
	}
	return f.text.Match(v) != f.invert
}

// integer reads a whole decimal number, signed, without allocating.
func integer(v []byte) (int64, bool) {
	neg := len(v) > 0 && v[0] == '-'
	if neg || len(v) > 0 && v[0] == '+' {
		v = v[1:]
	}
	if len(v) == 0 || len(v) > 19 {
		return 0, false
	}
	var n uint64
	for _, c := range v {
		if c < '0' || c > '9' {
			return 0, false
		}
		n = n*10 + uint64(c-'0')
	}
	switch {
	case neg && n <= 1<<63:
		return -int64(n), true
	case !neg && n < 1<<63:
		return int64(n), true
	}
	return 0, false
}

// AllFields tells whether all of fs match.
func AllFields(fs []Field, r *message.Request) bool {
	for i := range fs {
		if !fs[i].Match(r) {
			return false
		}
	}
	return true
}

// Param is a compiled config.QueryMatch. It is immutable.
type Param struct {
	name    string
	present *bool
	text    *Text
}

// CompileParams compiles matchers of query parameters.
func CompileParams(ms []config.QueryMatch) ([]Param, error) {
	out := make([]Param, len(ms))
	for i, m := range ms {
		out[i] = Param{name: m.Name, present: m.Present}
		if m.String != nil {
			t, err := CompileText(*m.String)
			if err != nil {
				return nil, err
			}
			out[i].text = &t
		}
	}
	return out, nil
}

// AllParams tells whether all of ps match a query, as it stands, undecoded.
func AllParams(ps []Param, query []byte) bool {
	for i := range ps {
		v, there := QueryValue(query, ps[i].name)
		switch {
		case ps[i].present != nil:
			if there != *ps[i].present {
				return false
			}
		case !there || ps[i].text != nil && !ps[i].text.Match(v):
			return false
		}
	}
	return true
}

// QueryValue finds the first value of a parameter in a query.
func QueryValue(query []byte, name string) (value []byte, ok bool) {
	for len(query) > 0 {
		p := query
		if i := bytes.IndexByte(query, '&'); i >= 0 {
			p, query = query[:i], query[i+1:]
		} else {
			query = nil
		}
		k, v, _ := bytes.Cut(p, []byte{'='})
		if string(k) == name {
			return v, true
		}
	}
	return nil, false
}

// Hit draws whether an event of this share happens; nil is always.
func Hit(f *config.Fraction, random uint64) bool {
	switch {
	case f == nil:
		return true
	case f.Den == 0:
		return false
	}
	return uint32(random%uint64(f.Den)) < f.Num
}

// IsGRPC tells a gRPC request or response by its content type.
func IsGRPC(h *message.Head) bool {
	v, ok := h.Get(message.ContentType)
	const t = "application/grpc"
	return ok && len(v) >= len(t) && message.EqualFold(v[:len(t)], t) && (len(v) == len(t) || v[len(t)] == '+' || v[len(t)] == ';')
}
