// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/base/obs"
	"redoubt.dev/base/run"
	"redoubt.dev/node/control"
	"redoubt.dev/node/manifest"
)

// maxRequest bounds a request of the API, in bytes.
const maxRequest = 1 << 20

// serveAPI answers on the node's sockets until ctx ends.
func (n *Node) serveAPI(ctx context.Context) error {
	l, err := socket(n.cfg.Socket())
	if err != nil {
		return err
	}
	ex, err := socket(n.cfg.Socket() + ".exec")
	if err != nil {
		l.Close()
		return err
	}
	mux := http.NewServeMux()
	handle(mux, "up", n.up)
	handle(mux, "down", n.down)
	handle(mux, "status", func(ctx context.Context, _ struct{}) (out control.Status, err error) {
		err = n.ask(ctx, func(w *world) { out = w.status() })
		return out, err
	})
	handle(mux, "verify", n.verify)
	handle(mux, "root", func(context.Context, struct{}) (json.RawMessage, error) { return n.keys.TrustRoot(), nil })
	handle(mux, "passport", n.passport)
	mux.HandleFunc("POST /v1/logs", n.logs)
	mux.HandleFunc("POST /v1/build", n.build)
	g := run.New(ctx)
	g.Go("http", func(ctx context.Context) error { return serveHTTP(ctx, l, mux) })
	g.Go("exec", func(ctx context.Context) error { return n.serveExec(ctx, ex.(*net.UnixListener)) })
	return g.Wait()
}

// socket listens on a unix socket that root alone may open.
func socket(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen for the API: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

// handle answers POST /v1/<verb> with f; both sides are JSON, strictly.
func handle[In, Out any](mux *http.ServeMux, verb string, f func(context.Context, In) (Out, error)) {
	mux.HandleFunc("POST /v1/"+verb, func(w http.ResponseWriter, r *http.Request) {
		var in In
		if err := decode(r, &in); err != nil {
			fail(w, err)
			return
		}
		out, err := f(r.Context(), in)
		if err != nil {
			fail(w, err)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out) // the client is gone: nobody to tell
	})
}

func decode(r *http.Request, v any) error {
	err := strictly(http.MaxBytesReader(nil, r.Body, maxRequest), v)
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return &errs.Error{Kind: errs.TooLarge, Subject: "request " + r.URL.Path, Expected: fmt.Sprintf("at most %d bytes", maxRequest)}
	case err != nil:
		return &errs.Error{Kind: errs.Invalid, Subject: "request " + r.URL.Path, Err: err}
	}
	return nil
}

// strictly decodes one JSON value of known fields and nothing behind it.
func strictly(r io.Reader, v any) error {
	d := json.NewDecoder(r)
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.Join(errors.New("more follows behind the request"), err)
	}
	return nil
}

// fail writes an error. This is the one place where kinds become HTTP codes.
func fail(w http.ResponseWriter, err error) {
	code := map[errs.Kind]int{
		errs.Invalid: http.StatusBadRequest, errs.NotFound: http.StatusNotFound, errs.Exists: http.StatusConflict, errs.Denied: http.StatusForbidden,
		errs.Unproven: http.StatusForbidden, errs.Stale: http.StatusConflict, errs.Unavailable: http.StatusServiceUnavailable,
		errs.Unsupported: http.StatusUnprocessableEntity, errs.TooLarge: http.StatusRequestEntityTooLarge, errs.Conflict: http.StatusConflict,
	}[errs.KindOf(err)]
	if code == 0 {
		code = http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	_ = json.NewEncoder(w).Encode(control.Wire(err))
}

// up takes manifests into the world. It answers when they are accepted, which
// is before their pods run.
func (n *Node) up(ctx context.Context, in control.Up) (out control.Upped, err error) {
	if len(in.Paths) == 0 {
		return out, &errs.Error{Kind: errs.Invalid, Field: "paths", Expected: "at least one file or directory", Seen: "none"}
	}
	for _, p := range in.Paths {
		if !filepath.IsAbs(p) {
			return out, &errs.Error{Kind: errs.Invalid, Field: "paths", Expected: "absolute paths", Seen: p}
		}
	}
	slices.Sort(in.Paths)
	s := &set{Name: setName(in.Paths), Paths: in.Paths, stamp: stamp(in.Paths)}
	if s.good, err = manifest.Load(in.Paths); err != nil {
		return out, n.refusedSet(s.Name, err)
	}
	out.Set = s.Name
	for _, k := range s.good.Keys() {
		out.Objects = append(out.Objects, k.String())
	}
	var aerr error
	err = n.ask(ctx, func(w *world) {
		old := w.sets[s.Name]
		out.Changed = old == nil || old.good.Digest() != s.good.Digest()
		aerr = w.accept(s)
	})
	if err = errors.Join(err, aerr); err != nil {
		return control.Upped{}, n.refusedSet(s.Name, err)
	}
	return out, nil
}

func (n *Node) refusedSet(name string, err error) error {
	reason := err.Error()
	if i := strings.IndexByte(reason, '\n'); i > 0 {
		reason = reason[:i] + " …"
	}
	return errors.Join(err, n.audit.Write(obs.Record{Action: "load", Subject: "redoubt up", Object: name, Decision: obs.Deny, Reason: reason}))
}

// down ends one set, or everything with the node.
func (n *Node) down(ctx context.Context, in control.Down) (out struct{}, err error) {
	if len(in.Paths) > 0 {
		slices.Sort(in.Paths)
		name := setName(in.Paths)
		derr := error(nil)
		err = n.ask(ctx, func(w *world) {
			if w.sets[name] == nil {
				derr = &errs.Error{Kind: errs.NotFound, Subject: "set " + name, Expected: "paths that were brought up together", Fix: "see redoubt status"}
				return
			}
			derr = w.drop(name)
		})
		return out, errors.Join(err, derr)
	}
	err = n.ask(ctx, func(w *world) {
		for _, name := range sortedNames(w.sets) {
			if derr := w.drop(name); derr != nil {
				n.log.Error("forget set", "set", name, "error", derr)
			}
		}
	})
	if err != nil {
		return out, err
	}
	ectx, cancel := context.WithTimeout(n.ctx, 2*time.Minute)
	defer cancel()
	if err := n.endAll(ectx); err != nil {
		return out, err
	}
	go func() { // after the answer has left
		select {
		case <-time.After(100 * time.Millisecond):
		case <-n.ctx.Done():
		}
		n.goDown.Do(func() { close(n.downed) })
	}()
	return out, nil
}

// verified answers Verify.
type verified struct {
	Image    string   `json:"image"`
	Policies []string `json:"policies"`
	Signers  []string `json:"signers"`
	Links    any      `json:"links"`
}

func (n *Node) verify(ctx context.Context, in control.Verify) (verified, error) {
	p, err := n.admission.Verify(ctx, in.Namespace, "redoubt verify", in.Image)
	if err != nil {
		return verified{}, err
	}
	return verified{p.Ref().String(), p.Policies(), p.Signers(), p.Links()}, nil
}
