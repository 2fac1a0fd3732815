// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/slsa"
)

// Source is what an image is made of; exactly one field is set.
type Source struct {
	Go     string // folder of a Go main package
	RootFS string // folder that holds a root file system
	Tar    string // tar file, plain or gzip, that holds a root file system
}

// Options steer a build. The zero Options make a plain image for this
// machine's architecture.
type Options struct {
	// Name is the binary's name in /app, for a Go main package; "" stands for
	// the folder's name.
	Name string
	// Image is the image's configuration. For a Go main package the entry
	// point and the user 65532 are set when it says nothing.
	Image slsa.Image
	// Arch is the GOARCH of the image; "" stands for this machine's.
	Arch string
	// Epoch is the time of every file and of the image; zero stands for the
	// commit's time, or 1970 without git. cmd fills it from SOURCE_DATE_EPOCH.
	Epoch time.Time
	// WorkDir takes the layer until the Result is closed; "" stands for the
	// system's temporary folder. It needs as much room as the image.
	WorkDir string
	// Progress, unless nil, is told what happens; it must not block.
	Progress func(Progress)
	// Now is the clock of the provenance; nil stands for time.Now.
	Now func() time.Time
}

// Progress is one step of a build, or a part of one.
type Progress struct {
	Step  string `json:"step"`  // "source", "compile", "pack", "describe"
	Bytes int64  `json:"bytes"` // packed so far
}

// Result is a finished image on disk, and what its builder can say of it.
// Close removes it.
type Result struct {
	Digest     artifact.Digest // of Manifest
	Manifest   []byte
	Config     []byte
	Layers     []Layer
	Provenance slsa.Predicate // builder.id is set by who signs it
	SBOM       []byte         // SPDX 2.3 JSON
	Skipped    []string       // what the source held and an image cannot, at most 100 names

	dir string
}

// Layer is one plain tar on disk.
type Layer struct {
	Digest artifact.Digest
	Size   int64
	path   string
}

// Open reads the layer.
func (l Layer) Open() (io.ReadCloser, error) { return os.Open(l.path) }

// Close removes the layers.
func (r *Result) Close() error {
	if r == nil || r.dir == "" {
		return nil
	}
	return os.RemoveAll(r.dir)
}

// builder is one run of Build; its methods are the steps.
type builder struct {
	src  Source
	opt  Options
	dir  string // temporary
	kind string

	origin origin
	layer  *layerFile
	deps   []slsa.Resource
	pkgs   packages
}

// Build makes the image. It writes below Options.WorkDir only.
func Build(ctx context.Context, src Source, opt Options) (*Result, error) {
	b, err := newBuilder(src, opt)
	if err != nil {
		return nil, err
	}
	started := b.opt.Now().UTC()
	r, err := b.run(ctx)
	if err == nil {
		r.Provenance.RunDetails.Metadata.StartedOn = started
		r.Provenance.RunDetails.Metadata.FinishedOn = b.opt.Now().UTC()
		return r, nil
	}
	return nil, errors.Join(fmt.Errorf("build image: %w", err), os.RemoveAll(b.dir))
}

func newBuilder(src Source, opt Options) (*builder, error) {
	b := &builder{src: src, opt: opt}
	path := src.Go + src.RootFS + src.Tar
	switch {
	case src.Go == path && path != "":
		b.kind = "go"
	case src.RootFS == path && path != "":
		b.kind = "rootfs"
	case src.Tar == path && path != "":
		b.kind = "tar"
	default:
		return nil, &errs.Error{Kind: errs.Invalid, Subject: "build", Field: "source", Expected: "one of a Go package, a root file system, a tar file", Seen: "none or several"}
	}
	if b.opt.Arch == "" {
		b.opt.Arch = runtime.GOARCH
	}
	if b.opt.Arch != "amd64" && b.opt.Arch != "arm64" {
		return nil, &errs.Error{Kind: errs.Unsupported, Subject: "build", Field: "arch", Expected: "amd64 or arm64", Seen: b.opt.Arch}
	}
	if b.opt.Now == nil {
		b.opt.Now = time.Now
	}
	if b.opt.Progress == nil {
		b.opt.Progress = func(Progress) {}
	}
	if err := checkImage(opt.Image); err != nil {
		return nil, err
	}
	var err error
	b.dir, err = os.MkdirTemp(opt.WorkDir, "redoubt-build-*")
	if err != nil {
		return nil, fmt.Errorf("build image: %w", err)
	}
	return b, nil
}

func (b *builder) run(ctx context.Context) (*Result, error) {
	b.opt.Progress(Progress{Step: "source"})
	var err error
	if b.origin, err = findOrigin(ctx, b.src.Go+b.src.RootFS+b.src.Tar); err != nil {
		return nil, err
	}
	if b.layer, err = newLayer(filepath.Join(b.dir, "layer.tar"), b.epoch(), b.opt.Progress); err != nil {
		return nil, err
	}
	defer b.layer.close()
	switch b.kind {
	case "go":
		err = b.golang(ctx)
	case "rootfs":
		err = b.rootfs(ctx)
	case "tar":
		err = b.tarball(ctx)
	}
	if err != nil {
		return nil, err
	}
	layer, err := b.layer.finish()
	if err != nil {
		return nil, err
	}
	b.opt.Progress(Progress{Step: "describe", Bytes: layer.Size})
	if err := b.origin.again(ctx); err != nil {
		return nil, err
	}
	r := &Result{Layers: []Layer{layer}, Skipped: b.layer.skipped, dir: b.dir}
	if err := b.image(r); err != nil {
		return nil, err
	}
	if err := b.statement(r); err != nil {
		return nil, err
	}
	return r, b.sbom(r)
}

// epoch is the one time that everything in the image carries.
func (b *builder) epoch() time.Time {
	switch {
	case !b.opt.Epoch.IsZero():
		return b.opt.Epoch.UTC().Truncate(time.Second)
	case b.origin.commit != "":
		return b.origin.time.UTC()
	}
	return time.Unix(0, 0).UTC()
}

// descriptor names stored content in the manifest.
func descriptor(mediaType string, d artifact.Digest, size int64) manifest.Descriptor {
	return manifest.Descriptor{MediaType: mediaType, Digest: d, Size: size}
}
