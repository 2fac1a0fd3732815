// SPDX-License-Identifier: Apache-2.0

package e2e_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/id"
	"redoubt.dev/provenance"
	"redoubt.dev/provenance/build"
	"redoubt.dev/provenance/registry"
	"redoubt.dev/provenance/sign"
)

const loopback = "127.0.0.1:5511" // the node's registry, as clients of the machine reach it

// podOf is a manifest of one pod with one image.
func podOf(name, image string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default}\nspec:\n  restartPolicy: Never\n  containers: [{name: main, image: %q}]\n", name, image)
}

// staysOut brings a pod up and checks that it is refused, on record, and that
// nothing was made for it.
func (l *lab) staysOut(t *testing.T, name, image, why string) {
	t.Helper()
	before := traces(t)
	if out, code := l.apply(t, podOf(name, image)); code != 0 {
		t.Fatalf("up: code %d: %s", code, out)
	}
	eventually(t, 20*time.Second, func() error {
		p := l.pod(t, name)
		if p.Phase != "Pending" {
			return fmt.Errorf("pod is %s", p.Phase)
		}
		if !strings.Contains(p.Reason, why) {
			return fmt.Errorf("reason %q does not hold %q", p.Reason, why)
		}
		return nil
	})
	l.audited(t, "the denial of "+name, func(line string) bool {
		return strings.Contains(line, `"decision":"deny"`) && strings.Contains(line, "default/"+name+" ")
	})
	if after := traces(t); after != before {
		t.Errorf("something was made for a refused pod: %s, before %s", after, before)
	}
}

// traces counts what a running pod leaves on a machine.
func traces(t *testing.T) string {
	t.Helper()
	count := func(pattern string) int {
		m, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		return len(m)
	}
	return fmt.Sprintf("%d sandboxes, %d namespaces, %d engine records, %d pod directories",
		len(processes("redoubt-sentry")), count("/run/redoubt/netns/*"), count("/run/redoubt/engine/pods/*"), count("/run/redoubt/pods/*"))
}

