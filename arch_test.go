// SPDX-License-Identifier: Apache-2.0

package redoubt_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const module = "redoubt.dev/"

// floors orders the tree, ground first. A package imports lower floors only;
// neighbours on one floor never import each other.
var floors = [][]string{
	{"api"},
	{"base"},
	{"identity", "provenance", "attest"},
	{"sandbox", "proxy", "mesh", "guard", "passport", "broker", "seal", "train", "assay"},
	{"node", "operator", "console"},
	{"cmd"},
}

// outside is not part of the house: it may import every floor, nothing may
// import it.
var outside = []string{"examples", "test"}

// walls names every door to a heavy or sharp import.
var walls = map[string][]string{
	"k8s.io/":                        {"operator", "mesh/source/kube", "node/manifest", "node", "mesh/compile", "sandbox/engine", "test"},
	"istio.io/":                      {"node/manifest", "mesh/compile"},
	"github.com/containerd/":         {"sandbox/shim", "sandbox/engine", "test"},
	"gvisor.dev/":                    {"sandbox/driver/sentry", "cmd/redoubt-sentry"},
	"github.com/erofs/":              {"sandbox/image"},
	"github.com/envoyproxy/":         {"mesh/xds", "proxy/xds", "test"},
	"github.com/sigstore/":           {"provenance"},
	"github.com/google/go-container": {"provenance", "sandbox/image", "test"},
	"github.com/vishvananda/netlink": {"sandbox/edge", "test"},
	"github.com/google/nftables":     {"sandbox/edge", "test"},
	"unsafe":                         {"base/sys"},
	"os/exec":                        {"sandbox/driver", "provenance/build", "node/children", "examples/bank/demo", "test"},
	"net/http/httputil":              {},
}

// imports calls f for each import of each Go file of the tree.
func imports(t *testing.T, f func(dir, file, path string)) {
	t.Helper()
	walk(t, func(path string, file *ast.File) {
		for _, im := range file.Imports {
			f(filepath.Dir(path), path, strings.Trim(im.Path.Value, `"`))
		}
	})
}

func walk(t *testing.T, f func(path string, file *ast.File)) {
	t.Helper()
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (strings.HasPrefix(d.Name(), ".") && path != "." || d.Name() == "testdata" || path == "bin") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		f(path, file)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func root(dir string) string { return strings.SplitN(dir, "/", 2)[0] }

func floorOf(room string) int {
	for i, rooms := range floors {
		for _, r := range rooms {
			if r == room {
				return i
			}
		}
	}
	return -1
}

func TestFloors(t *testing.T) {
	imports(t, func(dir, file, path string) {
		rel, ours := strings.CutPrefix(path, module)
		if !ours || dir == "." {
			return
		}
		from, to := root(dir), root(rel)
		for _, o := range outside {
			if to == o && from != o {
				t.Errorf("%s imports %s, which is outside the house", file, path)
			}
			if from == o {
				return
			}
		}
		ff, tf := floorOf(from), floorOf(to)
		switch {
		case ff < 0:
			t.Errorf("%s: folder %s stands on no floor; add it to floors and to ARCHITECTURE.md", file, from)
		case from != to && tf >= ff:
			t.Errorf("%s (floor %d) imports %s (floor %d)", file, ff, path, tf)
		}
	})
}

func TestWalls(t *testing.T) {
	imports(t, func(dir, file, path string) {
		for wall, doors := range walls {
			if path != wall && !(strings.HasPrefix(path, wall) && (strings.HasSuffix(wall, "/") || strings.Contains(wall, "."))) {
				continue
			}
			open := root(dir) == "test"
			for _, d := range doors {
				open = open || dir == d || strings.HasPrefix(dir, d+"/")
			}
			if !open {
				t.Errorf("%s imports %s, whose doors are %v", file, path, doors)
			}
		}
	})
}

func TestOnePackageStoryEach(t *testing.T) {
	stories, dirs := map[string]int{}, map[string]bool{}
	walk(t, func(path string, file *ast.File) {
		if strings.HasSuffix(path, "_test.go") {
			return
		}
		dir := filepath.Dir(path)
		dirs[dir] = true
		if file.Doc != nil {
			stories[dir]++
			if n := strings.Count(file.Doc.Text(), "\n"); n > 40 {
				t.Errorf("%s: the package's story has %d lines, at most 40", path, n)
			}
		}
	})
	for dir := range dirs {
		if n := stories[dir]; n != 1 {
			t.Errorf("%s: %d package comments, want exactly one", dir, n)
		}
	}
}

func TestLicenceLine(t *testing.T) {
	walk(t, func(path string, _ *ast.File) {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(b), "// SPDX-License-Identifier: Apache-2.0\n") {
			t.Errorf("%s does not open with its SPDX line", path)
		}
	})
}

