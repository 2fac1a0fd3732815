// SPDX-License-Identifier: Apache-2.0

package strictjson_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/internal/strictjson"
)

type doc struct {
	Config struct {
		Digest string `json:"digest"`
	} `json:"config"`
	Annotations map[string]string `json:"annotations"`
}

func TestDecode(t *testing.T) {
	for name, c := range map[string]struct {
		in string
		ok bool
	}{
		"plain":                   {`{"config":{"digest":"a"}}`, true},
		"unknown keys":            {`{"config":{"digest":"a"},"x":[1,{"y":null}]}`, true},
		"escaped text":            {`{"config":{"digest":"a\"}\\"}}`, true},
		"annotations are free":    {`{"annotations":{"Config":"a","config":"b"}}`, true},
		"same key in two objects": {`{"a":{"k":1},"b":{"k":2}}`, true},
		"twice":                   {`{"config":{},"config":{}}`, false},
		"twice, deep":             {`{"x":[{"a":1,"a":2}]}`, false},
		"twice, escaped":          {`{"config":{},"\u0063onfig":{}}`, false},
		"twice, by case":          {`{"x":1,"X":2}`, false},
		"twice in annotations":    {`{"annotations":{"a":"1","a":"2"}}`, false},
		"field in another case":   {`{"Config":{"digest":"a"}}`, false},
		"field by Kelvin sign":    {`{"x":1,"con\u017fig":2}`, true},
		"deep":                    {strings.Repeat("[", 100) + strings.Repeat("]", 100), false},
		"not UTF-8":               {"{\"a\":\"\xff\"}", false},
		"two values":              {`{} {}`, false},
		"nothing":                 {``, false},
		"wrong type":              {`{"config":[]}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			var d doc
			err := strictjson.Decode([]byte(c.in), &d)
			if (err == nil) != c.ok {
				t.Fatalf("Decode(%.80s) = %v, want ok %v", c.in, err, c.ok)
			}
			if err != nil && !errors.Is(err, errs.Invalid) {
				t.Errorf("kind of %v is not Invalid", err)
			}
		})
	}
}

// FuzzCheck holds that Check never panics, and that what it accepts decodes
// to the same value when the order of reading duplicates is reversed: there
// are none.
func FuzzCheck(f *testing.F) {
	f.Add([]byte(`{"config":{"digest":"a"},"x":[1,2.5e3,true,null,"\ud800"]}`))
	f.Add([]byte(`{"a":1,"a":2}`))
	f.Add([]byte(" [ ] "))
	f.Fuzz(func(t *testing.T, b []byte) {
		if strictjson.Check(b) != nil {
			return
		}
		var v any
		if err := json.Unmarshal(b, &v); err != nil {
			t.Fatalf("accepted %q, which does not decode: %v", b, err)
		}
		if n, m := keys(v), strings.Count(string(mustMarshal(t, v)), `":`); n > m {
			t.Fatalf("lost keys of %q", b)
		}
	})
}

func keys(v any) int {
	n := 0
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			n += 1 + keys(e)
		}
	case []any:
		for _, e := range v {
			n += keys(e)
		}
	}
	return n
}

func mustMarshal(t *testing.T, v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
