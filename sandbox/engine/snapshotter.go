// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/snapshotters"
	"github.com/containerd/errdefs"

	"redoubt.dev/api/artifact"
)

const (
	labelRef   = "containerd.io/snapshot.ref" // the chain ID that an unpack wants committed
	labelImage = "redoubt.dev/rootfs"         // path of the EROFS image, on committed snapshots
)

// snapshotter keeps names only. The layers of an image are never unpacked:
// each is answered "exists already", and the last one asks Admission for the
// flat image of the whole, so that a pull of what is not admitted fails.
// A container's own changes live in the guest's memory.
type snapshotter struct {
	ms    *storage.MetaStore
	admit Admission
}

func newSnapshotter(root string, admit Admission) (*snapshotter, error) {
	ms, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"))
	if err != nil {
		return nil, fmt.Errorf("open snapshot metadata: %w", err)
	}
	return &snapshotter{ms, admit}, nil
}

func (s *snapshotter) Stat(ctx context.Context, key string) (info snapshots.Info, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err = storage.GetInfo(ctx, key)
		return err
	})
	return info, err
}

func (s *snapshotter) Update(ctx context.Context, in snapshots.Info, fields ...string) (out snapshots.Info, err error) {
	err = s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		out, err = storage.UpdateInfo(ctx, in, fields...)
		return err
	})
	return out, err
}

func (s *snapshotter) Usage(ctx context.Context, key string) (u snapshots.Usage, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, _, u, err = storage.GetInfo(ctx, key)
		return err
	})
	return u, err
}

// Prepare answers an unpack of a layer with ErrAlreadyExists, as containerd's
// remote snapshotter protocol has it, and a container with its mount.
func (s *snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	var info snapshots.Info
	for _, o := range opts {
		if err := o(&info); err != nil {
			return nil, err
		}
	}
	if target, ok := info.Labels[labelRef]; ok {
		return nil, s.layer(ctx, key, parent, target, info.Labels)
	}
	return s.view(ctx, snapshots.KindActive, key, parent, opts)
}

func (s *snapshotter) layer(ctx context.Context, key, parent, target string, labels map[string]string) error {
	keep := map[string]string{labelRef: target} // containerd finds it again by this label
	if layers := labels[snapshotters.TargetImageLayersLabel]; !strings.Contains(layers, ",") {
		d, err := artifact.ParseDigest(labels[snapshotters.TargetManifestDigestLabel])
		if err != nil {
			return fmt.Errorf("snapshot of an image whose manifest is not named: %w", err)
		}
		if keep[labelImage], err = s.admit.Rootfs(ctx, d); err != nil {
			return err
		}
	}
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		with := snapshots.WithLabels(keep)
		if _, err := storage.CreateSnapshot(ctx, snapshots.KindActive, key, parent, with); err != nil {
			return err
		}
		_, err := storage.CommitActive(ctx, key, target, snapshots.Usage{}, with)
		return err
	})
	if errdefs.IsAlreadyExists(err) && keep[labelImage] != "" {
		// Another image has the same layers, or goes on from them: the chain was
		// committed for that one, perhaps as a part only.
		_, err = s.Update(ctx, snapshots.Info{Name: target, Labels: keep}, "labels."+labelImage)
		if errdefs.IsNotFound(err) {
			err = nil // the key exists, not the chain: containerd looks and tries again
		}
	}
	if err != nil && !errdefs.IsAlreadyExists(err) {
		return fmt.Errorf("commit snapshot %s: %w", target, err)
	}
	return fmt.Errorf("snapshot %s: %w", target, errdefs.ErrAlreadyExists)
}

func (s *snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.view(ctx, snapshots.KindView, key, parent, opts)
}

func (s *snapshotter) view(ctx context.Context, kind snapshots.Kind, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	err := s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, err := storage.CreateSnapshot(ctx, kind, key, parent, opts...)
		return err
	})
	if err != nil {
		return nil, err
	}
	return s.Mounts(ctx, key)
}

// Mounts names the image of the committed snapshot below key. containerd
// itself mounts it read-only for a moment, to resolve user names.
func (s *snapshotter) Mounts(ctx context.Context, key string) (m []mount.Mount, err error) {
	err = s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		_, info, _, err := storage.GetInfo(ctx, key)
		if err != nil {
			return err
		}
		_, base, _, err := storage.GetInfo(ctx, info.Parent)
		if err != nil {
			return err
		}
		path := base.Labels[labelImage]
		if path == "" {
			return fmt.Errorf("snapshot %s has no root file system image: %w", key, errdefs.ErrFailedPrecondition)
		}
		m = []mount.Mount{{Type: "erofs", Source: path, Options: []string{"ro"}}}
		return nil
	})
	return m, err
}

// Commit never happens: nothing is unpacked into a snapshot.
func (s *snapshotter) Commit(context.Context, string, string, ...snapshots.Opt) error {
	return fmt.Errorf("commit of a snapshot: %w", errdefs.ErrNotImplemented)
}

func (s *snapshotter) Remove(ctx context.Context, key string) error {
	return s.ms.WithTransaction(ctx, true, func(ctx context.Context) error {
		_, _, err := storage.Remove(ctx, key)
		return err
	})
}

func (s *snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, fs ...string) error {
	return s.ms.WithTransaction(ctx, false, func(ctx context.Context) error {
		return storage.WalkInfo(ctx, fn, fs...)
	})
}

func (s *snapshotter) Close() error { return s.ms.Close() }
