// SPDX-License-Identifier: Apache-2.0

package admit_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
	"redoubt.dev/api/policy"
	"redoubt.dev/base/obs"
	"redoubt.dev/node/admit"
	"redoubt.dev/node/pod"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/slsa"
	"redoubt.dev/provenance/verify"
	"redoubt.dev/sandbox/engine"
)

// book is an audit log that can be made to fail.
type book struct {
	mu      sync.Mutex
	records []obs.Record
	full    error
}

func (b *book) Write(r obs.Record) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.records = append(b.records, r)
	return b.full
}

func (b *book) last() obs.Record {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.records) == 0 {
		return obs.Record{}
	}
	return b.records[len(b.records)-1]
}

type lab struct {
	*provenancetest.Installation
	*admit.Admission
	audit  *book
	images string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	l := &lab{Installation: provenancetest.New(t, "bank.example"), audit: &book{}, images: filepath.Join(t.TempDir(), "images")}
	l.again(t)
	return l
}

// again makes an Admission as a node that has just started.
func (l *lab) again(t *testing.T) {
	t.Helper()
	var err error
	l.Admission, err = admit.New(admit.Config{Registry: l.Store, Root: l.Root, Default: verify.DefaultPolicy(l.Domain), Images: l.images, Audit: l.audit, Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
}

// publish builds and publishes an image whose only file holds text.
func (l *lab) publish(t *testing.T, name, text string, img slsa.Image) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "motd"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(filepath.Join(dir, "motd"), time.Time{}, time.Unix(1000, 0)); err != nil {
		t.Fatal(err)
	}
	r, err := build.Build(t.Context(), build.Source{RootFS: dir}, build.Options{WorkDir: t.TempDir(), Image: img, Epoch: time.Unix(1000, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := provenance.Publish(t.Context(), l.Store, l.Keys, l.Ref(t, name), r, time.Now()); err != nil {
		t.Fatal(err)
	}
	return l.Ref(t, name).String()
}

func record(uid, image string, change func(*corev1.PodSpec)) *pod.Record {
	spec := corev1.PodSpec{Containers: []corev1.Container{{Name: "app", Image: image}}}
	if change != nil {
		change(&spec)
	}
	return &pod.Record{UID: uid, Pod: &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "p-" + uid}, Spec: spec}}
}

func pinned(t *testing.T, ref string) artifact.Digest {
	t.Helper()
	r, err := artifact.ParseRef(ref)
	if err != nil || r.Digest.IsZero() || r.Tag != "" {
		t.Fatalf("%s is not pinned: %v", ref, err)
	}
	return r.Digest
}

func TestAdmission(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	name := l.publish(t, "bank/a:1", "hello", slsa.Image{Entrypoint: []string{"/app"}, Cmd: []string{"-x"}})
	process := &specs.Process{Args: []string{"/app", "-x"}}

	// Before: nothing is granted, and each refusal is on record.
	if _, err := l.Pod(ctx, "u1"); !errors.Is(err, errs.Denied) || l.audit.last().Decision != obs.Deny {
		t.Errorf("a pod that nobody admitted: %v", err)
	}
	if err := l.Container(ctx, "u1", "app", "x", process); !errors.Is(err, errs.Denied) {
		t.Errorf("its container: %v", err)
	}
	if _, err := l.Rootfs(ctx, artifact.DigestOf([]byte("x"))); !errors.Is(err, errs.Denied) {
		t.Errorf("an image without a permit: %v", err)
	}

	images, err := l.Admit(ctx, record("u1", name, nil))
	if err != nil {
		t.Fatal(err)
	}
	if r := l.audit.last(); r.Decision != obs.Permit || r.Object != images["app"] {
		t.Errorf("on record: %+v", r)
	}
	if _, err := l.Pod(ctx, "u1"); !errors.Is(err, errs.Denied) {
		t.Errorf("admitted, not granted yet: %v", err)
	}
	l.Grant("u1", engine.PodGrant{Hostname: "h"})
	l.Grant("stranger", engine.PodGrant{Hostname: "h"})
	if g, err := l.Pod(ctx, "u1"); err != nil || g.Hostname != "h" {
		t.Errorf("%+v, %v", g, err)
	}
	if _, err := l.Pod(ctx, "stranger"); !errors.Is(err, errs.Denied) {
		t.Errorf("a grant to nobody: %v", err)
	}
	rootfs, err := l.Rootfs(ctx, pinned(t, images["app"]))
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"another container": l.Container(ctx, "u1", "other", rootfs, process),
		"another image":     l.Container(ctx, "u1", "app", rootfs+"x", process),
		"another command":   l.Container(ctx, "u1", "app", rootfs, &specs.Process{Args: []string{"/bin/sh"}}),
		"another pod":       l.Container(ctx, "u2", "app", rootfs, process),
	} {
		if !errors.Is(err, errs.Denied) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := l.Container(ctx, "u1", "app", rootfs, process); err != nil {
		t.Error(err)
	}
	// Admitted again, as after a policy change: the grant stays.
	if _, err := l.Admit(ctx, record("u1", name, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := l.Pod(ctx, "u1"); err != nil {
		t.Error(err)
	}
	if p, at := l.Permits("u1"); len(p) != 1 || at.IsZero() {
		t.Errorf("%d permits", len(p))
	}
	l.Forget("u1")
	if _, err := l.Pod(ctx, "u1"); !errors.Is(err, errs.Denied) {
		t.Errorf("forgotten: %v", err)
	}
}

func TestArguments(t *testing.T) {
	l := newLab(t)
	full := l.publish(t, "bank/full:1", "x", slsa.Image{Entrypoint: []string{"e"}, Cmd: []string{"c"}})
	bare := l.publish(t, "bank/bare:1", "y", slsa.Image{})
	for _, c := range []struct {
		image         string
		command, args []string
		want          string // "" for refused
	}{
		{full, nil, nil, "e c"}, {full, nil, []string{"a"}, "e a"}, {full, []string{"k"}, nil, "k"}, {full, []string{"k"}, []string{"a"}, "k a"}, {bare, []string{"k"}, nil, "k"}, {bare, nil, []string{"a"}, "a"}, {bare, nil, nil, ""},
	} {
		images, err := l.Admit(t.Context(), record("u", c.image, func(s *corev1.PodSpec) { s.Containers[0].Command, s.Containers[0].Args = c.command, c.args }))
		if c.want == "" {
			if !errors.Is(err, errs.Invalid) {
				t.Errorf("no command at all: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		rootfs, err := l.Rootfs(t.Context(), pinned(t, images["app"]))
		if err == nil {
			err = l.Container(t.Context(), "u", "app", rootfs, &specs.Process{Args: strings.Fields(c.want)})
		}
		if err != nil {
			t.Errorf("%v %v: %v", c.command, c.args, err)
		}
	}
}

func TestRunAsNonRoot(t *testing.T) {
	l := newLab(t)
	yes, no, zero, user := true, false, int64(0), int64(1000)
	images := map[string]string{}
	for _, u := range []string{"", "0", "0:5", "root", "65532", "65532:0", "app"} {
		images[u] = l.publish(t, "bank/u:1", "u"+u, slsa.Image{Entrypoint: []string{"e"}, User: u})
		for _, c := range []struct {
			name string
			pod  *corev1.PodSecurityContext
			own  *corev1.SecurityContext
			ok   bool
		}{
			{"nothing asked", nil, nil, true},
			{"asked of the pod", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, nil, strings.HasPrefix(u, "6")},
			{"asked of the container", nil, &corev1.SecurityContext{RunAsNonRoot: &yes}, strings.HasPrefix(u, "6")},
			{"the container takes it back", &corev1.PodSecurityContext{RunAsNonRoot: &yes}, &corev1.SecurityContext{RunAsNonRoot: &no}, true},
			{"a user of its own", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user}, nil, true},
			{"root of its own", &corev1.PodSecurityContext{RunAsNonRoot: &yes, RunAsUser: &user}, &corev1.SecurityContext{RunAsUser: &zero}, false},
		} {
			_, err := l.Admit(t.Context(), record("u", images[u], func(s *corev1.PodSpec) { s.SecurityContext, s.Containers[0].SecurityContext = c.pod, c.own }))
			if c.ok != (err == nil) || err != nil && !errors.Is(err, errs.Denied) {
				t.Errorf("image user %q, %s: %v", u, c.name, err)
			}
		}
	}
}

// Images of the same layers share one root file system, as their snapshots do.
func TestSameLayersOtherConfiguration(t *testing.T) {
	l := newLab(t)
	ctx := t.Context()
	a := l.publish(t, "bank/a:1", "same", slsa.Image{Entrypoint: []string{"/a"}})
	b := l.publish(t, "bank/b:1", "same", slsa.Image{Entrypoint: []string{"/b"}})
	c := l.publish(t, "bank/c:1", "other", slsa.Image{Entrypoint: []string{"/b"}})
	paths := map[string]string{}
	for uid, name := range map[string]string{"a": a, "b": b, "c": c} {
		images, err := l.Admit(ctx, record(uid, name, nil))
		if err != nil {
			t.Fatal(err)
		}
		if paths[uid], err = l.Rootfs(ctx, pinned(t, images["app"])); err != nil {
			t.Fatal(err)
		}
	}
	if paths["a"] != paths["b"] || paths["a"] == paths["c"] {
		t.Errorf("root file systems %v", paths)
	}
	if err := l.Container(ctx, "b", "app", paths["a"], &specs.Process{Args: []string{"/b"}}); err != nil {
		t.Errorf("the second image of the same layers: %v", err)
	}
	if err := l.Container(ctx, "b", "app", paths["c"], &specs.Process{Args: []string{"/b"}}); !errors.Is(err, errs.Denied) {
		t.Errorf("an image of other layers: %v", err)
	}
}

// A root file system is made once, made again when it is not what it was, and
// taken as it is by the next node.
func TestRootfs(t *testing.T) {
	l := newLab(t)
	name := l.publish(t, "bank/a:1", "hello", slsa.Image{Entrypoint: []string{"/a"}})
	var digest artifact.Digest
	var path string
	enter := func(what string) {
		t.Helper()
		l.again(t)
		images, err := l.Admit(t.Context(), record("u", name, nil))
		if err != nil {
			t.Fatal(err)
		}
		m := pinned(t, images["app"])
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				if _, err := l.Rootfs(t.Context(), m); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			})
		}
		wg.Wait()
		got, err := l.Measured(t.Context(), m)
		if err != nil || got.IsZero() || !digest.IsZero() && got != digest {
			t.Errorf("%s: measured %s, %v; want %s", what, got, err, digest)
		}
		digest = got
		path, _ = l.Rootfs(t.Context(), m)
		b, err := os.ReadFile(path)
		if err != nil || artifact.DigestOf(b) != digest {
			t.Errorf("%s: the file is %s, %v", what, artifact.DigestOf(b), err)
		}
	}
	enter("first")
	enter("again")
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	enter("after a change")
	if err := os.Truncate(path+".digest", 10); err != nil {
		t.Fatal(err)
	}
	enter("after a kill between image and digest")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	enter("after a removal")

	l.again(t)
	if err := os.WriteFile(path, []byte("changed"), 0o600); err != nil {
		t.Fatal(err)
	}
	images, err := l.Admit(t.Context(), record("u", name, nil))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.Rootfs(ctx, pinned(t, images["app"])); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if _, err := l.Rootfs(t.Context(), pinned(t, images["app"])); err != nil {
		t.Errorf("after one that was canceled: %v", err)
	}
}

// No record, no permit.
func TestFullAuditLogAdmitsNothing(t *testing.T) {
	l := newLab(t)
	name := l.publish(t, "bank/a:1", "hello", slsa.Image{Entrypoint: []string{"/a"}})
	l.audit.full = errors.New("disk full")
	if p, err := l.Verify(t.Context(), "bank", "x", name); err == nil || p.Ref().Repository != "" {
		t.Errorf("%v, %v", p.Ref(), err)
	}
	if _, err := l.Admit(t.Context(), record("u", name, nil)); err == nil {
		t.Error("admitted without a record")
	}
}

func TestPolicies(t *testing.T) {
	l := newLab(t)
	named := func(name, ns string, images ...string) policy.TrustPolicy {
		return policy.TrustPolicy{Name: name, Namespace: ns, Spec: policy.TrustPolicySpec{Images: images, Signers: []policy.Signer{{Identity: "spiffe://bank.example/ns/x/sa/nobody"}}}}
	}
	name := l.publish(t, "bank/a:1", "hello", slsa.Image{Entrypoint: []string{"/a"}})
	l.SetPolicies([]policy.TrustPolicy{named("other", "", provenancetest.Host+"/other/*"), named("elsewhere", "elsewhere", provenancetest.Host+"/bank/*")})
	if _, err := l.Verify(t.Context(), "bank", "x", name); err != nil {
		t.Errorf("no declared policy covers it, the default does: %v", err)
	}
	if _, err := l.Verify(t.Context(), "elsewhere", "x", name); !errors.Is(err, errs.Denied) && !errors.Is(err, errs.Unproven) {
		t.Errorf("a policy of its namespace covers it: %v", err)
	}
	// Another spelling of the host is the same image.
	loud := strings.Replace(name, provenancetest.Host, strings.ToUpper(provenancetest.Host), 1)
	if _, err := l.Verify(t.Context(), "elsewhere", "x", loud); !errors.Is(err, errs.Denied) && !errors.Is(err, errs.Unproven) {
		t.Errorf("written %s: %v", loud, err)
	}
	if _, err := l.Verify(t.Context(), "bank", "x", "not a reference"); !errors.Is(err, errs.Invalid) || l.audit.last().Decision != obs.Deny {
		t.Errorf("%v", err)
	}
	if _, err := l.Verify(t.Context(), "bank", "x", l.Ref(t, "bank/none:1").String()); err == nil || l.audit.last().Decision != obs.Deny {
		t.Errorf("an image that is not there: %v", err)
	}
}
