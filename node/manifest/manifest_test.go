// SPDX-License-Identifier: Apache-2.0

package manifest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/mesh/compile"
	"redoubt.dev/node/manifest"
)

const small = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: %s}\n"

// TestGood loads a manifest that uses every supported field, and holds what
// comes of it, defaults included, to a golden file.
func TestGood(t *testing.T) {
	set, err := manifest.Load([]string{"testdata/good"})
	if err != nil {
		t.Fatal(err)
	}
	if err := set.Check(); err != nil {
		t.Error(err)
	}
	var specs []json.RawMessage
	for _, p := range set.Authorizations {
		specs = append(specs, compile.CanonicalJSON(p.Spec))
	}
	for _, p := range set.PeerAuths {
		specs = append(specs, compile.CanonicalJSON(p.Spec))
	}
	got, err := json.MarshalIndent([]any{set, specs}, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const golden = "testdata/good/golden"
	if *rewrite {
		if err := os.WriteFile(golden, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("the set is not what %s says (%v); -rewrite and look at the difference", golden, err)
	}
	src, ok := set.Source(manifest.Key{Kind: "Deployment", Namespace: "bank", Name: "ledger"})
	if want := (manifest.Source{File: "testdata/good/bank.yaml", Document: 8}); !ok || src != want {
		t.Errorf("source: %v", src)
	}
	if _, ok := set.Source(manifest.Key{Kind: "Pod", Namespace: "bank", Name: "none"}); ok {
		t.Error("a source for what is not there")
	}
}

func TestSecretsDoNotPrint(t *testing.T) {
	set, err := manifest.Load([]string{"testdata/good"})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range []any{set, &set, struct{ S *manifest.Set }{&set}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
			if got := fmt.Sprintf(verb, v); strings.Contains(got, "correct") || len(got) > 200 {
				t.Errorf("%s prints %.300s", verb, got)
			}
		}
	}
}

func TestMerge(t *testing.T) {
	decode := func(text, name string) *manifest.Set {
		t.Helper()
		set, err := manifest.Decode([]byte(text), name)
		must(t, err)
		return &set
	}
	const port = "apiVersion: v1\nkind: Service\nmetadata: {name: %s}\nspec: {type: NodePort, selector: {a: b}, ports: [{port: 80, nodePort: 30080}]}\n"
	const ns = "apiVersion: v1\nkind: Namespace\nmetadata: {name: bank}\n---\n"
	a, b := decode(ns+fmt.Sprintf(small, "a"), "a.yaml"), decode(ns+fmt.Sprintf(small, "b"), "b.yaml")
	got, err := manifest.Merge(b, a)
	if err != nil || fmt.Sprint(got.Keys()) != "[ConfigMap default/a ConfigMap default/b Namespace bank]" || len(got.Namespaces) != 1 || got.ConfigMaps[0].Name != "a" {
		t.Errorf("%v, %v", got.Keys(), err)
	}
	other, err := manifest.Merge(a, b)
	if err != nil || got.Digest() != other.Digest() || got.Digest() == a.Digest() {
		t.Errorf("the order of sets tells: %v", err)
	}
	for name, c := range map[string][2]*manifest.Set{
		"one object in both": {a, decode(fmt.Sprintf(small, "a"), "c.yaml")},
		"one node port":      {decode(fmt.Sprintf(port, "a"), "a.yaml"), decode(fmt.Sprintf(port, "b"), "b.yaml")},
	} {
		if _, err := manifest.Merge(c[0], c[1]); !errors.Is(err, errs.Conflict) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestDigest: the digest is of what is declared, not of how it is written.
func TestDigest(t *testing.T) {
	text, err := os.ReadFile("testdata/good/bank.yaml")
	if err != nil {
		t.Fatal(err)
	}
	decode := func(b string) manifest.Set {
		t.Helper()
		set, err := manifest.Decode([]byte(b), "f.yaml")
		if err != nil {
			t.Fatal(err)
		}
		return set
	}
	whole := decode(string(text))
	want := whole.Digest()
	docs := strings.Split(string(text), "\n---\n")
	dir := t.TempDir()
	for i, d := range docs {
		write(t, filepath.Join(dir, fmt.Sprintf("%02d.yaml", len(docs)-i)), d)
	}
	spread, err := manifest.Load([]string{dir})
	if err != nil {
		t.Fatal(err)
	}
	if spread.Digest() != want {
		t.Error("spread over files in another order, the digest is another")
	}
	for old, changed := range map[string]string{
		"replicas: 2": "replicas: 3", "level: info": "level: debug", "correct horse": "correct mule", "methods: [GET, POST]": "methods: [GET]",
		"mode: PERMISSIVE": "mode: STRICT", "requireSBOM: true": "requireSBOM: false", "cidr: 10.0.0.0/8": "cidr: 10.0.0.0/7", "{name: nothing, ": "{name: nothings, ",
	} {
		if !strings.Contains(string(text), old) {
			t.Fatal("no such text: ", old)
		}
		if set := decode(strings.Replace(string(text), old, changed, 1)); set.Digest() == want {
			t.Errorf("%q for %q leaves the digest", changed, old)
		}
	}
	if set := decode(strings.Replace(string(text), "        workingDir: /\n", "", 1) + "\n# a comment\n"); set.Digest() == want {
		t.Error("a field less leaves the digest")
	}
	if set := decode(string(text) + "\n---\n# a comment\n"); set.Digest() != want {
		t.Error("a comment changes the digest")
	}
}

func TestLoad(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "outside.yaml")
	write(t, outside, fmt.Sprintf(small, "outside"))
	for name, c := range map[string]struct {
		make func(t *testing.T, dir string) []string // nil: the directory
		keys string
		kind errs.Kind
		says string
	}{
		"all three endings, in order": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/c.yaml", fmt.Sprintf(small, "c"))
			write(t, dir+"/a.yml", fmt.Sprintf(small, "a"))
			write(t, dir+"/b.json", `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`)
			return nil
		}, keys: "[ConfigMap default/a ConfigMap default/b ConfigMap default/c]"},
		"what is not a manifest is left out": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a.yaml", fmt.Sprintf(small, "a"))
			write(t, dir+"/.hidden.yaml", "not yaml: [")
			write(t, dir+"/README.md", "hello")
			must(t, os.Mkdir(dir+"/sub.yaml", 0o755))
			write(t, dir+"/sub.yaml/b.yaml", "not yaml: [")
			return nil
		}, keys: "[ConfigMap default/a]"},
		"a file and the directory it is in": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a.yaml", fmt.Sprintf(small, "a"))
			return []string{dir + "/a.yaml", dir}
		}, keys: "[ConfigMap default/a]"},
		"a named file with another ending": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a", fmt.Sprintf(small, "a"))
			return []string{dir + "/a"}
		}, keys: "[ConfigMap default/a]"},
		"a link within the directory": {make: func(t *testing.T, dir string) []string {
			must(t, os.Mkdir(dir+"/..data", 0o755))
			write(t, dir+"/..data/a", fmt.Sprintf(small, "a"))
			must(t, os.Symlink("..data/a", dir+"/a.yaml"))
			return nil
		}, keys: "[ConfigMap default/a]"},
		"a link that leaves the directory": {make: func(t *testing.T, dir string) []string {
			must(t, os.Symlink(outside, dir+"/a.yaml"))
			return nil
		}, kind: errs.Invalid, says: "inside its directory"},
		"a relative link that leaves the directory": {make: func(t *testing.T, dir string) []string {
			must(t, os.Symlink("../../../../../../../../etc/passwd", dir+"/a.yaml"))
			return nil
		}, kind: errs.Invalid, says: "inside its directory"},
		"a link to nowhere": {make: func(t *testing.T, dir string) []string {
			must(t, os.Symlink("none", dir+"/a.yaml"))
			return nil
		}, kind: errs.NotFound},
		"a pipe": {make: func(t *testing.T, dir string) []string {
			must(t, syscall.Mkfifo(dir+"/a.yaml", 0o600))
			return nil
		}, kind: errs.Invalid, says: "a plain file"},
		"a device":           {make: func(t *testing.T, dir string) []string { return []string{"/dev/zero"} }, kind: errs.Invalid, says: "a plain file"},
		"an empty directory": {make: func(t *testing.T, dir string) []string { return nil }, kind: errs.NotFound},
		"no path":            {make: func(t *testing.T, dir string) []string { return []string{} }, kind: errs.Invalid},
		"a path to nowhere":  {make: func(t *testing.T, dir string) []string { return []string{dir + "/none"} }, kind: errs.NotFound},
		"a file of 1 GB": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a.yaml", "")
			must(t, os.Truncate(dir+"/a.yaml", 1<<30))
			return nil
		}, kind: errs.TooLarge, says: "4194304"},
		"too many bytes in all": {make: func(t *testing.T, dir string) []string {
			b := "#" + strings.Repeat("x", conf.MaxFile-2) + "\n"
			for i := range 17 {
				write(t, fmt.Sprintf("%s/%d.yaml", dir, i), b)
			}
			return nil
		}, kind: errs.TooLarge, says: "in all files"},
		"the same object in two files": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a.yaml", fmt.Sprintf(small, "x"))
			write(t, dir+"/b.yaml", fmt.Sprintf(small, "x"))
			return nil
		}, kind: errs.Exists, says: "a.yaml, document 1"},
		"every file's problems": {make: func(t *testing.T, dir string) []string {
			write(t, dir+"/a.yaml", "a: [")
			write(t, dir+"/b.yaml", fmt.Sprintf(small, "B"))
			write(t, dir+"/c.json", "{")
			return []string{dir, dir + "/none"}
		}, kind: errs.Invalid, says: "a.yaml:1: document 1: invalid: expected YAML"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			paths := c.make(t, dir)
			if paths == nil {
				paths = []string{dir}
			}
			set, err := manifest.Load(paths)
			switch {
			case c.kind == "" && (err != nil || fmt.Sprint(set.Keys()) != c.keys):
				t.Errorf("got %v, %v; want %s", set.Keys(), err, c.keys)
			case c.kind != "" && (!errors.Is(err, c.kind) || !strings.Contains(fmt.Sprint(err), c.says) || len(set.Keys()) != 0):
				t.Errorf("got %v, %v; want %s, %q", set.Keys(), err, c.kind, c.says)
			}
			if name == "every file's problems" && strings.Count(err.Error(), "\n") != 3 {
				t.Errorf("not all four problems: %v", err)
			}
		})
	}
}