// push pushes an image without its tag and gives its reference as the node
// knows it.
func push(t *testing.T, repo string, img v1.Image) string {
	t.Helper()
	d, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref, err := name.NewDigest(loopback+"/"+repo+"@"+d.String(), name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(ref, img); err != nil {
		t.Fatal(err)
	}
	return "registry.redoubt.local/" + repo + "@" + d.String()
}

func unsigned(t *testing.T) v1.Image {
	t.Helper()
	img, err := random.Image(1024, 1)
	if err == nil {
		img, err = mutate.Config(img, v1.Config{Entrypoint: []string{"/x"}})
	}
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestUnsignedImageIsRefused(t *testing.T) {
	l := start(t)
	ref := push(t, "refuse/unsigned", unsigned(t))
	l.refused(t, 3, "signature", "verify", ref)
	l.staysOut(t, "unsigned", ref, "signature")
	tag, err := name.NewTag(loopback+"/refuse/unsigned:1.0", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Tag(tag, unsigned(t)); err == nil {
		t.Error("an unsigned image got a tag")
	}
	if _, err := remote.Head(tag); err == nil {
		t.Error("the refused tag exists")
	}
}

// allowAll is the gate of an attacker who can write to the registry's disk.
type allowAll struct{}

func (allowAll) Admit(context.Context, artifact.Ref, artifact.Digest) error { return nil }

// An attacker signs with a key of its own, for the same trust domain, and even
// sets the tag behind the gate's back.
func TestImageSignedByAnotherKeyIsRefused(t *testing.T) {
	l := start(t)
	td, err := id.ParseTrustDomain("cluster.local")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := sign.Open(t.TempDir(), td, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	store, err := registry.Open(filepath.Join(l.root(), "registry"), registry.Config{Host: "registry.redoubt.local", Gate: func(*registry.Store) registry.Gate { return allowAll{} }})
	if err != nil {
		t.Fatal(err)
	}
	src, err := filepath.Abs(filepath.Join(repo, "examples/bank/risk"))
	if err != nil {
		t.Fatal(err)
	}
	img, err := build.Build(t.Context(), build.Source{Go: src}, build.Options{Name: "forged"})
	if err != nil {
		t.Fatal(err)
	}
	defer img.Close()
	ref, err := artifact.ParseRef("registry.redoubt.local/refuse/forged:1.0")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provenance.Publish(t.Context(), store, keys, ref, img, time.Now()); err != nil {
		t.Fatal(err)
	}
	l.refused(t, 3, "signature", "verify", ref.String())
	l.staysOut(t, "forged", ref.String(), "signature")
}

// One bit of a layer changes on the registry's disk after the image was
// signed and admitted.
func TestChangedLayerIsRefused(t *testing.T) {
	l := start(t)
	image := registryName + "/refuse/rotten:1.0"
	// A layer of its own: no root file system of it was made yet.
	rootfs := t.TempDir()
	writeFile(t, rootfs+"/x", strings.Repeat("rotten ", 1000))
	l.must(t, "build", "--rootfs", rootfs, "-t", image, "--entrypoint", "/x")
	ref, err := name.ParseReference(loopback+"/refuse/rotten:1.0", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	layers, err := img.Layers()
	if err != nil {
		t.Fatal(err)
	}
	d, err := layers[len(layers)-1].Digest()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(l.root(), "registry", "blobs", "sha256", d.Hex[:2], d.Hex)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	good := append([]byte(nil), b...)
	b[len(b)/3] ^= 1
	write := func(b []byte) {
		if err := os.Chmod(path, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(b)
	t.Cleanup(func() { write(good) }) // other images share the layer
	if out, code := l.apply(t, podOf("rotten", image)); code != 0 {
		t.Fatalf("up: code %d: %s", code, out)
	}
	eventually(t, 20*time.Second, func() error {
		if p := l.pod(t, "rotten"); p.Phase != "Pending" || !strings.Contains(p.Reason, d.Hex[:12]) && !strings.Contains(p.Reason, "digest") {
			return fmt.Errorf("pod is %s: %s", p.Phase, p.Reason)
		}
		return nil
	})
}

const registryName = "registry.redoubt.local"

// A tag that moves after a pod was admitted changes nothing of that pod, also
// not when it starts again.
func TestTagThatMovesChangesNothing(t *testing.T) {
	l := start(t)
	image := registryName + "/refuse/moving:1.0"
	l.must(t, "build", filepath.Join(repo, "examples/bank/intruder"), "-t", image)
	if out, code := l.apply(t, strings.Replace(podOf("moving", image), "Never", "Always", 1)); code != 0 {
		t.Fatalf("up: code %d: %s", code, out)
	}
	ran := func() error {
		if p := l.pod(t, "moving"); !p.Ready {
			return fmt.Errorf("not ready: %s", p.Reason)
		}
		return nil
	}
	eventually(t, 30*time.Second, ran)
	was := l.pod(t, "moving")
	l.must(t, "build", filepath.Join(repo, "examples/bank/risk"), "-t", image)
	kill9(t, was.PID)
	eventually(t, 30*time.Second, func() error {
		if p := l.pod(t, "moving"); p.Restarts == 0 {
			return fmt.Errorf("not started again")
		}
		return ran()
	})
	if is := l.pod(t, "moving"); is.Containers[0].Image != was.Containers[0].Image {
		t.Errorf("runs %s, was admitted with %s", is.Containers[0].Image, was.Containers[0].Image)
	}
}

func TestBadManifestsAreRefused(t *testing.T) {
	l := start(t)
	before := len(l.status(t).Sets)
	dir := t.TempDir()
	for _, c := range []struct{ name, text, why string }{
		{"field", strings.Replace(podOf("x", registryName+"/x:1"), "restartPolicy", "restartPolicy: Never\n  hostNetwrk", 1), "hostNetwrk"},
		{"kind", "apiVersion: v1\nkind: Podd\nmetadata: {name: x}\n", "Podd"},
		{"type", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\nspec: {replicas: many, selector: {matchLabels: {a: b}}, template: {metadata: {labels: {a: b}}, spec: {containers: [{name: c, image: x.local/x}]}}}\n", "replicas"},
		{"effect", "apiVersion: v1\nkind: Pod\nmetadata: {name: x}\nspec: {hostNetwork: true, containers: [{name: c, image: x.local/x}]}\n", "hostNetwork"},
		{"policy", "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: x}\nspec: {action: CUSTOM}\n", "CUSTOM"},
	} {
		path := filepath.Join(dir, c.name+".yaml")
		writeFile(t, path, c.text)
		l.refused(t, 6, c.why, "up", "-d", path)
	}
	huge := filepath.Join(dir, "huge.yaml")
	writeFile(t, huge, "")
	if err := os.Truncate(huge, 1<<30); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	l.refused(t, 6, "at most", "up", "-d", huge)
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("a file of 1 GB was refused after %s", d)
	}
	if after := len(l.status(t).Sets); after != before {
		t.Errorf("%d sets, %d before", after, before)
	}
}

// Whoever reaches the CRI socket still cannot start what no manifest holds.
func TestContainerOutsideTheManifestIsRefused(t *testing.T) {
	l := start(t)
	conn, err := grpc.NewClient("unix:///run/redoubt/engine/cri.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	rt, im := cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	denied := func(what string, err error) {
		t.Helper()
		if c := status.Code(err); err == nil || c != codes.PermissionDenied && !strings.Contains(err.Error(), "denied") {
			t.Errorf("%s: %v, want a denial", what, err)
		}
	}
	before := traces(t)
	_, err = rt.RunPodSandbox(t.Context(), &cri.RunPodSandboxRequest{Config: &cri.PodSandboxConfig{
		Metadata: &cri.PodSandboxMetadata{Name: "smuggled", Namespace: "bank", Uid: "no-such-uid"}, LogDirectory: t.TempDir(),
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}},
	}})
	denied("a sandbox of an unknown pod", err)
	_, err = im.PullImage(t.Context(), &cri.PullImageRequest{Image: &cri.ImageSpec{Image: push(t, "refuse/smuggled", unsigned(t))}})
	denied("a pull of an unsigned image", err)

	ledger := l.pod(t, "ledger")
	boxes, err := rt.ListPodSandbox(t.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{"redoubt.dev/uid": ledger.UID}, State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}}})
	if err != nil || len(boxes.Items) != 1 {
		t.Fatalf("sandbox of ledger: %v %v", boxes, err)
	}
	for _, c := range []struct {
		what string
		cfg  *cri.ContainerConfig
	}{
		{"a container of another name", &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "smuggled"}}},
		{"another command", &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "ledger", Attempt: 77}, Command: []string{"/app/ledger", "--evil"}}},
		{"a mount of the machine", &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "ledger", Attempt: 78}, Mounts: []*cri.Mount{{HostPath: "/etc", ContainerPath: "/host"}}}},
		{"another image", &cri.ContainerConfig{Metadata: &cri.ContainerMetadata{Name: "ledger", Attempt: 79}, Image: &cri.ImageSpec{Image: l.pod(t, "intruder").Containers[0].Image}}},
	} {
		if c.cfg.Image == nil {
			c.cfg.Image = &cri.ImageSpec{Image: ledger.Containers[0].Image}
		}
		c.cfg.Linux = &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{NamespaceOptions: &cri.NamespaceOption{Network: cri.NamespaceMode_NODE}}}
		made, err := rt.CreateContainer(t.Context(), &cri.CreateContainerRequest{PodSandboxId: boxes.Items[0].Id, Config: c.cfg, SandboxConfig: &cri.PodSandboxConfig{Metadata: boxes.Items[0].Metadata}})
		if err == nil {
			_, err = rt.StartContainer(t.Context(), &cri.StartContainerRequest{ContainerId: made.ContainerId})
			_, rerr := rt.RemoveContainer(t.Context(), &cri.RemoveContainerRequest{ContainerId: made.ContainerId})
			if rerr != nil {
				t.Error(rerr)
			}
		}
		denied(c.what, err)
	}
	if after := traces(t); after != before {
		t.Errorf("something was left: %s, before %s", after, before)
	}
	l.audited(t, "the denial over CRI", func(line string) bool {
		return strings.Contains(line, `"subject":"cri"`) && strings.Contains(line, `"decision":"deny"`)
	})
}
