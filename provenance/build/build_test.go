// SPDX-License-Identifier: Apache-2.0

package build_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/slsa"
)

func run(t testing.TB, src build.Source, opt build.Options) *build.Result {
	t.Helper()
	r, err := try(t, src, opt)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// try builds in a folder of its own, and demands that a failed build leaves
// nothing in it.
func try(t testing.TB, src build.Source, opt build.Options) (*build.Result, error) {
	t.Helper()
	opt.WorkDir = t.TempDir()
	r, err := build.Build(t.Context(), src, opt)
	if err != nil {
		if l, rerr := os.ReadDir(opt.WorkDir); rerr != nil || len(l) != 0 {
			t.Errorf("a failed build left %v, %v", l, rerr)
		}
		return nil, err
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
		if l, err := os.ReadDir(opt.WorkDir); err != nil || len(l) != 0 {
			t.Errorf("Close left %v, %v", l, err)
		}
	})
	return r, nil
}

// entries reads the layer as a runtime would, and checks it against its digest.
func entries(t testing.TB, r *build.Result) map[string]*tar.Header {
	t.Helper()
	f, err := r.Layers[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if artifact.DigestOf(raw) != r.Layers[0].Digest || int64(len(raw)) != r.Layers[0].Size {
		t.Errorf("layer is %s of %d bytes, said to be %s of %d", artifact.DigestOf(raw), len(raw), r.Layers[0].Digest, r.Layers[0].Size)
	}
	out := map[string]*tar.Header{}
	for tr := tar.NewReader(bytes.NewReader(raw)); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = h
	}
}