func TestBounds(t *testing.T) {
	pad := strings.Repeat("x", 1<<10)
	var many, list strings.Builder
	for i := range manifest.MaxDocuments + 1 {
		fmt.Fprintf(&many, "---\n"+small, fmt.Sprintf("c%d", i))
	}
	list.WriteString("apiVersion: v1\nkind: List\nitems:\n")
	for i := range manifest.MaxDocuments + 1 {
		fmt.Fprintf(&list, "- {apiVersion: v1, kind: ConfigMap, metadata: {name: c%d}}\n", i)
	}
	bomb := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\ndata:\n  a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := range 12 {
		bomb += fmt.Sprintf("  a%d: &a%d [*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d,*a%d]\n", i+1, i+1, i, i, i, i, i, i, i, i, i, i)
	}
	var faults strings.Builder
	for i := range 600 {
		fmt.Fprintf(&faults, "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: C%d}\n", i)
	}
	for name, c := range map[string]struct{ text, says string }{
		"a text too long":        {"#" + strings.Repeat(pad, 4<<10), "at most 4194304 bytes"},
		"too many documents":     {many.String(), "at most 10000 documents"},
		"too many in a list":     {list.String(), "at most 10000 documents"},
		"aliases of aliases":     {bomb, "aliases written out"},
		"deep YAML":              {"a: " + strings.Repeat("[", 100) + strings.Repeat("]", 100), "at most 64 levels"},
		"very deep YAML":         {"a: " + strings.Repeat("[", 1<<20), "exceeded max depth"},
		"deep JSON":              {strings.Repeat(`{"a":`, 100) + "1" + strings.Repeat("}", 100), "at most 64 levels"},
		"very deep JSON":         {strings.Repeat(`{"a":`, 500_000), "at most 64 levels"},
		"many values":            {`{"a":[` + strings.Repeat("1,", 2<<20-10) + "1]}", "at most 1048576 values"},
		"not UTF-8":              {"a: \xff", "UTF-8"},
		"more faults than told":  {faults.String(), "100 more"},
		"a quantity of a page":   {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: a, resources: {limits: {cpu: '" + strings.Repeat("9", 1<<20) + "'}}}]}", "a quantity"},
		"a number of a page":     {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {terminationGracePeriodSeconds: " + strings.Repeat("9", 1<<20) + ", containers: [{name: c, image: a}]}", "an integer"},
		"an unknown field, long": {"apiVersion: v1\nkind: Pod\nmetadata: {name: p}\n" + strings.Repeat("k", 1<<10) + ": 1\n", "a known field"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := manifest.Decode([]byte(c.text), "f.yaml")
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("got %.500v; want %q", err, c.says)
			}
			if n := len(fmt.Sprint(err)); n > 200<<10 {
				t.Errorf("an error of %d bytes", n)
			}
		})
	}
}

