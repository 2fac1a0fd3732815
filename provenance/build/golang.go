// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"strings"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/slsa"
)

// unprivileged is the user that Go images run as: "nonroot" of distroless
// images, which tools know.
const unprivileged = "65532"

const (
	passwd = "root:x:0:0:root:/:/sbin/nologin\nnonroot:x:65532:65532:nonroot:/:/sbin/nologin\n"
	group  = "root:x:0:\nnonroot:x:65532:\n"
)

var nameRE = regexp.MustCompile(`^[a-zA-Z0-9_][a-zA-Z0-9_.-]{0,63}$`)

// golang compiles a main package into /app.
func (b *builder) golang(ctx context.Context) error {
	dir := b.origin.dir
	name := b.opt.Name
	if name == "" {
		name = filepath.Base(dir)
	}
	if !nameRE.MatchString(name) {
		return &errs.Error{Kind: errs.Invalid, Subject: "build", Field: "name", Expected: "letters, digits, '_', '.', '-'", Seen: fmt.Sprintf("%.64q", name)}
	}
	b.opt.Progress(Progress{Step: "compile"})
	if err := b.listFiles(ctx, dir); err != nil {
		return err
	}
	bin := filepath.Join(b.dir, "app")
	// -trimpath, no VCS stamp and no build ID: nothing of this machine or of
	// the folder's name reaches the binary. -mod=readonly: go.mod is what was
	// reviewed.
	_, err := command(ctx, dir, b.goEnv(), "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-buildid=", "-o", bin, ".")
	if err != nil {
		return goError(err)
	}
	info, err := buildinfo.ReadFile(bin)
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", name, err)
	}
	if err := b.packGo(bin, name); err != nil {
		return err
	}
	if len(b.opt.Image.Entrypoint) == 0 {
		b.opt.Image.Entrypoint = []string{"/app/" + name}
	}
	if b.opt.Image.User == "" {
		b.opt.Image.User = unprivileged + ":" + unprivileged
	}
	b.modules(info)
	return nil
}

// goEnv steers the Go command: no network, no C, no other toolchain, no
// workspace, no flags of the user's.
func (b *builder) goEnv() []string {
	env := []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + b.opt.Arch, "GOFLAGS=", "GOENV=off", "GOWORK=off", "GOTOOLCHAIN=local",
		"GOPROXY=off", "GOSUMDB=off", "GOEXPERIMENT=", "GODEBUG=", "GO111MODULE=on", "GOAUTH=off", "GOTELEMETRY=off", "LC_ALL=C"}
	if b.opt.Arch == "amd64" {
		return append(env, "GOAMD64=v1")
	}
	return append(env, "GOARM64=v8.0")
}

// listFiles asks which files will be compiled, and taints the source when one
// of them is in no commit and no module that go.sum pins.
func (b *builder) listFiles(ctx context.Context, dir string) error {
	out, err := command(ctx, dir, b.goEnv(), "go", "list", "-deps", "-json=Name,ImportPath,Dir,Standard,DepOnly,Module,GoFiles,EmbedFiles,SFiles,HFiles", ".")
	if err != nil {
		return goError(err)
	}
	var paths []string
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			Name, ImportPath, Dir               string
			Standard, DepOnly                   bool
			GoFiles, EmbedFiles, SFiles, HFiles []string
			Module                              *struct {
				Main    bool
				Replace *struct{ Version string }
			}
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return fmt.Errorf("read go list: %w", err)
		}
		if !p.DepOnly && p.Name != "main" {
			return &errs.Error{Kind: errs.Invalid, Subject: dir, Expected: "a Go main package", Seen: "package " + p.Name, Fix: "name the folder that holds func main"}
		}
		pinned := p.Standard || p.Module != nil && !p.Module.Main && (p.Module.Replace == nil || p.Module.Replace.Version != "")
		if pinned && !strings.HasPrefix(p.Dir, b.origin.top+"/") { // not vendored
			continue
		}
		for _, files := range [][]string{p.GoFiles, p.EmbedFiles, p.SFiles, p.HFiles} {
			for _, f := range files {
				paths = append(paths, filepath.Join(p.Dir, f))
			}
		}
	}
	return b.origin.tracked(ctx, paths)
}

// packGo lays out the smallest root that a static binary needs.
func (b *builder) packGo(bin, name string) error {
	f, err := os.Open(bin)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	dir := func(name string, mode int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: mode}
	}
	file := func(name string, mode, size int64) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: size}
	}
	return errors.Join(
		b.layer.add(dir("app/", 0o755), nil),
		b.layer.add(file("app/"+name, 0o755, st.Size()), f),
		b.layer.add(dir("etc/", 0o755), nil),
		b.layer.add(file("etc/group", 0o644, int64(len(group))), strings.NewReader(group)),
		b.layer.add(file("etc/passwd", 0o644, int64(len(passwd))), strings.NewReader(passwd)),
		b.layer.add(dir("tmp/", 0o1777), nil),
	)
}

// modules notes what the linker says it linked.
func (b *builder) modules(info *debug.BuildInfo) {
	b.deps = append(b.deps, slsa.Resource{Name: "go", URI: "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")})
	b.pkgs.add(pkg{name: "stdlib", version: strings.TrimPrefix(info.GoVersion, "go"), purl: "pkg:golang/stdlib@" + strings.TrimPrefix(info.GoVersion, "go")})
	b.pkgs.main = info.Main.Path
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		r := slsa.Resource{URI: purl}
		p := pkg{name: m.Path, version: m.Version, purl: purl}
		// in-toto DigestSet: dirHash is the h1 hash in hexadecimal.
		if raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:")); err == nil && len(raw) == 32 {
			r.Digest = map[string]string{"dirHash": hex.EncodeToString(raw)}
			p.dirHash = hex.EncodeToString(raw)
		}
		b.deps = append(b.deps, r)
		b.pkgs.add(p)
	}
}

// goError says what to do about a build that wanted the network.
func goError(err error) error {
	var e *errs.Error
	if errors.As(err, &e) && e.Err != nil {
		c := *e
		switch text := e.Err.Error(); {
		case strings.Contains(text, "GOPROXY=off") || strings.Contains(text, "missing go.sum entry"):
			c.Fix = "run 'go mod download' in the module first: builds have no network"
		case strings.Contains(text, "GOTOOLCHAIN=local"):
			c.Fix = "install the Go version that go.mod asks for"
		}
		return &c
	}
	return err
}
