// SPDX-License-Identifier: Apache-2.0

package node

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"redoubt.dev/node/manifest"
)

func configMap(name, value string) string {
	return "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: " + name + ", namespace: bank}\ndata: {k: " + value + "}\n"
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kept makes a node with one set on disk.
func kept(t *testing.T, file, text string) (*Node, *set) {
	t.Helper()
	n := &Node{cfg: Config{Root: t.TempDir()}}
	path := filepath.Join(t.TempDir(), file)
	write(t, path, text)
	return n, save(t, n, path)
}

func save(t *testing.T, n *Node, path string) *set {
	t.Helper()
	s := &set{Name: setName([]string{path}), Paths: []string{path}, Loaded: time.Now().UTC()}
	var err error
	if s.good, err = manifest.Load(s.Paths); err == nil {
		err = n.saveSet(s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func load(t *testing.T, n *Node) map[string]*set {
	t.Helper()
	sets, err := n.loadSets()
	if err != nil {
		t.Fatal(err)
	}
	return sets
}

// A node that comes back has in force what was, whatever the files are now.
func TestSetsOutliveTheirFiles(t *testing.T) {
	for _, file := range []string{"a.yaml", "a.json.yaml", "manifest.txt", "noending", "odd name ü.yml"} {
		n, s := kept(t, file, configMap("a", "\"1\""))
		for _, now := range []string{configMap("a", "\"2\""), "{{{", ""} {
			write(t, s.Paths[0], now)
			got := load(t, n)[s.Name]
			if got == nil || got.good.Digest() != s.good.Digest() || got.Paths[0] != s.Paths[0] || !got.Loaded.Equal(s.Loaded) {
				t.Errorf("%s with %q: %+v", file, now, got)
			}
			if got.stamp == stamp(s.Paths) {
				t.Errorf("%s: the files would not be looked at again", file)
			}
		}
		if err := os.Remove(s.Paths[0]); err != nil {
			t.Fatal(err)
		}
		if got := load(t, n)[s.Name]; got == nil || got.good.Digest() != s.good.Digest() {
			t.Errorf("%s gone: %+v", file, got)
		}
	}
}

// A kill at any line of saving or removing leaves the old set or the new one,
// and a node that starts.
func TestSetsSurviveAKill(t *testing.T) {
	for name, kill := range map[string]struct {
		do   func(dir string) error
		want int
	}{
		"new is half there":            {func(d string) error { return os.Mkdir(d+".new", 0o700) }, 1},
		"between the renames":          {func(d string) error { return os.Rename(d, d+".old") }, 1},
		"between the renames, new too": {func(d string) error { _ = os.Mkdir(d+".new", 0o700); return os.Rename(d, d+".old") }, 1},
		"old is half removed":          {func(d string) error { return os.Mkdir(d+".old", 0o700) }, 1},
		"removal has begun":            {func(d string) error { return os.Rename(d, d+".new") }, 0},
	} {
		n, s := kept(t, "a.yaml", configMap("a", "x"))
		if err := kill.do(n.setDir(s.Name)); err != nil {
			t.Fatal(err)
		}
		sets := load(t, n)
		if len(sets) != kill.want {
			t.Errorf("%s: %d sets, want %d", name, len(sets), kill.want)
		}
		if entries, _ := os.ReadDir(n.setDir("")); len(entries) != kill.want {
			t.Errorf("%s: left %v", name, entries)
		}
	}
}

func TestSetsAreReplacedAndRemoved(t *testing.T) {
	n, s := kept(t, "a.yaml", configMap("a", "x"))
	write(t, s.Paths[0], configMap("b", "z"))
	s = save(t, n, s.Paths[0])
	if got := load(t, n)[s.Name]; got.good.Digest() != s.good.Digest() || len(got.good.ConfigMaps) != 1 || got.good.ConfigMaps[0].Name != "b" {
		t.Errorf("%+v", got)
	}
	err := filepath.WalkDir(n.setDir(""), func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if st, err := d.Info(); err != nil || st.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s, which may hold Secrets, is open to others: %v, %v", p, st.Mode(), err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // safe to repeat
		if err := n.removeSet(s.Name); err != nil {
			t.Fatal(err)
		}
	}
	if entries, _ := os.ReadDir(n.setDir("")); len(entries) != 0 || len(load(t, n)) != 0 {
		t.Errorf("left %v", entries)
	}
}

func TestStamp(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "a.yaml")
	write(t, file, "one")
	seen := map[string]bool{}
	fresh := func(what string) {
		t.Helper()
		for _, paths := range [][]string{{dir}} {
			s := stamp(paths)
			if seen[s] {
				t.Errorf("%s does not show", what)
			}
			seen[s] = true
			if s != stamp(paths) {
				t.Errorf("%s: the stamp changes by itself", what)
			}
		}
	}
	fresh("the first")
	write(t, file, "two longer")
	fresh("another size")
	if err := os.Chtimes(file, time.Time{}, time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	fresh("another time")
	write(t, filepath.Join(dir, "b.yaml"), "")
	fresh("another file")
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	fresh("all gone")
}

func TestWriteJSONReplacesInOneStep(t *testing.T) {
	path := filepath.Join(t.TempDir(), "d", "x.json")
	for _, v := range []int{1, 2} {
		if err := writeJSON(path, v); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := readJSON(path, &got); err != nil || got != v {
			t.Errorf("%d, %v", got, err)
		}
	}
	if err := writeJSON(path, func() {}); err == nil {
		t.Error("a function was written")
	}
	var got int
	if err := readJSON(path, &got); err != nil || got != 2 {
		t.Errorf("after a write that failed: %d, %v", got, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}
}
