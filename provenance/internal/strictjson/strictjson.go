// SPDX-License-Identifier: Apache-2.0

// Package strictjson reads JSON that an attacker wrote, so that every reader
// of the same bytes sees the same value.
//
// encoding/json takes the last of two equal keys and matches field names
// without regard to case; other readers take the first, or only the exact
// spelling. A manifest that one party verifies and another runs must leave no
// such room, so those documents are refused, not repaired.
package strictjson

import (
	"encoding/json"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"redoubt.dev/api/errs"
)

// maxDepth bounds nesting; an OCI, in-toto or SPDX document needs about ten.
const maxDepth = 64

// Decode checks b as Check does, with the field names of v's type as words,
// and decodes it into v. Unknown keys are allowed.
func Decode(b []byte, v any) error {
	if err := Check(b, wordsOf(reflect.TypeOf(v))...); err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &errs.Error{Kind: errs.Invalid, Field: "json", Expected: "values of the right types", Err: err}
	}
	return nil
}

// Check reports whether b is one UTF-8 JSON value, nested at most 64 deep, in
// which no object names a key twice, also not in another case, and no key is
// a misspelling by case of one of words. Keys inside "annotations" and
// "labels" are free text and are only held to be unique.
func Check(b []byte, words ...string) error {
	if !utf8.Valid(b) {
		return invalid("UTF-8 text", "other bytes")
	}
	if !json.Valid(b) {
		return invalid("one JSON value", "something else")
	}
	w := walker{b: b, words: make(map[string]string, len(words))}
	for _, s := range words {
		w.words[fold(s)] = s
	}
	return w.value(0, false)
}

// walker walks a document that json.Valid has accepted, so it need not check
// the syntax again.
type walker struct {
	b     []byte
	i     int
	words map[string]string // folded to exact
}

func (w *walker) value(depth int, free bool) error {
	if depth > maxDepth {
		return invalid("nesting of at most "+strconv.Itoa(maxDepth)+" levels", "more")
	}
	switch w.skip(); w.b[w.i] {
	case '{':
		return w.object(depth, free)
	case '[':
		w.i++
		for {
			if w.skip(); w.b[w.i] == ']' {
				w.i++
				return nil
			}
			if w.b[w.i] == ',' {
				w.i++
				continue
			}
			if err := w.value(depth+1, free); err != nil {
				return err
			}
		}
	case '"':
		w.text()
	default:
		for w.i < len(w.b) && !strings.ContainsRune(",]} \t\r\n", rune(w.b[w.i])) {
			w.i++
		}
	}
	return nil
}

func (w *walker) object(depth int, free bool) error {
	w.i++
	seen := map[string]bool{}
	for {
		switch w.skip(); w.b[w.i] {
		case '}':
			w.i++
			return nil
		case ',':
			w.i++
			continue
		}
		key := w.text()
		k := key
		if !free {
			k = fold(key)
			if exact, known := w.words[k]; known && exact != key {
				return invalid("the key \""+exact+"\"", quote(key))
			}
		}
		if seen[k] {
			return invalid("each key once", quote(key)+" again")
		}
		seen[k] = true
		w.skip()
		w.i++ // the colon
		if err := w.value(depth+1, free || k == "annotations" || k == "labels"); err != nil {
			return err
		}
	}
}

// text reads a string token and gives its value.
func (w *walker) text() string {
	start, plain := w.i, true
	for w.i++; w.b[w.i] != '"'; w.i++ {
		if w.b[w.i] == '\\' {
			w.i++
			plain = false
		}
	}
	w.i++
	if plain {
		return string(w.b[start+1 : w.i-1])
	}
	var s string
	if json.Unmarshal(w.b[start:w.i], &s) != nil {
		panic("strictjson: a valid string does not decode")
	}
	return s
}

func (w *walker) skip() {
	for w.i < len(w.b) && strings.IndexByte(" \t\r\n", w.b[w.i]) >= 0 {
		w.i++
	}
}

// fold maps a key as encoding/json does when it looks for a field: the long s
// and the Kelvin sign count as s and k.
func fold(s string) string {
	return strings.ToLower(odd.Replace(s))
}

var odd = strings.NewReplacer("ſ", "s", "\u212a", "k")

var cache sync.Map // reflect.Type to []string

func wordsOf(t reflect.Type) []string {
	if w, ok := cache.Load(t); ok {
		return w.([]string)
	}
	set := map[string]bool{}
	collect(t, set, map[reflect.Type]bool{})
	words := make([]string, 0, len(set))
	for s := range set {
		words = append(words, s)
	}
	cache.Store(t, words)
	return words
}

func collect(t reflect.Type, set map[string]bool, done map[reflect.Type]bool) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		collect(t.Elem(), set, done)
	case reflect.Struct:
		if done[t] {
			return
		}
		done[t] = true
		for i := range t.NumField() {
			f := t.Field(i)
			name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
			if name == "-" || !f.IsExported() {
				continue
			}
			if name != "" {
				set[name] = true
			}
			collect(f.Type, set, done)
		}
	}
}

func invalid(expected, seen string) error {
	return &errs.Error{Kind: errs.Invalid, Field: "json", Expected: expected, Seen: seen}
}

func quote(s string) string {
	if len(s) > 64 {
		s = s[:64] + "…"
	}
	return strconv.Quote(s)
}
