// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"net/http"
	"path/filepath"
	"sync"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/node/control"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/slsa"
)

// build makes an image, signs it as this installation's builder and publishes
// it. The node does it, not the asker: provenance is what the builder saw.
func (n *Node) build(w http.ResponseWriter, r *http.Request) {
	var in control.Build
	if err := decode(r, &in); err != nil {
		fail(w, err)
		return
	}
	ref, err := n.buildRef(in)
	if err != nil {
		fail(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	var mu sync.Mutex
	send := func(e control.Event) {
		mu.Lock()
		defer mu.Unlock()
		_ = json.NewEncoder(w).Encode(e)
		if f, ok := w.(http.Flusher); ok {
			f.Flush()
		}
	}
	out, err := n.buildImage(r.Context(), in, ref, send)
	if err != nil {
		send(control.Event{Error: control.Wire(err)})
		return
	}
	send(control.Event{Done: out})
}

func (n *Node) buildRef(in control.Build) (artifact.Ref, error) {
	sources := 0
	for _, s := range []string{in.Go, in.Directory, in.Tar} {
		if s != "" {
			sources++
			if !filepath.IsAbs(s) {
				return artifact.Ref{}, &errs.Error{Kind: errs.Invalid, Subject: "build", Expected: "an absolute path", Seen: s}
			}
		}
	}
	if sources != 1 {
		return artifact.Ref{}, &errs.Error{Kind: errs.Invalid, Subject: "build", Expected: "one of a Go package, a directory and a tar"}
	}
	ref, err := artifact.ParseRef(in.Tag)
	if err == nil && ref.Host != n.cfg.Registry {
		err = &errs.Error{Kind: errs.Invalid, Subject: "build", Field: "tag", Expected: "an image of this node's registry, " + n.cfg.Registry + "/…", Seen: in.Tag}
	}
	return ref, err
}

func (n *Node) buildImage(ctx context.Context, in control.Build, ref artifact.Ref, send func(control.Event)) (provenance.Published, error) {
	opt := build.Options{
		Image: slsa.Image{Entrypoint: in.Entrypoint, Cmd: in.Cmd, Env: in.Env, User: in.User, WorkDir: in.WorkingDir, Ports: in.Ports, Labels: in.Labels},
		Progress: func(p build.Progress) {
			send(control.Event{Step: p.Step, Text: size(p.Bytes)})
		},
	}
	img, err := build.Build(ctx, build.Source{Go: in.Go, RootFS: in.Directory, Tar: in.Tar}, opt)
	if err != nil {
		return provenance.Published{}, err
	}
	defer img.Close()
	send(control.Event{Step: "sign and publish", Text: ref.String()})
	return provenance.Publish(ctx, n.store, n.keys, ref, img, time.Now())
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	b, _ := json.Marshal(float64(n>>10) / 1024)
	if i := len(b); i > 5 {
		b = b[:5]
	}
	return string(b) + " MiB"
}