func config(t testing.TB, r *build.Result) (c struct {
	Architecture, OS, Created string
	Config                    struct {
		Entrypoint, Env []string
		User            string
		ExposedPorts    map[string]struct{}
		Labels          map[string]string
	}
}) {
	t.Helper()
	m, err := manifest.Parse(manifest.OCIManifest, r.Manifest)
	if err != nil {
		t.Fatal(err)
	}
	if !m.IsImage() || m.Config.Digest != artifact.DigestOf(r.Config) || r.Digest != artifact.DigestOf(r.Manifest) {
		t.Errorf("manifest %s", r.Manifest)
	}
	if err := manifest.CheckConfig(r.Config, m); err != nil {
		t.Error(err)
	}
	if err := json.Unmarshal(r.Config, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

func external(t testing.TB, r *build.Result) (slsa.Predicate, slsa.External) {
	t.Helper()
	raw, err := json.Marshal(r.Provenance)
	if err != nil {
		t.Fatal(err)
	}
	p, x, err := slsa.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return p, x
}

func git(t testing.TB, dir string, args ...string) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), "git", args...)
	c.Dir = dir
	c.Env = append(os.Environ(), "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@bank.example", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@bank.example",
		"GIT_AUTHOR_DATE=1700000000 +0000", "GIT_COMMITTER_DATE=1700000000 +0000", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null")
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("git %v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestGo(t *testing.T) {
	t.Parallel()
	one := run(t, build.Source{Go: provenancetest.GoMain(t, "hello")}, build.Options{})
	two := run(t, build.Source{Go: provenancetest.GoMain(t, "hello")}, build.Options{}) // in another folder
	if one.Digest != two.Digest || !bytes.Equal(one.SBOM, two.SBOM) {
		t.Errorf("two builds of one source: %s and %s", one.Digest, two.Digest)
	}
	c := config(t, one)
	if fmt.Sprint(c.Config.Entrypoint) != "[/app/hello]" || c.Config.User != "65532:65532" || c.Architecture != runtime.GOARCH || c.OS != "linux" || c.Created != "1970-01-01T00:00:00Z" {
		t.Errorf("config %+v", c)
	}
	e := entries(t, one)
	for name, mode := range map[string]int64{"app/": 0o755, "app/hello": 0o755, "etc/": 0o755, "etc/passwd": 0o644, "etc/group": 0o644, "tmp/": 0o1777} {
		if e[name] == nil || e[name].Mode != mode || e[name].ModTime.Unix() != 0 || e[name].Uid != 0 {
			t.Errorf("%s: %+v, want mode %o", name, e[name], mode)
		}
	}
	if len(e) != 6 {
		t.Errorf("%d entries, want 6", len(e))
	}
	p, x := external(t, one)
	rev, dirty := p.Revision()
	if x.Kind != "go" || rev != "" || !dirty || !strings.HasPrefix(x.Source.Repository, "file:///") || fmt.Sprint(x.Image.Entrypoint) != "[/app/hello]" {
		t.Errorf("external parameters %+v, revision %q, dirty %v; want no revision for what is in no git tree", x, rev, dirty)
	}
	if p.RunDetails.Metadata.FinishedOn.Before(p.RunDetails.Metadata.StartedOn) || p.RunDetails.Metadata.StartedOn.IsZero() {
		t.Errorf("times %+v", p.RunDetails.Metadata)
	}

	// The image's program runs, and is static.
	bin := filepath.Join(t.TempDir(), "hello")
	f, err := one.Layers[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err != nil {
			t.Fatal(err)
		}
		if h.Name == "app/hello" {
			b, err := io.ReadAll(tr)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(bin, b, 0o700); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if out, err := exec.CommandContext(t.Context(), bin).CombinedOutput(); err != nil || string(out) != "hello\n" {
		t.Errorf("the program says %q, %v", out, err)
	}
}

func TestGoRefused(t *testing.T) {
	t.Parallel()
	module := func(files map[string]string) string {
		dir := filepath.Join(t.TempDir(), "app")
		for name, text := range files {
			put(t, dir, name, text)
		}
		return dir
	}
	for name, c := range map[string]struct {
		dir  string
		opt  build.Options
		want string
	}{
		"a library":            {module(map[string]string{"go.mod": "module x.example/y\n\ngo 1.26\n", "a.go": "package y\n"}), build.Options{}, "package y"},
		"does not compile":     {module(map[string]string{"go.mod": "module x.example/y\n\ngo 1.26\n", "a.go": "package main\n\nfunc main() { x }\n"}), build.Options{}, "undefined: x"},
		"wants the network":    {module(map[string]string{"go.mod": "module x.example/y\n\ngo 1.26\n\nrequire bank.example/nowhere v1.2.3\n", "a.go": "package main\n\nimport _ \"bank.example/nowhere\"\n\nfunc main() {}\n"}), build.Options{}, "go mod download"},
		"a later Go":           {module(map[string]string{"go.mod": "module x.example/y\n\ngo 1.99\n", "a.go": "package main\n\nfunc main() {}\n"}), build.Options{}, "install the Go version"},
		"no folder":            {filepath.Join(t.TempDir(), "none"), build.Options{}, "not found"},
		"a bad name":           {module(map[string]string{"go.mod": "module x.example/y\n\ngo 1.26\n", "a.go": "package main\n\nfunc main() {}\n"}), build.Options{Name: "../x"}, "letters"},
		"another architecture": {module(nil), build.Options{Arch: "mips"}, "amd64"},
		"a bad port":           {module(nil), build.Options{Image: slsa.Image{Ports: []string{"http"}}}, "number"},
		"a bad variable":       {module(nil), build.Options{Image: slsa.Image{Env: []string{"X"}}}, "NAME=value"},
		"a bad user":           {module(nil), build.Options{Image: slsa.Image{User: "a b"}}, "user"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := try(t, build.Source{Go: c.dir}, c.opt); err == nil || !strings.Contains(err.Error(), c.want) || errs.KindOf(err) == errs.Internal {
				t.Errorf("%v of kind %s, want %q and a kind", err, errs.KindOf(err), c.want)
			}
		})
	}
	if _, err := try(t, build.Source{Go: "a", Tar: "b"}, build.Options{}); !errors.Is(err, errs.Invalid) {
		t.Errorf("two sources: %v", err)
	}
}

// TestOrigin holds that provenance calls a tree clean only when the commit
// holds all that was built.
func TestOrigin(t *testing.T) {
	t.Parallel()
	dir := provenancetest.GoMain(t, "hello")
	put(t, dir, ".gitignore", "ignored.go\n/out/\n")
	git(t, dir, "init", "-q", "-b", "main")
	git(t, dir, "add", ".")
	git(t, dir, "commit", "-q", "-m", "x")
	git(t, dir, "remote", "add", "origin", "https://alice:s3cret@git.bank.example/bank/hello.git")
	head := git(t, dir, "rev-parse", "HEAD")
	clean := run(t, build.Source{Go: dir}, build.Options{})
	p, x := external(t, clean)
	if rev, dirty := p.Revision(); rev != head || dirty {
		t.Errorf("revision %q, dirty %v; want %s, clean", rev, dirty, head)
	}
	if x.Source.Repository != "git+https://git.bank.example/bank/hello.git" || x.Source.Ref != "refs/heads/main" || x.Source.Path != "." {
		t.Errorf("source %+v", x.Source)
	}
	if c := config(t, clean); c.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("created %s, want the commit's time", c.Created)
	}
	if !bytes.Contains(clean.Manifest, []byte(head)) {
		t.Error("the manifest does not name the revision")
	}
	for name, spoil := range map[string]func(){
		"a changed file":     func() { put(t, dir, "go.mod", "module bank.example/hello\n\ngo 1.26\n\n") },
		"a new file":         func() { put(t, dir, "extra.go", "package main\n") },
		"an ignored Go file": func() { put(t, dir, "ignored.go", "package main\n\nfunc init() { println(1) }\n") },
		"an ignored folder":  nil, // is not compiled: stays clean
		"a change that git is told to overlook": func() {
			git(t, dir, "update-index", "--assume-unchanged", "main.go")
			put(t, dir, "main.go", "package main\n\nfunc main() { println(2) }\n")
		},
	} {
		git(t, dir, "reset", "-q", "--hard")
		git(t, dir, "clean", "-qfdx")
		if spoil == nil {
			put(t, dir, "out/x.go", "package out\n")
		} else {
			spoil()
		}
		r := run(t, build.Source{Go: dir}, build.Options{})
		p, _ := external(t, r)
		if rev, dirty := p.Revision(); rev != head || dirty != (spoil != nil) {
			t.Errorf("%s: revision %s, dirty %v", name, rev, dirty)
		}
		if strings.Contains(name, "overlook") {
			git(t, dir, "update-index", "--no-assume-unchanged", "main.go")
		}
	}
	raw, err := json.Marshal(clean.Provenance)
	if err != nil || bytes.Contains(raw, []byte("s3cret")) || bytes.Contains(raw, []byte("alice")) {
		t.Errorf("the provenance tells the remote's password: %s", raw)
	}
}

func put(t testing.TB, dir, name, text string) {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const status = `Package: bash
Status: install ok installed
Architecture: amd64
Version: 5.2.15-2+b7
Description: shell
 Package: not-a-package
 .

Package: gone
Status: deinstall ok config-files
Version: 1

Package: libc6
Status: install ok installed
Architecture: amd64
Version: 2.36-9+deb12u9
`

func rootfs(t testing.TB) string {
	dir := t.TempDir()
	put(t, dir, "bin/sh", "#!")
	put(t, dir, "var/lib/dpkg/status", status)
	put(t, dir, "etc/os-release", "NAME=x\nID=debian\n")
	put(t, dir, "z-last", "z")
	for _, err := range []error{
		os.Chmod(dir+"/bin/sh", 0o4755|os.ModeSetuid), os.Link(dir+"/bin/sh", dir+"/bin/zsh"), os.Symlink("/etc/passwd", dir+"/etc/alias"),
		os.Symlink("sh", dir+"/bin/ash"), os.Mkdir(dir+"/empty", 0o700), os.Mkdir(dir+"/tmp", 0o777), os.Chmod(dir+"/tmp", 0o777|os.ModeSticky),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestRootFS(t *testing.T) {
	t.Parallel()
	epoch := time.Unix(1234567890, 0)
	opt := build.Options{Epoch: epoch, Image: slsa.Image{Entrypoint: []string{"/bin/sh"}, User: "0", Ports: []string{"8080/tcp"}, Labels: map[string]string{"a": "b"}, Env: []string{"X=1"}}}
	dir := rootfs(t)
	one, two := run(t, build.Source{RootFS: dir}, opt), run(t, build.Source{RootFS: rootfs(t)}, opt)
	if one.Digest != two.Digest {
		t.Errorf("two builds of the same files: %s and %s", one.Digest, two.Digest)
	}
	e := entries(t, one)
	for name, want := range map[string]tar.Header{
		"bin/sh":    {Typeflag: tar.TypeReg, Mode: 0o4755, Size: 2},
		"bin/zsh":   {Typeflag: tar.TypeLink, Mode: 0o4755, Linkname: "bin/sh"},
		"bin/ash":   {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "sh"},
		"etc/alias": {Typeflag: tar.TypeSymlink, Mode: 0o777, Linkname: "/etc/passwd"},
		"empty/":    {Typeflag: tar.TypeDir, Mode: 0o700},
		"tmp/":      {Typeflag: tar.TypeDir, Mode: 0o1777},
	} {
		h := e[name]
		if h == nil || h.Typeflag != want.Typeflag || h.Mode != want.Mode || h.Linkname != want.Linkname || h.Size != want.Size || !h.ModTime.Equal(epoch) || h.Uid != os.Getuid() {
			t.Errorf("%s: %+v, want %+v", name, h, want)
		}
	}
	c := config(t, one)
	if _, ok := c.Config.ExposedPorts["8080/tcp"]; !ok || c.Config.User != "0" || c.Config.Labels["a"] != "b" || !slices.Contains(c.Config.Env, "X=1") || c.Created != "2009-02-13T23:31:30Z" {
		t.Errorf("config %+v", c)
	}
	var doc struct {
		SPDXVersion string `json:"spdxVersion"`
		Packages    []struct {
			Name, VersionInfo string
			ExternalRefs      []struct{ ReferenceLocator string }
		}
	}
	if err := json.Unmarshal(one.SBOM, &doc); err != nil || doc.SPDXVersion != "SPDX-2.3" || len(doc.Packages) != 3 {
		t.Fatalf("SBOM %s, %v", one.SBOM, err)
	}
	if p := doc.Packages[1]; p.Name != "bash" || p.VersionInfo != "5.2.15-2+b7" || p.ExternalRefs[0].ReferenceLocator != "pkg:deb/debian/bash@5.2.15-2+b7?arch=amd64" {
		t.Errorf("first package %+v", p)
	}

	put(t, dir, "z-last", "y")
	if three := run(t, build.Source{RootFS: dir}, opt); three.Digest == one.Digest {
		t.Error("another file, the same digest")
	}
	for name, spoil := range map[string]func(dir string) error{
		"a pipe":     func(d string) error { return syscall.Mkfifo(d+"/pipe", 0o600) },
		"a whiteout": func(d string) error { return os.WriteFile(d+"/.wh.x", nil, 0o600) },
		"a file":     func(d string) error { return os.RemoveAll(d) },
	} {
		d := rootfs(t)
		if err := spoil(d); err != nil {
			t.Fatal(err)
		}
		if name == "a file" {
			put(t, filepath.Dir(d), filepath.Base(d), "x")
		}
		if _, err := try(t, build.Source{RootFS: d}, opt); err == nil || errs.KindOf(err) == errs.Internal {
			t.Errorf("%s: %v, want a typed error", name, err)
		}
	}
}

// archive writes a tar of the given entries.
func archive(t testing.TB, hs ...*tar.Header) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range hs {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if h.Typeflag == tar.TypeReg {
			h.Size = int64(len("text"))
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := w.Write([]byte("text")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func file(t testing.TB, b []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestTar(t *testing.T) {
	t.Parallel()
	raw := archive(t,
		&tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755},
		&tar.Header{Name: "./etc/", Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Now(), Uname: "root"},
		&tar.Header{Name: "etc/passwd", Mode: 0o644, Uid: 1, Gid: 2},
		&tar.Header{Name: "/abs", Mode: 0o600},
		&tar.Header{Name: "hard", Typeflag: tar.TypeLink, Linkname: "./etc/passwd"},
		&tar.Header{Name: "hard2", Typeflag: tar.TypeLink, Linkname: "hard"},
		&tar.Header{Name: "soft", Typeflag: tar.TypeSymlink, Linkname: "../../etc/shadow"},
		&tar.Header{Name: "dev/null", Typeflag: tar.TypeChar, Devmajor: 1, Devminor: 3},
		&tar.Header{Name: strings.Repeat("long/", 50) + "x", Mode: 0o644},
	)
	one := run(t, build.Source{Tar: file(t, raw)}, build.Options{})
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(raw)
	w.Close()
	if two := run(t, build.Source{Tar: file(t, z.Bytes())}, build.Options{}); two.Digest != one.Digest {
		t.Errorf("compressed: %s, plain %s", two.Digest, one.Digest)
	}
	e := entries(t, one)
	if len(e) != 7 || e["etc/"].Uname != "" || !e["etc/"].ModTime.Equal(time.Unix(0, 0)) || e["etc/passwd"].Uid != 1 || e["abs"] == nil || e["hard"].Linkname != "etc/passwd" || e["soft"].Linkname != "../../etc/shadow" {
		t.Errorf("entries %v", e)
	}
	if len(one.Skipped) != 1 || !strings.HasPrefix(one.Skipped[0], "dev/null") {
		t.Errorf("skipped %q", one.Skipped)
	}
	p, _ := external(t, one)
	if d := p.BuildDefinition.ResolvedDependencies; d[len(d)-1].Digest["sha256"] != artifact.DigestOf(raw).Hex() {
		t.Errorf("dependencies %+v", d)
	}
}

func TestTarRefused(t *testing.T) {
	t.Parallel()
	reg := func(name string) *tar.Header { return &tar.Header{Name: name, Mode: 0o644} }
	for name, raw := range map[string][]byte{
		"leads out":             archive(t, reg("../evil")),
		"leads out in between":  archive(t, reg("a/../../evil")),
		"dots inside":           archive(t, reg("a/../b")),
		"below a link":          archive(t, &tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}, reg("a/passwd")),
		"below a link, later":   archive(t, reg("a/b"), &tar.Header{Name: "a", Typeflag: tar.TypeSymlink, Linkname: "/etc"}),
		"below a file":          archive(t, reg("a"), reg("a/b")),
		"twice":                 archive(t, reg("a"), reg("a")),
		"twice, other spelling": archive(t, reg("a"), reg("./a")),
		"file for folder":       archive(t, &tar.Header{Name: "a/", Typeflag: tar.TypeDir}, reg("a")),
		"hard link to nothing":  archive(t, &tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "b"}),
		"hard link out":         archive(t, &tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "../../etc/shadow"}),
		"hard link to itself":   archive(t, &tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "a"}),
		"hard link to a link":   archive(t, &tar.Header{Name: "s", Typeflag: tar.TypeSymlink, Linkname: "/etc/shadow"}, &tar.Header{Name: "a", Typeflag: tar.TypeLink, Linkname: "s"}),
		"whiteout":              archive(t, reg("etc/.wh.passwd")),
		"opaque whiteout":       archive(t, reg("etc/.wh..wh..opq")),
		"device":                archive(t, &tar.Header{Name: "sda", Typeflag: tar.TypeBlock, Devmajor: 8}),
		"pipe":                  archive(t, &tar.Header{Name: "p", Typeflag: tar.TypeFifo}),
		"long name":             archive(t, reg(strings.Repeat("a/", 3000)+"b")),
		"image archive":         archive(t, reg("manifest.json")),
		"OCI layout":            archive(t, reg("oci-layout")),
		"nothing":               archive(t),
		"no tar":                []byte(strings.Repeat("text", 300)),
		"cut short":             archive(t, reg("a"))[:700],
		"empty":                 {},
		"broken gzip":           {0x1f, 0x8b, 8, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := try(t, build.Source{Tar: file(t, raw)}, build.Options{}); err == nil || errs.KindOf(err) == errs.Internal {
				t.Errorf("%v of kind %s, want a typed error", err, errs.KindOf(err))
			}
		})
	}
}

// TestLarge packs far more than it may hold in memory.
func TestLarge(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 600 MB")
	}
	dir := t.TempDir()
	for i := range 3 {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(f.Truncate(100<<20), f.Close()); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	var told int
	r := run(t, build.Source{RootFS: dir}, build.Options{Progress: func(build.Progress) { told++ }})
	runtime.ReadMemStats(&after)
	if got := after.TotalAlloc - before.TotalAlloc; got > 16<<20 {
		t.Errorf("allocated %d MB in all, want at most 16", got>>20)
	}
	if r.Layers[0].Size < 300<<20 || told < 15 {
		t.Errorf("layer of %d bytes, %d reports", r.Layers[0].Size, told)
	}
}

func TestCancel(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	work := t.TempDir()
	_, err := build.Build(ctx, build.Source{Go: provenancetest.GoMain(t, "x")}, build.Options{WorkDir: work, Progress: func(p build.Progress) {
		if p.Step == "compile" {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("%v, want Canceled", err)
	}
	if l, err := os.ReadDir(work); err != nil || len(l) != 0 {
		t.Errorf("left %v, %v", l, err)
	}
}

func FuzzTar(f *testing.F) {
	f.Add(archive(f, &tar.Header{Name: "a", Mode: 0o644}, &tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "a"}))
	f.Add(archive(f, &tar.Header{Name: "var/lib/dpkg/status", Mode: 0o644}))
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, err := build.Build(t.Context(), build.Source{Tar: file(t, raw)}, build.Options{WorkDir: t.TempDir()})
		if err != nil {
			return
		}
		defer r.Close()
		for name := range entries(t, r) {
			if strings.HasPrefix(name, "/") || slices.Contains(strings.Split(name, "/"), "..") {
				t.Errorf("entry %q", name)
			}
		}
	})
}
