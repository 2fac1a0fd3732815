// SPDX-License-Identifier: Apache-2.0

package provenance_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"redoubt.dev/api/artifact"
	"redoubt.dev/provenance/manifest"
	"redoubt.dev/provenance/registry"
)

// storeVariable names the store to a copy of this test program that writes
// until it is killed.
const storeVariable = "REDOUBT_TEST_KILL_STORE"

func TestMain(m *testing.M) {
	if dir := os.Getenv(storeVariable); dir != "" {
		fmt.Fprintln(os.Stderr, pushForever(dir, os.Getpid()))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

type open struct{}

func (open) Admit(context.Context, artifact.Ref, artifact.Digest) error { return nil }

func store(dir string) (*registry.Store, error) {
	return registry.Open(dir, registry.Config{Host: "registry.bank.example", Gate: func(*registry.Store) registry.Gate { return open{} }})
}

// pushForever moves the tag "now" from image to image, and says which image
// it names each time that Tag has returned.
func pushForever(dir string, seed int) error {
	s, err := store(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	put := func(b []byte) (manifest.Descriptor, error) {
		d := artifact.DigestOf(b)
		_, err := s.PutBlob(ctx, "a", d, bytes.NewReader(b))
		return manifest.Descriptor{MediaType: manifest.OCILayer, Digest: d, Size: int64(len(b))}, err
	}
	for i := 0; ; i++ {
		layer, err := put(bytes.Repeat([]byte(fmt.Sprintln(seed, i)), 5000))
		if err != nil {
			return err
		}
		config, err := put([]byte(fmt.Sprintf(`{"rootfs":{"diff_ids":[%q]}}`, layer.Digest)))
		if err != nil {
			return err
		}
		config.MediaType = manifest.OCIConfig
		raw, err := json.Marshal(manifest.Manifest{SchemaVersion: 2, MediaType: manifest.OCIManifest, Config: &config, Layers: []manifest.Descriptor{layer}})
		if err != nil {
			return err
		}
		d, err := s.PutManifest(ctx, "a", manifest.OCIManifest, raw, artifact.Digest{})
		if err != nil {
			return err
		}
		if err := s.Tag(ctx, artifact.Ref{Host: s.Host(), Repository: "a", Tag: "now"}, d); err != nil {
			return err
		}
		fmt.Println(d)
	}
}

// TestKill kills a writer at random moments. What it said to be done is done,
// and whatever the tag names is whole.
func TestKill(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for round := range 15 {
		c := exec.Command(os.Args[0])
		c.Env = append(os.Environ(), storeVariable+"="+dir)
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		complaint := &bytes.Buffer{}
		c.Stderr = complaint
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		last := ""
		lines := bufio.NewScanner(out)
		timer := time.AfterFunc(time.Hour, func() { c.Process.Kill() })
		for lines.Scan() {
			if last == "" {
				timer.Reset(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
			}
			last = lines.Text()
		}
		timer.Stop()
		c.Wait() // killed
		if complaint.Len() > 0 {
			t.Fatalf("round %d: %s", round, complaint)
		}
		s, err := store(dir)
		if err != nil {
			t.Fatal(err)
		}
		now, err := s.Resolve(t.Context(), artifact.Ref{Host: s.Host(), Repository: "a", Tag: "now"})
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		for _, d := range []string{last, now.String()} {
			if err := whole(t.Context(), s, d); err != nil {
				t.Fatalf("round %d: %s, said to be done: %v", round, d, err)
			}
		}
	}
}

func whole(ctx context.Context, s *registry.Store, digest string) error {
	d, err := artifact.ParseDigest(strings.TrimSpace(digest))
	if err != nil {
		return err
	}
	mt, raw, err := s.Manifest(ctx, "a", d)
	if err != nil {
		return err
	}
	m, err := manifest.Parse(mt, raw)
	if err != nil {
		return err
	}
	for _, l := range append(m.Layers, *m.Config) {
		r, _, err := s.Blob(ctx, "a", l.Digest)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r)
		r.Close()
		if err != nil {
			return err
		}
	}
	return nil
}