func TestMoreThanOneKindInAnError(t *testing.T) {
	_, err := manifest.Decode([]byte("apiVersion: v1\nkind: Pod\nmetadata: {name: P}\nspec: {hostNetwork: true}\n"), "f.yaml")
	for _, k := range []errs.Kind{errs.Invalid, errs.Unsupported} {
		if !errors.Is(err, k) {
			t.Errorf("%v is not %s", err, k)
		}
	}
	var e *errs.Error
	if !errors.As(err, &e) || e.Field == "" || e.Expected == "" {
		t.Errorf("no typed error in %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	good, err := os.ReadFile("testdata/good/bank.yaml")
	if err != nil {
		f.Fatal(err)
	}
	for _, d := range strings.Split(string(good), "\n---\n") {
		f.Add([]byte(d), false)
	}
	f.Add([]byte(`{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"b"}}`), true)
	f.Add([]byte("a: &a [*a]"), false)
	f.Add([]byte("---\n---\n...\n%YAML 1.2\n---\n"), false)
	f.Fuzz(func(t *testing.T, b []byte, asJSON bool) {
		name := "f.yaml"
		if asJSON {
			name = "f.json"
		}
		set, err := manifest.Decode(b, name)
		if err != nil {
			if k := errs.KindOf(err); k == "" || k == errs.Internal || len(set.Keys()) != 0 {
				t.Errorf("kind %q of %v", k, err)
			}
			return
		}
		// What was taken says the same when it is read again, and compiles.
		again, err := manifest.Decode(b, name)
		if err != nil || again.Digest() != set.Digest() {
			t.Errorf("read again: %v", err)
		}
		_ = set.Check()
		for _, p := range set.Authorizations {
			if e := p.Check(); len(e) > 0 {
				t.Errorf("taken, but does not compile: %v", e)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	good, err := os.ReadFile("testdata/good/bank.yaml")
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(good)))
	for b.Loop() {
		if _, err := manifest.Decode(good, "f.yaml"); err != nil {
			b.Fatal(err)
		}
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
