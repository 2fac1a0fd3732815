// SPDX-License-Identifier: Apache-2.0

package conf_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
)

type config struct {
	Name  string   `json:"name"`
	Count int      `json:"count"`
	List  []string `json:"list"`
}

func TestLoad(t *testing.T) {
	for _, c := range []struct {
		text string
		want config
		ok   bool
	}{
		{"name: a\ncount: 3\n", config{Name: "a", Count: 3}, true},
		{"count: 3\n", config{Name: "default", Count: 3}, true},
		{"", config{Name: "default"}, true},
		{"# nothing\n", config{Name: "default"}, true},
		{"{\"name\": \"a\"}", config{Name: "a"}, true},
		{"# top\n---\nname: a\n", config{Name: "a"}, true},
		{"--- {name: a}\n", config{Name: "a"}, true},
		{"--- {name: a}\n---\nname: b\n", config{}, false},
		{"name: |\n  ---\n", config{Name: "---\n"}, true},
		{"nmae: a\n", config{}, false},
		{"name: a\nname: b\n", config{}, false},
		{"count: many\n", config{}, false},
		{"- a\n", config{}, false},
		{"name: [\n", config{}, false},
		{"name: a\n---\nname: b\n", config{}, false},
		{"a: &a [x,x]\nb: *a\n", config{}, false},
	} {
		path := filepath.Join(t.TempDir(), "c.yaml")
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		got := config{Name: "default"}
		err := conf.Load(path, &got)
		if !c.ok {
			if !errors.Is(err, errs.Invalid) || !strings.Contains(err.Error(), path) {
				t.Errorf("%q: %+v, %v; want an error that names the file", c.text, got, err)
			}
			continue
		}
		if err != nil || got.Name != c.want.Name || got.Count != c.want.Count {
			t.Errorf("%q: %+v, %v; want %+v", c.text, got, err, c.want)
		}
	}
}

func TestLoadMissing(t *testing.T) {
	v := config{Name: "default"}
	if err := conf.Load(filepath.Join(t.TempDir(), "none"), &v); err != nil || v.Name != "default" {
		t.Errorf("%+v, %v", v, err)
	}
	if err := conf.Load(t.TempDir(), &v); err == nil {
		t.Error("a directory is a configuration")
	}
}

func TestBounds(t *testing.T) {
	for _, c := range []struct {
		size, max int
		ok        bool
	}{{0, 0, true}, {10, 10, true}, {11, 10, false}, {1, 0, false}} {
		path := filepath.Join(t.TempDir(), "f")
		if err := os.WriteFile(path, make([]byte, c.size), 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := conf.ReadFile(path, int64(c.max))
		if c.ok != (err == nil) || c.ok && len(b) != c.size || !c.ok && !errors.Is(err, errs.TooLarge) {
			t.Errorf("%d bytes, at most %d: %d, %v", c.size, c.max, len(b), err)
		}
	}
	if _, err := conf.ReadAll(neverEnds{}, "x", 1<<16); !errors.Is(err, errs.TooLarge) {
		t.Errorf("an endless reader: %v", err)
	}
	if _, err := conf.ReadAll(iotest.ErrReader(io.ErrClosedPipe), "x", 5); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a failing reader: %v", err)
	}
}

type neverEnds struct{}

func (neverEnds) Read(p []byte) (int, error) { return len(p), nil }

func FuzzLoad(f *testing.F) {
	f.Add("name: a\nlist: [b]\n")
	f.Fuzz(func(t *testing.T, text string) {
		path := filepath.Join(t.TempDir(), "c")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Skip()
		}
		var v config
		if err := conf.Load(path, &v); err != nil && errs.KindOf(err) == errs.Internal {
			t.Errorf("%q: %v has no kind", text, err)
		}
	})
}
