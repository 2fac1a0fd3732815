// SPDX-License-Identifier: Apache-2.0

package engine

import (
	"context"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"redoubt.dev/api/artifact"
	"redoubt.dev/sandbox"
)

// Admission is what the engine asks before it makes anything. The node fills
// it with its admission records; an error is handed to the CRI client and
// nothing is made. Methods may run concurrently and may block.
type Admission interface {
	// Rootfs gives the path of the flat root file system image of an admitted
	// image manifest.
	Rootfs(ctx context.Context, manifest artifact.Digest) (path string, err error)
	// Pod grants the sandbox of the pod with this UID.
	Pod(ctx context.Context, uid string) (PodGrant, error)
	// Container grants a container of an admitted pod. rootfs is what Rootfs
	// gave for its image; p is the process that would start.
	Container(ctx context.Context, uid, name, rootfs string, p *specs.Process) error
}

// PodGrant is what a pod may have.
type PodGrant struct {
	NetNS    string // path of the network namespace whose NIC the guest takes
	Hostname string
	Limits   sandbox.Limits
	Volumes  map[string]Volume // by host path, as named in CRI mounts
}

// Volume tells how a host path of a CRI mount is given to the guest.
type Volume struct {
	Kind      sandbox.MountKind
	SizeBytes int64 // Shared only
}