// TestBans holds the house rules that a parser can see.
func TestBans(t *testing.T) {
	banned := map[string]string{
		"time.Sleep":  "sleeping makes a test flaky or slow: wait for the event",
		"fmt.Println": "libraries do not print",
		"fmt.Printf":  "libraries do not print",
		"os.Getenv":   "configuration is read in cmd",
	}
	walk(t, func(path string, file *ast.File) {
		room := root(path)
		isTest := strings.HasSuffix(path, "_test.go") || strings.HasSuffix(filepath.Dir(path), "test") // drivertest and the like
		if room == "examples" || room == "test" || room == "cmd" || room == path {
			return
		}
		ast.Inspect(file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if !ok {
				return true
			}
			name := x.Name + "." + sel.Sel.Name
			if why, bad := banned[name]; bad && (name != "os.Getenv" || !isTest) {
				t.Errorf("%s uses %s: %s", path, name, why)
			}
			return true
		})
	})
}

var mapRow = regexp.MustCompile("(?m)^\\| (\\d) \\| `([a-z]+)/`")

// TestMap holds the map of ARCHITECTURE.md to the tree and to floors.
func TestMap(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	rows := map[string]int{}
	for _, m := range mapRow.FindAllStringSubmatch(string(b), -1) {
		rows[m[2]] = int(m[1][0] - '0')
	}
	entries, err := os.ReadDir(".")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		f := floorOf(e.Name())
		if !e.IsDir() || f < 0 {
			continue
		}
		if got, ok := rows[e.Name()]; !ok || got != f {
			t.Errorf("ARCHITECTURE.md: folder %s wants a row on floor %d", e.Name(), f)
		}
		delete(rows, e.Name())
	}
	for r := range rows {
		t.Errorf("ARCHITECTURE.md has a row for %s, which does not exist", r)
	}
}

var mapRef = regexp.MustCompile("`([a-z0-9/_]+\\.go):([A-Za-z0-9_.]+)`")

// TestWalks resolves every reference "file.go:Func" of ARCHITECTURE.md.
func TestWalks(t *testing.T) {
	b, err := os.ReadFile("ARCHITECTURE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mapRef.FindAllStringSubmatch(string(b), -1) {
		path, name := m[1], m[2]
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
		if err != nil {
			t.Errorf("ARCHITECTURE.md refers to %s: %v", path, err)
			continue
		}
		if !declares(file, name) {
			t.Errorf("ARCHITECTURE.md refers to %s in %s, which does not declare it", name, path)
		}
	}
}

func declares(file *ast.File, name string) bool {
	recv, method, isMethod := strings.Cut(name, ".")
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if !isMethod && d.Recv == nil && d.Name.Name == name {
				return true
			}
			if isMethod && d.Recv != nil && d.Name.Name == method && receiver(d.Recv.List[0].Type) == recv {
				return true
			}
		case *ast.GenDecl:
			for _, s := range d.Specs {
				if ts, ok := s.(*ast.TypeSpec); ok && ts.Name.Name == name {
					return true
				}
			}
		}
	}
	return false
}

func receiver(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.StarExpr:
		return receiver(e.X)
	case *ast.Ident:
		return e.Name
	case *ast.IndexExpr:
		return receiver(e.X)
	}
	return ""
}
