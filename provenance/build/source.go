// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"redoubt.dev/api/errs"
	"redoubt.dev/provenance/slsa"
)

// origin is where the source comes from, as far as git can tell. Its zero
// commit means that no commit can be named.
type origin struct {
	dir    string // absolute folder that is built, or that holds the tar
	top    string // of the git tree, "" without git
	repo   string // URI
	path   string // of what is built, inside the tree
	commit string
	ref    string
	time   time.Time
	why    string // why it is dirty, "" when every built file is in the commit
}

// findOrigin asks git about path. A folder without git, or one that git
// refuses because another user owns it, has no commit; that is not an error,
// the provenance says so.
func findOrigin(ctx context.Context, path string) (origin, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return origin{}, err
	}
	if abs, err = filepath.EvalSymlinks(abs); err != nil {
		return origin{}, &errs.Error{Kind: errs.NotFound, Subject: path, Expected: "the source to build", Err: err}
	}
	st, err := os.Stat(abs)
	if err != nil {
		return origin{}, err
	}
	o := origin{dir: abs, repo: "file://" + filepath.ToSlash(abs), why: "not in a git tree"}
	if !st.IsDir() {
		o.dir = filepath.Dir(abs)
	}
	if err := slsa.CheckRepository(o.repo); err != nil {
		return o, &errs.Error{Kind: errs.Invalid, Subject: "source", Field: "path", Expected: "a path of plain characters", Seen: fmt.Sprintf("%.256q", abs), Fix: "rename or move the folder"}
	}
	if o.top, err = git(ctx, o.dir, "rev-parse", "--show-toplevel"); err != nil {
		o.top = ""
		return o, ctx.Err()
	}
	if o.commit, err = git(ctx, o.dir, "rev-parse", "--verify", "HEAD^{commit}"); err != nil {
		o.top, o.commit = "", ""
		return o, ctx.Err()
	}
	sec, err := git(ctx, o.dir, "log", "-1", "--format=%ct", o.commit)
	if err != nil {
		return o, err
	}
	n, err := strconv.ParseInt(sec, 10, 64)
	if err != nil {
		return o, fmt.Errorf("commit time %q: %w", sec, err)
	}
	o.time = time.Unix(n, 0)
	if o.ref, err = git(ctx, o.dir, "symbolic-ref", "-q", "HEAD"); err != nil {
		o.ref = "" // detached
	}
	if o.path, err = filepath.Rel(o.top, abs); err != nil {
		return o, err
	}
	o.repo = "git+file://" + filepath.ToSlash(o.top)
	if remote, err := git(ctx, o.dir, "config", "--get", "remote.origin.url"); err == nil {
		if uri := remoteURI(remote); uri != "" {
			o.repo = uri
		}
	}
	o.why, err = status(ctx, o)
	return o, err
}

// status gives what in the tree the commit does not hold.
func status(ctx context.Context, o origin) (string, error) {
	out, err := git(ctx, o.top, "status", "--porcelain", "--untracked-files=normal", "--ignore-submodules=none")
	if err != nil {
		return "", err
	}
	if out != "" {
		n := strings.Count(out, "\n") + 1
		return fmt.Sprintf("%d files differ from the commit", n), nil
	}
	return "", nil
}

// again looks a second time, after the build: the tree may have changed while
// it was read.
func (o *origin) again(ctx context.Context) error {
	if o.commit == "" {
		return nil
	}
	now, err := git(ctx, o.dir, "rev-parse", "--verify", "HEAD^{commit}")
	if err != nil {
		return err
	}
	why, err := status(ctx, *o)
	if err != nil {
		return err
	}
	switch {
	case now != o.commit:
		o.taint("the commit changed during the build")
	case why != "":
		o.taint(why)
	}
	return nil
}

func (o *origin) taint(why string) {
	if o.why == "" {
		o.why = why
	}
}

func (o origin) dirty() bool { return o.why != "" }

// tracked taints o unless the commit holds all of the absolute paths: an
// ignored file that was compiled is not in the commit, and a file that git was
// told to overlook may differ from it, yet git calls the tree clean.
func (o *origin) tracked(ctx context.Context, paths []string) error {
	if o.commit == "" || o.dirty() {
		return nil
	}
	out, err := git(ctx, o.top, "ls-files", "-z", "-v", "--full-name")
	if err != nil {
		return err
	}
	held := map[string]bool{}
	for _, p := range strings.Split(out, "\x00") {
		// "H" is a file that git compares; "S" and lower case letters are not.
		if path, compared := strings.CutPrefix(p, "H "); compared {
			held[filepath.Join(o.top, path)] = true
		}
	}
	for _, p := range paths {
		if !held[p] {
			o.taint(fmt.Sprintf("%.256q is not in the commit", p))
			break
		}
	}
	return nil
}

// resource is the resolved dependency that names the source.
func (o origin) resource() slsa.Resource {
	r := slsa.Resource{Name: slsa.SourceName, URI: o.repo, Annotations: map[string]string{"dirty": fmt.Sprint(o.dirty())}}
	if o.commit != "" {
		r.Digest = map[string]string{"gitCommit": o.commit}
	}
	if o.why != "" {
		r.Annotations["why"] = o.why
	}
	return r
}

// remoteURI turns a git remote into a plain URI: without user and password,
// which do not belong in a public statement. It gives "" for what has none.
func remoteURI(remote string) string {
	if host, path, ok := strings.Cut(remote, ":"); ok && !strings.Contains(remote, "://") && !strings.Contains(host, "/") {
		if i := strings.LastIndexByte(host, '@'); i >= 0 {
			host = host[i+1:]
		}
		remote = "ssh://" + host + "/" + strings.TrimPrefix(path, "/")
	}
	u, err := url.Parse(remote)
	if err != nil || u.Scheme == "" && !filepath.IsAbs(remote) {
		return ""
	}
	if u.Scheme == "" {
		u.Scheme = "file"
	}
	uri := "git+" + u.Scheme + "://" + u.Host + u.Path
	if slsa.CheckRepository(uri) != nil {
		return ""
	}
	return uri
}
