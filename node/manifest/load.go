// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/conf"
	"redoubt.dev/node/manifest/internal/tree"
)

// Bounds of one Load.
const (
	MaxDocuments = 10_000   // in all files
	MaxTotal     = 64 << 20 // bytes of all files; one has conf.MaxFile
	maxNodes     = 1 << 20  // values in one file, aliases written out
	maxDepth     = 64
)

// Load reads files, and of directories all *.yaml, *.yml and *.json; hidden
// files and subdirectories are left out, and a link that leaves its directory
// is refused. The error joins every problem found; with one, the Set is empty.
func Load(paths []string) (Set, error) {
	l := newLoader()
	if len(paths) == 0 {
		l.errs.add(l.file, 0, &errs.Error{Kind: errs.Invalid, Subject: "manifests", Expected: "a file or directory", Seen: "none"})
	}
	for _, p := range paths {
		l.path(p)
	}
	return l.finish()
}

// Decode reads the documents of one text; subject names it in errors, and one
// that ends in .json is read as JSON.
func Decode(b []byte, subject string) (Set, error) {
	l := newLoader()
	if len(b) > conf.MaxFile {
		return Set{}, tooLarge(subject)
	}
	l.text(b, subject)
	return l.finish()
}

type loader struct {
	set       Set
	errs      problems
	documents int
	total     int64
	objects   int
	file      int           // number of the one being read
	files     []fs.FileInfo // read so far: a file named twice is read once
}

func newLoader() *loader { return &loader{set: Set{sources: map[Key]Source{}}} }

func (l *loader) finish() (Set, error) {
	if l.errs.count() == 0 && l.objects == 0 {
		l.errs.add(l.file, 0, &errs.Error{Kind: errs.NotFound, Subject: "manifests", Expected: "at least one object", Seen: "none"})
	}
	if all := l.errs.all(); len(all) > 0 {
		return Set{}, errors.Join(all...)
	}
	l.set.sort()
	if all := l.set.together(); len(all) > 0 {
		return Set{}, errors.Join(all...)
	}
	return l.set, nil
}

func (l *loader) path(p string) {
	l.file++
	fi, err := os.Stat(p)
	if err != nil {
		l.io(p, err)
		return
	}
	if fi.IsDir() {
		l.dir(p)
		return
	}
	f, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0) // a FIFO would block
	if err != nil {
		l.io(p, err)
		return
	}
	defer f.Close()
	l.open(f, p)
}

// dir reads through os.Root, so that no link, however it is made or changed
// meanwhile, leads out.
func (l *loader) dir(p string) {
	root, err := os.OpenRoot(p)
	if err != nil {
		l.io(p, err)
		return
	}
	defer root.Close()
	entries, err := fs.ReadDir(root.FS(), ".")
	if err != nil {
		l.io(p, err)
		return
	}
	found := false
	for _, e := range entries {
		name := e.Name()
		if strings.HasPrefix(name, ".") || e.IsDir() || !slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(name)) {
			continue
		}
		found = true
		l.file++
		full := filepath.Join(p, name)
		f, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			l.io(full, err)
			continue
		}
		l.open(f, full)
		f.Close()
	}
	if !found {
		l.errs.add(l.file, 0, &errs.Error{Kind: errs.NotFound, Subject: p, Expected: "files *.yaml, *.yml or *.json", Seen: "none", Fix: "name the directory that holds the manifests"})
	}
}

func (l *loader) open(f *os.File, name string) {
	fi, err := f.Stat()
	if err != nil {
		l.io(name, err)
		return
	}
	for _, seen := range l.files {
		if os.SameFile(fi, seen) {
			return
		}
	}
	l.files = append(l.files, fi)
	switch {
	case !fi.Mode().IsRegular():
		l.errs.add(l.file, 0, &errs.Error{Kind: errs.Invalid, Subject: name, Expected: "a plain file", Seen: fi.Mode().Type().String()})
		return
	case fi.Size() > conf.MaxFile:
		l.errs.add(l.file, 0, tooLarge(name))
		return
	}
	// Bounded again: the size may have been another by now.
	b, err := conf.ReadAll(io.Reader(f), name, conf.MaxFile)
	if err != nil {
		l.io(name, err)
		return
	}
	if l.total += int64(len(b)); l.total > MaxTotal {
		l.errs.add(l.file, 0, &errs.Error{Kind: errs.TooLarge, Subject: name, Expected: fmt.Sprintf("at most %d bytes in all files", MaxTotal)})
		return
	}
	l.text(b, name)
}

