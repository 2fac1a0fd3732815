// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"

	"redoubt.dev/api/artifact"
	"redoubt.dev/api/errs"
)

func metastore(t *testing.T, root string, a Admission) *snapshotter {
	t.Helper()
	s, err := newSnapshotter(root, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// unpack asks for a layer as containerd's puller does.
func unpack(ctx context.Context, s *snapshotter, key, parent, chain, manifest string, layers ...string) error {
	labels := map[string]string{labelRef: chain, snapshotters.TargetImageLayersLabel: strings.Join(layers, ",")}
	if manifest != "" {
		labels[snapshotters.TargetManifestDigestLabel] = manifest
	}
	_, err := s.Prepare(ctx, key, parent, snapshots.WithLabels(labels))
	return err
}

func TestSnapshots(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), criNamespace)
	root, a := t.TempDir(), &granting{}
	s := metastore(t, root, a)
	m := artifact.DigestOf([]byte("m"))

	// Two layers: both are there already, and the last one asks Admission.
	if err := unpack(ctx, s, "k1", "", "chain1", m.String(), "l1", "l2"); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("first layer: %v", err)
	}
	if len(a.asked) != 0 {
		t.Errorf("Admission was asked for a part of an image: %v", a.asked)
	}
	if err := unpack(ctx, s, "k2", "chain1", "chain2", m.String(), "l2"); !errdefs.IsAlreadyExists(err) {
		t.Fatalf("last layer: %v", err)
	}
	if len(a.asked) != 1 {
		t.Errorf("Admission was asked %v", a.asked)
	}
	// Again, as a pull that was cut does.
	if err := unpack(ctx, s, "k3", "chain1", "chain2", m.String(), "l2"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("again: %v", err)
	}
	info, err := s.Stat(ctx, "chain2")
	if err != nil || info.Kind != snapshots.KindCommitted || info.Labels[labelRef] != "chain2" {
		t.Errorf("%+v, %v", info, err)
	}
	for _, key := range []string{"k1", "k2", "k3"} {
		if _, err := s.Stat(ctx, key); !errdefs.IsNotFound(err) {
			t.Errorf("the key %s of an unpack stays: %v", key, err)
		}
	}

	// A container gets the image, read-only.
	mounts, err := s.Prepare(ctx, "container", "chain2")
	if err != nil || len(mounts) != 1 || mounts[0].Type != "erofs" || mounts[0].Source != "/images/"+m.Hex()[:8] || mounts[0].Options[0] != "ro" {
		t.Errorf("%v, %v", mounts, err)
	}
	if mounts, err := s.View(ctx, "view", "chain2"); err != nil || len(mounts) != 1 {
		t.Errorf("view: %v, %v", mounts, err)
	}
	if _, err := s.Prepare(ctx, "half", "chain1"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a container on half an image: %v", err)
	}
	if err := s.Commit(ctx, "x", "container"); !errdefs.IsNotImplemented(err) {
		t.Errorf("commit: %v", err)
	}

	// All of it lasts.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = metastore(t, root, a)
	if mounts, err := s.Mounts(ctx, "container"); err != nil || len(mounts) != 1 {
		t.Errorf("after a restart: %v, %v", mounts, err)
	}
	seen := 0
	if err := s.Walk(ctx, func(context.Context, snapshots.Info) error { seen++; return nil }); err != nil || seen < 4 {
		t.Errorf("walk saw %d, %v", seen, err)
	}
	if err := s.Remove(ctx, "chain2"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("an image that is in use was removed: %v", err)
	}
	for _, key := range []string{"container", "view", "half", "chain2", "chain1"} {
		if err := s.Remove(ctx, key); err != nil && key != "half" {
			t.Errorf("remove %s: %v", key, err)
		}
	}
}

// An image whose layers are the beginning of another's, pulled before it.
func TestSnapshotsOfABaseImage(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), criNamespace)
	s := metastore(t, t.TempDir(), &granting{})
	whole, base := artifact.DigestOf([]byte("whole")), artifact.DigestOf([]byte("base"))
	for _, err := range []error{
		unpack(ctx, s, "k1", "", "chain1", whole.String(), "l1", "l2"),
		unpack(ctx, s, "k2", "chain1", "chain2", whole.String(), "l2"),
		unpack(ctx, s, "k3", "", "chain1", base.String(), "l1"),
	} {
		if !errdefs.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	for parent, want := range map[string]artifact.Digest{"chain1": base, "chain2": whole} {
		if m, err := s.Prepare(ctx, "c-"+parent, parent); err != nil || m[0].Source != "/images/"+want.Hex()[:8] {
			t.Errorf("a container on %s: %v, %v", parent, m, err)
		}
	}
	if info, err := s.Stat(ctx, "chain1"); err != nil || info.Labels[labelRef] != "chain1" {
		t.Errorf("%+v, %v", info, err)
	}
}

// Nothing stands in the store of an image that Admission refused.
func TestSnapshotOfWhatIsRefused(t *testing.T) {
	ctx := namespaces.WithNamespace(t.Context(), criNamespace)
	a := &granting{refuse: errs.New(errs.Denied, "image", "no")}
	s := metastore(t, t.TempDir(), a)
	m := artifact.DigestOf([]byte("m"))
	if err := unpack(ctx, s, "k", "", "chain", m.String(), "l"); !errors.Is(err, errs.Denied) || errdefs.IsAlreadyExists(err) {
		t.Errorf("%v", err)
	}
	a.refuse = nil
	if err := unpack(ctx, s, "k", "", "chain", "", "l"); err == nil || errdefs.IsAlreadyExists(err) {
		t.Errorf("an image whose manifest is not named: %v", err)
	}
	if err := unpack(ctx, s, "k", "", "chain", "sha512:00", "l"); err == nil || errdefs.IsAlreadyExists(err) {
		t.Errorf("a manifest digest of another kind: %v", err)
	}
	for _, key := range []string{"k", "chain"} {
		if _, err := s.Stat(ctx, key); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", key, err)
		}
	}
}
