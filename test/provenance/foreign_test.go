// SPDX-License-Identifier: Apache-2.0

// Package provenance_test runs the registry and what it holds against clients
// that others wrote, and against kill -9.
package provenance_test

import (
	"encoding/json"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"redoubt.dev/provenance/bundle"
	"redoubt.dev/provenance/provenancetest"
	"redoubt.dev/provenance/registry"
)

// serve gives an installation whose registry listens on loopback.
func serve(t *testing.T) (in *provenancetest.Installation, host string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	host = l.Addr().String()
	in = provenancetest.NewAt(t, "bank.example", host, time.Now)
	s := &http.Server{Handler: &registry.Server{Store: in.Store, AllowPush: true}, ReadHeaderTimeout: 10 * time.Second}
	done := make(chan error)
	go func() { done <- s.Serve(l) }()
	t.Cleanup(func() {
		s.Close()
		<-done
	})
	return in, host
}

func put(t *testing.T, path, text string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// skopeo runs the client with one policy for our registry.
type skopeo struct {
	*testing.T
	path, dir, host string
}

func newSkopeo(t *testing.T, host string) *skopeo {
	t.Helper()
	path, err := exec.LookPath("skopeo")
	if err != nil {
		t.Skip("capability: skopeo")
	}
	s := &skopeo{t, path, t.TempDir(), host}
	if err := os.Mkdir(s.dir+"/registries.d", 0o700); err != nil {
		t.Fatal(err)
	}
	put(t, s.dir+"/registries.d/x.yaml", "docker:\n  "+host+":\n    use-sigstore-attachments: true\n")
	return s
}

// run demands a signature by the key at keyPath; "" demands nothing.
func (s *skopeo) run(keyPath string, args ...string) (string, error) {
	s.Helper()
	anything := []any{map[string]any{"type": "insecureAcceptAnything"}}
	demand := anything
	if keyPath != "" {
		demand = []any{map[string]any{"type": "sigstoreSigned", "keyPath": keyPath}}
	}
	b, err := json.Marshal(map[string]any{
		"default":    []any{map[string]any{"type": "reject"}},
		"transports": map[string]any{"docker": map[string]any{s.host: demand}, "oci": map[string]any{"": anything}},
	})
	if err != nil {
		s.Fatal(err)
	}
	policy := put(s.T, filepath.Join(s.dir, "policy.json"), string(b))
	args = append([]string{"--policy", policy, "--registries.d", s.dir + "/registries.d", "--tmpdir", s.dir}, args...)
	out, err := exec.CommandContext(s.Context(), s.path, args...).CombinedOutput()
	return string(out), err
}

// TestSkopeo lets Debian's skopeo pull from the registry and push against its
// gate.
func TestSkopeo(t *testing.T) {
	t.Parallel()
	in, host := serve(t)
	s := newSkopeo(t, host)
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	image := "docker://" + host + "/bank/ledger:1"
	for _, src := range []string{image, "docker://" + pub.Image} {
		if out, err := s.run("", "copy", "--remove-signatures", "--preserve-digests", "--src-tls-verify=false", src, "oci:"+s.dir+"/out:1"); err != nil {
			t.Fatalf("pull %s: %v: %s", src, err, out)
		}
	}
	if out, err := s.run("", "inspect", "--tls-verify=false", "--raw", image); err != nil || !strings.Contains(out, `"schemaVersion":2`) {
		t.Errorf("inspect: %v: %s", err, out)
	}
	if out, err := s.run("", "list-tags", "--tls-verify=false", "docker://"+host+"/bank/ledger"); err != nil || !strings.Contains(out, `"1"`) {
		t.Errorf("list-tags: %v: %s", err, out)
	}
	// The signed image may have another name; in another repository, where it
	// is not signed, it may not, and leaves no tag.
	if out, err := s.run("", "copy", "--preserve-digests", "--dest-tls-verify=false", "oci:"+s.dir+"/out:1", "docker://"+host+"/bank/ledger:2"); err != nil {
		t.Errorf("push of the signed image: %v: %s", err, out)
	}
	if out, err := s.run("", "copy", "--dest-tls-verify=false", "oci:"+s.dir+"/out:1", "docker://"+host+"/bank/other:1"); err == nil || !strings.Contains(out, "denied") && !strings.Contains(out, "signature") {
		t.Errorf("push to where no signature is: %v: %s", err, out)
	}
	if tags, err := in.Store.Tags(t.Context(), "bank/other"); err != nil || len(tags) != 0 {
		t.Errorf("a refused push left tags %v, %v", tags, err)
	}
}

// TestSkopeoPolicy lets skopeo demand cosign's older signature by our static
// key. Debian 12 ships a skopeo whose sigstore support is switched off: it
// refuses every such policy, which is the safe side, and proves nothing here.
func TestSkopeoPolicy(t *testing.T) {
	t.Parallel()
	in, host := serve(t)
	s := newSkopeo(t, host)
	mine := put(t, s.dir+"/mine.pub", string(in.Keys.PublicKeyPEM()))
	theirs := put(t, s.dir+"/theirs.pub", string(provenancetest.New(t, "other.example").Keys.PublicKeyPEM()))
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	pull := func(key, src string) (string, error) {
		return s.run(key, "copy", "--remove-signatures", "--preserve-digests", "--src-tls-verify=false", "docker://"+src, "oci:"+s.dir+"/out:1")
	}
	out, err := pull(mine, host+"/bank/ledger:1")
	if err != nil && strings.Contains(out, "sigstore disabled") {
		t.Skip("capability: skopeo with sigstore")
	}
	if err != nil {
		t.Errorf("under our key: %v: %s", err, out)
	}
	if out, err := pull(mine, pub.Image); err != nil {
		t.Errorf("by digest, under our key: %v: %s", err, out)
	}
	if out, err := pull(theirs, host+"/bank/ledger:1"); err == nil {
		t.Errorf("under another key it succeeded: %s", out)
	}
	// Published under a second tag, it is signed for both.
	in.Publish(t, "bank/ledger:2", "ledger")
	for _, tag := range []string{":1", ":2"} {
		if out, err := pull(mine, host+"/bank/ledger"+tag); err != nil {
			t.Errorf("tag %s: %v: %s", tag, err, out)
		}
	}
}

// TestGoContainerRegistry uses the client library of crane, ko and cosign.
func TestGoContainerRegistry(t *testing.T) {
	t.Parallel()
	in, host := serve(t)
	pub := in.Publish(t, "bank/ledger:1", "ledger")
	ref, err := name.ParseReference(host+"/bank/ledger:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(ref)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := img.Digest(); err != nil || d.String() != pub.Digest.String() {
		t.Errorf("digest %s, %v; want %s", d, err, pub.Digest)
	}
	idx, err := remote.Referrers(ref.Context().Digest(pub.Digest.String()), remote.WithFilter("artifactType", bundle.MediaType))
	if err != nil {
		t.Fatal(err)
	}
	m, err := idx.IndexManifest()
	if err != nil || len(m.Manifests) != 3 {
		t.Fatalf("referrers %+v, %v", m, err)
	}
	for _, d := range m.Manifests {
		if d.ArtifactType != bundle.MediaType || d.Annotations["dev.sigstore.bundle.predicateType"] == "" {
			t.Errorf("referrer %+v", d)
		}
	}
	tags, err := remote.List(ref.Context())
	if err != nil || len(tags) != 2 {
		t.Errorf("tags %v, %v", tags, err)
	}

	// A whole index with its images, layers mounted and in chunks, by digest.
	child, err := random.Image(3<<20, 3)
	if err != nil {
		t.Fatal(err)
	}
	index := mutate.AppendManifests(mutate.IndexMediaType(empty.Index, types.OCIImageIndex), mutate.IndexAddendum{Add: child, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: "amd64"}}})
	d, err := index.Digest()
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.WriteIndex(ref.Context().Digest(d.String()), index); err != nil {
		t.Fatal(err)
	}
	back, err := remote.Index(ref.Context().Digest(d.String()))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := back.Digest(); err != nil || got != d {
		t.Errorf("index %s, %v; want %s", got, err, d)
	}
	if err := remote.WriteIndex(ref.Context().Tag("evil"), index); err == nil || !strings.Contains(err.Error(), "DENIED") {
		t.Errorf("an unsigned index got a tag: %v", err)
	}
}