func tooLarge(name string) *errs.Error {
	return &errs.Error{Kind: errs.TooLarge, Subject: name, Expected: fmt.Sprintf("at most %d bytes", conf.MaxFile), Fix: "split it into smaller files"}
}

// io reports what the file system said.
func (l *loader) io(name string, err error) {
	var e *errs.Error
	switch {
	case errors.As(err, &e):
	case errors.Is(err, fs.ErrNotExist):
		e = &errs.Error{Kind: errs.NotFound, Subject: name, Err: err}
	case errors.Is(err, fs.ErrPermission):
		e = &errs.Error{Kind: errs.Denied, Subject: name, Err: err}
	default:
		// os.Root gives no kind for a path that escapes.
		e = &errs.Error{Kind: errs.Invalid, Subject: name, Expected: "a file inside its directory that can be read", Err: err}
	}
	l.errs.add(l.file, 0, e)
}

func (l *loader) text(b []byte, name string) {
	lim := tree.Limits{Documents: MaxDocuments - l.documents, Nodes: maxNodes, Depth: maxDepth}
	for doc := range tree.Documents(b, filepath.Ext(name) == ".json", lim) {
		l.documents++
		d := &document{src: Source{File: name, Document: doc.Number}, file: l.file, errs: &l.errs}
		if doc.Root != nil {
			d.name(doc.Root)
		}
		for _, p := range doc.Problems {
			d.report(p)
		}
		switch {
		case doc.Root == nil || len(doc.Problems) > 0 && tooMuch(doc.Problems):
		case isList(doc.Root):
			l.list(d, doc.Root)
		default:
			l.objects++
			d.read(doc.Root, &l.set)
		}
	}
}

// tooMuch tells that a document was cut short: what is left of it would only
// make more noise.
func tooMuch(ps []tree.Problem) bool {
	return slices.ContainsFunc(ps, func(p tree.Problem) bool { return p.Kind == errs.TooLarge })
}

func isList(n *tree.Node) bool { k, ok := n.Get("kind").Str(); return ok && k == "List" }

// list reads the items of a v1 List, such as kubectl writes.
func (l *loader) list(d *document, root *tree.Node) {
	d.line, d.key.Kind = root.Line, "List"
	fail := func(k errs.Kind, line int, p tree.Path, expected, seen string) {
		d.report(tree.Problem{Kind: k, Line: line, Path: p, Expected: expected, Seen: seen})
	}
	if v, _ := root.Get("apiVersion").Str(); v != "v1" {
		fail(errs.Invalid, root.Line, "apiVersion", "v1", tree.Quote(v))
		return
	}
	for _, f := range root.Fields {
		switch f.Name {
		case "apiVersion", "kind", "items":
		case "metadata":
			for _, m := range f.Value.Fields {
				if m.Value.Text != "" || m.Value.Kind == tree.Map || m.Value.Kind == tree.List {
					fail(errs.Unsupported, m.Line, tree.Path("metadata").Field(m.Name), "a field that has an effect here", tree.Quote(m.Name))
				}
			}
		default:
			fail(errs.Invalid, f.Line, tree.Path(f.Name), "apiVersion, kind, metadata or items", tree.Quote(f.Name))
		}
	}
	items := root.Get("items")
	if items == nil || items.Kind != tree.List {
		fail(errs.Invalid, root.Line, "items", "a list of objects", "none")
		return
	}
	for i, item := range items.Items {
		if l.documents++; l.documents > MaxDocuments {
			fail(errs.TooLarge, item.Line, "items", fmt.Sprintf("at most %d documents in all files", MaxDocuments), "more")
			return
		}
		l.objects++
		sub := &document{src: d.src, file: l.file, errs: &l.errs, prefix: tree.Path("items").Index(i)}
		sub.read(item, &l.set)
	}
}
